"""Speaks to Label Studio: reads projects, tasks and answers, writes predictions. Knows nothing of rounds."""
