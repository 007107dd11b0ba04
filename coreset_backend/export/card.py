"""README.md of an export: a model card in Hugging Face's form, which describes the dataset too."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version

from coreset_backend import __version__
from coreset_backend.export.labels import LabeledTask, Source, Status
from coreset_backend.export.model_files import ModelFiles, public_description
from coreset_backend.foreign_text import one_line
from coreset_backend.project import NONE_OF_THESE, Snapshot
from coreset_backend.redaction import redacted
from coreset_backend.store.record import Evaluation, Interval, Round

_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~&!$])")
HUB_LICENCES = ("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0")
LIMITS = """\
- The labels are your annotators'. Where they are wrong, the model and its measured accuracy are wrong too.
- The hold-out consists of labelled images of this pool. Images from elsewhere may be answered worse.
- Batches hold more rare and hard images than the pool, so the accuracy is usually below that on the pool.
  It is no bound. Labels by the model or of copies have a bound, and only where it is named above.
- The model knows the classes below and no other: an image of something else gets one of them too.
- A probability is calibrated on the hold-out as a whole, not for each class.
"""


@dataclass(frozen=True, slots=True)
class Contents:
    """What an export holds. ``record`` and ``model`` are None without a model."""

    snapshot: Snapshot
    tasks: Sequence[LabeledTask]
    images: int
    with_images: bool
    record: Round | None
    model: ModelFiles | None
    remarks: Sequence[str]


def model_card(contents: Contents) -> str:
    """The card as Markdown; it holds no secret and no address."""
    parts = [
        *_head(contents),
        f"# {plain(contents.snapshot.title) or 'Project'}",
        *(_use(contents.model) if contents.model else []),
        *_data(contents),
        *(_quality(contents.record) if contents.record else []),
        *(_making(contents.record, contents.model) if contents.record and contents.model else []),
        f"## What it is not\n\n{LIMITS}" if contents.model else "",
        *_versions(contents),
    ]
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def plain(text: str) -> str:
    """Foreign text as one line of Markdown that shows it as it is, without secrets."""
    return _MARKDOWN.sub(r"\\\1", one_line(redacted(text)))


def _head(contents: Contents) -> Iterator[str]:
    """The card's fields for programs, in YAML, of which JSON is a part."""
    if not contents.record or not contents.model:
        return
    licence = contents.model.licence.lower()
    fields: dict[str, object] = {
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "active-learning", "label-studio", "coreset-backend"],
        "license": licence if licence in HUB_LICENCES else "other",
        "license_name": None if licence in HUB_LICENCES else contents.model.licence or "unknown",
        "library_name": "onnx" if contents.model.difference is not None else None,
        "model-index": [_index(contents)] if contents.record.evaluation else None,
    }
    lines = [f"{name}: {json.dumps(value)}" for name, value in fields.items() if value is not None]
    yield "\n".join(["---", *lines, "---"])


def _index(contents: Contents) -> dict[str, object]:
    assert contents.record and contents.record.evaluation
    scores, title = contents.record.evaluation, one_line(redacted(contents.snapshot.title))
    figures = {"accuracy": scores.accuracy, "f1": scores.macro_f1}
    return {
        "name": title or "model",
        "results": [
            {
                "task": {"type": "image-classification"},
                "dataset": {"type": "custom", "name": f"{title}: hold-out of {scores.accuracy.n} images"},
                "metrics": [
                    {"type": name, "value": round(figure.value, 4)} for name, figure in figures.items()
                ],
            }
        ],
    }


USE = """\
## Use

```sh
pip install onnxruntime pillow numpy
python predict.py IMAGE...
```

`model.onnx` takes `pixels`, uint8[n, {size}, {size}, 3] in RGB, and gives `probabilities`,
float32[n, classes], in the order of `id2label` in `config.json`. Normalisation, network, preparation, head
and temperature are in the graph. An image is first made {size} x {size} as `predict.py` does it: the whole
picture, each side by itself, by Pillow ({interpolation}, `reducing_gap=2.0`). The rounds also lay transparent
images over white and scale images of 16 bits by what they use; `predict.py` does neither.

Checked on {images}: the probabilities of `model.onnx` and those of torch in float32 differ by at most
{difference:.1g}."""
TO_ROUND = """\
The round computes in bfloat16 where the machine can. Its own probabilities for these images differ
by at most {difference:.2g}, with the same answer for {same:.0%} of them."""


def _use(model: ModelFiles) -> Iterator[str]:
    if model.difference is None:
        yield "## Use\n\n`model.safetensors` and `config.json` hold the model."
        return
    images = f"{model.images:,} images of the pool" if model.to_round is not None else "random pixels"
    yield USE.format(
        size=model.size, interpolation=model.interpolation, images=images, difference=model.difference
    )
    if model.to_round is not None:
        yield TO_ROUND.format(difference=model.to_round, same=model.same_answers)


