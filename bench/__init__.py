"""Benchmarks: ours and its peers side by side in one process, on fresh data, beside the physical limit."""
