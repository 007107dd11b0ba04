"""Label configs as teams write them, read as Label Studio's editor reads them."""

from typing import Any

import pytest

from coreset_backend.errors import UnsupportedLabelConfig
from coreset_backend.label_studio.label_config import parse_label_config
from coreset_backend.label_studio.task_images import image_uris
from coreset_backend.project import Labels

IMAGE = '<Image name="image" value="$image"/>'
CHOICES = '<Choice value="cat"/><Choice value="dog" alias="d"/>'


def config(*tags: str, image: str = IMAGE) -> str:
    return f"<View>{image}{''.join(tags)}</View>"


def choices(name: str = "label", inside: str = CHOICES, to: str = "image", **attributes: str) -> str:
    more = " ".join(f'{key}="{value}"' for key, value in attributes.items())
    return f'<Choices name="{name}" toName="{to}" {more}>{inside}</Choices>'


def test_label_config_names_the_image_and_the_choices_in_order() -> None:
    parsed = parse_label_config(config(choices()))
    assert parsed.image == "$image"
    assert parsed.labels == Labels("label", "image", ("cat", "d"), multiple=False)
    assert parsed.notes == () and parsed.untrained == ""


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("<View>", "not valid XML"),
        ('<View><Text name="t" value="$text"/></View>', "no <Image"),
        ('<View><Image name="i" value="https://example.com/a.png"/></View>', "no <Image"),
        (
            '<View><Image name="i" value="$фото"/></View>',
            "cannot fill in the <Image>'s value '.фото'",
        ),
        ('<View><Image name="i" valueList="$图片"/></View>', "are of the letters a to z"),
        ('<View><Image name="i" value="https://cdn/$-x"/></View>', "Rename the field in the tasks' data"),
        (
            '<View><Repeater on="$images" indexFlag="{{idx}}"><Image name="i_{{idx}}" '
            'value="$images[{{idx}}].url"/></Repeater></View>',
            "several images per task in a <Repeater>. .* every image as a task",
        ),
    ],
)
def test_label_config_without_an_image_is_refused_with_the_fix(text: str, complaint: str) -> None:
    with pytest.raises(UnsupportedLabelConfig, match=complaint):
        parse_label_config(text)


# ---------------------------------------------------------------- which image


@pytest.mark.parametrize(
    ("image", "data", "expected"),
    [
        ("$image", {"image": "/a.png"}, "/a.png"),
        ("$meta.img.url", {"meta": {"img": {"url": "/a.png"}}}, "/a.png"),
        ("$meta.img.url", {"meta.img.url": "/flat.png", "meta": {"img": {"url": "/deep.png"}}}, "/flat.png"),
        ("$images[0]", {"images": ["/a.png", "/b.png"]}, "/a.png"),
        ("$images[1].url", {"images": [{"url": "/a.png"}, {"url": "/b.png"}]}, "/b.png"),
        ("$images.1", {"images": ["/a.png", "/b.png"]}, "/b.png"),
        ("https://cdn/$file", {"file": "a.png"}, "https://cdn/a.png"),
        ("https://$host/$dir/$n", {"host": "cdn", "dir": "x", "n": 7.0}, "https://cdn/x/7"),
        ("/data/local-files/?d=$path.name", {"path": {"name": "a.png"}}, "/data/local-files/?d=a.png"),
        ("https://cdn/$file", {}, None),
        ("https://cdn/$file.jpg", {"file": "a"}, None),  # the editor looks for file.jpg too
        ("https://cdn/$file", {"file": {"url": "a"}}, None),
        ("$image-url", {"image-url": "/a.png"}, "/a.png"),
        ("$images", {"images": ["/a.png"]}, "/a.png"),
        ("$images", {"images": ["/a.png", "/b.png"]}, "/a.png"),
        ("$images", {"images": []}, None),
        ("$images[4]", {"images": ["/a.png"]}, None),
        ("$meta.img", {"meta": "text"}, None),
        ("$image", {"image": None}, None),
        ("$image", {"image": ""}, None),
        ("$image", {"image": {"url": "/a.png"}}, None),
        ("$image", {"$undefined$": "/a.png"}, "/a.png"),
        ("$meta.img", {"$undefined$": "/a.png"}, "/a.png"),
    ],
)
def test_variables_are_resolved_as_label_studio_resolves_them(
    image: str, data: dict[str, Any], expected: str | None
) -> None:
    assert image_uris(image, data)[:1] == ([] if expected is None else [expected])


def test_every_image_of_a_list_is_found_and_what_is_no_address_passed_over() -> None:
    assert image_uris("$images", {"images": ["/a.png", None, "", {"url": "/c.png"}, "/b.png"]}) == [
        "/a.png",
        "/b.png",
    ]
    assert image_uris("$images", ["/a.png"]) == image_uris("$images", None) == []


