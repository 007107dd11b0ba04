"""Reads a label config: which image of a task to read, and which <Choices> to train on. Pure.

Reads it as Label Studio's editor (source of 1.23.2) does: tags and attributes in any case, ``allowNested``
makes every answer a path, ``visibleWhen`` hides tags.
"""

import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from coreset_backend.errors import UnsupportedLabelConfig
from coreset_backend.foreign_text import one_line
from coreset_backend.label_studio.task_images import VARIABLE
from coreset_backend.project import Labels

CONTROL = "coreset_control"
DEEPEST, MOST_NAMED = 100, 8
BETWEEN_LEVELS = " / "
"""Separates the levels of a nested choice in the name of its class."""
FREE_TEXT = "textarea"
WHEN_ANY_CHOSE = "any-chose"
"""The kind of a condition that is ``whenChoiceValue`` alone: some control has this value, as it is stored."""


@dataclass(frozen=True, slots=True)
class Condition:
    """When a tag is shown: visibleWhen's ``kind``, for ``values`` of the control ``tag``; empty: any."""

    kind: str
    tag: str
    values: frozenset[str]


@dataclass(frozen=True, slots=True)
class Control:
    """The <Choices> to train on, and what is needed to read its answers.

    ``classes``: path in an annotation -> class; a choice with an ``alias`` has both its paths. ``parents``:
    paths of nested choices that have choices below them. ``required``: annotators must answer it.
    ``shown_when``: the conditions that all must hold for annotators to see it; ``saved_when``: those for
    their answer to be saved. ``controls``: what an answer can be to, empty where a <Repeater> makes more.
    """

    labels: Labels
    classes: Mapping[tuple[str, ...], str]
    parents: frozenset[tuple[str, ...]]
    required: bool
    shown_when: tuple[Condition, ...]
    saved_when: tuple[Condition, ...]
    controls: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LabelConfig:
    """What is read of a label config.

    ``image``: the value of the <Image> to read, as in "$image" or "https://cdn/$file". ``control``: None if
    no <Choices> can be trained on; ``untrained`` then says why, if there is a reason. ``notes``: sentences
    on the parts of the config that are ignored.
    """

    image: str
    control: Control | None
    untrained: str = ""
    notes: tuple[str, ...] = ()

    @property
    def labels(self) -> Labels | None:
        return self.control.labels if self.control else None


# ---------------------------------------------------------------- the tags


@dataclass(frozen=True, slots=True, eq=False)
class _Tag:
    kind: str
    attributes: Mapping[str, str]
    element: ElementTree.Element
    above: tuple["_Tag", ...]

    def get(self, name: str) -> str:
        return self.attributes.get(name, "")

    @property
    def name(self) -> str:
        return self.get("name")

    @property
    def is_repeated(self) -> bool:
        return any(tag.kind == "repeater" for tag in self.above)


def _tags(label_config: str) -> Iterator[_Tag]:
    """Every tag in document order, with its name and its attributes' names in lower case."""
    try:
        waiting: list[tuple[ElementTree.Element, tuple[_Tag, ...]]] = [
            (ElementTree.fromstring(label_config), ())
        ]
    except ElementTree.ParseError as error:
        raise UnsupportedLabelConfig(
            f"The label config is not valid XML ({error}). Save it again in Label Studio."
        ) from None
    while waiting:
        element, above = waiting.pop()
        if len(above) > DEEPEST:
            raise UnsupportedLabelConfig(f"The label config nests tags more than {DEEPEST} levels deep.")
        attributes = {name.lower(): value for name, value in element.attrib.items()}
        tag = _Tag(str(element.tag).lower(), attributes, element, above)
        yield tag
        waiting += [(child, (*above, tag)) for child in reversed(element)]


def is_unwritten(label_config: str) -> bool:
    """Whether the label config has no tag yet, as in a new project."""
    return re.fullmatch(r"\s*(<View\s*/>|<View\s*>\s*</View\s*>)?\s*", label_config) is not None


