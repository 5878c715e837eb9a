"""Unit, oracle, property and bad-input tests of diffusion.diffusion_ode."""

import math

import pytest
import sympy as sp
import torch
from exact import MIXTURE
from scipy.integrate import solve_ivp
from tensors import seeded, t64

from kexue_lab.diffusion.ddim import sample
from kexue_lab.diffusion.diffusion_ode import (
    conditional_score_loss,
    conditional_velocity,
    continuity_residual,
    denoiser_score,
    flow_matching_loss,
    flow_velocity,
    sample_ode,
    sigma_grid,
)
from kexue_lab.diffusion.mixtures import GaussianMixture
from kexue_lab.diffusion.probability_flow import family_drift
from kexue_lab.diffusion.schedules import NoiseSchedule, marginal_score


def score(x, sigma):
    return MIXTURE.score(x, 1.0, sigma)


def velocity(x, x0, t):
    return conditional_velocity(x, x0, t, COSINE)


COSINE = NoiseSchedule.cosine()


# --- the continuity equation ------------------------------------------------------

X, Y, T = sp.symbols("x y t", positive=True)


def test_a_spreading_gaussian_obeys_the_continuity_equation():
    p = sp.exp(-(X**2) / (2 * (1 + T))) / sp.sqrt(1 + T)
    assert sp.simplify(continuity_residual(p, [X / (2 * (1 + T))], [X], T)) == 0
    assert sp.simplify(continuity_residual(p, [X / (1 + T)], [X], T)) != 0


def test_the_residual_of_generic_functions():
    p, f, g = (sp.Function(n)(X, Y, T) for n in "pfg")
    expected = p.diff(T) + (f * p).diff(X) + (g * p).diff(Y)
    assert sp.expand(continuity_residual(p, [f, g], [X, Y], T) - expected) == 0


# --- the velocity ------------------------------------------------------------------------------

SCHEDULES = pytest.mark.parametrize("schedule", [COSINE, NoiseSchedule.linear()])


@SCHEDULES
def test_one_datum_moves_as_its_difference_quotient(schedule):
    x0, eps = t64([-1.0, 0.5]), t64([0.3, 2.0])
    place = lambda t: schedule.alpha_bar(t) * x0 + schedule.beta_bar(t) * eps  # noqa: E731
    found = conditional_velocity(place(0.4), x0, 0.4, schedule)
    torch.testing.assert_close(found, (place(0.4 + 1e-5) - place(0.4 - 1e-5)) / 2e-5)


@SCHEDULES
def test_the_mean_over_the_data_is_the_flow(schedule):
    data, weights = t64([-1.0], [0.2], [1.5]), t64(0.2, 0.5, 0.3)
    cloud = GaussianMixture(weights, data, 0 * weights)
    noise = lambda x, t: cloud.noise(x, schedule.alpha_bar(t), schedule.beta_bar(t))  # noqa: E731
    x, t = torch.linspace(-2, 2, 7, dtype=torch.float64)[:, None], 0.3
    ab, bb = schedule.alpha_bar(t), schedule.beta_bar(t)
    likely = weights * (-((x - ab * data.T) ** 2) / (2 * bb**2)).exp()
    each = torch.cat([conditional_velocity(x, d.expand_as(x), t, schedule) for d in data], 1)
    mean = (likely * each).sum(1, keepdim=True) / likely.sum(1, keepdim=True)
    torch.testing.assert_close(flow_velocity(noise, schedule)(x, t), mean)


@SCHEDULES
def test_it_is_the_probability_flow(schedule):
    x = t64([-1.0], [0.2], [1.5])
    noise = lambda x, t: MIXTURE.noise(x, schedule.alpha_bar(t), schedule.beta_bar(t))  # noqa: E731
    expected = family_drift(x, 0.6, marginal_score(MIXTURE, schedule), schedule)
    torch.testing.assert_close(flow_velocity(noise, schedule)(x, 0.6), expected)


def test_a_perfect_velocity_leaves_the_floor():
    # For N(0, 1) the noise has the variance ᾱ² given x, and the velocity (ᾱσ')²ᾱ² = (f/β̄)²ᾱ².
    t, g = 0.4, seeded(3)
    ab, bb, f = (rate(t) for rate in (COSINE.alpha_bar, COSINE.beta_bar, COSINE.drift))
    best = flow_velocity(lambda x, t: COSINE.beta_bar(t) * x, COSINE)
    losses = torch.stack(
        [
            flow_matching_loss(
                best,
                torch.randn(5000, 2, generator=g, dtype=torch.float64),
                t,
                COSINE,
                generator=g,
            )
            for _ in range(30)
        ]
    )
    assert abs(losses.mean() - 2 * (f * ab / bb) ** 2) < 5 * losses.std() / math.sqrt(30)


