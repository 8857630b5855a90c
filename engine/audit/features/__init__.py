"""Features that know what they should not, at the day on which they are used.

lag_profile.py    a feature that is the label, or knows far more of it than anything honest does
extreme_moves.py  a feature that knows the size of moves to come, as only what is made of them does
event_study.py    filings stamped before they were published
life_maximum.py   values divided by a statistic of the code's whole life
life_mean.py      values less the code's mean over its whole life
days.py           features as ranks, on days spread over the calendar
"""
