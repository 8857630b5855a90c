"""Faults made on purpose: `python -m tests.faults --hours 1`. See docs/reliability.md for what is promised.

server.py      a warm process that forks a child for each command, and says how the command ended
"""
