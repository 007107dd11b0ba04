"""One round, from snapshot to publish: learn, choose, explain, save. Knows nothing of Redis and jobs."""
