"""ATFT, the Adaptive Temporal Fusion Transformer: the default network, one file per part."""
