"""What benchmarks measure with: time, memory, physical limits, the machine's name, and the runs that are kept."""
