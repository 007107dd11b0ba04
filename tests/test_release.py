"""What a release is made of: one version everywhere, and CI by the script that everybody runs."""

import re

import yaml
from paths import ROOT

from coreset_backend import __version__


def test_the_images_are_tagged_with_the_version() -> None:
    services = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())["services"]
    ours = {service["image"] for service in services.values() if service["image"].startswith("coreset-")}
    assert ours == {
        f"coreset-{name}:${{IMAGE_TAG:-{__version__}}}" for name in ("web", "worker", "worker-ray")
    }


def test_the_documents_name_the_version_where_they_name_one() -> None:
    named = re.findall(
        r"coreset_backend-(\d[\d.]*\d)|`IMAGE_TAG` \| the version, `([\d.]+)`", "".join(documents())
    )
    assert {version for pair in named for version in pair if version} == {__version__}


def documents() -> list[str]:
    return [path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))]


def test_the_forge_runs_the_script_of_every_other_ci() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    assert [step["run"] for step in workflow["jobs"]["test"]["steps"] if "run" in step] == [".ci/run"]
    assert (ROOT / ".ci/run").stat().st_mode & 0o111


def test_the_changelog_has_the_form_of_keep_a_changelog() -> None:
    lines = (ROOT / "CHANGELOG.md").read_text().splitlines()
    assert "## [Unreleased]" in lines
    sections = {line.removeprefix("### ") for line in lines if line.startswith("### ")}
    assert sections <= {"Upgrade notes", "Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
