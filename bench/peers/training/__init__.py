"""Training steps, and whole trainings."""
