"""Everything that answers HTTP: the ML-backend protocol, the API, the pages. Imports no torch."""
