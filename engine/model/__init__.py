"""The model: one file per part, assembled in atft.py."""
