"""Checks of labels: each statistic against a reference, faults caught, clean markets passed."""
