import math

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kexue_lab.diffusion.schedules import NoiseSchedule

SCHEDULES = {
    "linear": NoiseSchedule.linear(),
    "linear-from-0": NoiseSchedule.linear(0.0, 20.0),
    "constant": NoiseSchedule.linear(1.0, 1.0),
    "cosine": NoiseSchedule.cosine(),
    "cosine-0": NoiseSchedule.cosine(0.0),
}
TIMES = [0.0, 1e-15, 1e-9, 1e-4, 0.1, 0.5, 0.9, 1 - 1e-9, 1.0]
every_schedule = pytest.mark.parametrize("name", SCHEDULES)


@pytest.fixture(autouse=True)
def fifty_digits():
    with mpmath.workdps(50):
        yield


def alpha_bar_as_defined(name, t):
    """The defining formula of each schedule, in 50 digits."""
    t = mpmath.mpf(t)
    if name.startswith("cosine"):
        o = mpmath.mpf(SCHEDULES[name].offset)
        return mpmath.cos((t + o) / (1 + o) * mpmath.pi / 2) / mpmath.cos(
            o / (1 + o) * mpmath.pi / 2
        )
    low, high = mpmath.mpf(SCHEDULES[name].beta_min), mpmath.mpf(SCHEDULES[name].beta_max)
    return mpmath.exp(-(high - low) * t**2 / 4 - low * t / 2)


def beta_bar_as_defined(name, t):
    return mpmath.sqrt(1 - alpha_bar_as_defined(name, t) ** 2)


def test_linear_values():
    schedule = NoiseSchedule.linear()
    found = [schedule.alpha_bar(t) for t in (0.2, 0.5, 1.0)]
    assert found == pytest.approx([0.811395236, 0.281182881, 0.006571586], abs=5e-10)
    assert NoiseSchedule.linear(0, 20).alpha_bar(0.7) == pytest.approx(math.exp(-5 * 0.49))


@every_schedule
@pytest.mark.parametrize("t", TIMES)
def test_alpha_bar_and_beta_bar_are_exact_to_rounding(name, t):
    schedule = SCHEDULES[name]
    for ours, exact in (
        (schedule.alpha_bar(t), alpha_bar_as_defined(name, t)),
        (schedule.beta_bar(t), beta_bar_as_defined(name, t)),
    ):
        # The cosine vanishes at t = 1; there 50 digits leave 1e-51 where we give 0.
        assert abs(ours - exact) <= 4e-15 * abs(exact) + 1e-40


@every_schedule
@pytest.mark.parametrize("t", [1e-4, 0.1, 0.5, 0.9, 0.999])
def test_drift_and_rate_are_derivatives(name, t):
    schedule = SCHEDULES[name]
    log_slope = mpmath.diff(lambda u: mpmath.log(alpha_bar_as_defined(name, u)), t)
    variance_slope = mpmath.diff(lambda u: beta_bar_as_defined(name, u) ** 2, t)
    rate = variance_slope - 2 * log_slope * beta_bar_as_defined(name, t) ** 2
    assert schedule.drift(t) == pytest.approx(float(log_slope), rel=1e-12)
    assert schedule.diffusion_squared(t) == pytest.approx(float(rate), rel=1e-12)


@every_schedule
@pytest.mark.parametrize("t", [1e-9, 1e-4, 0.1, 0.5, 0.9])
def test_sigma_and_log_snr(name, t):
    ratio = beta_bar_as_defined(name, t) / alpha_bar_as_defined(name, t)
    assert SCHEDULES[name].sigma(t) == pytest.approx(float(ratio), rel=1e-14)
    assert SCHEDULES[name].log_snr(t) == pytest.approx(float(-2 * mpmath.log(ratio)), rel=1e-13)


@every_schedule
def test_ends(name):
    schedule = SCHEDULES[name]
    assert schedule.alpha_bar(0.0) == pytest.approx(1, abs=3e-16)
    assert schedule.beta_bar(0.0) == schedule.sigma(0.0) == schedule.t_from_sigma(0.0) == 0
    assert schedule.log_snr(0.0) == math.inf
    assert schedule.t_from_sigma(schedule.sigma(1.0)) == pytest.approx(1, abs=1e-15)


def test_cosine_is_singular_at_one():
    schedule = NoiseSchedule.cosine()
    assert schedule.alpha_bar(1.0) == 0
    assert schedule.sigma(1.0) == math.inf
    assert schedule.drift(1.0) == -math.inf


