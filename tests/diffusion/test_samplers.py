"""Unit, oracle, property and bad-input tests of diffusion.samplers."""

import math

import pytest
import torch
from exact import MIXTURE
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import seeded, t64

from kexue_lab.diffusion.ddim import sample
from kexue_lab.diffusion.diffusion_ode import sample_ode
from kexue_lab.diffusion.probability_flow import quantile_map
from kexue_lab.diffusion.samplers import (
    SAMPLERS,
    adams_bashforth,
    dpm_multistep,
    euler,
    heun,
    steps_within,
)
from kexue_lab.diffusion.schedules import NoiseSchedule

COSINE, LINEAR = NoiseSchedule.cosine(0), NoiseSchedule.linear()
UNEVEN = [0.95, 0.8, 0.76, 0.5, 0.31, 0.3, 0.02]


def noise_of(schedule):
    return lambda x, t: MIXTURE.noise(x, schedule.alpha_bar(t), schedule.beta_bar(t))


POINTS = torch.randn(9, 1, generator=seeded(2), dtype=torch.float64)


# --- what each of them is ----------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [COSINE, LINEAR], ids=["cosine", "linear"])
@pytest.mark.parametrize("end", [[], [0.0]], ids=["to 0.02", "to 0"])
def test_euler_is_ddim(schedule, end):
    times, noise = UNEVEN + end, noise_of(schedule)
    found = euler(noise, schedule, POINTS, times, return_path=True)
    expected = sample(noise, schedule, POINTS, times, return_path=True)
    torch.testing.assert_close(found, expected)


def test_heun_is_that_of_the_ode_in_sigma():
    expected = sample_ode(
        lambda x, sigma: MIXTURE.score(x, 1.0, sigma),
        POINTS / COSINE.alpha_bar(UNEVEN[0]),
        COSINE.sigma(t64(*UNEVEN)),
        method="heun",
    )
    found = heun(noise_of(COSINE), COSINE, POINTS, UNEVEN) / COSINE.alpha_bar(UNEVEN[-1])
    torch.testing.assert_close(found, expected)


def test_adams_bashforth_integrates_a_linear_slope_after_its_first_step():
    slope = lambda sigma: 0.3 - 0.7 * sigma  # noqa: E731
    noise = lambda x, t: torch.full_like(x, slope(LINEAR.sigma(t)))  # noqa: E731
    path = adams_bashforth(noise, LINEAR, POINTS, UNEVEN, return_path=True)
    y = path / LINEAR.alpha_bar(t64(*UNEVEN))[:, None, None]
    levels = LINEAR.sigma(t64(*UNEVEN))
    area = 0.3 * levels - 0.35 * levels**2
    torch.testing.assert_close(y[1:] - y[1], (area[1:] - area[1])[:, None, None].expand(6, 9, 1))
    first = slope(float(levels[0])) * (levels[1] - levels[0])
    torch.testing.assert_close(y[1] - y[0], first.expand(9, 1))


def test_the_multistep_solver_is_that_of_diffusers():
    diffusers = pytest.importorskip("diffusers")
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    kept = LINEAR.alpha_bar(t) ** 2
    betas = 1 - kept / torch.cat([t64(1.0), kept[:-1]])
    scheduler = diffusers.DPMSolverMultistepScheduler(
        trained_betas=betas.numpy(),
        solver_order=2,
        algorithm_type="dpmsolver++",
        solver_type="midpoint",
        final_sigmas_type="zero",
        lower_order_final=True,
    )
    places = [949, 799, 759, 499, 309, 299, 19]
    scheduler.set_timesteps(timesteps=places)
    x, noise = POINTS, noise_of(LINEAR)
    for place in places:
        x = scheduler.step(noise(x, (place + 1) / 1000), place, x).prev_sample
    times = [(place + 1) / 1000 for place in places] + [0.0]
    torch.testing.assert_close(dpm_multistep(noise, LINEAR, POINTS, times), x, rtol=1e-4, atol=1e-4)


# --- what all of them keep ---------------------------------------------------------------------


