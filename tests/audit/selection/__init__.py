"""Tests of the checks of a choice among many models."""
