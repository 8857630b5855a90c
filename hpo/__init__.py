"""Tuning of the engine's settings on top of Optuna."""
