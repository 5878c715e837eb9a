"""Pictures: the same bytes for the same figure, in the right place."""

import matplotlib as mpl
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from kexue_lab import figures
from kexue_lab.figures import describe, save_figure, use_style


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.setenv("KEXUE_FIGURES_DIR", str(tmp_path))
    with mpl.rc_context():
        yield


def figure(slope=1):
    fig = Figure(figsize=(2, 2))
    axes = fig.subplots()
    axes.plot([0, 1, 2], [0, slope, 1], "o-", label="line")
    axes.legend()
    return fig


@pytest.mark.parametrize("format", ["svg", "png"])
@pytest.mark.parametrize("style", [True, False], ids=["style", "plain"])
def test_the_same_figure_gives_the_same_bytes(format, style):
    if style:
        use_style()
    fig = figure()
    first = save_figure(fig, "mathematics/em", "one", format=format).read_bytes()
    again = save_figure(fig, "mathematics/em", "one", format=format).read_bytes()
    equal = save_figure(figure(), "mathematics/em", "two", format=format).read_bytes()
    other = save_figure(figure(2), "mathematics/em", "two", format=format).read_bytes()
    assert first == again == equal
    assert first != other


def test_svg_and_png_are_what_they_say():
    svg = save_figure(figure(), "mathematics/em", "one").read_bytes()
    assert b"<svg" in svg
    assert b"dc:date" not in svg
    png = save_figure(figure(), "mathematics/em", "one", format="png").read_bytes()
    assert png.startswith(b"\x89PNG")
    assert b"Software" not in png


def test_a_large_mesh_is_stored_as_pixels():
    fig = Figure(figsize=(2, 2))
    fig.subplots().pcolormesh([[0.1 * i * j for i in range(120)] for j in range(120)])
    assert save_figure(fig, "mathematics/em", "mesh").stat().st_size < 300_000


def test_the_pictures_place(tmp_path):
    path = save_figure(figure(), "diffusion/ddim", "steps")
    assert path == tmp_path / "diffusion" / "ddim-steps.svg"
    assert path.is_file()


@pytest.mark.parametrize("inside", ["", "notebooks/diffusion"])
def test_the_courses_own_folder(tmp_path, monkeypatch, inside):
    monkeypatch.delenv("KEXUE_FIGURES_DIR")
    (tmp_path / "course/notebooks/diffusion").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "course" / inside)
    path = save_figure(figure(), "diffusion/ddim", "steps", format="png")
    assert path == tmp_path / "course/figures/diffusion/ddim-steps.png"
    assert path.is_file()


def test_outside_the_course_the_working_directory_serves(tmp_path, monkeypatch):
    monkeypatch.delenv("KEXUE_FIGURES_DIR")
    monkeypatch.chdir(tmp_path)
    assert save_figure(figure(), "a/b", "c") == tmp_path / "figures/a/b-c.svg"


@pytest.mark.parametrize("format", ["pdf", "SVG", "", None])
def test_another_format_is_refused(format, tmp_path):
    with pytest.raises(ValueError, match='format must be "svg" or "png", got'):
        save_figure(figure(), "mathematics/em", "one", format=format)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("article", "name", "part"),
    [
        ("em", "one", "article"),
        ("../elsewhere/em", "one", "article"),
        ("/mathematics/em", "one", "article"),
        ("mathematics/em", "", "name"),
        ("mathematics/em", "../one", "name"),
        ("mathematics/em", "One Two", "name"),
    ],
)
def test_a_name_that_leaves_the_folder_is_refused(article, name, part):
    with pytest.raises(ValueError, match=part):
        save_figure(figure(), article, name)


def test_what_is_no_figure_is_refused(tmp_path):
    with pytest.raises(TypeError, match="figure"):
        save_figure(None, "mathematics/em", "one")
    assert not list(tmp_path.iterdir())


def test_the_style_is_set_and_may_be_set_twice():
    use_style()
    once = dict(mpl.rcParams)
    use_style()
    assert dict(mpl.rcParams) == once
    assert once["axes.prop_cycle"].by_key()["color"][0] == figures.BLUE
    assert once["axes.grid"]


def test_the_colours_can_be_told_apart():
    names = ["BLUE", "ORANGE", "GREEN", "RED", "PURPLE", "SKY", "YELLOW", "BLACK", "GREY"]
    colours = [to_rgb(getattr(figures, name)) for name in names]
    distance = min(
        sum((a - b) ** 2 for a, b in zip(p, q, strict=True))
        for i, p in enumerate(colours)
        for q in colours[:i]
    )
    assert distance > 0.04


def test_a_figure_is_described_by_its_titles_in_order():
    fig = Figure()
    left, right = fig.subplots(1, 2)
    left.set_title("one\nmore", loc="left")
    left.set_title("two")
    right.set_title("two")
    fig.suptitle("all")
    assert describe(fig) == "Picture: all; one more; two"


def test_a_figure_without_titles_is_described_by_its_axes():
    fig = Figure()
    axes = fig.subplots()
    assert describe(fig) == "Picture of one panel"
    axes.set(xlabel="time", ylabel="loss")
    assert describe(fig) == "Picture: loss against time"


def test_in_a_notebook_a_figures_text_is_what_it_shows():
    from IPython.testing.globalipapp import get_ipython, start_ipython

    shell = start_ipython() or get_ipython()
    use_style()
    fig = figure()
    fig.suptitle("The loss falls")
    assert shell.display_formatter.formatters["text/plain"](fig) == "Picture: The loss falls"
