"""Effects of covariates: estimated, removed, and added again."""
