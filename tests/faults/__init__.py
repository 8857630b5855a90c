"""Faults made on purpose: `python -m tests.faults --hours 1`. See docs/reliability.md for what is promised.

server.py      a warm process that forks a child for each command, and says how the command ended
ground.py      what is harmed: a small cache, runs, a study, score files
    readers.py     the commands that read files, what each says of sound ones, and the verdict
    mutations.py   files that are harmed (harms/), and read
    inputs.py      options, settings and files that are no good, drawn from the command line's own definition
    limits.py      little memory, few files, a full or closed stdout, two of everything at once
    __main__.py    the campaign and its table
"""

import os

# Before numpy, torch and Arrow are imported: each would start threads, which a process that is forked may not have.
os.environ |= {"OMP_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false", "TRITON_INTERPRET": "1"}
