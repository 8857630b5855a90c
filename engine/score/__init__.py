"""Score rows with a trained model, and say what the scores are worth."""
