"""Requests rounds, runs and retries them; everything that is kept in Redis. Only `tasks` imports rounds."""
