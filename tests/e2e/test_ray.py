"""The story once on a cluster: the real Label Studio, `coreset-backend run`, and a Ray of two machines."""

import contextlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2e_stack import Stack, running_stack
from paths import ROOT
from ray_nodes import Nodes, own_network, why_no_network

from coreset_backend.local import demo_project
from coreset_backend.local import label_studio as demo
from coreset_backend.local.demo_images import CLASSES, make_images

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed"),
    pytest.mark.skipif(bool(why := why_no_network()), reason=f"no network of its own: {why}"),
]
N = 264


@pytest.fixture(scope="module")
def label_studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[demo.LabelStudioServer]:
    """In a network of this file's own, as Ray listens on every address."""
    executable = demo.find_label_studio(ROOT, os.environ.get("LABEL_STUDIO_COMMAND"))
    if executable is None:
        pytest.skip("label-studio is not installed; `make label-studio` installs it")
    folder = tmp_path_factory.mktemp("label-studio")
    (folder / "files").mkdir()
    demo.migrated_copy(demo.golden_data_dir(executable, ROOT / ".label-studio/golden"), folder / "data")
    with contextlib.ExitStack() as stack:
        stack.enter_context(own_network())
        yield stack.enter_context(demo.start_label_studio(executable, folder / "data", folder / "files"))


@pytest.fixture(scope="module")
def nodes(label_studio: demo.LabelStudioServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    access = {"LABEL_STUDIO_URL": label_studio.url, "LABEL_STUDIO_API_KEY": label_studio.login.token}
    nodes = Nodes(tmp_path_factory.mktemp("ray"), access)
    try:
        nodes.start(1)
        nodes.start(2)
        yield nodes
    finally:
        nodes.stop()


@pytest.fixture(scope="module")
def stack(
    label_studio: demo.LabelStudioServer, nodes: Nodes, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    folder, settings = (
        tmp_path_factory.mktemp("stack"),
        {
            "CORESET_CLUSTER": "ray",
            "CORESET_RAY_ADDRESS": nodes.address,
            "CORESET_RAY_TOKEN": nodes.token,
            "CORESET_IMAGE_SIZE": "64",
        },
    )
    with running_stack(folder, label_studio.url, label_studio.login.token, **settings) as running:
        yield running


def test_a_project_is_embedded_on_a_cluster_and_labelled(
    stack: Stack,
    label_studio: demo.LabelStudioServer,
    new_annotator: Callable[[str], Any],
    admin: httpx.Client,
    tmp_path: Path,
) -> None:
    truth = dict(make_images(tmp_path, N, seed=7))
    project_id = demo_project.create_project(admin, "On Ray", demo_project.choices_config(CLASSES))
    demo_project.upload_images(admin, project_id, [tmp_path / name for name in truth])
    stack.connect(project_id)
    first = stack.wait_for_round(project_id, 1, 600)
    assert sum(first["counts"].values()) == N and first["counts"]["unreadable"] == 0
    assert first["timings"]["cluster"] > 0
    assert first["work"]["embedded"] == N and first["work"]["touched"] == 0

    person = new_annotator("ada@example.com")
    tasks = admin.get("/api/tasks/", params={"project": project_id, "page_size": N}).json()["tasks"]
    files = {task["id"]: task["data"]["image"].rsplit("/", 1)[-1].rsplit("-", 1)[-1] for task in tasks}
    for _ in first["batch"]:
        task_id = person.next_task(project_id)
        assert task_id in first["batch"]
        person.submit(task_id, truth[files[task_id]])
    second = stack.wait_for_round(project_id, 2, 300)
    assert second["training"]["n_train"] + second["training"]["n_holdout"] == len(first["batch"])
    assert second["work"]["embedded"] == 0 and not second["timings"].get("cluster")
    doctor = stack.cli("doctor")
    assert "Machines that embed images: 2, 127.0.0.1" in doctor.stdout, doctor.stdout
