"""How good a model is, and when to stop: scores, intervals, learning curves, history. Reads the store."""
