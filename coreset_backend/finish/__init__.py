"""Labels by the model for the rest of the pool, with a bound on how many of them are wrong."""
