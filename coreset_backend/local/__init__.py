"""`run` and `demo`: Redis, worker, web and a Label Studio as one tree of processes on this machine."""