@every_schedule
@settings(deadline=None)
@given(t=st.floats(0, 1))
def test_t_from_sigma_inverts_sigma(name, t):
    # 1e-100 only excuses t so small that σ² underflows.
    schedule = SCHEDULES[name]
    assert schedule.t_from_sigma(schedule.sigma(t)) == pytest.approx(t, rel=1e-13, abs=1e-100)


@every_schedule
def test_t_from_sigma_in_single_precision(name):
    times = torch.logspace(-6, 0, 200).clamp(max=1)
    again = SCHEDULES[name].t_from_sigma(SCHEDULES[name].sigma(times))
    assert again.dtype == torch.float32
    torch.testing.assert_close(again, times, rtol=4e-6, atol=0)


@every_schedule
@settings(deadline=None)
@given(t=st.floats(0, 1))
def test_variance_is_preserved(name, t):
    schedule = SCHEDULES[name]
    assert schedule.alpha_bar(t) ** 2 + schedule.beta_bar(t) ** 2 == pytest.approx(1, abs=1e-14)


@every_schedule
@pytest.mark.parametrize(
    "method",
    ["alpha_bar", "beta_bar", "drift", "diffusion_squared", "sigma", "log_snr", "t_from_sigma"],
)
def test_methods_keep_type_shape_and_dtype(name, method):
    function = getattr(SCHEDULES[name], method)
    times = torch.linspace(0.05, 0.95, 6).reshape(2, 3)
    single, double = function(times), function(times.double())
    assert (single.shape, single.dtype, single.device) == (times.shape, times.dtype, times.device)
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=1e-6)
    assert type(function(0.25)) is float
    assert function(0.25) == float(function(torch.tensor(0.25, dtype=torch.float64)))


def test_times():
    times = NoiseSchedule.linear().times(4, t_max=0.9, t_min=0.1)
    torch.testing.assert_close(times, torch.tensor([0.9, 0.7, 0.5, 0.3, 0.1], dtype=torch.float64))
    assert NoiseSchedule.cosine().times(1).tolist() == [1, 0]


@every_schedule
@pytest.mark.parametrize("method", ["alpha_bar", "beta_bar", "drift", "sigma", "log_snr"])
@pytest.mark.parametrize(
    ("t", "error"),
    [
        (-1e-9, ValueError),
        (1.1, ValueError),
        (math.nan, ValueError),
        (torch.tensor([0.5, 1.5]), ValueError),
        (torch.tensor([0, 1]), TypeError),
        ("0.5", TypeError),
    ],
)
def test_bad_times_raise(name, method, t, error):
    with pytest.raises(error, match=r"\bt must"):
        getattr(SCHEDULES[name], method)(t)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: NoiseSchedule.linear(-0.1, 1.0), ValueError, "beta_min"),
        (lambda: NoiseSchedule.linear(2.0, 1.0), ValueError, "beta_max"),
        (lambda: NoiseSchedule.linear(0.0, 0.0), ValueError, "beta_max"),
        (lambda: NoiseSchedule.linear(0.0, math.inf), ValueError, "beta_max"),
        (lambda: NoiseSchedule.cosine(-0.1), ValueError, "offset"),
        (lambda: NoiseSchedule.cosine(math.nan), ValueError, "offset"),
        (lambda: NoiseSchedule.linear().t_from_sigma(-1.0), ValueError, "sigma"),
        (lambda: NoiseSchedule.linear().t_from_sigma(1e3), ValueError, "sigma"),
        (lambda: NoiseSchedule.cosine().t_from_sigma(math.nan), ValueError, "sigma"),
        (lambda: NoiseSchedule.cosine().t_from_sigma([1.0]), TypeError, "sigma"),
        (lambda: NoiseSchedule.linear().times(0), ValueError, "n must"),
        (lambda: NoiseSchedule.linear().times(3, 0.2, 0.2), ValueError, "t_min"),
        (lambda: NoiseSchedule.linear().times(3, 1.2), ValueError, "t_max"),
    ],
)
def test_bad_schedule_arguments_raise(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_signal_beyond_the_range_of_its_logarithm():
    steep = NoiseSchedule.linear(0.1, 1e4)
    assert steep.log_snr(1.0) == pytest.approx(-5000.05)
    assert NoiseSchedule.cosine(0.0).beta_bar(1e-200) == pytest.approx(0.5 * math.pi * 1e-200)
    assert NoiseSchedule.linear(0.0, 20.0).beta_bar(1e-200) == pytest.approx(10**0.5 * 1e-200)
    half = torch.linspace(0, 1, 9).half()
    expected = NoiseSchedule.linear().beta_bar(half.double())
    assert torch.allclose(NoiseSchedule.linear().beta_bar(half).double(), expected, rtol=1e-3)
