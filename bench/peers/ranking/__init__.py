"""Operators on cross-sections."""
