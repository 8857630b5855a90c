"""Operators on padded cross-sections: knows nothing of finance, files or models."""
