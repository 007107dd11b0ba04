"""What answers HTTP: the ML-backend protocol, the API, the pages. Computes nothing and loads no torch."""
