"""Explorers: controls, redraws, errors in the widget, and nothing left open behind."""

import base64
import functools
import itertools
import json

import ipywidgets as widgets
import matplotlib.pyplot as plt
import pytest
from matplotlib.figure import Figure

from kexue_lab import explore as explore_module
from kexue_lab.explore import explore, measure_explorers, save_frames

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    """No other test's explorers, and no other test's figures."""
    monkeypatch.setattr(explore_module, "_explorers", {})
    plt.close("all")
    yield
    plt.close("all")


def figure():
    return plt.figure(figsize=(1, 1))


def draw(height=1.0, steps=5, name="b", log=False):
    fig, axes = plt.subplots(figsize=(1, 1))
    axes.plot([0, height], [0, steps])
    axes.set(xlim=(0, 2), ylim=(0, 30))
    if height > 1.8:
        raise ValueError(f"too <high> at {height}")
    return fig


def many(a=0, b=0, c=0, d=0, e=0, f=0, g=0, h=0):
    return figure()


def explorer(**changes):
    controls = {
        "height": (0.0, 1.5),
        "steps": [1, 5, 25],
        "name": {"A": "a", "B": "b"},
        "log": False,
    }
    return explore(draw, **(controls | changes))


def picture(made):
    return bytes(made._image.value)


def test_each_abbreviation_makes_its_control():
    made = explorer()
    kinds = {name: type(control).__name__ for name, control in made.controls.items()}
    assert kinds == {
        "height": "FloatSlider",
        "steps": "Dropdown",
        "name": "Dropdown",
        "log": "Checkbox",
    }
    assert made.values() == {"height": 1.0, "steps": 5, "name": "b", "log": False}
    assert repr(made) == "Explorer(draw: height = 1.0, steps = 5, name = b, log = False)"


@pytest.mark.parametrize(
    ("default", "control"),
    [(0.3, (0.0, 1.0)), (2, [1, 2, 3]), ("b", {"A": "a", "B": "b"}), (False, True)],
)
def test_controls_start_where_draws_defaults_are(default, control):
    assert explore(lambda x=default: figure(), x=control).values() == {"x": default}


def test_a_widget_of_ones_own_is_kept():
    slider = widgets.FloatSlider(min=0, max=1, value=0.25, description="h")
    made = explore(draw, height=slider)
    assert made.controls["height"] is slider
    assert slider.description == "h"
    assert (
        explore(lambda long_name=1: figure(), long_name=(0, 3)).controls["long_name"].description
        == "long name"
    )


def test_the_picture_answers_to_a_control():
    made = explorer()
    before = picture(made)
    assert before.startswith(PNG)
    made.controls["height"].value = 0.5
    assert picture(made).startswith(PNG)
    assert picture(made) != before
    made.controls["height"].value = 1.0
    assert picture(made) == before


@pytest.mark.parametrize(
    ("name", "value"), [("height", 0.3), ("steps", 25), ("name", "a"), ("log", True)]
)
def test_draw_gets_the_values_of_all_controls(name, value):
    calls = []

    def recorder(height=1.0, steps=5, name="b", log=False):
        calls.append({"height": height, "steps": steps, "name": name, "log": log})
        return figure()

    made = explore(
        recorder, height=(0.0, 1.5), steps=[1, 5, 25], name={"A": "a", "B": "b"}, log=False
    )
    made.controls[name].value = value
    assert calls == [calls[0], calls[0] | {name: value}]


def test_no_figure_is_left_open():
    made = explorer()
    made.controls["steps"].value = 25
    made.measure()
    assert plt.get_fignums() == []


def test_no_figure_is_left_open_when_draw_raises():
    made = explorer(height=(0.0, 2.0))
    made.controls["height"].value = 1.9
    made.controls["height"].value = 2.0
    with pytest.raises(RuntimeError):
        made.measure()
    assert plt.get_fignums() == []


def test_no_second_figure_is_left_open():
    def forgetful(x=1):
        plt.figure(figsize=(1, 1))
        return figure()

    explore(forgetful, x=(0, 2))
    assert plt.get_fignums() == []


