"""The operators on CPUs: compiled loops over cross-sections, without the GIL."""
