"""The cores and the memory that this process may use: the container's share, or the host's."""

import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def cores(cgroups: Path = _CGROUPS, own: Path = _OWN) -> int:
    """Number of cores that this process may use, at least 1, by its affinity and its cgroups (v1 and v2)."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for folder in _folders("cpu", cgroups, own):
        quota, period = _quota(folder)
        if quota > 0 and period > 0:
            allowed = min(allowed, max(1, round(quota / period)))
    return allowed


def memory(cgroups: Path = _CGROUPS, own: Path = _OWN) -> int:
    """Bytes of memory that all processes in this process's cgroups (v1 and v2) may use."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for folder in _folders("memory", cgroups, own):
        found += [_number(folder / name) for name in ("memory.max", "memory.high", "memory.limit_in_bytes")]
    return min(value for value in found if value > 0)


def _folders(controller: str, cgroups: Path, own: Path) -> list[Path]:
    """The folders of this process's cgroups that limit ``controller``, and of their parents.

    In a container only its own cgroup is mounted, at the root, whatever name /proc gives it.
    """
    found = [cgroups, cgroups / controller]
    for line in _text(own).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = cgroups / controller if controllers else cgroups
        for folder in (Path(path.lstrip("/")), *Path(path.lstrip("/")).parents):
            found.append(root / folder)
    return found


def _quota(folder: Path) -> tuple[int, int]:
    """(microseconds of CPU time, per period in microseconds); (0, 0) without a limit."""
    quota, _, period = _text(folder / "cpu.max").partition(" ")
    if quota.isdecimal():
        return int(quota), int(period)
    return _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")


def _number(path: Path) -> int:
    text = _text(path).strip()
    return int(text) if text.isdecimal() else 0


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
