"""The operators on CUDA: Triton programs, one per cross-section."""
