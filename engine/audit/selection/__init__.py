"""A figure that was chosen: how many models were tried for it, and whether the best of so many could be luck.

looks.py                what the ledger beside the cache says
best_of_study.py        what the values of a study's trials say by themselves
deflated_rank_ic.py     the t of the best, against the best of as many without skill
deflated_sharpe.py      the same for Sharpe ratios
reality_check.py        the same by resampling whole days
overfitting.py          what the best on half of the days is worth on the other half
variants.py, trials.py  daily values of several sources, and of the trials of a study
selection.py            runs the checks
limits.py               when luck is a sufficient explanation
statistics/             the tests themselves
"""
