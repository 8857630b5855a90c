"""Checks of features: each statistic against a reference, faults caught, clean markets passed."""
