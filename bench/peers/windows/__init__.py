"""Loaders that deliver, for each day of a block, the last L rows of each of its codes."""
