"""Tests of the checks of repeated rows and of prices that no one paid."""
