"""A figure with sliders: `explore(draw, sigma=(0.1, 2.0), steps=[1, 5, 25])`."""

import base64
import html
import inspect
import io
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from kexue_lab.figures import describe
from kexue_lab.redraw import Stage

_explorers: dict[str, "Explorer"] = {}
_FREE = 4
_COLOURS = 128


def explore(draw: Callable[..., Figure], **controls: Any) -> "Explorer":
    """Show `draw`'s figure above one control per argument, and redraw it when one moves.

    Args:
        draw: takes the controls' values by name and returns a matplotlib figure; its default
            arguments are where the controls start. It may return the same figure each time,
            with its artists updated, which is faster than a new one.
        controls: ipywidgets' abbreviations by argument name: `(low, high)` or
            `(low, high, step)` for a slider, a list or dict for a dropdown, a bool for a toggle,
            or any widget with a value. The first one is what a static page steps through.

    Raises:
        TypeError: if `draw` is not callable or does not return a figure.
        ValueError: if a control names no argument of `draw`, or makes no widget.
    """
    if not callable(draw):
        raise TypeError(f"draw must be a function, got {type(draw).__name__}")
    explorer = Explorer(draw, controls)
    _explorers[explorer.name] = explorer
    return explorer


def all_explorers() -> list["Explorer"]:
    """The explorers that this process has made, in that order."""
    return list(_explorers.values())


def measure_explorers() -> list[dict[str, Any]]:
    """`Explorer.measure` of every explorer that this process has made."""
    return [explorer.measure() for explorer in _explorers.values()]


def save_frames(folder: Path, count: int = 16, limit: int = 300_000) -> None:
    """Save every explorer's picture along its first control, for pages without a kernel.

    Writes `<folder>/<draw's name>/00.png …` and `frames.json` with the control and its values; the
    other controls stay where they start. 128 colours keep a frame near 10 KB.

    Args:
        folder: made if it does not exist.
        count: at most so many frames for each explorer.
        limit: at most so many bytes for each explorer; fewer frames are kept where they are large.
    """
    for name, explorer in _explorers.items():
        target = folder / name
        target.mkdir(parents=True, exist_ok=True)
        control, *_ = explorer.controls
        values, pictures = _frames_within(explorer, control, count, limit)
        for number, picture in enumerate(pictures):
            (target / f"{number:02d}.png").write_bytes(picture)
        start = explorer.values()[control]
        record = {
            "control": explorer.controls[control].description,
            "values": [f"{v:g}" if isinstance(v, (int, float)) else str(v) for v in values],
            "start": values.index(min(values, key=lambda v: _distance(v, start))),
            "shows": describe(explorer._figure(explorer.values())),
        }
        (target / "frames.json").write_text(json.dumps(record, ensure_ascii=False), "utf8")


