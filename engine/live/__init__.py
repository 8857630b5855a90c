"""Live use: the newest day's scores by a kept state of its regressions, and the network as a file of its own."""
