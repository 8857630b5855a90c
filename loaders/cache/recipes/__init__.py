"""What a cache build puts into the rows: `columns` takes a ready panel, `ohlcv` makes features from daily bars."""
