"""Files in, files out: runs, blocks of large data, and the estimator itself."""
