"""A trial of a study: what it needs of its folds (`folds.py`), what is known of it (`trial.py`), and how one is run for
each of what can be tuned: a network (`network.py`) or a rival (`rival.py`).
"""
