"""The arrows of the house: who may import whom, and one door for each library."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "coreset_backend"
PURE = {"errors", "settings", "project", "label_config", "annotations", "task_images", "selection"}
WORLD = {"images", "decoding", "addresses", "model", "neighbors", "store", "label_studio"}
MAY_IMPORT = {
    **{room: {"errors"} for room in PURE | {"images", "decoding", "addresses", "model"}},
    "redaction": set(),
    "foreign_text": set(),
    "errors": {"redaction", "foreign_text"},
    "settings": {"errors", "redaction"},
    "outbound": {"errors", "addresses", "redaction"},
    "images": {"errors", "addresses", "outbound", "decoding", "foreign_text"},
    "neighbors": {"errors", "sealed", "selection"},
    "sealed": {"errors"},
    "task_images": set(),
    "label_config": {"errors", "task_images"},
    "annotations": {"foreign_text", "label_config"},
    "project": {"annotations", "errors", "foreign_text", "label_config", "task_images"},
    "record": {"project"},
    "store": {"errors", "project", "record", "sealed"},
    "label_studio": {"errors", "label_studio_answers", "outbound", "project", "token_auth"},
    "label_studio_answers": {"errors", "redaction"},
    "token_auth": {"errors", "redaction"},
    "project_settings": {"errors", "settings", "selection"},
    "findings": {"store"},
    "tabs": {"errors", "project", "label_studio", "store", "findings"},
    "connection": {"errors", "label_studio", "project", "record", "sealed", "store"},
    "connect": {
        "errors",
        "connection",
        "label_config",
        "task_images",
        "project",
        "label_studio",
        "store",
        "tabs",
    },
    "publication": {"errors", "backend", "connect", "connection", "progress", "project", "store", "serving"},
    "serving": {"project", "label_studio"},
    "answers": {"errors", "evaluation", "project", "store"},
    "batch": {"settings", "project", "selection", "store"},
    "evaluation": {"project"},
    "figures": {"errors", "evaluation", "project", "store"},
    "curves": set(),
    "history": {"store", "curves"},
    "layout": {"selection"},
    "evidence": {"project", "selection", "layout"},
    "rounds": {"logs"}
    | PURE
    | WORLD
    | {"backend", "answers", "batch", "evaluation", "learning", "evidence", "figures", "layout"}
    | {"pretraining", "progress", "project_settings", "publication", "connection", "serving", "tabs"},
    "logs": {"settings", "foreign_text", "redaction"},
    "progress": {"errors", "backend"},
    "counts": {"errors", "backend"},
    "incoming": {"backend", "errors", "project"},
    "protocol": {"answers", "backend", "errors", "jobs", "label_config"}
    | {"progress", "project", "project_settings"},
    "coreset_model": {"answers", "backend", "errors", "events", "incoming"}
    | {"project", "protocol", "settings", "store"},
    "embeddings": {"errors", "store", "model"},
    "learning": {"embeddings", "model", "project", "settings", "store"},
    "leases": {"backend", "progress"},
    "failures": {"errors", "backend"},
    "outcome": {"errors", "backend", "counts", "failures", "pretraining", "progress"},
    "status": {"errors", "backend", "settings", "store", "heartbeats", "history", "progress"},
    "doctor": {
        "annotations",
        "errors",
        "backend",
        "connect",
        "heartbeats",
        "label_config",
        "label_studio",
        "project",
    }
    | {"settings", "status"},
    "pretraining": {"errors", "backend", "settings", "progress", "sealed", "store", "images", "model"},
    "lifecycle": {"errors", "backend", "connect", "jobs", "leases"},
    "heartbeats": {"errors", "backend"},
    "worker": {"errors", "redaction", "backend", "failures", "jobs", "heartbeats", "outcome", "pretraining"},
    "metrics": {"errors", "backend", "store", "heartbeats", "progress", "counts"},
    "openapi": {"access", "connect"},
    "callers": {"addresses"},
    "connections": {"callers"},
    "serve": {"errors", "settings", "connections"},
    "wsgi": {"backend", "logs", "settings", "web"},
    "processes": {"errors", "demo"},
    "studio_environment": {"errors"},
    "overview": {
        "errors",
        "evaluation",
        "backend",
        "store",
        "project",
        "status",
        "history",
        "findings",
        "comparison",
        "project_settings",
    },
    "comparison": {"errors", "record", "sealed", "store", "evaluation", "simulation_report"},
    "pages": {"errors", "redaction", "store", "incoming", "overview", "images"},
    "simulation_report": {"curves", "foreign_text", "sealed"},
    "simulate": PURE
    | {
        "backend",
        "sealed",
        "simulation_report",
        "batch",
        "evaluation",
        "images",
        "decoding",
        "model",
        "embeddings",
        "learning",
        "pretraining",
        "evidence",
        "neighbors",
    },
    "show": {
        "errors",
        "backend",
        "store",
        "history",
        "demo",
        "demo_images",
        "comparison",
        "simulate",
        "simulation_report",
        "model",
    },
    "select_files": {"errors", "selection", "neighbors"},
    "backend": {"errors", "redaction", "settings", "project_settings", "label_studio", "store", "images"}
    | {"outbound"},
}
DOORS = {
    "torch": {"model"},
    "torchvision": {"model"},
    "timm": {"model"},
    "annoy": {"neighbors"},
    "label_studio_ml": {"coreset_model"},
    "gunicorn": {"connections"},
    "flask": {"web", "access", "incoming", "metrics", "openapi", "pages", "coreset_model"},
    "prometheus_client": {"metrics"},
    "click": {"cli"},
    "rq": {"jobs", "backend", "heartbeats", "worker", "pretraining", "failures", "outcome"},
    "PIL": {"decoding", "images", "demo_images"},
    "pillow_heif": {"decoding"},
}


def imports() -> list[tuple[str, str]]:
    """(room, dotted name) of every import anywhere in the package."""
    found = []
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found += [(room, alias.name) for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                inside = (
                    "coreset_backend."
                    if node.level == 2
                    else f"coreset_backend.{room}."
                    if node.level
                    else ""
                )
                found.append((room, inside + node.module))
                if node.module == "coreset_backend":
                    found += [(room, f"coreset_backend.{alias.name}") for alias in node.names]
    return found


def test_rooms_import_only_what_they_may() -> None:
    wrong = []
    for room, name in imports():
        target = name.removeprefix("coreset_backend.").partition(".")[0]
        ours = name.startswith("coreset_backend.") and target not in (room, "__version__")
        if ours and target not in MAY_IMPORT.get(room, {target}):
            wrong.append(f"{room} imports {target}")
    assert not wrong


def test_each_library_has_its_door() -> None:
    wrong = [
        f"{room} imports {name}"
        for room, name in imports()
        if room not in DOORS.get(name.split(".")[0], {room})
    ]
    assert not wrong


def test_no_pickle() -> None:
    """Nothing is ever loaded from a pickle; the name of its error may be caught.

    torchvision's weight files are read by torch's reader that makes tensors and nothing else.
    """
    sources = {path.name: path.read_text() for path in PACKAGE.rglob("*.py")}
    forbidden = r"import (?:c?pickle|marshal|shelve|joblib|dill)\b|\bpickle\.\w|allow_pickle=True|yaml\.load"
    loads = r"torch\.load\((?![^\n]*weights_only=True)"
    found = {name: re.findall(f"{forbidden}|{loads}", text) for name, text in sources.items()}
    assert not {name: words for name, words in found.items() if words}


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        *(
            (module, ("torch", "annoy", "PIL", "scipy", "label_studio_ml"))
            for module in ("web", "serve", "cli")
        ),
        ("selection", ("torch", "flask", "redis", "annoy", "rq")),
        ("decoding", ("torch", "httpx", "redis", "flask", "rq", "scipy")),
        ("project", ("httpx", "flask", "torch")),
    ],
)
def test_importing_loads_only_what_is_needed(module: str, absent: tuple[str, ...]) -> None:
    code = f"import sys, coreset_backend.{module}; print([m for m in {absent!r} if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def test_only_settings_and_the_process_tree_read_the_environment() -> None:
    readers = {path.stem for path in PACKAGE.rglob("*.py") if "os.environ" in path.read_text()}
    assert readers <= {"settings", "local", "cli", "decoders"}
