"""Train, score and judge cross-sectional ranking models on blocks of a cache."""
