"""Checks of audits: a market to plant faults in, the faults, and a run over all of them (`python -m tests.audit`)."""