def test_tags_count_in_lower_case() -> None:
    text = (
        '<view><image name="image" value="$image"/><choices name="c" toName="image" choice="multiple">'
        '<choice value="a"/><choice value="b"/></choices></view>'
    )
    parsed = parse_label_config(text)
    assert parsed.labels == Labels("c", "image", ("a", "b"), multiple=True)
    assert parse_label_config(text.replace("toName", "toname")).labels == parsed.labels


@pytest.mark.parametrize(("to", "image"), [("b", "$two"), ("a,b", "$one"), ("b, a", "$two")])
def test_of_several_images_that_of_the_choices_is_read_and_the_others_are_named(to: str, image: str) -> None:
    two = '<Image name="a" value="$one"/><Image name="b" value="$two"/>'
    parsed = parse_label_config(config(choices(to=to), image=two))
    read, unread = ("a", "b") if image == "$one" else ("b", "a")
    assert (parsed.image, parsed.labels and parsed.labels.to_name) == (image, read)
    assert parsed.notes == (f"The image '{read}' of each task is read; not read: '{unread}'.",)


def test_of_a_list_of_images_the_first_is_read_and_that_is_said() -> None:
    parsed = parse_label_config(config(choices(), image='<Image name="image" valueList="$pages"/>'))
    assert parsed.image == "$pages" and parsed.labels
    assert "list of images ($pages); the first image of the list is read" in parsed.notes[0]


# ---------------------------------------------------------------- which choices


@pytest.mark.parametrize(
    ("tag", "why"),
    [
        ('<RectangleLabels name="b" toName="image"><Label value="a"/></RectangleLabels>', ""),
        (choices(perRegion="true"), "'label' asks about each region, not about the image"),
        (choices(perItem="true"), "'label' asks about each image of a list, not about the task"),
        (
            choices(inside="", value="$options"),
            "the choices of 'label' come from each task's data ($options)",
        ),
        (choices(inside=""), "'label' has no <Choice>"),
        (
            choices(inside='<Choice value="$one"/><Choice value="$two"/>'),
            "the choices of 'label' come from each task's data ($one)",
        ),
        (
            choices(inside='<Choice value="cat"/><View><Choice>costs $two</Choice></View>'),
            "the choices of 'label' come from each task's data (costs $two)",
        ),
        (
            choices(inside='<Choice value="cat" alias=""/><Choice value="dog"/>'),
            "a <Choice> of 'label' has alias=\"\", which Label Studio stores for it",
        ),
        (
            choices(inside='<Choice value="a" Alias=""><Choice value="b"/></Choice>', allowNested="true"),
            "a <Choice> of 'label' has alias=\"\"",
        ),
        (choices(to="text") + '<Text name="text" value="$text"/>', "'label' is not about an <Image>"),
        (
            '<Taxonomy name="t" toName="image"><Choice value="a"/></Taxonomy>',
            "the backend trains on <Choices> only, not on a <Taxonomy>",
        ),
        ('<Rating name="r" toName="image"/>', "the backend trains on <Choices> only, not on a <Rating>"),
        (f'<Repeater on="$x">{choices()}</Repeater>', "'label' asks about each image of a list"),
    ],
)
def test_what_is_no_class_of_the_image_leaves_selection_only_and_is_said(tag: str, why: str) -> None:
    parsed = parse_label_config(config(tag))
    assert parsed.labels is None
    assert parsed.untrained.startswith(why) if why else not parsed.untrained


def name_of(*tags: str, control: str | None = None) -> str | None:
    labels = parse_label_config(config(*tags), control).labels
    return labels.from_name if labels else None


