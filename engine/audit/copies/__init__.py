"""Checks of rows that repeat others, and of prices that no one paid."""
