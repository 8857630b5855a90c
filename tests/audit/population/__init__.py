"""Tests of the checks of who is in the panel, and when."""
