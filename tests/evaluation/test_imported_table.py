"""A CSV file of predictions is read in each of its forms, or refused by the lines that are wrong."""

import pytest

from coreset_backend.errors import ImportRefused
from coreset_backend.evaluation.imported_table import read_table
from coreset_backend.project import Labels, Task

LABELS = Labels("label", "image", ("cat", "dog", "cow"), multiple=False)
MULTIPLE = Labels("label", "image", ("cat", "dog", "cow"), multiple=True)
TASKS = [
    Task(1, "/data/upload/7/0123abcd-a.jpg"),
    Task(2, "/data/local-files/?d=pool/b.jpg"),
    Task(3, "s3://bucket/c.jpg"),
    Task(4, "s3://other/c.jpg"),
    Task(5, None),
]


def rows(text: str, labels: Labels = LABELS) -> dict[int, list[float]]:
    return {task: [round(each, 4) for each in odds] for task, odds in read_table(text, labels, TASKS).items()}


@pytest.mark.parametrize(
    "text",
    [
        "task,class,probability\n2,dog,0.6\n",
        "Task_ID;Class;Probability\r\n2;dog;0.6\r\n\r\n",
        "image,class,probability,comment\nb.jpg,dog,0.6,x\n",
        "task,cat,dog,cow\n2,0.2,0.6,0.2\n",
        "cow\tdog\tid\tcat\n0.2\t0.6\t2\t0.2\n",
        "task,class,probability\n2,dog,0.6\n2,cat,0.2\n2,cow,0.2\n",
        "image,dog\n/data/local-files/?d=pool/b.jpg,0.6\n",
        'image,class,probability\n"/home/me/b.jpg",dog,.6\n',
    ],
)
def test_all_forms_say_the_same(text: str) -> None:
    assert rows(text) == {2: [0.2, 0.6, 0.2]}


def test_images_are_found_by_address_name_and_the_name_before_the_upload() -> None:
    text = "image,class,probability\na.jpg,cat,1\nb.jpg,cat,1\ns3://other/c.jpg,cat,1\n"
    assert set(rows(text)) == {1, 2, 4}


def test_in_multiple_choice_classes_are_independent() -> None:
    text = "task,class,probability\n1,cat,0.9\n1,dog,0.8\n2,cow,0\n"
    assert rows(text, MULTIPLE) == {1: [0.9, 0.8, 0.0], 2: [0.0, 0.0, 0.0]}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("task,class,probability\n9,cat,1\n", r"Line 2: the project has no task '9'"),
        ("task,class,probability\nx,cat,1\n", r"has no task 'x'"),
        ("task,class,probability\n1,pig,1\n", r"Line 2: 'pig' is no class .* 'cat', 'dog', 'cow'"),
        ("task,class,probability\n1,cat,1.2\n", r"'1.2' is no probability from 0 to 1"),
        ("task,class,probability\n1,cat,nan\n", r"'nan' is no probability"),
        ("task,class,probability\n1,cat,high\n", r"'high' is no probability"),
        (
            "task,class,probability\n1,cat,.5\n1,cat,.4\n",
            r"Line 3: task 1 has a probability of 'cat' already",
        ),
        ("task,cat,dog,cow\n1,1,0,0\n1,1,0,0\n", r"Line 3: task 1 has a line already"),
        ("task,cat,dog,cow\n1,.9,.9,0\n", r"task 1 add up to 1.8, not to 1"),
        ("task,cat,dog,cow\n1,.1,.1,0\n", r"task 1 add up to 0.2, not to 1"),
        ("task,class,probability\n1,cat\n", r"Line 2: it has 2 cells, the header 3"),
        (
            "image,class,probability\nc.jpg,cat,1\n",
            r"2 tasks show an image 'c.jpg'; name the task by its number",
        ),
        ("image,class,probability\nz.jpg,cat,1\n", r"no task shows the image 'z.jpg'"),
        ("name,class,probability\n1,cat,1\n", r"none of which names the task"),
        ("task,pig\n1,1\n", r"The columns 'pig' are no classes of the project"),
        ("task\n1\n", r"are no classes of the project"),
        ("task,class,probability\n", r"no line with a prediction"),
        ("", r"none of which names the task"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_taken(text: str, why: str) -> None:
    with pytest.raises(ImportRefused, match=why):
        read_table(text, LABELS, TASKS)


def test_of_many_wrong_lines_five_are_named() -> None:
    text = "task,class,probability\n1,cat,1\n" + "9,cat,1\n" * 12
    with pytest.raises(
        ImportRefused, match=r"Nothing is imported. Line 3: .* Line 7: .* And 7 more\."
    ) as caught:
        read_table(text, LABELS, TASKS)
    assert "Line 8" not in str(caught.value)