def parse_label_config(label_config: str, control: str | None = None) -> LabelConfig:
    """The image to read and the <Choices> to train on.

    ``control`` names the <Choices> to train on; an attribute ``coreset_control`` of any tag overrides it.
    Without either it is the first <Choices> about the image that does more than decide which others are
    shown. Raises UnsupportedLabelConfig if the config is not XML, shows no image of a task, or has no such
    control.
    """
    tags = list(_tags(label_config))
    images = _images(tags)
    choices = [tag for tag in tags if tag.kind == "choices"]
    refused = {tag.name: why for tag in choices if (why := _why_untrainable(tag, images))}
    usable = [tag for tag in choices if tag.name not in refused]
    wanted = next((tag.get(CONTROL) for tag in tags if tag.get(CONTROL)), control)
    gates = _gates(tags, usable)
    chosen = _named(wanted, usable, refused) if wanted else _first_that_is_no_gate(usable, gates)
    image = _image_of(chosen, images) if chosen else next(iter(images))
    return LabelConfig(
        images[image],
        _control(chosen, image, tags) if chosen else None,
        "" if chosen else _untrained(tags, refused),
        tuple(_notes(images, image, tags, chosen, usable, gates)),
    )


def _images(tags: Sequence[_Tag]) -> dict[str, str]:
    """Name -> value of each <Image> that shows data of the task."""
    shown = [tag for tag in tags if tag.kind == "image" and VARIABLE.search(_shown(tag))]
    images = {tag.name: _shown(tag) for tag in shown if not tag.is_repeated}
    if images:
        return images
    if shown:
        raise UnsupportedLabelConfig(
            "The label config shows several images per task in a <Repeater>. This backend reads one image "
            "per task: import every image as a task of its own."
        )
    if unfilled := [value for tag in tags if tag.kind == "image" and "$" in (value := _shown(tag)[:60])]:
        raise UnsupportedLabelConfig(
            f"Label Studio cannot fill in the <Image>'s value '{one_line(unfilled[0])}': names after '$' are "
            "of the letters a to z, digits and '_'. Rename the field in the tasks' data and in the value."
        )
    raise UnsupportedLabelConfig(
        'The label config has no <Image name="…" value="$…"> to read images from. '
        "This backend needs an image in each task: "
        "add the tag in Settings > Labeling Interface."
    )


def _shown(image: _Tag) -> str:
    return image.get("valuelist") or image.get("value")


# ---------------------------------------------------------------- which <Choices>


def _why_untrainable(choices: _Tag, images: Mapping[str, str]) -> str:
    """Why a <Choices> cannot be trained on (the end of a "because" sentence); empty if it can."""
    name = f"'{choices.name}'"
    if choices.is_repeated or choices.get("peritem") == "true":
        return f"{name} asks about each image of a list, not about the task"
    if choices.get("perregion") == "true":
        return f"{name} asks about each region, not about the image"
    if not _image_of(choices, images):
        return f"{name} is not about an <Image>"
    return _why_no_classes(choices, name)


def _why_no_classes(choices: _Tag, name: str) -> str:
    values = [] if _classes(choices) else [choices.get("value")]
    for choice in (each for each in choices.element.iter() if str(each.tag).lower() == "choice"):
        alias, value = _alias_and_value(choice)
        if not alias and "alias" in map(str.lower, choice.attrib):
            return (
                f'a <Choice> of {name} has alias="", which Label Studio stores for it: remove the attribute'
            )
        values += [] if alias else [value]
    if source := next(filter(VARIABLE.search, values), ""):
        return f"the choices of {name} come from each task's data ({source[:60]}), not from the label config"
    return "" if _classes(choices) else f"{name} has no <Choice>"


def _image_of(choices: _Tag, images: Mapping[str, str]) -> str:
    """Name of the image that the control is about, the first of several (toName="a,b"); empty if none."""
    names = [name.strip() for name in choices.get("toname").split(",") if name.strip()]
    if not names and len(images) == 1:  # Label Studio's editor infers it
        return next(iter(images))
    return next((name for name in names if name in images), "")