def test_figures_that_were_open_before_stay_open():
    mine = plt.figure(figsize=(1, 1))
    explorer().controls["steps"].value = 25
    assert plt.get_fignums() == [mine.number]


def test_an_error_shows_in_the_widget_and_goes_away():
    made = explorer(height=(0.0, 2.0))
    before = picture(made)
    made.controls["height"].value = 1.9
    assert "draw raised ValueError: too &lt;high&gt; at 1.9" in made._error.value
    assert made._error in made.panel.children
    assert picture(made) == before
    made.controls["height"].value = 0.4
    assert made._error.value == ""
    assert picture(made) != before


def test_a_draw_that_stops_returning_a_figure_says_so():
    made = explore(lambda x=1: figure() if x < 2 else None, x=(0, 3))
    made.controls["x"].value = 3
    assert "draw must return a matplotlib figure, got NoneType" in made._error.value


def test_the_same_figure_may_be_returned_each_time():
    fig, axes = plt.subplots(figsize=(1, 1))
    (line,) = axes.plot([0, 1], [0, 1])

    def update(slope=1.0):
        line.set_ydata([0, slope])
        return fig

    made = explore(update, slope=(0.0, 1.0))
    before = picture(made)
    made.controls["slope"].value = 0.2
    assert picture(made) != before
    assert plt.get_fignums() == []


def test_a_figure_unknown_to_pyplot_will_do():
    assert picture(explore(lambda x=1: Figure(figsize=(1, 1)), x=(0, 2))).startswith(PNG)


def test_a_page_without_widgets_gets_picture_and_text():
    made = explorer()
    bundle = made._repr_mimebundle_(include=None, exclude=None)
    assert base64.b64decode(bundle["image/png"]) == picture(made)
    assert bundle["text/plain"] == repr(made)
    assert "application/vnd.jupyter.widget-view+json" in bundle


def test_points_are_corners_and_middle():
    made = explorer()
    points = list(made.points())
    assert len(points) == 2**4 + 1
    assert points[0] == {"height": 0.0, "steps": 1, "name": "a", "log": False}
    assert points[-2] == {"height": 1.5, "steps": 25, "name": "b", "log": True}
    assert points[-1] == {"height": 0.75, "steps": 5, "name": "b", "log": False}


@pytest.mark.parametrize("count", [5, 6, 8])
def test_of_many_controls_any_three_meet_in_all_their_ends(count):
    names = "abcdefgh"[:count]
    made = explore(many, **dict.fromkeys(names, (0, 1)))
    corners = [tuple(point.values()) for point in made.points()][:-1]
    assert len(corners) == 2**4
    for chosen in itertools.combinations(range(count), 3):
        assert len({tuple(corner[i] for i in chosen) for corner in corners}) == 2**3


@pytest.mark.parametrize(
    "control",
    [
        (0.0, 1.0, 0.3),
        (1, 4),
        [7],
        {"one": 1, "two": 2},
        True,
        range(3),
        widgets.ToggleButtons(options=["a", "b", "c"]),
        widgets.SelectionSlider(options=[0.1, 1.0, 10.0]),
        widgets.BoundedIntText(min=2, max=9, value=3),
        widgets.FloatLogSlider(min=-2, max=1, value=1.0),
        widgets.IntRangeSlider(min=0, max=6, value=(1, 2)),
        widgets.SelectMultiple(options=[1, 2, 3], value=(1,)),
    ],
    ids=str,
)
def test_every_point_is_a_value_its_control_can_take(control):
    made = explore(lambda x=None: figure(), x=control)
    points = [point["x"] for point in made.points()]
    assert points
    for value in points:
        made.controls["x"].value = value
        assert made.controls["x"].value == value


@pytest.mark.parametrize(
    ("control", "count", "values"),
    [
        ((0.0, 1.0), 3, [0.0, 0.5, 1.0]),
        ((0, 9), 4, [0, 3, 6, 9]),
        ((0, 2), 16, [0, 1, 2]),
        ([1, 5, 25], 16, [1, 5, 25]),
        ({"A": "a", "B": "b"}, 16, ["a", "b"]),
        (False, 16, [False, True]),
    ],
)
def test_steps_cover_the_range(control, count, values):
    assert explore(lambda x=None: figure(), x=control).steps("x", count) == values


