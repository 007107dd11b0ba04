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
        ([{"result": [region("x", name="other")], "completed_by": 1}], ()),
        ([annotation("gone")], None),
        ([annotation("gone", by=1), annotation("a", by=2)], ("a",)),
        ([annotation("a", "gone")], ("a",)),
    ],
)
def test_in_multiple_choice_nothing_chosen_is_an_answer(
    annotations: list[Any], expected: tuple[str, ...] | None
) -> None:
    assert read_and_agreed(annotations, DEFECTS).label == expected


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
        ([{"result": [{**region(), "value": {"choices": [7, None]}}]}], PETS, "nothing is chosen"),
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


def test_other_controls_of_the_same_annotation_are_ignored() -> None:
    box = {"from_name": "box", "type": "rectanglelabels", "value": {"rectanglelabels": ["cat"]}}
    assert read_and_agreed([{"result": [box], "completed_by": 1}], PETS).label is None
