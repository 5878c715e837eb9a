"""An experiment's figures over many seeds: how they are stored beside the article's module.

`kexue_lab/<series>/recorded/<article>.json` holds, for each scale and seed, the figures that the
notebook handed to `claims.record`, and which of its claims held; or why that seed failed.
"""

import json
import os
import string
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PACKAGE = Path(__file__).parent
# A figure's digits beyond these are one processor's.
_DIGITS = 6
# A live run is expected within so many standard deviations of the recorded ones.
SPREAD = 5.0

Figures = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Row:
    """What one seed gave.

    Attributes:
        figures: by experiment ("E1") and name: a number or nested lists of numbers.
        held: by claim ("E1b"), whether it held.
        failed: the error that ended the run, or "".
        source: fingerprint of the notebook and module that ran.
        made: day of the run and versions of the libraries.
    """

    figures: Figures = field(default_factory=dict)
    held: dict[str, bool] = field(default_factory=dict)
    failed: str = ""
    source: str = ""
    made: str = ""


class Recorder:
    """What a run hands over while its experiment is being recorded, and where to.

    Claims that fail are noted instead of ending the run. Claims about an experiment's recorded
    seeds are left out, since these seeds are only just coming in.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.figures: Figures = {}
        self._held: dict[str, bool] = {}
        self._spoken_of: set[str] = set()

    @classmethod
    def from_environment(cls) -> "Recorder | None":
        """The recorder for the file that `KEXUE_RECORD` names, if it names one."""
        path = os.environ.get("KEXUE_RECORD")
        return cls(Path(path)) if path else None

    def note(self, key: str, holds: bool) -> None:
        """Note whether a claim holds."""
        self._held[key] = self._held.get(key, True) and holds

    def stand_in(self, key: str) -> dict[str, NDArray[np.float64]]:
        """Twice this run's own figures, in place of those of all seeds."""
        self._spoken_of.add(key)
        row = Row(figures=self.figures)
        return columns({0: row, 1: row}, key)

    def speaks_of_all_seeds(self, key: str) -> bool:
        """Whether a claim of this key speaks of an experiment's recorded seeds."""
        return key.rstrip(string.ascii_lowercase) in self._spoken_of

    def write(self) -> None:
        """Write figures and notes down, for the process that started this run."""
        handed = {"figures": self.figures, "held": self._held}
        self.path.write_text(json.dumps(handed), "utf8")


def recorded_path(article: str) -> Path:
    """Where an article's record lies."""
    return PACKAGE / article.split("/")[0] / "recorded" / f"{article.split('/')[1]}.json"


def read_rows(path: Path, scale: str = "cpu") -> dict[int, Row]:
    """The rows of one scale by seed; none where nothing is recorded.

    Raises:
        ValueError: if the file is no record.
    """
    if not path.is_file():
        return {}
    try:
        rows = json.loads(path.read_text("utf8")).get(scale, {})
        return {int(seed): Row(**row) for seed, row in rows.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path.name} is no record of an experiment: {error}") from error


def write_rows(path: Path, rows: Mapping[int, Row], scale: str = "cpu") -> None:
    """Store the rows of one scale; those of other scales stay.

    The file is replaced at once: an interrupted write leaves the old one.
    """
    record = json.loads(path.read_text("utf8")) if path.is_file() else {}
    record[scale] = {str(seed): asdict(rows[seed]) for seed in sorted(rows)}
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(f".{os.getpid()}")
    fresh.write_text(_as_text(record), "utf8")
    fresh.replace(path)


def _as_text(record: Mapping[str, Mapping[str, Any]]) -> str:
    """JSON with a line for each seed, so that a change shows seed by seed in a diff."""
    scales = []
    for scale, rows in record.items():
        lines = [f'"{seed}":{json.dumps(row, ensure_ascii=False)}' for seed, row in rows.items()]
        scales.append(f'"{scale}":{{\n' + ",\n".join(lines) + "\n}")
    return "{" + ",\n".join(scales) + "}\n"


def figure(value: Any, name: str) -> Any:
    """A figure as it is stored: a number or nested lists of numbers, to six digits.

    Raises:
        TypeError: if it is not made of real numbers.
        ValueError: if it is empty or not finite, naming the figure.
    """
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"the figure {name} must hold real numbers, got {value!r}")
    if not array.size or not np.isfinite(array).all():
        raise ValueError(f"the figure {name} must be finite and not empty, got {value!r}")
    rounded = np.vectorize(lambda number: float(f"{number:.{_DIGITS}g}"))(array.astype(float))
    return rounded.tolist()


def columns(rows: Mapping[int, Row], key: str) -> dict[str, NDArray[np.float64]]:
    """One experiment's figures over the seeds that did not fail: arrays of shape (seeds, …).

    Raises:
        ValueError: if no seed has this experiment, or the seeds' figures differ in name or shape.
    """
    good = [row.figures[key] for row in rows.values() if not row.failed and key in row.figures]
    if not good:
        raise ValueError(f"nothing is recorded as {key}")
    names = list(good[0])
    if any(list(figures) != names for figures in good):
        raise ValueError(f"the seeds of {key} recorded different figures")
    return {name: np.array([figures[name] for figures in good]) for name in names}


def outside(live: Any, recorded: NDArray[np.float64]) -> float:
    """How far a live figure lies outside the recorded spread, in units of that spread.

    The spread is `SPREAD` standard deviations of the recorded seeds on either side of their mean;
    for an entry of an array at least a fifth of what its entries have overall, and at least what
    rounding to six digits leaves. At most 1 is inside.

    Args:
        live: this run's figure.
        recorded: the seeds' figures, shape (seeds, …).

    Raises:
        ValueError: if the shapes differ.
    """
    values = np.asarray(live, dtype=float)
    if values.shape != recorded.shape[1:]:
        raise ValueError(f"the live figure has shape {values.shape}, recorded {recorded.shape[1:]}")
    mean = recorded.mean(0)
    deviation = recorded.std(0, ddof=1) if len(recorded) > 1 else np.zeros_like(mean)
    # An entry that came out alike on every seed by chance (a share of 0, say) may yet differ.
    overall = np.sqrt((deviation**2).mean())
    rounding = 10.0 ** (1 - _DIGITS) * np.abs(recorded).max(0)
    allowed = np.maximum(SPREAD * np.maximum(deviation, overall / 5), rounding)
    allowed = np.maximum(allowed, np.finfo(float).tiny)
    return float((np.abs(values - mean) / allowed).max())
