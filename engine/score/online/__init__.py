"""Regressions that go on learning while the network is frozen: refitted every day to the returns known by then.

sums.py        what such a regression knows on a day, and how a day is added
features.py    the online regression: on the features of the cache
refit.py       on what a model's last step is given; last_layer.py: that of a network
"""
