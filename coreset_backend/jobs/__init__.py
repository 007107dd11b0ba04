"""Ask for a round, run it, survive: all that Redis knows. Only `tasks` imports rounds."""
