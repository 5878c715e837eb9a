"""Unit, oracle, property and bad-input tests of diffusion.skip_tuning."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from sklearn.datasets import load_digits
from tensors import seeded, t64

from kexue_lab.diffusion.ddim import sample
from kexue_lab.diffusion.diffusion_ode import denoiser_score, sample_ode
from kexue_lab.diffusion.mixtures import GaussianMixture
from kexue_lab.diffusion.schedules import NoiseSchedule
from kexue_lab.diffusion.skip_tuning import (
    gaussian_gain,
    gaussian_path_variance,
    karras_sigmas,
    linear_unet_slopes,
    sample_edm,
    skip_weights,
)

MIXTURE = GaussianMixture(t64(0.3, 0.7), t64([-1.5], [1.0]), t64(0.09, 0.25))


def denoise(x, sigma):
    return MIXTURE.posterior_mean(x, 1.0, sigma)


# --- weights and grids -------------------------------------------------------------------------


def test_weights_run_from_top_to_bottom():
    assert skip_weights(4, 0.7) == pytest.approx((1.0, 0.9, 0.8, 0.7))
    assert skip_weights(3, 0.5, 0.9) == pytest.approx((0.9, 0.7, 0.5))
    assert skip_weights(2, 1.3) == pytest.approx((1.0, 1.3))
    assert skip_weights(1, 0.6) == (0.6,)


def test_karras_levels():
    grid = karras_sigmas(5)
    assert grid.shape == (6,)
    assert grid[[0, 4, 5]].tolist() == pytest.approx([20, 0.02, 0])
    roots = grid[:5] ** (1 / 7)
    torch.testing.assert_close(roots.diff(), roots.diff().mean().expand(4))
    assert karras_sigmas(1).tolist() == [20, 0]
    peer = pytest.importorskip("diffusers", reason="diffusers is not installed")
    scheduler = peer.EDMEulerScheduler(sigma_min=0.02, sigma_max=20.0)
    scheduler.set_timesteps(5)
    torch.testing.assert_close(scheduler.sigmas, grid.float(), rtol=1e-5, atol=1e-6)


# --- samplers ----------------------------------------------------------------------------------


def test_euler_and_heun_are_those_of_the_ode():
    x = 5 * torch.randn(20, 1, generator=seeded(), dtype=torch.float64)
    sigmas = [5.0, 2.0, 0.7, 0.1]
    for method in ("euler", "heun"):
        expected = sample_ode(denoiser_score(denoise), x, sigmas, method=method)
        torch.testing.assert_close(sample_edm(denoise, x, sigmas, method=method), expected)


def test_ancestral_sampling_is_ddpm():
    schedule = NoiseSchedule.linear()
    times = schedule.times(8, 0.9, 0.1)
    noise = lambda x, t: MIXTURE.noise(x, schedule.alpha_bar(t), schedule.beta_bar(t))  # noqa: E731
    x = torch.randn(20, 1, generator=seeded(), dtype=torch.float64)
    ddpm = sample(noise, schedule, x, times, eta=1.0, generator=seeded(1))
    y = x / schedule.alpha_bar(0.9)
    ours = sample_edm(denoise, y, schedule.sigma(times), method="ancestral", generator=seeded(1))
    torch.testing.assert_close(ours, ddpm / schedule.alpha_bar(0.1))


@pytest.mark.parametrize("method", ["euler", "heun", "ancestral"])
def test_the_step_to_zero_is_the_denoiser(method):
    x = torch.randn(6, 1, generator=seeded(), dtype=torch.float64)
    found = sample_edm(denoise, x, [0.4, 0.0], method=method)
    torch.testing.assert_close(found, denoise(x, 0.4))


def test_a_peer_takes_the_same_euler_steps():
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    scheduler = diffusers.EDMEulerScheduler(
        sigma_min=0.02, sigma_max=20.0, sigma_data=0.6, prediction_type="epsilon"
    )
    scheduler.set_timesteps(8)
    start = 20 * torch.randn(50, 1, generator=seeded())
    single = lambda x, s: denoise(x.double(), float(s)).to(x)  # noqa: E731
    x = start
    for step, sigma in zip(scheduler.timesteps, karras_sigmas(8)[:-1].tolist(), strict=True):
        scale = math.sqrt(sigma**2 + 0.36)
        # Its "model output" F gives D = c_skip x + c_out F with the same coefficients.
        out = (single(x, sigma) - 0.36 / scale**2 * x) * scale / (sigma * 0.6)
        x = scheduler.step(out, step, x).prev_sample
    ours = sample_edm(single, start, karras_sigmas(8))
    torch.testing.assert_close(ours, x, rtol=0, atol=1e-4)


# --- Gaussian data -----------------------------------------------------------------------------

GAINS = {
    (1, 2, 1): 0.918861170,
    (1, 1, 0.5): 0.837722340,
    (1, 0.5, 0): 0.527864045,
    (0.3, 1, 0.6): 0.974107371,
    (2, 5, 3): 0.958351216,
}


@pytest.mark.parametrize("case", GAINS)
def test_gains_by_their_digits_and_by_root_finding(case):
    s, sigma, following = case
    assert gaussian_gain(s**2, sigma, following) == pytest.approx(GAINS[case], abs=1e-9)
    exact = (s**2 + following**2) / (s**2 + sigma**2)

    def excess(c):
        return (1 + c * (following - sigma) * sigma / (s**2 + sigma**2)) ** 2 - exact

    assert gaussian_gain(s**2, sigma, following) == pytest.approx(brentq(excess, 0, 1))


@settings(deadline=None)
@given(variance=st.floats(0.01, 10), sigma=st.floats(0.1, 10), share=st.floats(0, 0.999))
def test_gains_are_between_zero_and_one(variance, sigma, share):
    assert 0 < gaussian_gain(variance, sigma, share * sigma) < 1


def digits_spectrum():
    data = torch.tensor(load_digits().data / 8 - 1)
    values = torch.linalg.eigvalsh(torch.cov(data.T))
    return values.clamp_min(1e-12)


def test_the_variance_of_few_step_samplers_by_its_digits():
    spectrum = digits_spectrum()
    assert spectrum.sum().item() == pytest.approx(18.783558, abs=1e-6)
    euler = {4: 5.96760307, 8: 11.48575775, 16: 14.89064743, 64: 17.70881453}
    heun = {5: 38.73998271, 10: 21.55003787, 20: 19.27148561}
    for method, digits in (("euler", euler), ("heun", heun)):
        for n, total in digits.items():
            found = gaussian_path_variance(spectrum, karras_sigmas(n), method=method).sum()
            assert found.item() == pytest.approx(total, abs=1e-6)


@pytest.mark.parametrize("method", ["euler", "heun"])
def test_the_variance_is_that_of_the_sampler(method):
    variances, sigmas = t64(0.2, 1.0, 4.0), [3.0, 1.0, 0.3, 0.0]
    linear = lambda x, sigma: variances / (variances + sigma**2) * x  # noqa: E731
    units = sample_edm(linear, torch.eye(3).double(), sigmas, method=method, gain=0.9)
    expected = gaussian_path_variance(
        variances, sigmas, method=method, gain=0.9, start=torch.ones(3).double()
    )
    torch.testing.assert_close(units.diagonal().square(), expected)


def test_exact_gains_make_every_step_exact():
    sigmas = karras_sigmas(6).tolist()
    variance = 0.7 + sigmas[0] ** 2
    for sigma, following in pairwise(sigmas):
        gain = gaussian_gain(0.7, sigma, following)
        variance = gaussian_path_variance(
            t64(0.7), [sigma, following], gain=gain, start=t64(variance)
        ).item()
    assert variance == pytest.approx(0.7, rel=1e-10)


# --- a linear U-Net ----------------------------------------------------------------------------

BANDS = (6, 4, 2)
SPREAD = t64(3.0, 1.5, 0.8, 0.5, 0.2, 0.1)


@pytest.mark.parametrize("target", ["noise", "datum", "velocity"])
@pytest.mark.parametrize("sigma", [0.3, 1.0, 4.0])
def test_slopes_of_a_linear_unet_by_least_squares(target, sigma):
    """The same from the covariances: minimise over both skips' numbers and the bottleneck's."""
    root = math.sqrt(1 + sigma**2)
    noise, datum = torch.full_like(SPREAD, sigma), SPREAD
    goals = {"noise": noise, "datum": datum, "velocity": (noise - sigma * datum) / root}
    columns = [torch.arange(6) < k for k in BANDS[:-1]] + [torch.arange(6) == j for j in range(2)]
    design = torch.stack(columns, 1).double()
    # The loss is the sum over axes of Var(y_j) (coefficient_j − cov_j/var_j)², plus a constant.
    variance = SPREAD + sigma**2
    by = variance.sqrt()[:, None]
    numbers = torch.linalg.lstsq(by * design, by * (goals[target] / variance)[:, None]).solution
    for weights in ((1.0, 1.0), (0.7, 1.0), (1.0, 0.4), (1.3, 0.8)):
        factors = t64(*weights, 1.0, 1.0)[:, None]
        guess = (design @ (factors * numbers))[:, 0]
        expected = {
            "noise": guess,
            "datum": (1 - guess) / sigma,
            "velocity": guess / root + sigma / root**2,
        }
        ours = linear_unet_slopes(SPREAD, sigma, weights, BANDS, target=target)
        torch.testing.assert_close(ours, expected[target])


@given(
    low=st.floats(0.1, 0.99),
    sigma=st.floats(0.05, 20),
    target=st.sampled_from(["noise", "datum", "velocity"]),
)
def test_a_lower_inner_skip_always_enlarges_the_noise(low, sigma, target):
    plain = linear_unet_slopes(SPREAD, sigma, (1.0, 1.0), BANDS, target=target)
    inner = linear_unet_slopes(SPREAD, sigma, (1.0, low), BANDS, target=target)
    assert (inner[:4] > plain[:4]).all()
    assert torch.equal(inner[4:], plain[4:])
    outer = linear_unet_slopes(SPREAD, sigma, (low, 1.0), BANDS, target=target) - plain
    assert ((outer > 0) == (target == "datum")).all()


def test_without_bands_the_slopes_are_exact_and_the_dtype_stays():
    slopes = linear_unet_slopes(t64(0.5), 2.0, [1.0], [1, 0])
    assert slopes.item() == pytest.approx(2 / 4.5)
    assert linear_unet_slopes(SPREAD.float(), 1.0, [0.9], [6, 2]).dtype == torch.float32


# --- bad input ---------------------------------------------------------------------------------

X = torch.zeros(2, 1, 8, 8)
SIGMA = torch.ones(2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: skip_weights(0, 1.0), ValueError, "n_skips must be at least 1, got 0"),
        (lambda: skip_weights(2.0, 1.0), TypeError, "n_skips must be an integer"),
        (lambda: skip_weights(2, math.nan), ValueError, "rho_bottom must be finite"),
        (lambda: karras_sigmas(0), ValueError, "n must be at least 1"),
        (lambda: karras_sigmas(3, 2.0, 1.0), ValueError, "sigma_min must be below sigma_max"),
        (lambda: sample_edm(denoise, X, [1.0]), ValueError, "sigmas must be at least two"),
        (lambda: sample_edm(denoise, X, [0.5, 1.0]), ValueError, "sigmas must be .*decreasing"),
        (lambda: sample_edm(denoise, X, [1, 0.5], method="dpm"), ValueError, "method must be"),
        (lambda: sample_edm(denoise, X, [1, 0.5], gain=0), ValueError, "gain must be positive"),
        (lambda: sample_edm(denoise, [1.0], [1, 0.5]), TypeError, "x must be a floating-point"),
        (lambda: gaussian_gain(1, 1, 1), ValueError, "sigma_next must be below sigma = 1, got 1"),
        (lambda: gaussian_gain(0, 1, 0.5), ValueError, "variance must be positive"),
        (lambda: gaussian_gain(1, 1, -0.5), ValueError, "sigma_next must be non-negative"),
        (lambda: linear(variances=t64(0.0)), ValueError, "variances must be .* positive"),
        (lambda: linear(variances=[1.0]), TypeError, "variances must be a floating-point"),
        (lambda: linear(sigma=0.0), ValueError, "sigma must be positive"),
        (lambda: linear(weights=[math.inf]), ValueError, "weights must be finite"),
        (lambda: linear(weights=[]), ValueError, "at least one"),
        (lambda: linear(passed=[1, 0]), ValueError, "falling from 2 to at least 0"),
        (lambda: linear(passed=[2, 2]), ValueError, "passed must be 2 numbers"),
        (lambda: linear(target="score"), ValueError, "target must be one of"),
        (lambda: path(variances=t64(-1.0)), ValueError, r"variances must be \(d,\) and positive"),
        (lambda: path(variances=[1.0]), TypeError, "variances must be a floating-point"),
        (lambda: path(sigmas=[0.1, 0.2]), ValueError, "sigmas must be"),
        (lambda: path(method="ancestral"), ValueError, "method must be"),
        (lambda: path(gain=-1), ValueError, "gain must be positive"),
        (lambda: path(start=t64(1.0, 2.0)), ValueError, r"start must have shape \(1,\)"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def path(**changes):
    arguments = {"variances": t64(1.0), "sigmas": [1.0, 0.5]} | changes
    return gaussian_path_variance(**arguments)


def linear(**changes):
    arguments = {"variances": t64(2.0, 1.0), "sigma": 1.0, "weights": [0.5], "passed": [2, 1]}
    return linear_unet_slopes(**(arguments | changes))
