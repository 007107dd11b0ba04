"""Clients of the fake Label Studio: ours, and one that does what people do."""

from collections.abc import Iterator

import httpx
import pytest
from fake_label_studio import TOKEN, FakeLabelStudio

from coreset_backend.label_studio.client import LabelStudio
from coreset_backend.local import demo_project


@pytest.fixture
def client(studio: FakeLabelStudio) -> Iterator[LabelStudio]:
    opened = LabelStudio(studio.url, TOKEN, pauses=(0.01, 0.02))
    yield opened
    opened.close()


@pytest.fixture
def admin(studio: FakeLabelStudio) -> Iterator[httpx.Client]:
    with demo_project.open_session(studio.url, TOKEN) as session:
        yield session
