"""One round, from snapshot to publication: learn, choose, explain, save. Imports neither Redis nor jobs."""
