"""Checks of runs: what they were trained on, what their tuning saw, and whether their scores see ahead."""
