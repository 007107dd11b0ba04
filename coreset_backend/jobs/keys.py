"""The keys of Redis that hold what is known of a project's jobs. All of it may be lost."""

DAY = 86_400
NEVER_ENDS = -1
"""What Redis gives as the time to live of a key that has none."""
ROUND_LEASE = "lease"
"""Held by whoever writes to the project's rounds; its value is the id of the job that runs."""
PRETRAINING_LEASE = "pretraining-lease"
"""Held by whoever writes to the project's pretraining."""
ROUND_JOB = "coreset_backend.jobs.tasks.run_round_job"
PRETRAINING_JOB = "coreset_backend.jobs.tasks.pretrain_job"
RECONCILE_JOB = "coreset_backend.jobs.tasks.reconcile_job"


def redis_key(project_id: int, name: str) -> str:
    """Where Redis keeps what is called ``name`` of the project."""
    return f"coreset:{project_id}:{name}"
