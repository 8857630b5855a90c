"""Labels that are not what the manifest calls them.

start.py        a label that begins a day late or early, of all codes or of some
horizon.py      a label over more days, or fewer
compounding.py  labels of two horizons that contradict each other
clipping.py     returns cut off at a largest and a smallest value
windows.py      returns of closes over the days that a label may cover
"""
