"""The documents say what the code does: every command, endpoint and setting, and no other."""

import re
import shlex
import subprocess
from collections.abc import Callable

import click
import pytest
from paths import ROOT

from coreset_backend.backend import Backend
from coreset_backend.cli.main import main
from coreset_backend.settings.environment import environment_names
from coreset_backend.web.app import create_app

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
TEXT = "\n".join(page.read_text() for page in PAGES)


def typed_commands() -> list[tuple[str, str]]:
    """(page, words after `coreset-backend`) of each time the documents show the command with a subcommand."""
    pattern = re.compile(r"coreset-backend ([a-z]+(?:-[a-z]+)*(?: +(?:--?[\w-]+|[\w./…,-]+))*)")
    code = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)
    return [
        (page.name, found)
        for page in PAGES
        for part in code.findall(page.read_text())
        for found in pattern.findall(part)
    ]


def test_every_command_is_documented() -> None:
    assert not [
        name for name in main.commands if f"`{name}`" not in TEXT and f"coreset-backend {name}" not in TEXT
    ]


@pytest.mark.parametrize(("page", "words"), typed_commands())
def test_every_command_that_is_shown_exists_with_its_options(page: str, words: str) -> None:
    name, *rest = shlex.split(words)
    command = main.commands.get(name)
    assert isinstance(command, click.Command), f"{page} shows `coreset-backend {name}`, which does not exist"
    command = command.make_context(name, [], resilient_parsing=True).command  # its module is loaded only now
    known = {option for parameter in command.params for option in parameter.opts} | {"--help", "-h"}
    assert not [word for word in rest if word.startswith("-") and word not in known]


@pytest.mark.parametrize("name", main.commands)
def test_the_list_of_commands_shows_the_first_sentence_of_each_help(name: str) -> None:
    listed = main.commands[name]
    help_text = listed.make_context(name, [], resilient_parsing=True).command.help
    assert help_text and help_text.split("\n")[0] == listed.help


def test_every_endpoint_is_documented(make_backend: Callable[..., Backend]) -> None:
    rules = {
        re.sub(r"<(?:\w+:)?(\w+)>", "<>", rule.rule)
        for rule in create_app(make_backend()).url_map.iter_rules()
        if rule.endpoint != "static" and not rule.rule.startswith("/static")
    }
    written = {re.sub(r"<\w+>", "<>", path) for path in re.findall(r"(/[\w/<>.:-]*)", TEXT)}
    assert not sorted(rules - written - {"/"})


def test_every_setting_that_is_named_exists() -> None:
    known = {name for names in environment_names().values() for name in names}
    known |= {f"{name}_FILE" for name in known}
    named = set(re.findall(r"\bCORESET_[A-Z_]+\b", TEXT))
    assert not sorted(name for name in named - known if not name.endswith("_"))


def test_the_readme_fits_its_page_and_leaves_settings_and_commands_to_the_documents() -> None:
    readme = (ROOT / "README.md").read_text()
    assert len(readme.splitlines()) <= 120
    assert "| `CORESET_" not in readme, "settings belong to docs/settings.md"


@pytest.mark.parametrize(
    "line", re.findall(r"^\$ (make \S+)", (ROOT / "README.md").read_text(), re.MULTILINE)
)
def test_the_make_lines_of_the_readme_can_be_typed(line: str) -> None:
    told = subprocess.run([*line.split(), "--dry-run"], cwd=ROOT, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr


def test_links_between_the_documents_lead_somewhere() -> None:
    broken = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
            if "://" not in target and not (page.parent / target).exists():
                broken.append(f"{page.name} -> {target}")
    assert not broken


def anchors(text: str) -> set[str]:
    """The fragments by which the headings of a page can be linked to, as forges make them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_to_headings_lead_to_one() -> None:
    broken = []
    for page in PAGES:
        for target, anchor in re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", page.read_text()):
            if "://" not in target and anchor not in anchors(
                ((page.parent / target) if target else page).read_text()
            ):
                broken.append(f"{page.name} -> {target}#{anchor}")
    assert not broken


def test_every_test_that_the_tables_name_exists() -> None:
    tests = {path.stem: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    tests["contract"] = (ROOT / "tests/support/label_studio_contract.py").read_text()
    defined = {name for text in tests.values() for name in re.findall(r"def (test_\w+)", text)}
    named = {
        name
        for page in ("develop.md", "security.md")
        for name in re.findall(r"[`/](test_\w+)(?:\.py)?`", (ROOT / "docs" / page).read_text())
    }
    assert len(named) > 50
    assert not sorted(named - defined - tests.keys())


def test_every_module_that_the_documents_name_exists() -> None:
    folders = [ROOT, ROOT / "coreset_backend", ROOT / "tests", ROOT / "docs"]
    named = set(re.findall(r"`((?:\w+/)+\w+\.py)`", TEXT))
    assert not sorted(name for name in named if not any((folder / name).exists() for folder in folders))
