"""What annotations of every kind say of an image."""

from typing import Any

import pytest

from coreset_backend.label_studio.annotations import Answer, agreed_label
from coreset_backend.label_studio.answers import read_task
from coreset_backend.label_studio.label_config import Control, parse_label_config


def control(inside: str, more: str = "", **attributes: str) -> Control:
    given = " ".join(f'{key}="{value}"' for key, value in attributes.items())
    choices = (
        "".join(f'<Choice value="{value}"/>' for value in inside.split()) if "<" not in inside else inside
    )
    found = parse_label_config(
        f'<View><Image name="image" value="$image"/>{more}'
        f'<Choices name="label" toName="image" {given}>{choices}</Choices></View>',
        "label",
    ).control
    assert found
    return found


PETS = control('<Choice value="cat"/><Choice value="dog" alias="d"/>')
DEFECTS = control("a b c", choice="multiple")
CHECKBOX = control("defect")
NUMBERS = control("1 2", choice="multiple")
COLOURS = (
    '<Choice value="warm"><Choice value="red"/><Choice value="orange" alias="o"/></Choice>'
    '<Choice value="cool"><Choice value="blue"/></Choice>'
)
NESTED = control(COLOURS, allowNested="true")
NESTED_MULTIPLE = control(COLOURS, allowNested="true", choice="multiple")


def region(*choices: Any, name: str = "label") -> Any:
    return {
        "from_name": name,
        "to_name": "image",
        "type": "choices",
        "value": {"choices": list(choices)},
    }


def annotation(*choices: Any, by: Any = 1, at: str = "2026-01-01", **more: Any) -> Any:
    return {"result": [region(*choices)] if choices else [], "completed_by": by, "updated_at": at, **more}


def read_and_agreed(annotations: list[Any], which: Control) -> Answer:
    """What annotators agree upon, from the JSON that Label Studio sends."""
    return agreed_label(read_task({"id": 1, "annotations": annotations}).annotations, which)


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ([annotation("cat")], ("cat",)),
        ([annotation()], None),
        ([annotation("unicorn")], None),
        ([annotation("dog")], ("d",)),  # from before it had an alias
        ([annotation("cat", by=1), annotation("d", by=2), annotation("d", by=3)], ("d",)),
        ([annotation("cat", by=1, at="1"), annotation("d", by=2, at="2")], ("d",)),
        ([annotation("cat", by=1, at="1"), annotation("d", by=1, at="2")], ("d",)),
        ([annotation("cat", by={"id": 1}, at="1"), annotation("d", by={"id": 1}, at="2")], ("d",)),
        ([annotation("cat", ground_truth=True), annotation("d", by=2), annotation("d", by=3)], ("cat",)),
        ([annotation(ground_truth=True), annotation("d", by=2)], ("d",)),
        ([annotation("unicorn", ground_truth=True), annotation("d", by=2)], None),
    ],
)
def test_the_annotators_agree_on_one_class(annotations: list[Any], expected: tuple[str, ...] | None) -> None:
    assert read_and_agreed(annotations, PETS).label == expected


def test_the_votes_of_several_annotators_and_a_ground_truth_are_kept() -> None:
    alone = read_and_agreed([annotation("cat")], PETS)
    assert (alone.votes, alone.is_truth) == ((), False)
    several = read_and_agreed([annotation("cat", by=1), annotation("d", by=2), annotation("d", by=3)], PETS)
    assert (sorted(several.votes), several.is_truth) == ([("cat",), ("d",), ("d",)], False)
    again = read_and_agreed([annotation("cat", by=1, at="1"), annotation("d", by=1, at="2")], PETS)
    assert again.votes == ()  # one annotator who has changed the answer
    truth = read_and_agreed([annotation("cat", ground_truth=True), annotation("d", by=2)], PETS)
    assert (truth.votes, truth.is_truth) == ((), True)
    empty = read_and_agreed([annotation(ground_truth=True), annotation("d", by=2)], PETS)
    assert not empty.is_truth


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ([annotation()], ()),
        ([annotation(by=1), annotation(by=2), annotation("a", by=3)], ()),
        ([annotation(by=1), annotation("a", by=2)], ("a",)),
        ([annotation("a", "b", by=1), annotation("b", "c", by=2), annotation("b", by=3)], ("b",)),
        ([annotation("a", "b", by=1), annotation("b", "c", by=2)], ("a", "b", "c")),
        ([annotation(ground_truth=True), annotation("a", by=2), annotation("a", by=3)], ()),
        ([annotation("a", at="1"), annotation(at="2")], ()),  # the same annotator thought again
        ([annotation("gone")], None),
        ([annotation("gone", by=1), annotation("a", by=2)], ("a",)),
        ([annotation("a", "gone")], ("a",)),
    ],
)
def test_in_multiple_choice_nothing_chosen_is_an_answer(
    annotations: list[Any], expected: tuple[str, ...] | None
) -> None:
    assert read_and_agreed(annotations, DEFECTS).label == expected


