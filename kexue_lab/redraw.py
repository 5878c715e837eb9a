"""Draw a figure again where only some of its artists have changed."""

import functools
import io
from collections.abc import Iterator

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import BboxBase
from PIL import Image

DPI = 96


class Stage:
    """A figure whose pictures share a background: what has not moved yet is drawn once.

    matplotlib tells by `Artist.stale` what has changed since it was drawn. An artist that changes
    is from then on drawn anew for each picture, together with all that lies on top of it in its
    axes, over a kept copy of the rest. Where the axes themselves change (limits, ticks, place),
    everything is drawn.
    """

    def __init__(self, figure: Figure) -> None:
        self.figure = figure
        figure.set_dpi(DPI)
        self._canvas = FigureCanvasAgg(figure)
        self._moving: set[Artist] = set()
        self._front: list[Artist] = []
        self._background: object = None
        self._frame: object = None

    def picture(self) -> bytes:
        """The figure as it is now, as PNG."""
        if self._background is None or self._frame != _frame(self.figure):
            self._draw_all()
        else:
            changed = set(_changed(self.figure))
            known = self._moving | set(self._front)
            if not changed <= known:
                self._moving |= changed - known
                self._draw_all()
            else:
                self._draw_front()
        return self._as_png()

    def _draw_all(self) -> None:
        """Draw everything that stays, keep a copy, and draw the rest over it."""
        self._front = list(_from_first_moving(self.figure, self._moving))
        animated = [artist.get_animated() for artist in self._front]
        for artist in self._front:
            artist.set_animated(True)
        try:
            self._canvas.draw()
        finally:
            for artist, before in zip(self._front, animated, strict=True):
                artist.set_animated(before)
        self._background = self._canvas.copy_from_bbox(self.figure.bbox)
        self._frame = _frame(self.figure)
        self._draw_front()

    def _draw_front(self) -> None:
        self._canvas.restore_region(self._background)
        renderer = self._canvas.get_renderer()
        for artist in self._front:
            artist.draw(renderer)
            artist.stale = False

    def _as_png(self) -> bytes:
        buffer = io.BytesIO()
        pixels = np.asarray(self._canvas.buffer_rgba())
        Image.fromarray(pixels).convert("RGB").save(buffer, format="PNG", compress_level=1)
        return buffer.getvalue()


def _drawn(axes: Axes) -> list[Artist]:
    """The parts of the axes in the order in which they are drawn, its own patch left out."""
    hidden: set[Artist] = {axes.patch}
    if not axes.axison:
        hidden |= {axes.xaxis, axes.yaxis, *axes.spines.values()}
    parts = [part for part in axes.get_children() if part not in hidden]
    return sorted(parts, key=lambda part: part.get_zorder())


def _changed(figure: Figure) -> Iterator[Artist]:
    """The parts that have changed since they were drawn."""
    for axes in figure.axes:
        yield from (part for part in (*_drawn(axes), axes.patch) if part.stale)
    yield from (part for part in (*figure.texts, *figure.legends, figure.patch) if part.stale)


def _from_first_moving(figure: Figure, moving: set[Artist]) -> Iterator[Artist]:
    """What must be drawn anew: in each axes, the first moving part and all above it.

    Axes that are drawn after such axes and overlap with them are drawn anew as well, and so are
    the figure's own texts and legends, which lie on top. Axes in three dimensions sort their
    parts by distance at each draw, so they are drawn as a whole.
    """
    touched: list[Axes] = []
    place = functools.cache(_place)  # it takes as long as drawing: only where it is asked for
    for axes in sorted(figure.axes, key=lambda axes: axes.get_zorder()):
        parts = _drawn(axes)
        first = next((i for i, part in enumerate(parts) if part in moving), None)
        below = any(place(axes).overlaps(place(other)) for other in touched)
        if below or first is not None:
            touched.append(axes)
            yield from [axes] if below or axes.name == "3d" else parts[first:]
    on_top = sorted((*figure.texts, *figure.legends), key=lambda part: part.get_zorder())
    if touched or moving & set(on_top):
        yield from on_top


def _place(axes: Axes) -> BboxBase:
    """Where the axes are drawn, with their labels, which may reach far."""
    return axes.get_tightbbox() or axes.bbox


def _frame(figure: Figure) -> tuple[object, ...]:
    """What the axes look like; if it changes, everything is drawn."""
    return (
        *figure.get_size_inches(),
        *(
            (
                *axes.viewLim.get_points().ravel(),
                *axes.bbox.bounds,
                axes.get_xscale(),
                axes.get_yscale(),
                axes.get_visible(),
                axes.axison,
                *map(id, axes.get_children()),
            )
            for axes in figure.axes
        ),
        *(axis.stale for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)),
    )
