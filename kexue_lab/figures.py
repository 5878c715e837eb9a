"""One plot style for all notebooks, and the place where their pictures are saved."""

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.collections import QuadMesh

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which colour-blind readers can tell apart (Nature Methods 8:441, 2011).
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, BLACK = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#F0E442",
    "#000000",
)
GREY = "#8A8A8A"
_LARGEST_MESH = 10_000


def use_style() -> None:
    """Set matplotlib's defaults for every figure of the course, and name figures by their titles.

    In a notebook a figure's text, which stands in for the picture where there is none to see, is
    what `describe` says.
    """
    _name_figures()
    mpl.rcParams.update(
        {
            "axes.axisbelow": True,
            "axes.grid": True,
            "axes.prop_cycle": cycler(color=[BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK]),
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.titlesize": "medium",
            # At a fixed place: to look for labels that it may hit takes a sixth of each drawing.
            "axes.titley": 1.0,
            "figure.dpi": 96,
            "figure.figsize": (6.4, 3.8),
            "font.size": 10.5,
            "grid.alpha": 0.25,
            "image.cmap": "viridis",
            "legend.frameon": False,
            "legend.fontsize": "small",
            "lines.linewidth": 1.8,
            "savefig.dpi": 144,
        }
    )


def _name_figures() -> None:
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is None:
        return
    from matplotlib import pyplot
    from matplotlib.figure import Figure

    # Load it now: the inline backend, when it is loaded, forgets what was registered.
    pyplot.switch_backend(pyplot.get_backend())
    texts = shell.display_formatter.formatters["text/plain"]
    texts.for_type(Figure, lambda figure, text, _: text.text(describe(figure)))


def save_figure(
    figure: "Figure", article: str, name: str, *, format: Literal["svg", "png"] = "svg"
) -> Path:
    """Save a figure as `figures/<series>/<article>-<name>.<format>` and return its path.

    The same figure gives the same bytes: neither date nor random ids are stored. Use "png" for
    pictures with thousands of marks, where SVG becomes large; a mesh of more than ten thousand
    cells is stored as pixels in any case. The folder is the one that
    `KEXUE_FIGURES_DIR` names, or else `figures/` beside the `notebooks/` that the working
    directory lies in, or else `figures/` in the working directory.

    Args:
        figure: a matplotlib figure.
        article: the article's name, such as "mathematics/em".
        name: a short name in lower case, such as "convergence".
        format: "svg" or "png".

    Raises:
        TypeError: if `figure` is no matplotlib figure.
        ValueError: for another format, or a name that is not of this form.
    """
    if not hasattr(figure, "savefig"):
        raise TypeError(f"figure must be a matplotlib figure, got {type(figure).__name__}")
    if format not in ("svg", "png"):
        raise ValueError(f'format must be "svg" or "png", got {format!r}')
    if not re.fullmatch(r"[a-z]+/[a-z_0-9]+", article):
        raise ValueError(f'article must look like "series/name", got {article!r}')
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
        raise ValueError(f"name must be in lower case without spaces, got {name!r}")
    folder = Path(os.environ.get("KEXUE_FIGURES_DIR") or _figures_folder())
    path = folder / f"{article}-{name}.{format}"
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"Date": None} if format == "svg" else {"Software": None}
    for mesh in figure.findobj(QuadMesh):
        if np.size(mesh.get_coordinates()) > 2 * _LARGEST_MESH:
            mesh.set_rasterized(True)
    with mpl.rc_context({"svg.hashsalt": "kexue_lab"}):
        figure.savefig(path, bbox_inches="tight", metadata=metadata)
    return path


def describe(figure: "Figure") -> str:
    """Return what a figure shows, in words: its titles, or else the names of its axes.

    Args:
        figure: a matplotlib figure.

    Example:
        >>> from matplotlib.figure import Figure
        >>> figure = Figure()
        >>> left, right = figure.subplots(1, 2)
        >>> _ = left.set_title("The loss falls"), right.set_title("The norm rises")
        >>> describe(figure)
        'Picture: The loss falls; The norm rises'
    """
    panels = figure.get_axes()
    places: tuple[Literal["left", "center", "right"], ...] = ("left", "center", "right")
    titles = [figure.get_suptitle()]
    titles += [panel.get_title(loc=place) for panel in panels for place in places]
    if not any(titles):
        titles = [
            f"{panel.get_ylabel()} against {panel.get_xlabel()}"
            for panel in panels
            if panel.get_xlabel() and panel.get_ylabel()
        ]
    said = dict.fromkeys(" ".join(title.split()) for title in titles if title)
    if said:
        return f"Picture: {'; '.join(said)}"
    return "Picture of one panel" if len(panels) == 1 else f"Picture of {len(panels)} panels"


def _figures_folder() -> Path:
    here = Path.cwd()
    roots = (folder for folder in (here, *here.parents) if (folder / "notebooks").is_dir())
    return next(roots, here) / "figures"