@pytest.mark.parametrize(
    ("more", "name"),
    [
        ('<Choices name="other" toName="image"><Choice value="x"/></Choices>', "other"),
        ('<Repeater on="$all"><Rating name="stars_{{idx}}" toName="image"/></Repeater>', "stars_0"),
    ],
)
def test_who_answers_another_control_only_chose_none_of_these(more: str, name: str) -> None:
    asked = control("a b", more, choice="multiple")
    link = {"type": "relation", "from_id": "r1", "to_id": "r2"}
    result = [region("x", name=name), link]
    assert read_and_agreed([{"result": result, "completed_by": 1}], asked).label == ()


def test_each_annotation_of_deleted_users_is_a_vote() -> None:
    """Label Studio keeps their annotations, and no longer says whose they were."""
    votes = [annotation("cat", by=None, id=1), annotation("cat", by=None, id=2), annotation("d", by=3, id=3)]
    found = read_and_agreed(votes, PETS)
    assert found.label == ("cat",) and sorted(found.votes) == [("cat",), ("cat",), ("d",)]


@pytest.mark.parametrize(
    ("choice", "stored"),
    [
        ("caf\u00e9", "cafe\u0301"),
        ("cafe\u0301", "caf\u00e9"),
        ("cafe\u0301", "cafe\u0301"),
    ],
)
def test_a_class_in_another_form_of_unicode_is_that_class(choice: str, stored: str) -> None:
    flat = control(f'<Choice value="{choice}"/><Choice value="cat"/>')
    assert read_and_agreed([annotation(stored)], flat).label == (choice,)
    inside = f'<Choice value="place"><Choice value="{choice}"/><Choice value="bar"/></Choice>'
    nested = control(inside, allowNested="true")
    for answer in (stored, ["place", stored]):
        assert read_and_agreed([annotation(answer)], nested).label == (f"place / {choice}",)


def test_a_single_checkbox_left_out_is_an_answer() -> None:
    assert read_and_agreed([annotation()], CHECKBOX).label == ()
    assert read_and_agreed([annotation("defect")], CHECKBOX).label == ("defect",)


@pytest.mark.parametrize(
    ("chosen", "which", "expected"),
    [
        ([["warm", "red"]], NESTED, ("warm / red",)),
        ([["warm", "orange"]], NESTED, ("warm / o",)),
        ([["cool"], ["cool", "blue"]], NESTED, ("cool / blue",)),  # a parent whose children are all chosen
        (["red"], NESTED, ("warm / red",)),  # from before choices were nested
        ([["warm"]], NESTED, None),
        (
            [["warm"], ["warm", "red"], ["warm", "o"], ["cool", "blue"]],
            NESTED_MULTIPLE,
            ("warm / red", "warm / o", "cool / blue"),
        ),
        ([["cat"]], PETS, ("cat",)),  # nested once, flat by now
        ([["animal", "cat"]], PETS, ("cat",)),
        ("cat", PETS, ("cat",)),
        (["a &lt; b"], control("<Choice value='a &lt; b'/><Choice value='c'/>"), ("a < b",)),
    ],
)
def test_paths_and_plain_values_are_read_whatever_the_label_config_has_become(
    chosen: Any, which: Control, expected: tuple[str, ...] | None
) -> None:
    result = [{**region(), "value": {"choices": chosen}}]
    assert read_and_agreed([{"result": result, "completed_by": 1}], which).label == expected


