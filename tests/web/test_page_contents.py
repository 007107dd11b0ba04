"""What a page shows is what its dataclass says: no field too many, and none too few."""

import dataclasses
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coreset_backend.web import app
from coreset_backend.web.page_contents import ProjectPage, ProjectsPage

WEB = Path(app.__file__).parent


def dataclasses_of(kind: Any) -> Iterator[type]:
    """The dataclasses of ours that a page is made of."""
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is not None:
        for part in typing.get_args(kind):
            yield from dataclasses_of(part)
    elif dataclasses.is_dataclass(kind) and isinstance(kind, type):
        yield kind
        if kind.__module__.endswith("page_contents"):
            for hint in typing.get_type_hints(kind).values():
                yield from dataclasses_of(hint)


@pytest.mark.parametrize(
    ("page", "templates"),
    [(ProjectsPage, ["projects.html"]), (ProjectPage, ["project.html", "tabs/*.html", "cards/*.html"])],
)
def test_the_template_and_scripts_of_a_page_read_each_of_its_fields(page: type, templates: list[str]) -> None:
    scripts = "".join(path.read_text() for path in (WEB / "static").glob("*.js"))
    paths = [path for pattern in templates for path in (WEB / "templates").glob(pattern)]
    read = set(re.findall(r"\w+", "".join(path.read_text() for path in paths) + scripts))
    ours = {kind for kind in dataclasses_of(page) if kind.__module__.endswith("page_contents")}
    assert page in ours
    for kind in ours:
        assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
        unread = {field.name for field in dataclasses.fields(kind)} - read
        assert not unread, f"{templates} show nothing of {kind.__name__}.{unread}"
