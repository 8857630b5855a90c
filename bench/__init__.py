"""Benchmarks: ours and its rivals side by side in one process, on fresh data, beside the physical limit."""
