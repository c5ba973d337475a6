"""Errors, seeds, files and progress: what every other package may use."""
