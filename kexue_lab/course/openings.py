"""The table that opens the diffusion series: computed here once, over twenty seeds, and stored.

`python -m kexue_lab.course.openings` computes it anew, in about ten minutes on one core, and
writes it into the series' README.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from datetime import date
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray

from kexue_lab.course.places import PACKAGE, own_root
from kexue_lab.recorded import Row, columns, figure, read_rows, recorded_path, write_rows

ARTICLE = "diffusion/comparison"
_BEGIN, _END = "<!-- samplers: begin -->", "<!-- samplers: end -->"
_DATA = {"ring": "six bumps, exact noise", "digits": "digits, the stored network"}


def mark() -> str:
    """Of the code that computed a row."""
    return hashlib.sha256((PACKAGE / f"{ARTICLE}.py").read_bytes()).hexdigest()[:12]


def record_comparison(seeds: Iterable[int] = range(20)) -> None:
    """Compute the rows that are missing or older than the code, and store them."""
    from kexue_lab.diffusion.comparison import compare, digit_setting, ring_setting

    settings = {"ring": ring_setting(), "digits": digit_setting()}
    made = f"{date.today()}, torch {version('torch')}, numpy {version('numpy')}"
    path = recorded_path(ARTICLE)
    rows = {seed: row for seed, row in read_rows(path).items() if row.source == mark()}
    for seed in sorted(set(seeds) - rows.keys()):
        figures = {
            data: {name: figure(value, name) for name, value in compare(setting, seed).items()}
            for data, setting in settings.items()
        }
        rows[seed] = Row(figures, source=mark(), made=made)
        write_rows(path, rows)
        print(f"seed {seed}: recorded", flush=True)


def judged(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean distances, each sampler at the clock that is best on the first half of the seeds.

    Args:
        distance: (seeds, samplers, clocks, budgets).

    Returns:
        means over the second half, (samplers, budgets).
    """
    half = len(distance) // 2
    best = distance[:half].mean(0).argmin(1)
    return np.take_along_axis(distance[half:].mean(0), best[:, None], 1)[:, 0]


def comparison_table(rows: Mapping[int, Row]) -> str:
    """The rows as two markdown tables."""
    from kexue_lab.diffusion.comparison import BUDGETS, NAMES

    lines = []
    for data, title in _DATA.items():
        found = columns(rows, data)
        means = judged(found["distance"])
        chance = found["again"].std(ddof=1) / np.sqrt(len(rows) - len(rows) // 2)
        heads = [title, *(f"{looks} looks" for looks in BUDGETS)]
        lines += ["| " + " | ".join(heads) + " |", "|---|" + "---|" * len(BUDGETS)]
        for name, row in zip(NAMES, means, strict=True):
            lines.append(f"| {name} | " + " | ".join(_shown(v, chance) for v in row) + " |")
        lines.append("")
    return "\n".join(lines).rstrip()


def _shown(value: float, chance: float) -> str:
    """The root of a mean distance, or what it is below if chance alone may give it."""
    if value < 2 * chance:
        return f"< {np.sqrt(2 * chance):.2f}"
    return f"{np.sqrt(value):.2f}"


def with_table(readme: str, table: str) -> str:
    """The series' opening with its table brought up to date.

    Raises:
        ValueError: if the text lacks the marks between which the table stands.
    """
    pattern = re.compile(f"{re.escape(_BEGIN)}.*{re.escape(_END)}", re.DOTALL)
    if not pattern.search(readme):
        raise ValueError(f"the opening lacks {_BEGIN} … {_END}")
    return pattern.sub(lambda _: f"{_BEGIN}\n{table}\n{_END}", readme)


if __name__ == "__main__":
    record_comparison()
    opening = own_root() / "notebooks" / "diffusion" / "README.md"
    table = comparison_table(read_rows(recorded_path(ARTICLE)))
    opening.write_text(with_table(opening.read_text("utf8"), table), "utf8")