def test_steps_of_a_logarithmic_slider_are_values_not_exponents():
    slider = widgets.FloatLogSlider(min=-2, max=1, value=1.0)
    steps = explore(lambda x=None: figure(), x=slider).steps("x", 4)
    assert steps == pytest.approx([0.01, 0.1, 1, 10])


@pytest.mark.parametrize("control", [(0, 99), (0.0, 9.9), list(range(100))], ids=str)
@pytest.mark.parametrize("count", [2, 3, 16])
def test_steps_are_few_and_hold_both_ends(control, count):
    made = explore(lambda x=None: figure(), x=control)
    steps = made.steps("x", count)
    assert len(steps) == count
    assert (steps[0], steps[-1]) == (control[0], control[-1])


def test_frames_for_a_static_page(tmp_path):
    made = explorer()
    save_frames(tmp_path, count=4)
    record = json.loads((tmp_path / "draw/frames.json").read_text("utf8"))
    assert record == {
        "control": "height",
        "values": ["0", "0.5", "1", "1.5"],
        "start": 2,
        "shows": "Picture of one panel",
    }
    frames = sorted((tmp_path / "draw").glob("*.png"))
    assert [f.name for f in frames] == ["00.png", "01.png", "02.png", "03.png"]
    assert len({f.read_bytes() for f in frames}) == 4
    assert all(f.read_bytes().startswith(PNG) for f in frames)
    assert made.values()["height"] == 1.0
    assert plt.get_fignums() == []


def test_measure_times_every_point():
    result = explorer().measure()
    assert result["name"] == "draw"
    assert result["points"] == 17
    assert 0 < result["draw_ms"] < result["redraw_ms"] < 5000


def test_measure_names_the_values_at_which_draw_fails():
    made = explorer(height=(0.0, 2.0))
    with pytest.raises(RuntimeError, match=r"draw fails at {'height': 2.0, 'steps': 1") as caught:
        made.measure()
    assert "too <high>" in str(caught.value.__cause__)


def test_every_explorer_is_measured_once_even_if_its_cell_runs_twice():
    explorer()
    explorer()
    explore(lambda other=1: figure(), other=(0, 2))
    assert [m["points"] for m in measure_explorers()] == [17, 3]


@pytest.mark.parametrize(
    ("function", "controls", "error", "part"),
    [
        (None, {}, TypeError, "draw must be a function, got NoneType"),
        (lambda x=1: 3, {"x": (0, 2)}, TypeError, "draw must return a matplotlib figure, got int"),
        (lambda x=1: None, {"x": (0, 2)}, TypeError, "got NoneType"),
        (lambda x=1: figure(), {"z": (0, 2)}, ValueError, "no argument 'z'"),
        (lambda x, z: figure(), {"x": (0, 2)}, ValueError, "needs a control for z"),
        (lambda x=1: figure(), {"x": None}, ValueError, "control 'x'"),
        (lambda x=1: figure(), {"x": object()}, ValueError, "control 'x'"),
        (lambda x=1: figure(), {"x": (2.0, 0.1)}, ValueError, "min"),
        (lambda x=1: figure(), {"x": []}, ValueError, "control 'x'"),
        (lambda x=1: figure(), {"x": widgets.fixed(3)}, ValueError, "control 'x'"),
        (lambda x=1: figure(), {"x": widgets.Button()}, ValueError, "control 'x'"),
    ],
)
def test_bad_input(function, controls, error, part):
    with pytest.raises(error, match=part):
        explore(function, **controls)


def test_a_draw_that_raises_at_the_start_raises():
    with pytest.raises(ZeroDivisionError):
        explore(lambda x=1: 1 / 0, x=(0, 2))


def test_a_partial_function_will_do():
    made = explore(functools.partial(draw, steps=3), height=(0.0, 1.5))
    assert made.measure()["points"] == 3
    assert "height = " in repr(made)
