"""What a cache is built from: a ready panel (`columns`) or raw prices (`ohlcv`)."""
