"""Metrics of runs and score files, from the same function, on the same samples."""
