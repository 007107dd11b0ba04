"""One real Label Studio and one backend beside it, for all tests that leave both whole."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from browser import open_browser
from e2e_stack import Annotator, Stack, running_stack, sign_up
from paths import ROOT
from postgres import find_postgres, running_postgres
from selenium import webdriver

from coreset_backend.local import demo_project
from coreset_backend.local import label_studio as demo


@pytest.fixture(scope="package")
def label_studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[demo.LabelStudioServer]:
    executable = demo.find_label_studio(ROOT, os.environ.get("LABEL_STUDIO_COMMAND"))
    if executable is None:
        pytest.skip("label-studio is not installed; `make label-studio` installs it")
    folder = tmp_path_factory.mktemp("label-studio")
    data, files = folder / "data", folder / "files"
    files.mkdir()
    with contextlib.ExitStack() as stack:
        database = None
        if os.environ.get("LABEL_STUDIO_DATABASE") == "postgresql":
            programs = find_postgres()
            assert programs, "PostgreSQL is not installed"
            database = stack.enter_context(running_postgres(programs))
        else:
            kept = Path(os.environ.get("LABEL_STUDIO_GOLDEN", ROOT / ".label-studio/golden"))
            golden = demo.golden_data_dir(executable, kept)
            demo.migrated_copy(golden, data)
        yield stack.enter_context(demo.start_label_studio(executable, data, files, database=database))


@pytest.fixture
def admin(label_studio: demo.LabelStudioServer) -> Iterator[httpx.Client]:
    with demo_project.open_session(label_studio.url, label_studio.login.token) as session:
        yield session


@pytest.fixture
def new_annotator(label_studio: demo.LabelStudioServer) -> Iterator[Callable[[str], Annotator]]:
    """Signs new users up, by e-mail address."""
    opened: list[Annotator] = []

    def open_account(email: str) -> Annotator:
        opened.append(sign_up(label_studio.url, email))
        return opened[-1]

    yield open_account
    for annotator in opened:
        annotator.http.close()


@pytest.fixture(scope="package")
def stack(label_studio: demo.LabelStudioServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    url, token = label_studio.url, label_studio.login.token
    with running_stack(folder, url, token, CORESET_ALLOWED_HOSTS="127.0.0.1") as running:
        yield running


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    """An annotator's Chromium."""
    with open_browser(tmp_path) as page:
        yield page
