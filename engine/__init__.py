"""Train, score and evaluate cross-sectional ranking models on blocks of a cache."""