# --- grids -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rho", "log", "linear", "angle"])
def test_grids_fall_from_end_to_end(kind):
    grid = sigma_grid(7, 0.01, 50.0, kind, scale=0.5)
    assert grid.dtype == torch.float64
    assert grid.shape == (8,)
    assert grid[0] == 50
    assert grid[-1] == 0.01
    assert (grid.diff() < 0).all()
    scale = {"rho": grid ** (1 / 7), "log": grid.log(), "linear": grid, "angle": (2 * grid).atan()}[
        kind
    ]
    torch.testing.assert_close(scale.diff(), scale.diff().mean().expand(7))


def test_a_grid_may_end_at_zero():
    assert sigma_grid(3, 0.0, 1.0, rho=3).tolist() == pytest.approx([1, 8 / 27, 1 / 27, 0])


def test_even_times_of_the_cosine_are_even_angles():
    schedule = NoiseSchedule.cosine(0)
    grid = sigma_grid(6, 0.0, schedule.sigma(0.9), "angle")
    torch.testing.assert_close(schedule.t_from_sigma(grid), schedule.times(6, 0.9))


# --- the ODE -----------------------------------------------------------------------------------


def test_a_stiff_solver_goes_the_same_way():
    x = t64([0.3])
    end = sample_ode(score, x, sigma_grid(200, 0.0, 1.0, "linear").flip(0), method="rk4")
    assert end.item() == pytest.approx(-0.255458175, abs=1e-7)
    other = solve_ivp(
        lambda s, y: -s * score(torch.as_tensor(y)[None], float(s))[0].numpy(),
        (0, 1),
        [0.3],
        "DOP853",
        rtol=1e-11,
        atol=1e-12,
    )
    assert end.item() == pytest.approx(other.y[0, -1], abs=1e-7)


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("heun", 2), ("rk4", 4)])
def test_orders(method, order):
    x = t64([-8.0], [1.0], [6.0])
    exact = sample_ode(score, x, sigma_grid(640, 0.05, 8.0), method="rk4")
    errors = [
        (sample_ode(score, x, sigma_grid(n, 0.05, 8.0), method=method) - exact).abs().max()
        for n in (80, 160)
    ]
    assert order - 0.35 < math.log2(errors[0] / errors[1]) < order + 0.6


def test_euler_is_ddim():
    schedule = NoiseSchedule.linear()
    times = schedule.times(12, 0.9, 0.1)
    noise = lambda x, t: MIXTURE.noise(x, schedule.alpha_bar(t), schedule.beta_bar(t))  # noqa: E731
    y = t64([-1.0], [0.4], [2.0])
    ddim = sample(noise, schedule, y, times) / schedule.alpha_bar(0.1)
    ours = sample_ode(score, y / schedule.alpha_bar(0.9), schedule.sigma(times))
    torch.testing.assert_close(ours, ddim)


def test_gauges_keep_the_covariance_and_change_the_paths():
    def stretched(x, sigma):
        return -x / (t64(1.0, 0.25) + sigma**2)

    x, grid = t64([1.0, 0.5]), torch.linspace(0, 2, 401, dtype=torch.float64)
    turn = t64([0.0, -1.0], [1.0, 0.0])
    identity = torch.eye(2).double()
    for k, end in ((0, (2.23606798, 2.06155281)), (1, (-0.83493677, 2.81201858))):
        found = sample_ode(stretched, x, grid, matrix=identity + k * turn, method="rk4")
        assert found[0].tolist() == pytest.approx(end, abs=1e-7)
    units = sample_ode(stretched, identity, grid, matrix=identity + turn, method="rk4").T
    torch.testing.assert_close(units @ t64([1.0, 0], [0, 0.25]) @ units.T, t64([5.0, 0], [0, 4.25]))


def test_a_denoiser_gives_the_score():
    x = t64([-1.0], [0.5])
    denoiser = lambda x, sigma: MIXTURE.posterior_mean(x, 1.0, sigma)  # noqa: E731
    torch.testing.assert_close(denoiser_score(denoiser)(x, 0.7), score(x, 0.7))


def test_denoising_ends_at_the_posterior_mean():
    x = t64([-1.0], [0.5])
    path = sample_ode(score, x, [2.0, 0.5], denoise=True, return_path=True)
    assert path.shape == (3, 2, 1)
    assert torch.equal(path[0], x)
    torch.testing.assert_close(path[2], MIXTURE.posterior_mean(path[1], 1.0, 0.5))
    assert torch.equal(sample_ode(score, x, [2.0, 0.5], denoise=True), path[-1])


# --- the loss ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("sigma", "floor"), [(0.5, 2.376322144), (1.0, 0.525266840)])
def test_a_perfect_score_leaves_the_floor(sigma, floor):
    g = seeded(4)
    losses = torch.stack(
        [
            conditional_score_loss(score, MIXTURE.sample(5000, g), sigma, generator=g)
            for _ in range(40)
        ]
    )
    assert abs(losses.mean() - floor) < 5 * losses.std() / math.sqrt(40)


def test_the_weight_is_sigma_squared():
    x0 = MIXTURE.sample(10, seeded())
    plain = conditional_score_loss(score, x0, 0.5, generator=seeded(1))
    weighted = conditional_score_loss(score, x0, 0.5, weighting="sigma2", generator=seeded(1))
    assert weighted.item() == pytest.approx(plain.item() / 4)


