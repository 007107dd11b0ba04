"""The arrows of the house: who may import whom, and one door for each library."""

import ast
import re
import shutil
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest
from paths import ROOT

PACKAGE = ROOT / "coreset_backend"
MAY_IMPORT: dict[str, set[str]] = {
    "arrays": set(),
    "foreign_text": set(),
    "redaction": set(),
    "reports": set(),
    "errors": {"foreign_text", "redaction"},
    "files": {"errors"},
    "settings": {"errors", "redaction"},
    "logs": {"foreign_text", "redaction", "settings"},
    "project": {"arrays", "errors", "foreign_text"},
    "project_settings": {"errors", "selection", "settings"},
    "network": {"errors", "redaction"},
    "decoding": {"arrays", "errors"},
    "images": {"arrays", "decoding", "errors", "files", "foreign_text", "network", "reports"},
    "model": {"arrays", "errors", "files", "reports"},
    "selection": {"arrays", "errors", "files"},
    "label_studio": {"arrays", "errors", "foreign_text", "network", "project", "redaction", "reports"},
    "store": {"arrays", "errors", "files", "project", "reports", "settings"},
    "evaluation": {"arrays", "errors", "files", "project", "store"},
    "connection": {"arrays", "backend", "errors", "files", "label_studio", "project", "reports", "store"},
    "finish": {"arrays", "backend", "connection", "errors", "evaluation", "files", "label_studio"}
    | {"project", "reports", "store"},
    "export": {"arrays", "backend", "errors", "evaluation", "files", "finish", "foreign_text", "images"}
    | {"model", "project", "redaction", "reports", "store"},
    "backend": {"errors", "images", "label_studio", "network", "project_settings", "redaction"}
    | {"settings", "store"},
    "fleet": {"arrays", "backend", "decoding", "errors", "files", "images", "model"}
    | {"selection", "settings"},
    "rounds": {
        "arrays",
        "backend",
        "connection",
        "errors",
        "evaluation",
        "files",
        "finish",
        "fleet",
        "images",
    }
    | {"label_studio", "logs", "model", "project", "project_settings", "reports", "selection"}
    | {"settings", "store"},
    "jobs": {
        "arrays",
        "backend",
        "connection",
        "errors",
        "evaluation",
        "finish",
        "logs",
        "redaction",
    }
    | {"reports", "rounds"}
    | {"settings", "store"},
    "web": {
        "backend",
        "connection",
        "errors",
        "evaluation",
        "finish",
        "foreign_text",
        "images",
        "jobs",
    }
    | {
        "label_studio",
        "logs",
        "network",
        "project",
        "project_settings",
        "redaction",
        "reports",
        "settings",
        "store",
    },
    "simulation": {"arrays", "backend", "decoding", "errors", "evaluation", "files", "fleet", "foreign_text"}
    | {"model", "project", "rounds", "selection", "settings"},
    "local": {
        "backend",
        "connection",
        "errors",
        "evaluation",
        "files",
        "jobs",
        "model",
        "settings",
        "simulation",
    }
    | {"store", "web.server"},
    "cli": {
        "arrays",
        "backend",
        "connection",
        "errors",
        "export",
        "finish",
        "foreign_text",
        "jobs",
        "label_studio",
        "local",
        "logs",
    }
    | {"fleet.ray_process", "redaction", "selection", "settings", "simulation", "web.server"},
    "__main__": {"cli"},
    "__init__": set(),
}
"""A row for each room: a package, or a file at the top. `room.module` lets in that module alone."""
DOORS = {
    "torch": {"model"},
    "torchvision": {"model"},
    "timm": {"model"},
    "huggingface_hub": {"model"},
    "openvino": {"model"},
    "onnx": {"model"},
    "onnxruntime": {"model"},
    "safetensors": {"model"},
    "annoy": {"selection"},
    "obstore": {"store"},
    "faiss": {"selection"},
    "pyarrow": {"cli"},
    "scipy": {"selection"},
    "label_studio_ml": {"web"},
    "gunicorn": {"web"},
    "flask": {"web"},
    "werkzeug": {"web"},
    "prometheus_client": {"web"},
    "click": {"cli"},
    "rq": {"backend", "jobs"},
    "redis": {"backend", "jobs", "local", "web"},
    "httpx": {"cli", "errors", "images", "label_studio", "local", "model", "network"},
    "pydantic": {
        "connection",
        "finish",
        "fleet",
        "jobs",
        "project_settings",
        "reports",
        "settings",
        "store",
        "web",
    },
    "PIL": {"decoding", "images", "local"},
    "pillow_heif": {"decoding"},
    "ray": {"fleet"},
}


