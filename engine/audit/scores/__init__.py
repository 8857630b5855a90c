"""Checks of scores: those of a file or of a run, beside the cache that they score."""
