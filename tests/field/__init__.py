"""Data as users have them: nothing misleads without a word."""
