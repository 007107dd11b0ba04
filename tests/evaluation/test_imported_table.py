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


@pytest.mark.parametrize(
    ("uri", "image"),
    [
        ("/data/local-files/?d=set/Stra%C3%9Fe%202.jpg", "Straße 2.jpg"),
        ("/data/local-files/?d=set/Stra%C3%9Fe%202.jpg", "Stra%C3%9Fe%202.jpg"),
        ("/data/local-files/?d=set/Stra%C3%9Fe%202.jpg", "set/Straße 2.jpg"),
        ("/data/local-files/?d=set%2Fx.jpg", "x.jpg"),
        ("/data/local-files?d=set%5Cx.jpg", "x.jpg"),
        ("/data/local-files/?d=a+b.jpg", "a b.jpg"),
        ("/data/local-files/?d=a+b.jpg", "a+b.jpg"),
        ("/data/local-files/?d=cafe%CC%81.jpg", "café.jpg"),  # a folder of a Mac, decomposed
        ("s3://bucket/dt=1/café.jpg", "cafe\u0301.jpg"),
        ("http://localhost:8080/data/upload/1/ab12cd34-%C3%BC.jpg", "ü.jpg"),
        ("/data/upload/1/ab12cd34-my_photo_1.jpg", "my photo (1).jpg"),
        ("https://host/a/cat.jpg?X-Amz-Signature=abc/def=", "cat.jpg"),
        ("https://host/o/set%2Fcat%201.jpg?alt=media#top", "cat 1.jpg"),
        ("https://host/get?file=cat.jpg", "cat.jpg"),
        ("s3://bucket/50%25.jpg", "50%25.jpg"),
        ("C:\\set\\x.jpg", "x.jpg"),
    ],
)
def test_an_image_is_found_by_its_file_name_however_its_address_is_written(uri: str, image: str) -> None:
    tasks = [Task(1, uri), Task(2, "s3://bucket/other.jpg")]
    assert set(read_table(f"image,cat\n{image},1\n", LABELS, tasks)) == {1}


def test_files_of_one_name_are_told_apart_by_their_folder() -> None:
    tasks = [
        Task(1, "s3://bucket/cats/1.jpg"),
        Task(2, "https://host/all%20dogs/1.jpg?sign=1"),
        Task(3, "1.jpg"),
    ]
    text = "image,cat\n/home/me/cats/1.jpg,1\nall dogs\\1.jpg,0\n"
    assert {task: odds[0] for task, odds in read_table(text, LABELS, tasks).items()} == {1: 1.0, 2: 0.0}


def test_a_name_is_not_taken_for_another_file() -> None:
    tasks = [Task(1, "s3://bucket/my_photo.jpg"), Task(2, "/data/local-files/?d=b%2520c.jpg")]
    for image in ("my photo.jpg", "class=my_photo.jpg", "b c.jpg"):
        with pytest.raises(ImportRefused, match="no task shows the image"):
            read_table(f"image,cat\n{image},1\n", LABELS, tasks)


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (("id", "passport"), "image,id,passport\nb.jpg,0.9,0.1\n"),
        (("file", "table"), "file,file,table\nb.jpg,0.9,0.1\n"),
        (("image", "table"), "task,image,table\n2,0.9,0.1\n"),
        (("id", "table"), "id,ID,table\n0.9,2,0.1\n"),
        ((" cat", "dog "), "task, cat,dog \n2,0.9,0.1\n"),
        ((" cat", "dog "), "task,class,probability\n2, cat,0.9\n"),
        ((" cat", "cat"), "task, cat,cat\n2,0.9,0.1\n"),
        (("café", "B"), "task,cafe\u0301,B\n2,0.9,0.1\n"),
        (("cafe\u0301", "B"), "task,class,probability\n2,café,0.9\n"),
        (("a, b, c", "d, e"), 'task;"a, b, c";"d, e"\n2;0.9;0.1\n'),
        (("a, b, c", "d, e"), "task;a, b, c;d, e\n2;0.9;0.1\n"),
        (("a\nb; c", "d; e; f"), 'task,"a\nb; c",d; e; f\n2,0.9,0.1\n'),
        (("A", "B"), "task,A,B\n2,0.9000001,0.0999999\n"),
    ],
)
def test_classes_of_any_name_have_their_column(names: tuple[str, ...], text: str) -> None:
    assert rows(text, Labels("label", "image", names, multiple=False)) == {2: [0.9, 0.1]}


def test_rounded_probabilities_of_many_classes_add_up() -> None:
    many = Labels("label", "image", tuple(f"k{each}" for each in range(1000)), multiple=False)
    head = f"task,{','.join(many.names)}\n2,"
    found = read_table(f"{head}0.95{',0.000' * 999}\n", many, TASKS)
    assert sum(found[2]) == pytest.approx(1) and max(found[2]) == found[2][0]
    for others in (",0.9" + ",0.00" * 998, ",0.00001" * 999):  # no rounding makes these of probabilities
        with pytest.raises(ImportRefused, match="add up to"):
            read_table(f"{head}0.9{others}\n", many, TASKS)


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
        ("task,cat,dog,cat\n1,.5,.2,.3\n", r"The classes 'cat' have several columns"),
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
