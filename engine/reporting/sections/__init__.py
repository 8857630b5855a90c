"""The sections of a page, a file each: what is measured, and its figures and tables."""