def _named(wanted: str, usable: Sequence[_Tag], refused: Mapping[str, str]) -> _Tag:
    for tag in usable:
        if tag.name == wanted:
            return tag
    why = refused.get(wanted, f"there is no <Choices> '{wanted}'")
    known = ", ".join(f"'{tag.name}'" for tag in usable) or "none of this label config"
    raise UnsupportedLabelConfig(
        f"The control '{wanted[:60]}' cannot be trained on, because {why}. The setting can name: {known}."
    )


def _gates(tags: Sequence[_Tag], usable: Sequence[_Tag]) -> frozenset[str]:
    """Names of the <Choices> that only decide which questions follow, such as "Is the picture usable?"."""
    opened: dict[str, set[Condition]] = {}
    names = _names_of_choices(tags)
    for tag in tags:
        conditions = _conditions(tag, names)
        if conditions and _asks(tag):
            for condition in conditions:
                for gate in _gates_meant(condition, tag, usable):
                    opened.setdefault(gate, set()).add(condition)
    conditional = {tag for tag in usable if any(_conditions(each, names) for each in (*tag.above, tag))}
    return frozenset(
        tag.name
        for tag in usable
        if tag.name in opened and not _has_details(tag, opened[tag.name], tag in conditional)
    )


def _has_details(gate: _Tag, opened: Collection[Condition], is_conditional: bool) -> bool:
    """Whether ``gate`` is a class whose choices have details, such as the breed of a "dog"."""
    return len(_classes(gate)) > 2 and (len(opened) > 1 or is_conditional)


def _gates_meant(condition: Condition, tag: _Tag, usable: Sequence[_Tag]) -> list[str]:
    """The control that the condition of ``tag`` names; if it names none, every other one with its values."""
    if condition.tag:
        return [condition.tag]
    return [
        other.name
        for other in usable
        if other is not tag and tag not in other.above
        if any(path[-1] in condition.values for path in _classes(other))
    ]


def _asks(tag: _Tag) -> bool:
    """Whether the tag is or contains a control; a free-text field only comments on another answer."""
    return any(
        str(each.tag).lower() != FREE_TEXT and any(name.lower() == "toname" for name in each.attrib)
        for each in tag.element.iter()
    )


def _first_that_is_no_gate(usable: Sequence[_Tag], gates: frozenset[str]) -> _Tag | None:
    return next((tag for tag in usable if tag.name not in gates), next(iter(usable), None))


def _untrained(tags: Sequence[_Tag], refused: Mapping[str, str]) -> str:
    if refused:
        return "; ".join(refused.values())
    kinds = {"taxonomy": "<Taxonomy>", "rating": "<Rating>"}
    found = next((kinds[tag.kind] for tag in tags if tag.kind in kinds), None)
    return f"the backend trains on <Choices> only, not on a {found}" if found else ""


def _notes(
    images: Mapping[str, str],
    image: str,
    tags: Sequence[_Tag],
    chosen: _Tag | None,
    usable: Sequence[_Tag],
    gates: frozenset[str],
) -> Iterator[str]:
    others = [tag for tag in usable if tag is not chosen]
    if others:
        named = ", ".join(
            f"'{tag.name}'" + (" (it only decides which questions follow)" if tag.name in gates else "")
            for tag in others[:MOST_NAMED]
        ) + (f" and {len(others) - MOST_NAMED} more" if len(others) > MOST_NAMED else "")
        yield (
            f"Not trained on: {named}. "
            f'To train on it instead, add the attribute {CONTROL}="{others[0].name}" to any tag.'
        )
    if unread := [name for name in images if name != image]:
        yield f"The image '{image}' of each task is read; not read: {', '.join(repr(n) for n in unread)}."
    listed = next(tag for tag in tags if tag.kind == "image" and tag.name == image).get("valuelist")
    if listed:
        yield f"Each task shows a list of images ({listed}); the first image of the list is read."


# ---------------------------------------------------------------- its answers


