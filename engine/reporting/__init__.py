"""The report of a run, folds, scores or a study as one HTML page, and the ledger of looks at a test."""
