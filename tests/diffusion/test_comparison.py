"""The samplers side by side: one setting small enough to check, and the stored table."""

import numpy as np
import pytest
import torch

from kexue_lab.course.openings import ARTICLE, comparison_table, judged, mark, with_table
from kexue_lab.course.places import PACKAGE
from kexue_lab.diffusion import ddim
from kexue_lab.diffusion.comparison import (
    BUDGETS,
    CLOCKS,
    NAMES,
    Setting,
    clock_times,
    draw,
    left_open,
    ring_setting,
)
from kexue_lab.diffusion.schedules import NoiseSchedule
from kexue_lab.generative.adversarial import energy_distance
from kexue_lab.recorded import columns, read_rows, recorded_path
from kexue_lab.training import generator

SCHEDULE = NoiseSchedule.cosine(0)
S = 0.5


def bell():
    """Data N(0, S² I) in the plane: the mean noise is known, and a part of x."""

    def eps_fn(x, t):
        ab, bb = SCHEDULE.alpha_bar(t), SCHEDULE.beta_bar(t)
        return bb / (ab**2 * S**2 + bb**2) * x

    def data(n, g):
        return S * torch.randn(n, 2, generator=g, dtype=torch.float64)

    return Setting(eps_fn, SCHEDULE, data, 400, S**2)


def counted(setting):
    """The setting, and a list that grows with each look at the noise."""
    looks = []

    def eps_fn(x, t):
        looks.append(t)
        return setting.eps_fn(x, t)

    return Setting(eps_fn, setting.schedule, setting.data, setting.count, setting.largest), looks


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("allowed", [5, 10])
def test_no_sampler_looks_more_often_than_allowed(name, clock, allowed):
    setting, looks = counted(bell())
    start = torch.randn(20, 2, generator=generator(0), dtype=torch.float64)
    draw(setting, name, start, clock, allowed, generator(1))
    estimates = allowed if name.endswith("best variance") else 0  # beforehand, one for each time
    assert allowed - 1 <= len(looks) - estimates <= allowed


@pytest.mark.parametrize("clock", CLOCKS)
def test_ddim_is_the_librarys(clock):
    start = torch.randn(20, 2, generator=generator(0), dtype=torch.float64)
    times = clock_times(SCHEDULE, clock, 7)
    ours = draw(bell(), "DDIM", start, clock, 7, generator(1))
    torch.testing.assert_close(ours, ddim.sample(bell().eps_fn, SCHEDULE, start, times))


@pytest.mark.parametrize("clock", CLOCKS)
def test_clocks_fall_from_noise_level_60_to_0(clock):
    times = clock_times(SCHEDULE, clock, 6)
    assert len(times) == 7
    assert (np.diff(times) < 0).all()
    assert times[-1] == 0
    assert SCHEDULE.sigma(times[0]) == pytest.approx(60)


def test_what_a_bell_leaves_open_is_known():
    t = 0.4
    ab, bb = SCHEDULE.alpha_bar(t), SCHEDULE.beta_bar(t)
    exact = S**2 * bb**2 / (ab**2 * S**2 + bb**2)
    assert left_open(bell(), t, generator(0)) == pytest.approx(exact, rel=0.1)


def test_a_second_sample_of_the_data_is_as_far_as_chance():
    again = [float(compare_again(seed)) for seed in range(10)]
    assert abs(np.mean(again)) < 4 * np.std(again, ddof=1) / 10**0.5


def compare_again(seed):
    g = generator(seed)
    return energy_distance(bell().data(400, g), bell().data(400, g))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: clock_times(SCHEDULE, "noon", 5), "clock must be one of"),
        (lambda: clock_times(SCHEDULE, CLOCKS[0], 1), "steps must be at least 2"),
        (lambda: draw(bell(), "Euler", torch.ones(2, 2), CLOCKS[0], 5, generator(0)), "name must"),
    ],
)
def test_what_is_not_there_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_clock_is_chosen_on_the_first_half_and_judged_on_the_second():
    distance = np.zeros((4, 1, 2, 1))
    distance[:2, 0, 1] = 1.0  # the first clock is better on the first two seeds
    distance[2:, 0, 0] = 3.0
    assert judged(distance).tolist() == [[3.0]]


@pytest.fixture(scope="module")
def rows():
    return read_rows(recorded_path(ARTICLE))


def test_the_stored_rows_are_of_this_code(rows):
    assert len(rows) == 20
    assert {row.source for row in rows.values()} == {mark()}


def test_a_stored_figure_is_computed_again(rows):
    setting, g = ring_setting(), generator(0)
    goal, again = setting.data(setting.count, g), setting.data(setting.count, g)
    start = torch.randn(goal.shape, generator=g, dtype=torch.float64)
    first = draw(setting, NAMES[0], start, CLOCKS[0], BUDGETS[0], g)
    stored = {name: column[0] for name, column in columns(rows, "ring").items()}
    assert energy_distance(again, goal) == pytest.approx(stored["again"], abs=1e-5)
    assert energy_distance(first, goal) == pytest.approx(stored["distance"][0, 0, 0], rel=1e-3)


def test_the_series_opens_with_the_table_of_these_rows(rows):
    opening = (PACKAGE.parent / "notebooks" / "diffusion" / "README.md").read_text("utf8")
    assert with_table(opening, comparison_table(rows)) == opening
    with pytest.raises(ValueError, match="lacks"):
        with_table("no marks here", "")
