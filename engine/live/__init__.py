"""Live use: the newest day's scores by a kept state of the online regression, and the network as a file of its own."""
