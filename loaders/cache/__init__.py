"""The cache on disk: its format, how it is built from files or simulated, and how it is verified."""
