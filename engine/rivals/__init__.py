"""Rivals that a network has to beat, on the same cache, split and metrics, with the same help.

reversal   minus one feature, nothing fitted
online     the online regression alone (engine/score/online/features.py)
ridge      linear in the day's features; the penalty is chosen on validation RankIC
lightgbm   boosted trees; so are xgboost and catboost

fit.py     all of them by name, and how one is fitted
helped.py  what is done to a fitted rival's scores: what an ensemble of networks has done to its own
refitted.py  what a network's refitted last layer is to trees
beside.py  trees whose scores are averaged with a network's
folds.py   one rival for each fold
saved.py   a fitted rival in a folder
"""
