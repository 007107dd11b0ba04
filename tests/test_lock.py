"""The locks are installed without resolving, so nobody but this test sees that they are complete."""

import re
import subprocess
from importlib.metadata import PackageNotFoundError, distribution

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from paths import ROOT

LOCKS = {
    "requirements.txt": ["requirements.txt"],
    "requirements-dev.txt": ["requirements.txt", "requirements-dev.txt"],
    "docker/requirements-web.txt": ["docker/requirements-web.txt"],
    "docker/requirements-worker.txt": ["docker/requirements-worker.txt"],
    "docker/requirements-ray.txt": ["docker/requirements-ray.txt"],
}


def requirements(path: str) -> list[Requirement]:
    lines = (
        line.partition("#")[0].partition("--hash")[0].rstrip(" \\")
        for line in (ROOT / path).read_text().splitlines()
    )
    found = (Requirement(line.strip()) for line in lines if line.strip() and not line.startswith((" ", "-")))
    return [
        requirement for requirement in found if requirement.marker is None or requirement.marker.evaluate()
    ]


def test_with_an_index_of_torch_s_own_nothing_of_cuda_is_installed() -> None:
    command = ["make", "--dry-run", "--always-make", "install", "TORCH_INDEX_URL=https://example.com/cpu"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "--index-url https://example.com/cpu" in told
    taken, left_out = (
        re.search(rf"grep -{option} '([^']+)' requirements.txt", told) for option in ("oE", "vE")
    )
    assert taken and left_out
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert sum(bool(re.search(taken[1], line)) for line in lines) == 2
    kept = [line for line in lines if not re.search(left_out[1], line)]
    assert not [line for line in kept if re.match("torch|triton|nvidia|cuda", line)] and len(kept) > 50


def overridden() -> set[str]:
    lines = (line.partition("#")[0].strip() for line in (ROOT / "overrides.txt").read_text().splitlines())
    return {canonicalize_name(Requirement(line).name) for line in lines if line}


def locked(paths: list[str]) -> dict[str, Requirement]:
    return {canonicalize_name(one.name): one for path in paths for one in requirements(path)}


@pytest.mark.parametrize("lock", LOCKS)
def test_every_package_is_pinned_with_all_that_it_needs(lock: str) -> None:
    known, lifted = locked(LOCKS[lock]), overridden()
    missing = []
    for name, pin in locked([lock]).items():
        assert str(pin.specifier).startswith("=="), pin
        try:
            needs = distribution(name).requires or []
        except PackageNotFoundError:
            pytest.fail(f"{name} of {lock} is not installed; run `make install`")
        for need in map(Requirement, needs):
            wanted = need.marker is None or need.marker.evaluate({"extra": ""})
            needed = canonicalize_name(need.name)
            if not wanted or needed in lifted:
                continue
            version = str(known[needed].specifier).removeprefix("==") if needed in known else None
            if version is None or not need.specifier.contains(version, prereleases=True):
                missing.append(f"{name} needs {need}, the lock has {version}")
    assert not missing


def test_what_is_installed_is_what_the_lock_says() -> None:
    wrong = [
        f"{name} {distribution(name).version}"
        for name, pin in locked(["requirements.txt", "requirements-dev.txt"]).items()
        if not pin.specifier.contains(distribution(name).version)
    ]
    assert not wrong


def test_everything_asked_for_is_in_the_lock() -> None:
    for asked, lock in (
        ("requirements.in", "requirements.txt"),
        ("requirements-dev.in", "requirements-dev.txt"),
        ("requirements-release.in", "requirements-release.txt"),
        ("benchmarks/requirements.in", "benchmarks/requirements.txt"),
        ("docker/requirements-web.in", "docker/requirements-web.txt"),
        ("docker/requirements-worker.in", "docker/requirements-worker.txt"),
        ("docker/requirements-ray.in", "docker/requirements-ray.txt"),
    ):
        wanted = {canonicalize_name(one.name) for one in requirements(asked)}
        assert wanted <= set(locked([lock]))