def _control(choices: _Tag, image: str, tags: Sequence[_Tag]) -> Control:
    nested = choices.get("allownested") == "true"
    classes = _classes(choices)
    path_of = {name: path for path, name in reversed(classes.items()) if BETWEEN_LEVELS.join(path) == name}
    names = tuple(dict.fromkeys(classes.values()))
    paths = tuple(path_of[name] for name in names)
    # Not checking a single checkbox is an answer too.
    multiple = choices.get("choice") == "multiple" or len(names) == 1
    values = _names_of_choices(tags)
    own = _conditions(choices, values)
    return Control(
        Labels(choices.name, image, names, multiple, paths if nested else (), _unimportable(choices, names)),
        {**{composed(path): name for path, name in classes.items()}, **classes},
        frozenset(path[:level] for path in paths for level in range(1, len(path))),
        choices.get("required") == "true",
        (*(condition for tag in choices.above for condition in _conditions(tag, values)), *own),
        tuple(condition for condition in own if condition.kind.startswith("choice-")),
        () if any(tag.is_repeated for tag in tags) else tuple(tag.name for tag in tags if tag.name),
    )


def composed(path: tuple[str, ...]) -> tuple[str, ...]:
    """The path in the form of Unicode that keyboards write."""
    return tuple(unicodedata.normalize("NFC", each) for each in path)


def _unimportable(choices: _Tag, names: Sequence[str]) -> tuple[str, ...]:
    """The classes that Label Studio's import does not know: it reads the attributes of a <Choice>, not its
    text, and knows the tags in this case only."""
    is_known = choices.element.tag == "Choices"
    known = {each.get("alias") or each.get("value") for each in choices.element.iter("Choice") if is_known}
    return tuple(name for name in names if name not in known)


def _classes(choices: _Tag) -> dict[tuple[str, ...], str]:
    """Path -> class of every choice that can be selected, aliases first; a path has one value unless nested.

    The class of a nested choice is its joined path. A parent is selected through its children.
    """
    nested = choices.get("allownested") == "true"
    found: dict[tuple[str, ...], str] = {}
    by_value: dict[tuple[str, ...], str] = {}
    for path, values, has_children in _paths(choices.element, (), ()):
        if (nested and has_children) or (not nested and len(path) > 1):
            continue
        found.setdefault(path, BETWEEN_LEVELS.join(path))
        by_value.setdefault(values, found[path])
    return {**found, **{path: name for path, name in by_value.items() if path not in found}}


def _paths(
    element: ElementTree.Element, path: tuple[str, ...], values: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], tuple[str, ...], bool]]:
    """(path by alias, path by value, whether it has choices below it) of every <Choice> in ``element``."""
    for child in element:
        if str(child.tag).lower() != "choice":
            yield from _paths(child, path, values)
            continue
        alias, value = _alias_and_value(child)
        if not (alias or value):
            continue
        here, plain = (*path, alias or value), (*values, value or alias)
        below = list(_paths(child, here, plain))
        yield here, plain, bool(below)
        yield from below


def _alias_and_value(choice: ElementTree.Element) -> tuple[str, str]:
    attributes = {name.lower(): value for name, value in choice.attrib.items()}
    text = (choice.text or "").strip() if not len(choice) else ""
    return attributes.get("alias", ""), text or attributes.get("value", "")


def _names_of_choices(tags: Sequence[_Tag]) -> dict[tuple[str, str], frozenset[str]]:
    """(control, value or alias of a choice) -> the choice's value and alias."""
    found: dict[tuple[str, str], frozenset[str]] = {}
    for tag in tags:
        control = next(
            (each.name for each in reversed(tag.above) if each.kind in ("choices", "taxonomy")), ""
        )
        if tag.kind == "choice" and control:
            names = frozenset(_alias_and_value(tag.element)) - {""}
            found |= {(control, name): names for name in names}
    return found


def _conditions(tag: _Tag, names: Mapping[tuple[str, str], frozenset[str]]) -> list[Condition]:
    """The tag's own condition for being shown; empty if it is always shown."""
    kind, values = tag.get("visiblewhen"), tag.get("whenchoicevalue")
    if not kind and values and tag.get("perregion") != "true":
        return [Condition(WHEN_ANY_CHOSE, "", frozenset({values}))]
    if kind not in ("choice-selected", "choice-unselected", "region-selected"):
        return []
    control = tag.get("whentagname")
    wanted = (names.get((control, value), {value}) for value in values.split(",") if value)
    return [Condition(kind, control, frozenset[str]().union(*wanted))]
