"""The Python API: what `engine` exports, a file per subject."""