# --- bad input ---------------------------------------------------------------------------------

P = torch.zeros(2, 1)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: continuity_residual(X, [X, X], [X], T), ValueError, "f must have 1 components"),
        (lambda: sigma_grid(0, 0.1, 1), ValueError, "n must be at least 1"),
        (lambda: sigma_grid(2.0, 0.1, 1), TypeError, "n must be an integer"),
        (lambda: sigma_grid(2, 1, 1), ValueError, "sigma_min must be below sigma_max = 1, got 1"),
        (lambda: sigma_grid(2, -1, 1), ValueError, "sigma_min must be non-negative"),
        (lambda: sigma_grid(2, 0.0, 1, "log"), ValueError, "sigma_min must be positive"),
        (lambda: sigma_grid(2, 0.1, 1, "cosine"), ValueError, "kind must be one of .*'cosine'"),
        (lambda: sigma_grid(2, 0.1, 1, rho=0), ValueError, "rho must be positive"),
        (lambda: ode(x=[[1.0]]), TypeError, "x must be a floating-point tensor, got list"),
        (lambda: ode(x=torch.zeros(2)), ValueError, r"x must have shape \(B, d\), got \(2,\)"),
        (lambda: ode(sigmas=[1.0]), ValueError, "sigmas must be .* strictly increasing or decr"),
        (lambda: ode(sigmas=[1.0, 1.0]), ValueError, "sigmas must be"),
        (lambda: ode(sigmas=[1.0, 0.5, 0.7]), ValueError, "sigmas must be"),
        (lambda: ode(sigmas=[1.0, -0.5]), ValueError, "sigmas must be"),
        (lambda: ode(matrix=torch.eye(2)), ValueError, r"matrix must have shape \(1, 1\)"),
        (lambda: ode(matrix=torch.eye(1).double()), TypeError, "share one dtype"),
        (lambda: ode(method="rk5"), ValueError, "method must be one of .*got 'rk5'"),
        (lambda: ode(score=lambda x, s: x[:1]), ValueError, r"score must return shape \(2, 1\)"),
        (lambda: velocity(P, P[:1], 0.5), ValueError, r"x0 must have the shape of x, \(2, 1\)"),
        (lambda: velocity(P, P.double(), 0.5), TypeError, "share one dtype"),
        (lambda: velocity(P, P, 0.0), ValueError, "t must be a time with .* > 0, got 0.0"),
        (lambda: velocity(P, P, 1.0), ValueError, "t must be a time with"),
        (lambda: flow_velocity(lambda x, t: x, COSINE)(P, 1.0), ValueError, "t must be a time"),
        (lambda: flow_matching_loss(lambda x, t: x, P[0], 0.5, COSINE), ValueError, "x0 must have"),
        (lambda: flow_matching_loss(lambda x, t: x, P, 0.0, COSINE), ValueError, "t must be"),
        (lambda: sigma_grid(2, 0.1, 1, "angle", scale=0), ValueError, "scale must be positive"),
        (lambda: conditional_score_loss(score, P[0], 1.0), ValueError, "x0 must have shape"),
        (lambda: conditional_score_loss(score, P, 0.0), ValueError, "sigma must be positive"),
        (
            lambda: conditional_score_loss(score, P, 1.0, weighting="snr"),
            ValueError,
            "weighting must be",
        ),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def ode(**changes):
    arguments = {"score": lambda x, s: -x, "x": P, "sigmas": [1.0, 0.5]}
    arguments |= changes
    return sample_ode(
        arguments.pop("score"), arguments.pop("x"), arguments.pop("sigmas"), **arguments
    )


@pytest.mark.parametrize("method", ["euler", "heun", "rk4"])
def test_the_last_step_to_zero_noise(method):
    centre = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    score = denoiser_score(lambda x, sigma: centre.expand_as(x))
    x = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 80
    end = sample_ode(score, x, sigma_grid(5, 0.0, 80.0), method=method)
    assert torch.allclose(end, centre.expand_as(x), atol=1e-10)
    denoised = sample_ode(score, x, sigma_grid(5, 0.0, 80.0), method=method, denoise=True)
    assert torch.equal(denoised, end)


def test_a_path_cannot_start_where_there_is_no_score():
    score = denoiser_score(lambda x, sigma: torch.zeros_like(x))
    with pytest.raises(ValueError, match="sigmas must not start at 0"):
        sample_ode(score, torch.ones(2, 1), [0.0, 1.0])


def test_half_precision_would_lose_the_steps():
    with pytest.raises(TypeError, match="x must be float32 or float64"):
        sample_ode(lambda x, s: x, torch.ones(2, 1).half(), [1.0, 0.5])


@pytest.mark.parametrize("rho", [1e-300, 1e-4, 1e4, 1e300])
def test_exponents_that_round_all_levels_to_one_are_refused(rho):
    with pytest.raises(ValueError, match="rho must lie in"):
        sigma_grid(5, 0.1, 80.0, rho=rho)
