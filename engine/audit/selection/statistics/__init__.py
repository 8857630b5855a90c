"""Statistics of a choice among many: arrays in, numbers out."""
