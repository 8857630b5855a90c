"""Faults made on purpose: `python -m tests.faults --hours 1`. See docs/reliability.md for what is promised.

server.py      a warm process that forks a child for each command, and says how the command ended
ground.py      what is harmed: a small cache, runs, a study, score files
"""

import os

# Before numpy, torch and Arrow are imported: each would start threads, which a process that is forked may not have.
os.environ |= {"OMP_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false", "TRITON_INTERPRET": "1"}
