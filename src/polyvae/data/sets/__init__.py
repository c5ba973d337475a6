"""The data sets that the library makes or reads."""