def answered(**fields: Any) -> Any:
    return {"result": [{**region("a"), **fields}], "completed_by": 1}


@pytest.mark.parametrize(
    ("annotations", "which", "why"),
    [
        ([annotation("kitty")], PETS, "'kitty' is not a choice of 'label'"),
        ([annotation()], PETS, "nothing is chosen in 'label'"),
        ([annotation()], control("a b", choice="multiple", required="true"), "which is required"),
        ([annotation("a\x1b[2J\nb")], PETS, "'a"),
        ([annotation(["x", "y"])], NESTED, "'x / y' is not a choice of 'label'"),
        ([{"result": [region("cat", name="old")]}], PETS, "nothing is chosen in 'label'"),
        ([{"result": [{"type": "choices", "from_name": "label"}]}], PETS, "nothing is chosen"),
        ([{"result": [{"type": "choices", "from_name": "label", "value": {}}]}], PETS, "nothing is chosen"),
        ([annotation(7, None)], PETS, "7 is a number, while the choices of 'label' are texts, as in '7'"),
        ([annotation(1)], NUMBERS, "1 is a number, while the choices of 'label' are texts, as in '1'"),
        ([annotation("1", 2.5)], NUMBERS, "2.5 is a number"),
        ([annotation(True)], NUMBERS, "true is no choice of 'label', whose choices are texts"),
        ([annotation({"value": "1"})], NUMBERS, "an object is no choice of 'label'"),
        ([annotation(["1", 2])], NUMBERS, "2 is a number"),
        ([answered(value=None)], DEFECTS, "nothing is chosen in 'label': its answer has no 'choices'"),
        ([answered(value=["a"])], DEFECTS, "its answer has no 'choices'"),
        ([answered(value={"taxonomy": [["a"]]})], DEFECTS, "its answer has no 'choices'"),
        ([answered(type=None)], DEFECTS, "the answer to 'label' has no type, which must be 'choices'"),
        ([answered(type="Choices")], DEFECTS, "the type of the answer to 'label' is 'Choices'"),
        ([answered(type=["choices"])], DEFECTS, "the type of the answer to 'label' is a list"),
        ([answered(from_name="old")], DEFECTS, "to 'old', which the label config does not have"),
        ([answered(from_name=["old"])], DEFECTS, "to a list, which the label config does not have"),
        ([answered(from_name=None)], DEFECTS, "and an answer names no control"),
        ([{"result": ["a"]}], DEFECTS, "and an answer names no control"),
        ([{"result": "a"}], CHECKBOX, "and an answer names no control"),
    ],
)
def test_an_answer_that_cannot_be_read_says_why(annotations: list[Any], which: Control, why: str) -> None:
    answer = read_and_agreed(annotations, which)
    assert answer.label is None and why in answer.why and answer.why.isprintable()


GATE = '<Choices name="usable" toName="image"><Choice value="Yes" alias="y"/><Choice value="No"/></Choices>'
SHOWN = {"visibleWhen": "choice-selected", "whenTagName": "usable", "whenChoiceValue": "Yes"}


@pytest.mark.parametrize(
    ("attributes", "gate", "expected"),
    [
        (SHOWN, ["y"], ()),
        (SHOWN, ["No"], None),
        (SHOWN, [], None),
        ({**SHOWN, "visibleWhen": "choice-unselected"}, ["y"], None),
        ({**SHOWN, "visibleWhen": "choice-unselected"}, ["No"], ()),
        ({"visibleWhen": "choice-selected", "whenTagName": "usable"}, ["No"], ()),
        ({"visibleWhen": "region-selected"}, ["y"], None),
        ({"visibleWhen": "no-region-selected"}, [], ()),
        ({"whenChoiceValue": "No"}, ["No"], ()),
        ({"whenChoiceValue": "No"}, ["y"], None),
    ],
)
def test_nothing_chosen_is_no_answer_where_nothing_was_asked(
    attributes: dict[str, str], gate: list[str], expected: tuple[str, ...] | None
) -> None:
    asked = control("a b", GATE, choice="multiple", **attributes)
    result = [region(*gate, name="usable")] if gate else []
    answer = read_and_agreed([{"result": result, "completed_by": 1}], asked)
    assert answer.label == expected
    assert expected is not None or "is shown only" in answer.why