def imports(package: Path = PACKAGE) -> list[tuple[str, str]]:
    """(room, dotted name) of every import anywhere in the package, those within functions too."""
    found = []
    for path in package.rglob("*.py"):
        room = path.relative_to(package).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found += [(room, alias.name) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{path} imports relatively"
                # `from coreset_backend.web import server` names a module in its last word.
                found += [(room, f"{node.module}.{alias.name}") for alias in node.names]
    return found


def forbidden_arrows(package: Path = PACKAGE) -> list[str]:
    """What imports against the table, and rooms that stand in none of its rows."""
    rooms = {path.stem for path in package.glob("*.py")}
    rooms |= {path.parent.name for path in package.glob("*/__init__.py")}
    wrong = [f"{room} has no row" for room in sorted(rooms - MAY_IMPORT.keys())]
    for room, name in imports(package):
        if not name.startswith("coreset_backend.") or name == "coreset_backend.__version__":
            continue
        parts = name.split(".")[1:]
        allowed = MAY_IMPORT.get(room, set())
        if parts[0] != room and not allowed & {parts[0], ".".join(parts[:2])}:
            wrong.append(f"{room} imports {name}")
    return wrong


def wrong_doors(package: Path = PACKAGE) -> list[str]:
    """Libraries that are imported outside their rooms."""
    return [
        f"{room} imports {name}"
        for room, name in imports(package)
        if room not in DOORS.get(name.split(".")[0], {room})
    ]


def test_rooms_import_only_what_they_may() -> None:
    assert not forbidden_arrows()


def test_the_types_of_arrays_are_defined_once() -> None:
    shared = {"Rows", "TaskIds", "Vectors", "PixelRows", "PixelSubset", "Resize", "Progress", "PhaseProgress"}
    again = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            targets = node.targets if isinstance(node, ast.Assign) else []
            named = {target.id for target in targets if isinstance(target, ast.Name)}
            if isinstance(node, ast.ClassDef):
                named.add(node.name)
            if path.name != "arrays.py" and named & shared:
                again.append((path.name, named & shared))
    assert not again


def test_of_the_jobs_only_what_workers_run_imports_rounds() -> None:
    """So that the web process asks for rounds without what runs them."""
    name = "from coreset_backend.rounds"
    importing = {path.stem for path in (PACKAGE / "jobs").glob("*.py") if name in path.read_text()}
    assert importing == {"tasks", "spare_time"}


def test_the_picture_of_the_house_shows_every_room_and_no_other_arrow() -> None:
    text = (PACKAGE.parent / "docs/develop.md").read_text()
    drawn = {
        (start, end)
        for start, ends in re.findall(r"^  (\w+) --> (.+)$", text, re.MULTILINE)
        for end in ends.split(" & ")
    }
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert {room for arrow in drawn for room in arrow} == packages
    assert set(re.findall(r"^\| `(\w+)/` \|", text, re.MULTILINE)) == packages
    assert not [(start, end) for start, end in sorted(drawn) if end not in MAY_IMPORT[start]]


def imports_in_functions(package: Path = PACKAGE) -> list[str]:
    """The lines of imports within functions, by file; the command line may have them where it must."""
    found = []
    for path in sorted(package.rglob("*.py")):
        text = path.read_text()
        for function in ast.walk(ast.parse(text)):
            if isinstance(function, ast.FunctionDef) and path.parent.name != "cli":
                inner = [node for node in ast.walk(function) if isinstance(node, ast.Import | ast.ImportFrom)]
                found += [f"{path.name}: {text.splitlines()[node.lineno - 1].strip()}" for node in inner]
    return found


def test_at_most_five_imports_stand_in_functions_each_with_its_reason() -> None:
    found = imports_in_functions()
    assert len(found) <= 5, found
    assert not [line for line in found if "  # " not in line.replace("# type: ignore[import-untyped]", "")]


def uses_of_any(package: Path = PACKAGE) -> dict[str, int]:
    """How often a module says `Any`, or `Json`, which is another name for it; imports count too."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        with path.open("rb") as source:
            words = [each.string for each in tokenize.tokenize(source.readline) if each.type == tokenize.NAME]
        if count := words.count("Any") + words.count("Json"):
            found[path.relative_to(package).as_posix()] = count
    return found


def test_any_stands_only_where_foreign_values_enter() -> None:
    """Lower the number with every use that goes; a new one needs a type of its own instead."""
    found = uses_of_any()
    assert sum(found.values()) <= 13, found


def test_each_library_has_its_door() -> None:
    assert not wrong_doors()


@pytest.mark.parametrize(
    ("path", "line", "told"),
    [
        ("web/pages.py", "import torch", "web imports torch"),
        ("brand_new/__init__.py", "import json", "brand_new has no row"),
        ("store/store.py", "from coreset_backend.rounds import run", "store imports coreset_backend.rounds"),
    ],
)
def test_the_table_notices(path: str, line: str, told: str, tmp_path: Path) -> None:
    package = tmp_path / "coreset_backend"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("static", "templates", "__pycache__"))
    changed = package / path
    changed.parent.mkdir(exist_ok=True)
    before = changed.read_text() if changed.exists() else ""
    changed.write_text("\n".join([before, line, ""]))
    assert any(told in found for found in forbidden_arrows(package) + wrong_doors(package))


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
            for module in ("web.app", "web.server", "cli.main")
        ),
        ("rounds.run", ("ray",)),
        ("cli.doctor", ("torch", "ray")),
        ("fleet.ray_driver", ("torch", "flask")),
        ("cli.run", ("torch", "annoy", "scipy")),
        ("selection", ("torch", "flask", "redis", "annoy", "rq")),
        ("decoding", ("torch", "httpx", "redis", "flask", "rq", "scipy")),
        ("project", ("httpx", "flask", "torch")),
    ],
)
def test_importing_loads_only_what_is_needed(module: str, absent: tuple[str, ...]) -> None:
    code = f"import sys, coreset_backend.{module}; print([m for m in {absent!r} if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def test_only_the_reader_of_settings_and_the_process_tree_read_the_environment() -> None:
    readers = {path.stem for path in PACKAGE.rglob("*.py") if "os.environ" in path.read_text()}
    assert readers <= {"environment", "model_dir", "stack", "main", "demo", "serve", "decoders"} | {
        *("ray_process", "ray_driver"),  # what they start has this environment with Ray's token
    }
