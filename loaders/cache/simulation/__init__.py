"""A simulated market whose attainable RankIC is known."""