@pytest.mark.parametrize(("name", "order"), list(zip(SAMPLERS, (1, 2, 2, 2), strict=True)))
def test_orders(name, order):
    x = t64([-1.0], [0.3], [1.2])
    exact = quantile_map(x, MIXTURE, COSINE, 0.98, 0.05)
    grids = [COSINE.times(n, 0.98, 0.05) for n in (160, 320)]
    ends = [SAMPLERS[name](noise_of(COSINE), COSINE, x, times) for times in grids]
    errors = [(end - exact).abs().max() for end in ends]
    assert order - 0.3 < math.log2(errors[0] / errors[1]) < order + 0.7


@pytest.mark.parametrize("name", SAMPLERS)
def test_all_looks_are_counted(name):
    calls = []

    def counting(x, t):
        calls.append(t)
        return torch.zeros_like(x)

    for n in (1, 2, 5):
        calls.clear()
        SAMPLERS[name](counting, COSINE, POINTS, COSINE.times(n, 0.9))
        assert steps_within(name, len(calls)) == n
        assert 0.0 not in calls
    assert all(steps_within(name, budget) >= 1 for budget in (1, 2))


@pytest.mark.parametrize("name", SAMPLERS)
@settings(deadline=None, max_examples=25)
@given(datum=st.floats(-3, 3), seed=st.integers(0, 99), n=st.integers(1, 6))
def test_one_datum_is_hit_exactly(name, datum, seed, n):
    def noise(x, t):
        return (x - LINEAR.alpha_bar(t) * datum) / LINEAR.beta_bar(t)

    x = torch.randn(4, 3, generator=seeded(seed), dtype=torch.float64)
    end = SAMPLERS[name](noise, LINEAR, x, LINEAR.times(n, 0.9))
    torch.testing.assert_close(end, torch.full_like(end, datum), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_dtype_shape_and_path(name, dtype):
    x = torch.randn(2, 3, 4, generator=seeded(1)).to(dtype)
    path = SAMPLERS[name](lambda x, t: 0.1 * x, LINEAR, x, [0.9, 0.4, 0.0], return_path=True)
    assert path.dtype == dtype
    assert path.shape == (3, 2, 3, 4)
    assert torch.equal(path[0], x)
    end = SAMPLERS[name](lambda x, t: 0.1 * x, LINEAR, x, [0.9, 0.4, 0.0])
    assert torch.equal(end, path[-1])
    assert not end.requires_grad


# --- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"x": torch.zeros(2, dtype=torch.int64)}, TypeError, "x must be a floating-point tensor"),
        ({"times": [0.5]}, ValueError, "times must be at least two"),
        ({"times": [0.5, 0.6]}, ValueError, "times must be at least two, decreasing"),
        ({"times": [1.0, 0.5]}, ValueError, "times must start where alpha_bar > 0, got 1.0"),
        ({"eps_fn": lambda x, t: x[:1]}, ValueError, r"eps_fn must return \(2, 1\), got \(1, 1\)"),
        ({"eps_fn": lambda x, t: x.double()}, TypeError, "share one dtype"),
    ],
)
def test_bad_input(name, changes, error, message):
    arguments = {
        "eps_fn": lambda x, t: x,
        "schedule": COSINE,
        "x": torch.zeros(2, 1),
        "times": [0.9, 0.5],
    }
    with pytest.raises(error, match=message):
        SAMPLERS[name](**(arguments | changes))


@pytest.mark.parametrize(
    ("name", "evaluations", "error", "message"),
    [
        ("midpoint", 5, ValueError, "name must be one of .*got 'midpoint'"),
        ("heun", 0, ValueError, "evaluations must be at least 1"),
        ("heun", 2.0, TypeError, "evaluations must be an integer"),
    ],
)
def test_bad_budgets(name, evaluations, error, message):
    with pytest.raises(error, match=message):
        steps_within(name, evaluations)


def test_a_long_step_of_heun_is_worse_than_eulers():
    """The hand computation of the lesson: data N(0, 1), one step from σ = 60, y = 60 to σ = 1."""
    times = [COSINE.t_from_sigma(60.0), 0.5]
    x = t64(60.0) * COSINE.alpha_bar(times[0])
    ends = {
        name: float(sampler(lambda x, t: COSINE.beta_bar(t) * x, COSINE, x, times)) * math.sqrt(2)
        for name, sampler in SAMPLERS.items()
    }
    assert ends["euler"] == pytest.approx(1.016, abs=1e-3)
    assert ends["heun"] == pytest.approx(15.516, abs=1e-2)