YES_NO = '<Choice value="yes"/><Choice value="no"/>'
IF_YES = {"visibleWhen": "choice-selected", "whenTagName": "usable", "whenChoiceValue": "yes"}
IF_DOG = {"visibleWhen": "choice-selected", "whenTagName": "label", "whenChoiceValue": "dog"}
MANY = '<Choice value="cat"/><Choice value="dog"/><Choice value="owl"/>'
BREEDS = '<Choice value="pug"/><Choice value="collie"/>'
USABLE = choices("usable", YES_NO)
BOX = '<RectangleLabels name="box" toName="image"><Label value="a"/></RectangleLabels>'
VIEW = '<View visibleWhen="choice-selected" whenTagName="{}" whenChoiceValue="{}">{}</View>'


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ((USABLE, choices(**IF_YES)), "label"),
        ((choices(**IF_YES), USABLE), "label"),
        ((USABLE, choices(visibleWhen="choice-selected", whenChoiceValue="yes")), "label"),
        ((USABLE, VIEW.format("", "yes", choices())), "label"),
        ((USABLE, VIEW.format("usable", "yes", choices())), "label"),
        ((USABLE, VIEW.format("usable", "yes", choices()), VIEW.format("usable", "no", BOX)), "label"),
        ((USABLE, choices(inside=MANY, **IF_YES), choices("breed", BREEDS, **IF_DOG)), "label"),
        ((USABLE, VIEW.format("usable", "yes", BOX)), "usable"),  # there is no other
        ((USABLE, choices("weather", MANY)), "usable"),
        ((choices(inside=MANY), choices("weather", BREEDS)), "label"),
        (
            (
                choices(inside=MANY),
                choices("breed", BREEDS, **IF_DOG),
                choices("coat", BREEDS, **{**IF_DOG, "whenChoiceValue": "cat"}),
            ),
            "label",
        ),
        (
            (
                choices(),
                '<TextArea name="why" toName="image" visibleWhen="choice-selected" whenTagName="label"/>',
                choices("weather"),
            ),
            "label",
        ),
    ],
)
def test_a_control_that_only_decides_what_else_is_asked_is_not_trained_on(
    tags: tuple[str, ...], expected: str
) -> None:
    assert name_of(*tags) == expected


def test_the_project_names_its_control_and_the_label_config_goes_first() -> None:
    tags = (choices(), choices("weather"), choices("mood"))
    assert name_of(*tags, control="weather") == "weather"
    assert name_of(*tags, choices("x", coreset_control="mood"), control="weather") == "mood"
    (note,) = parse_label_config(config(*tags[:2])).notes
    assert note == (
        "Not trained on: 'weather'. "
        'To train on it instead, add the attribute coreset_control="weather" to any tag.'
    )


@pytest.mark.parametrize(
    ("control", "words"),
    [
        ("moon", "'moon' cannot be trained on, because there is no <Choices> 'moon'. .* name: 'label'"),
        ("region", "because 'region' asks about each region, .* name: 'label'"),
    ],
)
def test_a_control_that_cannot_be_trained_on_is_refused_with_those_that_can(control: str, words: str) -> None:
    with pytest.raises(UnsupportedLabelConfig, match=words):
        parse_label_config(config(choices(), choices("region", perRegion="true")), control)


# ---------------------------------------------------------------- its classes


NESTED = (
    '<Choice value="warm"><Choice value="red"/><Choice value="orange" alias="o"/></Choice>'
    '<Choice value="cool"/>'
)


def test_nested_choices_are_classes_by_their_path() -> None:
    labels = parse_label_config(config(choices(inside=NESTED, allowNested="true"))).labels
    assert labels and labels.names == ("warm / red", "warm / o", "cool")
    assert labels.paths == (("warm", "red"), ("warm", "o"), ("cool",))
    assert labels.value_of("warm / o") == ["warm", "o"]


def test_choices_below_a_choice_count_only_where_nesting_is_allowed() -> None:
    labels = parse_label_config(config(choices(inside=NESTED))).labels
    assert labels and labels.names == ("warm", "cool")
    assert labels.value_of("warm") == "warm"


def test_a_single_checkbox_may_be_left_out() -> None:
    labels = parse_label_config(config(choices(inside='<Choice value="defect"/>'))).labels
    assert labels == Labels("label", "image", ("defect",), multiple=True)


def test_choices_may_stand_in_a_view_or_hold_their_value_as_text_or_escaped() -> None:
    inside = '<View><Choice value="a &amp; b"/></View><Header value="or"/><Choice>c &lt; d</Choice>'
    labels = parse_label_config(config(choices(inside=inside, choice="single-radio"))).labels
    assert labels == Labels("label", "image", ("a & b", "c < d"), multiple=False)


def test_a_choice_that_shows_data_of_the_task_is_the_class_of_its_alias() -> None:
    inside = '<Choice value="$left" alias="left"/><Choice value="5 $ or more"/>'
    labels = parse_label_config(config(choices(inside=inside))).labels
    assert labels and labels.names == ("left", "5 $ or more")


def test_of_choices_that_stand_twice_one_is_kept() -> None:
    inside = "".join(f'<Choice value="c{number % 1000}"/>' for number in range(1500))
    labels = parse_label_config(config(choices(inside=inside))).labels
    assert labels and len(labels.names) == 1000


def test_tags_nested_without_end_are_refused() -> None:
    deep = "<View>" * 100_000 + IMAGE + "</View>" * 100_000
    with pytest.raises(UnsupportedLabelConfig, match="nests tags more than 100 levels deep"):
        parse_label_config(deep)
