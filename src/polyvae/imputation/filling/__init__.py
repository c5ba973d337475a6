"""Missing entries filled in: predictions, intervals, sets of classes, draws, and how results of draws are pooled."""