TAXONOMY = (
    '<Taxonomy name="tax" toName="image"><Choice value="ok"/><Choice value="bad" alias="b"/>'
    '<Choice value="why"><Choice value="blur"/></Choice></Taxonomy>'
)


@pytest.mark.parametrize(
    ("kind", "value", "chosen", "expected"),
    [
        ("choice-unselected", "bad", [["b"]], None),
        ("choice-unselected", "bad", [["ok"]], ()),
        ("choice-unselected", "bad", None, ()),
        ("choice-selected", "ok", [["ok"]], ()),
        ("choice-selected", "ok,blur", [["why", "blur"]], ()),
        ("choice-selected", "b", [["b"]], ()),
        ("choice-selected", "ok", [["b"]], None),
        ("choice-selected", "", [["b"]], ()),
        ("choice-selected", "", None, None),
    ],
)
def test_a_taxonomy_decides_what_is_asked(
    kind: str, value: str, chosen: Any, expected: tuple[str, ...] | None
) -> None:
    asked = control(
        "a b", TAXONOMY, choice="multiple", visibleWhen=kind, whenTagName="tax", whenChoiceValue=value
    )
    tax = {"from_name": "tax", "to_name": "image", "type": "taxonomy", "value": {"taxonomy": chosen}}
    assert read_and_agreed([{"result": [tax] if chosen else []}], asked).label == expected


@pytest.mark.parametrize(
    ("attributes", "around", "gate", "expected"),
    [
        # The editor shows it by any <Choices>; what is chosen in it is saved by the value only.
        ({"visibleWhen": "choice-unselected", "whenChoiceValue": "No"}, "", ["y"], None),
        ({"visibleWhen": "choice-unselected", "whenChoiceValue": "No"}, "", [], ()),
        ({"visibleWhen": "choice-selected", "whenChoiceValue": "No"}, "", ["No"], ()),
        ({"visibleWhen": "choice-selected", "whenChoiceValue": "No"}, "", ["y"], None),
        ({}, 'visibleWhen="choice-selected" whenChoiceValue="No"', ["y"], ()),
        ({}, 'visibleWhen="choice-selected" whenChoiceValue="No"', [], None),
        ({}, 'visibleWhen="choice-unselected" whenChoiceValue="No"', ["y"], None),
        ({}, 'whenChoiceValue="Yes" whenTagName="else"', ["y"], None),  # it compares with what is stored
        ({}, 'whenChoiceValue="y" whenTagName="else"', ["y"], ()),
        ({}, 'whenChoiceValue="y,No"', ["y"], None),
    ],
)
def test_without_a_tag_the_editor_looks_at_every_control(
    attributes: dict[str, str], around: str, gate: list[str], expected: tuple[str, ...] | None
) -> None:
    given = " ".join(f'{key}="{value}"' for key, value in attributes.items())
    found = parse_label_config(
        f'<View><Image name="image" value="$image"/>{GATE}<View {around}>'
        f'<Choices name="label" toName="image" choice="multiple" {given}><Choice value="a"/>'
        '<Choice value="b"/></Choices></View></View>',
        "label",
    ).control
    assert found
    result = [region(*gate, name="usable")] if gate else []
    assert read_and_agreed([{"result": result, "completed_by": 1}], found).label == expected


def test_other_controls_of_the_same_annotation_are_ignored() -> None:
    box = {"from_name": "box", "type": "rectanglelabels", "value": {"rectanglelabels": ["cat"]}}
    assert read_and_agreed([{"result": [box], "completed_by": 1}], PETS).label is None
