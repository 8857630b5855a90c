"""From a cache of market rows to blocks in memory: format, plan, gather. Knows nothing of models."""