def _frames_within(
    explorer: "Explorer", control: str, count: int, limit: int
) -> tuple[list[Any], list[bytes]]:
    """As many frames over a control's range as fit into the limit, at least its two ends."""
    while True:
        values = explorer.steps(control, count)
        at = explorer.values()
        pictures = [_reduced(explorer.render(**at | {control: value})) for value in values]
        size = sum(map(len, pictures))
        if size <= limit or count <= 2:
            return values, pictures
        count = max(2, min(count - 1, count * limit // size))


def _reduced(picture: bytes) -> bytes:
    """The picture with 128 colours.

    An octree finds them ten times as fast as Pillow's median cut, which may lose a colour whole.
    """
    buffer = io.BytesIO()
    whole = Image.open(io.BytesIO(picture)).convert("RGB")
    whole.quantize(_COLOURS, method=Image.Quantize.FASTOCTREE).save(buffer, format="PNG")
    return buffer.getvalue()


class Explorer:
    """Controls, and the picture that answers to them; made by `explore`.

    Where there is no front end for widgets, the picture at the starting values stands in place.
    """

    def __init__(self, draw: Callable[..., Figure], controls: dict[str, Any]) -> None:
        self.draw = draw
        self.name = _name(draw)
        self.controls = _as_widgets(draw, controls)
        self._image = widgets.Image(
            format="png", layout=widgets.Layout(max_width="100%", align_self="flex-start")
        )
        self._error = widgets.HTML()
        self._stage: Stage | None = None
        self._image.value = self.render(**self.values())
        for control in self.controls.values():
            control.observe(self._update, names="value")
        self.panel = widgets.VBox(
            [
                widgets.HBox(
                    list(self.controls.values()), layout=widgets.Layout(flex_flow="row wrap")
                ),
                self._error,
                self._image,
            ]
        )

    def values(self) -> dict[str, Any]:
        """The controls' present values by name."""
        return {name: control.value for name, control in self.controls.items()}

    def render(self, **values: Any) -> bytes:
        """Draw the figure at `values` and return it as PNG."""
        return self._picture(self._figure(values))

    def _picture(self, figure: Figure) -> bytes:
        if self._stage is None or self._stage.figure is not figure:
            self._stage = Stage(figure)
        return self._stage.picture()

    def _figure(self, values: dict[str, Any]) -> Figure:
        """What `draw` returns, with every figure closed that it opened.

        A figure left open would be shown a second time below the cell.
        """
        before = set(plt.get_fignums())
        try:
            figure = self.draw(**values)
        finally:
            for number in set(plt.get_fignums()) - before:
                plt.close(number)
        if not isinstance(figure, Figure):
            raise TypeError(f"draw must return a matplotlib figure, got {type(figure).__name__}")
        plt.close(figure)
        return figure

    def _update(self, _change: object) -> None:
        try:
            self._image.value = self.render(**self.values())
            self._error.value = ""
        except Exception as error:
            self._error.value = (
                f'<b style="color:#D55E00">draw raised {type(error).__name__}: '
                f"{html.escape(str(error))}</b>"
            )

    def points(self) -> Iterator[dict[str, Any]]:
        """The corners of the controls' ranges, and the middle.

        Of more than four controls not all corners are taken: a fractional factorial design, in
        which any three of up to eight controls still meet in all their ends.
        """
        ends = {name: _samples(control, 2) for name, control in self.controls.items()}
        for corner in _corners([len(values) for values in ends.values()]):
            yield {name: ends[name][i] for name, i in zip(ends, corner, strict=True)}
        yield {name: _middle(control) for name, control in self.controls.items()}

    def steps(self, name: str, count: int) -> list[Any]:
        """At most `count` values over the range of one control, its ends among them."""
        return _samples(self.controls[name], count)

    def measure(self) -> dict[str, Any]:
        """Draw at every point of `points`, time it, and compare with pictures drawn from nothing.

        Returns:
            name, number of points, the medians in milliseconds of processor time of a whole redraw
            (picture included) and of `draw` alone, and whether each picture is what a new one
            would be.

        Raises:
            RuntimeError: naming the values at which `draw` failed.
        """
        points = list(self.points())
        # There and back: on the way back it is known what moves.
        timed = [self._timed(values) for values in (*points, *reversed(points))]
        fresh = [Stage(self._figure(values)).picture() for values in points]
        self._stage = None
        return {
            "name": self.name,
            "points": len(points),
            "redraw_ms": statistics.median(redraw for _, redraw, _ in timed),
            "draw_ms": statistics.median(draw for draw, _, _ in timed),
            "exact": [picture for _, _, picture in timed] == [*fresh, *reversed(fresh)],
        }

    def _timed(self, values: dict[str, Any]) -> tuple[float, float, bytes]:
        """Milliseconds of `draw` and of the whole redraw, and the picture."""
        start = time.process_time()
        try:
            figure = self._figure(values)
            drawn = time.process_time()
            picture = self._picture(figure)
        except Exception as error:
            raise RuntimeError(f"{self.name} fails at {values}") from error
        return 1e3 * (drawn - start), 1e3 * (time.process_time() - start), picture

    def __repr__(self) -> str:
        values = ", ".join(f"{name} = {value}" for name, value in self.values().items())
        return f"Explorer({self.name}: {values})"

    def _repr_mimebundle_(self, **_: object) -> dict[str, Any]:
        return {
            **self.panel._repr_mimebundle_(),
            "image/png": base64.b64encode(self._image.value).decode(),
            "text/plain": repr(self),
        }


def _as_widgets(draw: Callable[..., Figure], controls: dict[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(draw).parameters
    made = {}
    for name, abbreviation in controls.items():
        if name not in parameters:
            raise ValueError(f"{_name(draw)} has no argument {name!r}")
        control = widgets.interactive.widget_from_abbrev(abbreviation, parameters[name].default)
        if isinstance(abbreviation, bool) and isinstance(parameters[name].default, bool):
            control.value = parameters[name].default
        usable = isinstance(control, widgets.DOMWidget) and hasattr(control, "value")
        if not usable or (hasattr(control, "options") and not control.options):
            raise ValueError(f"control {name!r} is no abbreviation of a widget: {abbreviation!r}")
        if not control.description:
            control.description = name.replace("_", " ")
        control.style.description_width = "initial"
        made[name] = control
    missing = [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty and name not in controls
    ]
    if missing:
        raise ValueError(f"{_name(draw)} needs a control for {', '.join(missing)}")
    return made


def _distance(value: Any, start: Any) -> float:
    return abs(value - start) if isinstance(value, (int, float)) else float(value != start)


def _name(draw: Callable[..., Figure]) -> str:
    """The function's name; that of the function inside for `functools.partial`."""
    name: str = getattr(getattr(draw, "func", draw), "__qualname__", type(draw).__name__)
    return name


def _samples(control: Any, count: int) -> list[Any]:
    """At most `count` different values that the control can take, its ends among them."""
    if isinstance(control.value, tuple):  # a range or a selection: as it stands
        return [control.value]
    if hasattr(control, "options"):
        options = _options(control)
        places = np.linspace(0, len(options) - 1, min(count, len(options)))
        return [options[round(place)] for place in places]
    if not hasattr(control, "min"):
        return [False, True] if isinstance(control.value, bool) else [control.value]
    positions = np.linspace(control.min, control.max, count)
    if isinstance(control, widgets.FloatLogSlider):  # its ends are exponents
        positions = control.base**positions
    if isinstance(control.value, int):
        return sorted({round(position) for position in positions})
    return [float(position) for position in positions]


def _corners(sizes: list[int]) -> Iterator[tuple[int, ...]]:
    """Which end each control takes: four freely, each further one as three of these add up."""
    for free in itertools.product(*map(range, sizes[:_FREE])):
        bound = (sum(free) - free[i % _FREE] for i in range(len(sizes) - _FREE))
        yield free + tuple(total % size for total, size in zip(bound, sizes[_FREE:], strict=False))


def _middle(control: Any) -> Any:
    values = _samples(control, 3)
    # Of two values neither is in the middle: the one at which the control stands.
    return control.value if len(values) == 2 else values[len(values) // 2]


def _options(control: Any) -> list[Any]:
    return [value for _, value in control._options_full]
