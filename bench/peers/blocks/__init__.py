"""Loaders that deliver our blocks, so that the machinery alone is compared; and the limit, a copy of memory."""
