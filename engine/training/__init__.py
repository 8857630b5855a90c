"""Train a model: blocks in, a run folder out."""
