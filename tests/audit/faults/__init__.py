"""Faults that are planted in a simulated market, a file for each folder of engine/audit."""
