"""The Redis keys of a project's jobs. All their values may be lost."""

DAY = 86_400
NEVER_ENDS = -1
"""Redis' answer for the time to live of a key that does not expire."""
ROUND_LEASE = "lease"
"""Held by the process that writes the project's rounds; its value is the id of the running job."""
PRETRAINING_LEASE = "pretraining-lease"
"""Held by the process that writes the project's pretraining."""
FINISH_LEASE = "finish-lease"
"""Held by the process that changes the project's finish."""
BULK_LEASE = "bulk-lease"
"""Held by the process that changes the project's labels in bulk, for a step at a time."""
ROUND_JOB = "coreset_backend.jobs.tasks.run_round_job"
AUDITION_LEASE = "audition-lease"
"""Held by whoever compares the project's backbones."""
AUDITION_JOB = "coreset_backend.jobs.spare_time.audition_job"
PRETRAINING_JOB = "coreset_backend.jobs.tasks.pretrain_job"
RECONCILE_JOB = "coreset_backend.jobs.tasks.reconcile_job"


def redis_key(project_id: int, name: str) -> str:
    """The Redis key of the project's value ``name``."""
    return f"coreset:{project_id}:{name}"
