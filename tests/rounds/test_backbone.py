"""Which backbone a project has: real workers with a hub that answers, is dead, or is forbidden."""

import os
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fake_hub import FakeHub, serving_hub, timm_folder
from waiting import wait_until
from worker_site import Site

from coreset_backend.jobs.queue import request_round
from coreset_backend.model import LITE0, STRONGER
from coreset_backend.rounds.backbone import prepare_backbone
from coreset_backend.settings import Settings
from coreset_backend.store.record import Audition, BackboneChoice
from coreset_backend.store.store import Store

pytestmark = pytest.mark.slow
SIZE = {"CORESET_IMAGE_SIZE": "28"}  # four patches: nothing is learned here
REPOSITORY = STRONGER
ARCHITECTURE = STRONGER.removeprefix("timm/").partition(".")[0]
REFUSING = """
import sys
allowed = {allowed!r}
def refuse(event, arguments):
    if event == "socket.getaddrinfo" and arguments[0] not in ("127.0.0.1", b"127.0.0.1"):
        asked = str(arguments[0])
    elif event in ("socket.gethostbyname", "socket.gethostbyaddr"):
        asked = str(arguments[0])
    elif event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple):
        if arguments[1][1] in allowed:
            return
        asked = str(arguments[1])
    else:
        return
    with open({told!r}, "a") as file:
        file.write(asked + "\\n")
    raise OSError("refused by the test")
sys.addaudithook(refuse)
"""


