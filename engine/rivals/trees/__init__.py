"""Boosted trees: what they are fitted to (`data.py`), and a file for each library that grows them."""
