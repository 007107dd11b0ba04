"""What the pools of several tests begin with."""

from dataclasses import dataclass

from fake_label_studio import FakeLabelStudio

from coreset_backend.backend import Backend


@dataclass
class ServedProject:
    """A project of a fake Label Studio, and the backend that serves it."""

    studio: FakeLabelStudio
    backend: Backend
    project_id: int
    task_ids: list[int]
