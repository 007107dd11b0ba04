"""The pictures and the list of docs/strategies.md: each strategy's batch on one drawn pool of two dimensions.

python tests/support/strategy_pictures.py     draws them and writes the list
"""

from pathlib import Path

import numpy as np
from paths import ROOT

from coreset_backend.arrays import Rows
from coreset_backend.selection import (
    NEED_PROBABILITIES,
    STRATEGIES,
    Pool,
    exact_graph,
    neighbors_for,
    strategy_named,
)
from coreset_backend.selection.descriptions import DESCRIPTIONS

DOCUMENT = ROOT / "docs/strategies.md"
PICTURES = ROOT / "docs/images/strategies"
BEGIN, END = "<!-- strategies -->", "<!-- /strategies -->"
BATCH = 8
CLASSES = (  # images, center, standard deviation of one class each
    (90, (-1.5, 0.5), 0.42),
    (50, (0.3, -0.8), 0.32),
    (25, (1.7, 0.8), 0.5),
)
OUTLIERS = ((-2.9, -1.6), (2.9, -1.6), (0.1, 1.9))
LABELED = np.array([3, 40, 100])  # two of the first class, one of the second, none of the third


def drawn_pool() -> Pool:
    """168 points: three classes and three outliers. Three are labelled; a model doubts between classes."""
    rng = np.random.default_rng(7)
    points = [rng.normal(center, spread, (count, 2)) for count, center, spread in CLASSES]
    vectors = np.concatenate([*points, OUTLIERS]).astype(np.float32)
    centers = np.array([center for _count, center, _spread in CLASSES])
    logits = -2 * np.square(vectors[:, None] - centers).sum(axis=2)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)
    return Pool(vectors, LABELED, probabilities, exact_graph(vectors, neighbors_for(len(vectors))))


def picture(pool: Pool, picks: Rows, name: str) -> str:
    """An SVG: the pool as dots, labelled images as squares, picks as discs numbered in their order."""
    places = [(50 * x + 160, 110 - 50 * y) for x, y in pool.vectors.tolist()]
    shapes = [f'<circle cx="{x:.0f}" cy="{y:.0f}" r="2.2" fill="#8b95a1"/>' for x, y in places]
    for row in pool.labeled_rows.tolist():
        x, y = places[row]
        shapes.append(f'<rect x="{x - 5:.0f}" y="{y - 5:.0f}" width="10" height="10" fill="#c2571a"/>')
    for number, row in enumerate(picks.tolist(), start=1):
        x, y = places[row]
        shapes.append(f'<circle cx="{x:.0f}" cy="{y:.0f}" r="8" fill="#1f6feb"/>')
        shapes.append(f'<text x="{x:.0f}" y="{y + 4:.0f}" fill="#fff">{number}</text>')
    style = 'font-family="sans-serif" font-size="11" font-weight="bold" text-anchor="middle"'
    head = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 320 220" width="320" height="220" '
    return "\n".join([f"{head}{style}>", f"<title>The batch of {name}</title>", *shapes, "</svg>", ""])


def pictures() -> dict[str, str]:
    """Name of a strategy -> its picture."""
    pool = drawn_pool()
    return {
        name: picture(pool, strategy_named(name)(pool, BATCH, np.random.default_rng(1)).rows, name)
        for name in STRATEGIES
    }


def sections() -> str:
    lines = []
    for name, description in DESCRIPTIONS.items():
        lines += [f"### `{name}`", "", f"![The batch of {name}](images/strategies/{name}.svg)", ""]
        lines += [f"**Selects** {description.selects[0].lower()}{description.selects[1:]}", ""]
        lines += [f"**Use it when:** {description.use}", ""]
        if name in NEED_PROBABILITIES:
            lines += ["It asks the model, so `max_herding` selects the first batch.", ""]
        if description.source:
            lines += [f"Source: {description.source}.", ""]
    return "\n".join(lines)


def with_sections(document: str) -> str:
    """The document with the list of today between its two marks."""
    before, _, rest = document.partition(BEGIN)
    return f"{before}{BEGIN}\n{sections()}{END}{rest.partition(END)[2]}"


def path_of(name: str) -> Path:
    return PICTURES / f"{name}.svg"


if __name__ == "__main__":
    PICTURES.mkdir(exist_ok=True)
    for name, drawing in pictures().items():
        path_of(name).write_text(drawing)
    DOCUMENT.write_text(with_sections(DOCUMENT.read_text()))