@pytest.fixture(scope="module")
def strong(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stronger network with random weights, as its repository has it."""
    return timm_folder(tmp_path_factory.mktemp("models") / "strong", ARCHITECTURE)


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with serving_hub() as hub:
        yield hub


def chosen_for(store: Store, images: int) -> BackboneChoice:
    """What 'auto' keeps for project 1 with so many images, where no hub may be asked."""
    prepare_backbone(store, Settings(), 1, images, None, lambda _done, _total: None)
    choice = store.backbone_choice(1)
    assert choice
    return choice


def test_a_pool_that_outgrows_its_network_goes_back_to_the_small_one(tmp_path: Path) -> None:
    """At 50 images a second: 9,000 take the 3 minutes that auto allows, 36,000 four times as long."""
    folder = timm_folder(tmp_path / "tiny")
    store = Store(tmp_path)
    kept = BackboneChoice(f"local-dir:{folder}", "it is quick", images_per_second=50.0)
    store.keep_backbone_choice(1, kept)
    assert chosen_for(store, 35_000) == kept
    outgrown = chosen_for(store, 37_000)
    assert outgrown.name == "efficientnet_lite0" and "the pool has grown to 37,000 images" in outgrown.why
    assert chosen_for(store, 10) == outgrown, "kept, however small the pool is now"


def test_without_a_hub_auto_takes_what_is_installed_and_a_damaged_choice_is_made_anew(tmp_path: Path) -> None:
    store = Store(tmp_path)
    choice = chosen_for(store, 10)
    assert choice.name == "efficientnet_lite0" and "downloads are forbidden" in choice.why
    assert not choice.wanted, "nothing failed, so nothing is tried again"
    (path := tmp_path / "projects" / "1" / "backbone.json").write_bytes(b"torn")
    assert chosen_for(store, 10) == choice and path.read_bytes() != b"torn"


def hub_settings(site: Site, hub: FakeHub, **more: str) -> dict[str, str]:
    """Rounds are run only when they are asked for, so that none more changes what is kept."""
    home = str(site.log.parent / "home")
    asked_for = {"CORESET_BACKBONE": "auto", "CORESET_POLL_SECONDS": "600"}
    return {**asked_for, "HF_ENDPOINT": hub.url, "HF_HOME": home, **SIZE, **more}


def next_round(site: Site, project_id: int, number: int) -> str:
    """The backbone of the round of that number, which a person starts."""
    request_round(site.backend, project_id, "asked by a test", force=True)
    return site.wait_for_round(project_id, number).record.backbone


def test_auto_downloads_the_stronger_network_once_and_stays_with_it_when_the_hub_is_gone(
    site: Site, hub: FakeHub, strong: Path
) -> None:
    hub.add(REPOSITORY, strong)
    worker = site.start_worker(**hub_settings(site, hub))
    project_id = site.new_project()
    first = next_round(site, project_id, 1)
    assert first.startswith(f"{STRONGER} with pretrained weights from model.safetensors")
    assert "licence Apache-2.0, chosen by auto: it embeds 12 images in about" in first
    log = site.log.read_text()
    assert log.count(f"project {project_id}: the backbone is {STRONGER}") == 1
    assert hub.downloads(REPOSITORY) == 1
    worker.kill()
    worker.wait(60)
    hub.repositories[REPOSITORY].fault = "dead"
    asked = len(hub.asked)
    site.start_worker(**hub_settings(site, hub))
    assert next_round(site, project_id, 2) == first
    assert len(hub.asked) == asked, "what is on disk is not asked for"
    assert site.log.read_text().count("the backbone is") == 1, "what has not changed is not said again"


def test_the_network_that_the_labels_chose_on_another_host_is_downloaded(
    site: Site, hub: FakeHub, strong: Path
) -> None:
    hub.add(REPOSITORY, strong)
    project_id, store = site.new_project(), site.backend.store
    store.keep_backbone_choice(project_id, BackboneChoice(LITE0, "the other host said so"))
    store.keep_audition(project_id, Audition(LITE0, STRONGER, (), 40, 50, "It leads."))
    site.start_worker(**hub_settings(site, hub))
    assert next_round(site, project_id, 1).startswith(f"{STRONGER} with pretrained weights")


def test_a_dead_hub_costs_a_round_seconds_and_is_tried_again_later(
    site: Site, hub: FakeHub, strong: Path
) -> None:
    repository = hub.add(REPOSITORY, strong, "dead")
    project_id = site.new_project()
    request_round(site.backend, project_id, "asked by a test", force=True)
    site.start_worker(**hub_settings(site, hub, CORESET_POLL_SECONDS="5"))
    first = site.wait_for_round(project_id, 1).record.backbone
    assert first.startswith("efficientnet_lite0 with pretrained weights")
    assert re.search(r"chosen by auto: .*dinov2.* could not be downloaded \(.*tried again later", first)
    repository.fault = ""
    choice = site.backend.store.backbone_choice(project_id)
    assert choice and choice.wanted == STRONGER
    site.backend.store.keep_backbone_choice(project_id, replace(choice, retry_at=0.0))

    def is_there() -> bool:
        kept = site.backend.store.backbone_choice(project_id)
        return kept is not None and not kept.wanted

    wait_until(is_there, "the second try of the download", 120)
    assert hub.downloads(REPOSITORY) == 1
    assert next_round(site, project_id, 2) == first, "the labels may change it, the network may not"


def test_a_network_that_is_set_and_cannot_be_had_fails_the_round_with_what_to_do(
    site: Site, hub: FakeHub, tmp_path: Path
) -> None:
    repository = hub.add("org/gated", timm_folder(tmp_path / "tiny", license="cc-by-nc-4.0"), "gated")
    given = hub_settings(site, hub, CORESET_BACKBONE="hf-hub:org/gated", CORESET_IMAGE_SIZE="32")
    site.start_worker(**given)
    project_id = site.new_project()
    request_round(site.backend, project_id, "asked by a test", force=True)
    wait_until(lambda: "org/gated is gated: accept its licence" in site.error(project_id), "the error")
    repository.fault = ""
    used = next_round(site, project_id, 1)
    assert (
        used.startswith("hf-hub:org/gated") and "licence CC-BY-NC-4.0: read it before commercial use" in used
    )


@pytest.mark.parametrize("download", ["never", pytest.param("auto", marks=pytest.mark.soak)])
def test_in_an_air_gap_a_round_is_run_and_nobody_is_asked(site: Site, tmp_path: Path, download: str) -> None:
    """Every connection and every name lookup but those of Redis and Label Studio is refused and noted.

    With CORESET_DOWNLOAD=auto the hub is asked once, in vain.
    """
    told = tmp_path / "asked"
    (tmp_path / "sitecustomize.py").write_text(
        REFUSING.format(allowed={site.redis_wire.port, site.studio_wire.port}, told=str(told))
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    site.start_worker(CORESET_BACKBONE="auto", CORESET_DOWNLOAD=download, PYTHONPATH=path, **SIZE)
    project_id = site.new_project(labeled=6)
    assert next_round(site, project_id, 1).startswith("efficientnet_lite0")
    asked = set(told.read_text().split()) if told.exists() else set()
    assert asked == (set() if download == "never" else {"huggingface.co"})