def _data(contents: Contents) -> Iterator[str]:
    tasks, multiple = contents.tasks, bool(contents.snapshot.labels and contents.snapshot.labels.multiple)
    states = Counter(task.status for task in tasks)
    sources = Counter(task.source for task in tasks if task.source)
    lines = [
        f"{len(tasks):,} images, read from Label Studio at {contents.snapshot.taken_at:%Y-%m-%d %H:%M} UTC.",
        "",
    ]
    lines += ["| | images |", "|---|---|"]
    lines += [f"| {_SOURCES[source]} | {sources[source]:,} |" for source in Source if sources[source]]
    lines += [f"| {_STATES[state]} | {states[state]:,} |" for state in _STATES if states[state]]
    yield "## Data\n\n" + "\n".join(lines)
    yield "\n".join(_bounds(tasks))
    if truths := sum(task.ground_truth for task in tasks):
        yield f"{truths:,} labels are marked as ground truth."
    several = [task.agreement for task in tasks if task.annotators > 1 and task.agreement is not None]
    if several:
        yield (
            f"{len(several):,} images have several annotators; on average {sum(several) / len(several):.0%} "
            "of them gave the label that counts."
        )
    yield _classes(contents, multiple)
    if contents.with_images:
        yield f"`dataset/images` holds {contents.images:,} image files."
    yield "\n".join(f"- {plain(remark)}" for remark in contents.remarks)


_SOURCES = {
    Source.PERSON: "labelled by people",
    Source.COPY: "labelled as their near-duplicate",
    Source.MODEL: "labelled by the model",
}
_STATES = {
    Status.SKIPPED: "skipped by people",
    Status.UNREAD: "answered by people with what is no class",
    Status.UNLABELED: "without a label",
}


def _bounds(tasks: Sequence[LabeledTask]) -> Iterator[str]:
    """What was promised of the labels that no person gave."""
    found = Counter(
        (task.source, task.wrong_at_most, task.bound_confidence)
        for task in tasks
        if task.source and task.wrong_at_most is not None
    )
    for (source, wrong, confidence), count in sorted(found.items(), key=str):
        if source and wrong is not None and confidence is not None:
            yield (
                f"- Of {count:,} images {_SOURCES[source]}, at most {wrong:.1%} have a wrong label, at "
                f"{confidence:.0%} confidence, by an audit."
            )


def _classes(contents: Contents, multiple: bool) -> str:
    if contents.snapshot.labels is None:
        return ""
    labels = [task.label for task in contents.tasks if task.label is not None]
    counts = Counter(name for label in labels for name in label)
    lines = [f"| {plain(name)} | {counts[name]:,} |" for name in contents.snapshot.labels.names]
    if multiple:
        lines.append(f"| {NONE_OF_THESE} | {sum(not label for label in labels):,} |")
    return "\n".join(["| class | labels |", "|---|---|", *lines])


def _quality(record: Round) -> Iterator[str]:
    scores = record.evaluation
    if scores is None:
        yield "## Accuracy\n\nNot measured: the round had no hold-out."
        return
    whole = ", with the whole set of classes right" if record.labels and record.labels.multiple else ""
    lines = [
        f"- accuracy {_figure(scores.accuracy)}{whole}",
        f"- mean F1 of the classes {_figure(scores.macro_f1)}",
    ]
    if scores.calibration:
        lines.append(f"- {scores.calibration.words}")
    if scores.sure and scores.sure.n:
        lines.append(
            f"- right: {scores.sure.right:,} of the {scores.sure.n:,} images that it is at least 90 % sure "
            f"of; of such answers at least {scores.sure.low:.0%}, at 95 % confidence"
        )
    yield f"## Accuracy\n\nOn {scores.accuracy.n:,} labelled images that it was not trained on:"
    yield "\n".join(lines)
    yield _per_class(scores)


def _figure(interval: Interval) -> str:
    return f"{interval.value:.1%} (95 % interval {interval.low:.1%} to {interval.high:.1%})"


def _per_class(scores: Evaluation) -> str:
    rows = [
        f"| {plain(each.name)} | {each.n:,} | "
        + " | ".join(_share(share) for share in (each.precision, each.recall, each.f1))
        + " |"
        for each in scores.per_class
    ]
    return (
        "\n".join(["| class | hold-out | precision | recall | F1 |", "|---|---|---|---|---|", *rows])
        if rows
        else ""
    )


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _making(record: Round, model: ModelFiles) -> Iterator[str]:
    lines = [
        f"- backbone: {plain(public_description(record.backbone))}",
        f"- round {record.number}, {record.taken_at[:10]}, version `{record.model_version}`",
        f"- images to label were chosen by {plain(record.strategy)}, seed {record.seed}",
    ]
    if record.training:
        lines.append(
            f"- trained on {record.training.n_train:,} labels, {record.training.n_holdout:,} held out"
            + (f"; {plain(record.training.note)}" if record.training.note else "")
        )
    if record.audition:
        lines.append(f"- {plain(record.audition.sentence)}")
    yield "## How it was made\n\n" + "\n".join(lines)
    licence = (
        plain(model.licence) if model.licence else "unknown, or the weights were learned on this pool alone"
    )
    yield (
        f"## Licence\n\nWeights that the backbone started from: {licence}. The images and labels are under "
        "the licence of whoever owns them."
    )


def _versions(contents: Contents) -> Iterator[str]:
    names = [
        "torch",
        "numpy",
        *(["onnx"] if contents.model and contents.model.difference is not None else []),
    ]
    told = ", ".join(f"{name} {version(name)}" for name in names) if contents.model else ""
    yield f"## Versions\n\ncoreset-backend {__version__}" + (f", {told}" if told else "")
