"""Unit, oracle, property and bad-input tests of diffusion.ddim."""

import copy
import math
from itertools import pairwise

import nbformat
import numpy as np
import pytest
import torch
from exact import COSINE, MIXTURE, exact_noise
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import fsolve
from sklearn.linear_model import LogisticRegression
from tensors import seeded, t64

from kexue_lab.course.places import notebook_path
from kexue_lab.data import digits
from kexue_lab.diffusion.ddim import (
    ddim_step,
    ddpm_sigma,
    gaussian_sample_variance,
    noise_interpolation,
    posterior_coefficients,
    sample,
)
from kexue_lab.diffusion.mixtures import GaussianMixture
from kexue_lab.diffusion.networks import (
    digit_network,
    noise_model,
    train_digit_network,
    velocity_batch,
)
from kexue_lab.diffusion.probability_flow import quantile_map, sample_family
from kexue_lab.diffusion.schedules import NoiseSchedule, marginal_score
from kexue_lab.exercises import exercise
from kexue_lab.training import fit

LINEAR = NoiseSchedule.linear()


def levels(t, u, schedule=COSINE):
    return schedule.alpha_bar(t), schedule.beta_bar(t), schedule.alpha_bar(u), schedule.beta_bar(u)


# --- the coefficients --------------------------------------------------------------------------

DIGITS = {
    0.0: (0.0, 0.831253876, 0.221231742),
    0.5: (0.201939942, 0.780655830, 0.257009963),
    1.0: (0.403879884, 0.603941292, 0.381966011),
}


@pytest.mark.parametrize("eta", DIGITS)
def test_coefficients_by_their_digits(eta):
    sigma = ddpm_sigma(*levels(0.5, 0.4), eta)
    found = (sigma, *posterior_coefficients(*levels(0.5, 0.4), sigma))
    assert found == pytest.approx(DIGITS[eta], abs=1e-9)


@settings(deadline=None)
@given(
    ab_t=st.floats(0, 2),
    bb_t=st.floats(0.05, 2),
    ab_u=st.floats(0, 2),
    bb_u=st.floats(0, 2),
    share=st.floats(0, 1),
)
def test_the_marginal_is_kept(ab_t, bb_t, ab_u, bb_u, share):
    kappa, lam = posterior_coefficients(ab_t, bb_t, ab_u, bb_u, share * bb_u)
    assert kappa * ab_t + lam == pytest.approx(ab_u, abs=1e-12)
    assert math.hypot(kappa * bb_t, share * bb_u) == pytest.approx(bb_u, abs=1e-12)


def test_an_equation_solver_finds_the_same():
    ab_t, bb_t, ab_u, bb_u = levels(0.7, 0.2, LINEAR)
    sigma = 0.6 * bb_u
    solution = fsolve(
        lambda v: [v[0] * ab_t + v[1] - ab_u, v[0] ** 2 * bb_t**2 + sigma**2 - bb_u**2], [0.5, 0.5]
    )
    assert posterior_coefficients(ab_t, bb_t, ab_u, bb_u, sigma) == pytest.approx(tuple(solution))


def test_eta_one_is_the_posterior_of_the_markov_chain():
    ab_t, bb_t, ab_u, bb_u = levels(0.6, 0.5, LINEAR)
    alpha = ab_t / ab_u
    variance = 1 / (alpha**2 / (1 - alpha**2) + 1 / bb_u**2)
    sigma = ddpm_sigma(ab_t, bb_t, ab_u, bb_u)
    assert sigma**2 == pytest.approx(variance)
    kappa, lam = posterior_coefficients(ab_t, bb_t, ab_u, bb_u, sigma)
    assert kappa == pytest.approx(variance * alpha / (1 - alpha**2))
    assert lam == pytest.approx(variance * ab_u / bb_u**2)


def test_the_other_root_keeps_the_marginal_too():
    ab_t, bb_t, ab_u, bb_u = levels(0.7, 0.2, LINEAR)
    kappa, lam = exercise("diffusion/ddim", 1).solution(ab_t, bb_t, ab_u, bb_u, 0.1)
    assert kappa < 0
    assert kappa * ab_t + lam == pytest.approx(ab_u)
    assert math.hypot(kappa * bb_t, 0.1) == pytest.approx(bb_u)


def test_eta_one_is_the_posterior_where_the_variance_is_not_preserved():
    # Noise is only added, ᾱ = 1: x_t = x_u + noise of variance 3. Bayes: 1/(1/1 + 1/3).
    assert ddpm_sigma(1.0, 2.0, 1.0, 1.0) ** 2 == pytest.approx(3 / 4)
    ab_t, bb_t, ab_u, bb_u = 0.5, 1.7, 0.9, 0.8
    alpha = ab_t / ab_u
    step = bb_t**2 - alpha**2 * bb_u**2
    assert ddpm_sigma(ab_t, bb_t, ab_u, bb_u) ** 2 == pytest.approx(
        1 / (alpha**2 / step + 1 / bb_u**2)
    )


@settings(deadline=None)
@given(t=st.floats(1e-12, 1), gap=st.floats(0, 1), schedule=st.sampled_from([COSINE, LINEAR]))
def test_sigma_is_what_is_left_at_most(t, gap, schedule):
    u = t * (1 - gap)
    at_u, left = schedule.alpha_bar(u), schedule.beta_bar(u)
    if at_u > 0:
        sigma = ddpm_sigma(schedule.alpha_bar(t), schedule.beta_bar(t), at_u, left)
        assert 0 <= sigma <= left
        posterior_coefficients(
            schedule.alpha_bar(t), schedule.beta_bar(t), at_u, left, sigma
        )  # does not raise


@pytest.mark.parametrize(
    ("variances", "impossible"),
    [
        (0.02 * np.arange(1, 1001) / 1000, [1, 2, 3]),
        (np.linspace(1e-4, 0.02, 1000), [1, 2]),
    ],
)
def test_the_noise_of_the_chain_is_too_much_at_its_first_steps(variances, impossible):
    left = 1 - np.cumprod(np.append(1.0, 1 - variances))[:-1]
    assert (np.flatnonzero(variances > left) + 1).tolist() == impossible


def test_the_posterior_mean_with_the_noise_of_the_chain_is_too_wide():
    ab_t, bb_t, ab_u, bb_u = levels(0.5, 0.4)
    kappa, _ = posterior_coefficients(ab_t, bb_t, ab_u, bb_u, ddpm_sigma(ab_t, bb_t, ab_u, bb_u))
    step = 1 - (ab_t / ab_u) ** 2
    excess = kappa**2 * bb_t**2 + step - bb_u**2
    assert excess == pytest.approx(step * (1 - (bb_u / bb_t) ** 2))
    assert excess > 0


def test_ddpm_adds_up_the_noises_of_its_steps():
    variances = np.linspace(1e-4, 0.02, 1000)
    alpha_bars = np.cumprod(np.append(1.0, np.sqrt(1 - variances)))
    later = (alpha_bars[-1] / alpha_bars[1:]) ** 2
    assert (variances * later).sum() == pytest.approx(1 - alpha_bars[-1] ** 2)
    # A popular chain ends where exp(-5t²) does.
    assert 0.5 * np.log1p(-0.02 * np.arange(1, 1001) / 1000).sum() == pytest.approx(-5.038721)


@pytest.mark.parametrize("schedule", [COSINE, LINEAR])
def test_noise_and_drift_of_short_steps_are_those_of_the_sde(schedule):
    t, h = 0.6, 1e-6
    ab_t, bb_t, ab_u, bb_u = levels(t, t - h, schedule)
    g2 = schedule.diffusion_squared(t)
    assert (1 - (ab_t / ab_u) ** 2) / h == pytest.approx(g2, rel=1e-4)
    for eta in (0.0, 0.5, 1.0):
        sigma = ddpm_sigma(ab_t, bb_t, ab_u, bb_u, eta)
        assert sigma**2 / h == pytest.approx(eta**2 * g2, rel=1e-4, abs=1e-12)
        mean = 0.7 * ab_u / ab_t + (math.sqrt(bb_u**2 - sigma**2) - ab_u / ab_t * bb_t) * 1.3
        velocity = schedule.drift(t) * 0.7 + (1 + eta**2) / 2 * g2 * 1.3 / bb_t
        assert (0.7 - mean) / h == pytest.approx(velocity, rel=1e-4)


# --- one step and many -------------------------------------------------------------------------


def test_a_step_has_the_mean_and_variance_of_the_kernel():
    x0, g = t64(0.7), seeded(1)
    noise = torch.randn(200_000, 1, generator=g, dtype=torch.float64)
    ab_t, bb_t, ab_u, bb_u = levels(0.5, 0.4)
    x_t = ab_t * x0 + bb_t * noise
    for eta in (0.0, 0.5, 1.0):
        # With the true noise the step is the kernel given x_0: x_u has the marginal at u.
        x_u = ddim_step(x_t, noise, 0.5, 0.4, COSINE, eta=eta, generator=g)
        assert abs(x_u.mean() - ab_u * x0) < 5 * bb_u / math.sqrt(200_000)
        assert abs(x_u.var() / bb_u**2 - 1) < 5 * math.sqrt(2 / 200_000)


def test_a_step_in_terms_of_the_coefficients():
    x, eps = torch.randn(2, 5, 3, 2, generator=seeded(), dtype=torch.float64)
    ab_t, bb_t, ab_u, bb_u = levels(0.8, 0.3, LINEAR)
    sigma = ddpm_sigma(ab_t, bb_t, ab_u, bb_u, 0.7)
    kappa, lam = posterior_coefficients(ab_t, bb_t, ab_u, bb_u, sigma)
    noise = torch.randn(5, 3, 2, generator=seeded(4), dtype=torch.float64)
    expected = kappa * x + lam * (x - bb_t * eps) / ab_t + sigma * noise
    found = ddim_step(x, eps, 0.8, 0.3, LINEAR, eta=0.7, generator=seeded(4))
    torch.testing.assert_close(found, expected)


def test_a_step_in_the_letters_of_ddpm():
    x, eps = torch.randn(2, 5, 2, generator=seeded(), dtype=torch.float64)
    ab_t, bb_t, ab_u, bb_u = levels(0.8, 0.3, LINEAR)
    alpha = ab_t / ab_u
    expected = (x - (bb_t - alpha * bb_u) * eps) / alpha
    torch.testing.assert_close(ddim_step(x, eps, 0.8, 0.3, LINEAR), expected)


def test_neighbouring_times_near_pure_noise():
    x = torch.randn(5, 1, generator=seeded(), dtype=torch.float64)
    for t in (1 - 1e-9, 1 - 1e-12):
        assert ddim_step(x, x, t, 0.5, COSINE, eta=1.0, generator=seeded()).isfinite().all()


def test_the_last_step_draws_no_noise():
    x, eps = torch.randn(2, 4, 1, generator=seeded())
    last = ddim_step(x, eps, 0.2, 0.0, LINEAR, eta=1.0)
    torch.testing.assert_close(last, ddim_step(x, eps, 0.2, 0.0, LINEAR, eta=0.0))
    assert last.dtype == torch.float32


def test_ddim_is_of_first_order_against_the_quantile_map():
    x = t64([-1.0], [0.3], [1.2])
    exact = quantile_map(x, MIXTURE, COSINE, 0.98, 0.0)
    digits = t64([-1.482885936], [0.936957665], [1.483728041])
    torch.testing.assert_close(exact, digits, rtol=0, atol=1e-8)
    expected = {10: 9.89e-2, 20: 5.11e-2, 40: 2.60e-2, 80: 1.31e-2, 320: 3.30e-3}
    for n, error in expected.items():
        found = sample(exact_noise(MIXTURE, COSINE), COSINE, x, COSINE.times(n, 0.98))
        assert (found - exact).abs().max().item() == pytest.approx(error, rel=5e-3)


def test_heun_is_of_second_order():
    x = t64([-1.0], [0.3], [1.2])
    exact = quantile_map(x, MIXTURE, COSINE, 0.98, 0.0)
    heun = exercise("diffusion/ddim", 5).solution
    errors = [
        (heun(x, exact_noise(MIXTURE, COSINE), COSINE.times(n, 0.98).tolist()) - exact).abs().max()
        for n in (20, 40, 80, 160)
    ]
    order = np.log2(np.divide(errors[:-1], errors[1:]))
    assert (order > 1.9).all()
    assert (order < 2.3).all()


def test_encoding_and_decoding_meet():
    x = t64([-1.483], [0.937], [1.484])
    errors = {}
    for n in (10, 50, 200):
        times = COSINE.times(n, 0.98)
        # Backwards in time the deterministic step is the same formula with t and u exchanged.
        z, noise = x, exact_noise(MIXTURE, COSINE)
        for u, t in pairwise(times.flip(0).tolist()):
            eps = noise(z, u)
            z = (
                COSINE.alpha_bar(t) * (z - COSINE.beta_bar(u) * eps) / COSINE.alpha_bar(u)
                + COSINE.beta_bar(t) * eps
            )
        errors[n] = (sample(noise, COSINE, z, times) - x).abs().max().item()
    assert errors[10] < 0.2
    assert 3.5 < errors[50] / errors[200] < 4.5  # first order


def test_many_steps_with_noise_give_the_data():
    g = seeded(2)
    x = torch.randn(20_000, 1, generator=g, dtype=torch.float64)
    found = sample(exact_noise(MIXTURE, LINEAR), LINEAR, x, LINEAR.times(300), eta=1.0, generator=g)
    grid = torch.linspace(-3, 3, 25, dtype=torch.float64)[:, None]
    empirical = (found[:, 0] <= grid).double().mean(-1)
    assert (empirical - MIXTURE.cdf(grid)).abs().max() < 0.02


def test_small_steps_follow_the_probability_flow():
    x = t64([-1.0], [0.3], [1.2])
    times = LINEAR.times(1000, 1.0, 0.01)
    flow = sample_family(marginal_score(MIXTURE, LINEAR), LINEAR, x, times)
    ddim = sample(exact_noise(MIXTURE, LINEAR), LINEAR, x, times)
    torch.testing.assert_close(ddim, flow, rtol=0, atol=5e-3)


def test_the_path_begins_and_ends_where_it_should():
    x = torch.randn(3, 2, 2, generator=seeded())
    path = sample(lambda x, t: 0.1 * x, LINEAR, x, [0.9, 0.4, 0.0], return_path=True)
    assert path.shape == (3, 3, 2, 2)
    assert torch.equal(path[0], x)
    assert torch.equal(path[-1], sample(lambda x, t: 0.1 * x, LINEAR, x, [0.9, 0.4, 0.0]))


# --- the variance of few-step samplers ---------------------------------------------------------


@pytest.mark.parametrize(
    ("s", "n", "values"),
    [
        (1.0, 5, (0.60542905, 0.59190157, 0.49949184)),
        (1.0, 10, (0.78054607, 0.76472335, 0.67912075)),
        (1.0, 50, (0.95184208, 0.94488171, 0.91385918)),
        (0.5, 10, (0.18321554, 0.17733976, 0.15103785)),
    ],
)
def test_variances_by_their_digits(s, n, values):
    found = [gaussian_sample_variance(s, COSINE, COSINE.times(n), eta) for eta in (0, 0.5, 1)]
    assert found == pytest.approx(values, abs=1e-8)


@settings(deadline=None, max_examples=30)
@given(n=st.integers(1, 60))
def test_without_noise_the_variance_is_a_power_of_a_cosine(n):
    exact = math.cos(math.pi / (2 * n)) ** (2 * n)
    assert gaussian_sample_variance(1.0, COSINE, COSINE.times(n)) == pytest.approx(exact, abs=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_many_steps_lose_in_proportion_to_one_over_their_number(eta):
    tail, _ = quad(lambda v: math.cos(v) ** (2 * eta**2), 0, math.pi / 2)
    rate = math.pi / 2 * (1 + eta**2) ** 2 * tail
    lost = 1 - gaussian_sample_variance(1.0, COSINE, COSINE.times(4000), eta)
    assert 4000 * lost == pytest.approx(rate, rel=5e-3)


@pytest.mark.parametrize("n", [5, 10])
def test_for_wide_data_fresh_noise_keeps_more(n):
    kept = [gaussian_sample_variance(5.0, COSINE, COSINE.times(n), eta) for eta in (0.0, 1.0)]
    assert 1.02 < kept[1] / kept[0] < 1.12


def test_the_best_middle_of_two_steps():
    s = 0.3
    angles = np.arctan(s * np.geomspace(0.2, 5, 201)) * 2 / math.pi  # β̄/ᾱ around s
    left = [gaussian_sample_variance(s, COSINE, [1.0, float(t), 0.0]) for t in angles]
    assert np.argmax(left) == 100
    assert left[100] == pytest.approx(s**2 / 4)


def test_the_sampler_has_this_variance():
    data = GaussianMixture(t64(1.0), t64([0.0]), t64(0.25))
    g, times = seeded(7), COSINE.times(10, 0.999)
    x = torch.randn(200_000, 1, generator=g, dtype=torch.float64)
    for eta in (0.0, 0.5, 1.0):
        found = sample(exact_noise(data, COSINE), COSINE, x, times, eta=eta, generator=g).var()
        exact = gaussian_sample_variance(0.5, COSINE, times, eta)
        assert abs(found / exact - 1) < 5 * math.sqrt(2 / 200_000)


def test_the_variance_lost_is_what_replacing_the_data_by_its_mean_forgot():
    for eta, (t, u) in zip((0.0, 0.4, 1.0), ((0.9, 0.5), (0.6, 0.55), (0.3, 0.0)), strict=True):
        ab_t, bb_t, ab_u, bb_u = levels(t, u, LINEAR)
        v_t, v_u = ab_t**2 * 0.49 + bb_t**2, ab_u**2 * 0.49 + bb_u**2
        _, lam = posterior_coefficients(
            ab_t, bb_t, ab_u, bb_u, ddpm_sigma(ab_t, bb_t, ab_u, bb_u, eta)
        )
        lost = v_u - gaussian_sample_variance(0.7, LINEAR, [t, u], eta, v_start=v_t)
        assert lost == pytest.approx(lam**2 * 0.49 * bb_t**2 / v_t, abs=1e-12)


def test_the_lesson_trains_as_the_library_does():
    """The training loop that the notebook shows in full, against `kexue_lab.training.fit`."""
    cells = nbformat.read(notebook_path("diffusion/ddim"), as_version=4).cells
    lesson = {"torch": torch, "nn": torch.nn, "math": math, "pairwise": pairwise, "SEED": 0}
    lesson |= {"GaussianMixture": GaussianMixture, "generator": seeded}
    lesson |= {"alpha_bar": COSINE.alpha_bar, "beta_bar": COSINE.beta_bar}
    for start in ("class NoiseNetwork", "def train(", "angles = "):
        (source,) = (c.source for c in cells if c.cell_type == "code" and start in c.source)
        exec(source, lesson)
    by_library = fit(
        lambda _: copy.deepcopy(lesson["untrained"]),
        lesson["ring_batch"],
        lambda network, x_t, t, eps: (network(x_t, t) - eps).square().mean(),
        seeds=[0],
        steps=5,
        learning_rate=lambda progress: 5e-3 * (1 - progress),
        device="cpu",
    ).models[0]
    by_hand = lesson["train"](copy.deepcopy(lesson["untrained"]), 5, seeded(0))
    for ours, theirs in zip(by_hand.parameters(), by_library.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    assert not torch.equal(next(by_hand.parameters()), next(lesson["untrained"].parameters()))


@pytest.mark.parametrize("n", [2, 5, 50])
def test_the_noise_of_the_chain_puts_back_what_standard_data_lose(n):
    variance = 1.0
    for t, u in pairwise(COSINE.times(n).tolist()):
        ab_t, bb_t, ab_u, bb_u = levels(t, u)
        kappa, lam = posterior_coefficients(
            ab_t, bb_t, ab_u, bb_u, ddpm_sigma(ab_t, bb_t, ab_u, bb_u)
        )
        # κ x_t + λ E(x_0 | x_t), and E(x_0 | x_t) = ᾱ_t x_t for s = 1.
        variance = (kappa + lam * ab_t) ** 2 * variance + 1 - (ab_t / ab_u) ** 2
    assert variance == pytest.approx(1, abs=1e-12)


# --- interpolation -----------------------------------------------------------------------------


def test_interpolated_noise_stays_standard_normal():
    z1, z2 = torch.randn(2, 100_000, generator=seeded(), dtype=torch.float64)
    for lam in (0.2, 0.5, 0.9):
        z = noise_interpolation(z1, z2, lam)
        assert abs(z.var() - 1) < 5 * math.sqrt(2 / 100_000)
    torch.testing.assert_close(noise_interpolation(z1, z2, 0.0), z1)
    torch.testing.assert_close(noise_interpolation(z1, z2, 1.0), z2, rtol=0, atol=1e-12)
    both = noise_interpolation(z1[:3], z2[:3], torch.tensor([[0.0], [0.5]]))
    torch.testing.assert_close(both[1], (z1[:3] + z2[:3]) / math.sqrt(2))


# --- a peer ------------------------------------------------------------------------------------

TRAINING_STEPS = 1000


def peer():
    """diffusers' scheduler with the noise levels of LINEAR at t = (k + 1)/1000."""
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    grid = torch.arange(1, TRAINING_STEPS + 1, dtype=torch.float64) / TRAINING_STEPS
    alpha_bars = LINEAR.alpha_bar(grid)
    squared = torch.cat([t64(1.0), alpha_bars]) ** 2
    scheduler = diffusers.DDIMScheduler(
        num_train_timesteps=TRAINING_STEPS,
        trained_betas=(1 - squared[1:] / squared[:-1]).numpy(),
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="leading",
    )
    # Its own table is a product in float32, good to 1e-5 only.
    scheduler.alphas_cumprod = squared[1:]
    return scheduler


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("n", [10, 50])
def test_diffusers_draws_the_same_samples(eta, n):
    scheduler = peer()
    scheduler.set_timesteps(n)
    mixture = GaussianMixture(t64(0.3, 0.7), t64([-1.5, 0.2], [1.0, -0.4]), t64(0.09, 0.25))
    noise = exact_noise(mixture, LINEAR)
    x = start = torch.randn(500, 2, generator=seeded(3), dtype=torch.float64)
    g = seeded(11)
    for step in scheduler.timesteps.tolist():
        eps = noise(x, (step + 1) / TRAINING_STEPS)
        # The variance noise is passed in, as both sides must draw it in float64.
        z = torch.randn(x.shape, generator=g, dtype=x.dtype) if eta else None
        x = scheduler.step(eps, step, x, eta=eta, variance_noise=z).prev_sample
    # Its steps lead from k to k − 1000/n, and the last one below 0 to the data.
    times = [(k + 1) / TRAINING_STEPS for k in scheduler.timesteps.tolist()] + [0.0]
    ours = sample(noise, LINEAR, start, times, eta=eta, generator=seeded(11))
    torch.testing.assert_close(ours, x, rtol=0, atol=1e-5)


# --- bad input ---------------------------------------------------------------------------------

X = torch.zeros(2, 1)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: posterior_coefficients(0.5, 0.8, 0.7, 0.6, 0.7), ValueError, "sigma must lie in"),
        (lambda: posterior_coefficients(0.5, 0.8, 0.7, 0.6, -0.1), ValueError, "got -0.1"),
        (lambda: posterior_coefficients(0.5, 0.0, 0.7, 0.6, 0.1), ValueError, "bb_t must be pos"),
        (lambda: posterior_coefficients(-1, 0.8, 0.7, 0.6, 0.1), ValueError, "ab_t must be non-"),
        (lambda: ddpm_sigma(0.5, 0.8, 0.7, 0.6, 1.5), ValueError, r"eta must lie in \[0, 1\]"),
        (lambda: ddpm_sigma(0.5, 0.8, 0.4, 0.9), ValueError, "ab_u must be .* at least ab_t = 0.5"),
        (lambda: ddpm_sigma(0.0, 1.0, 0.0, 1.0), ValueError, "ab_u must be positive"),
        (lambda: ddpm_sigma(0.9, 0.5, 1.0, 0.8), ValueError, "bb_t must be at least .* got 0.5"),
        (lambda: ddpm_sigma(math.nan, 0.5, 1.0, 0.8), ValueError, "ab_t must be non-negative"),
        (lambda: step(x=[0.0]), TypeError, "x must be a floating-point tensor, got list"),
        (lambda: step(eps=X.double()), TypeError, "x, eps must share one dtype"),
        (lambda: step(eps=X[:1]), ValueError, r"eps must have the shape of x, \(2, 1\)"),
        (lambda: step(u=0.5), ValueError, "u must be before t = 0.5, got 0.5"),
        (lambda: step(t=1.5), ValueError, r"t must lie in \[0, 1\], got 1.5"),
        (lambda: step(t=1.0), ValueError, "t must be a time with alpha_bar > 0, got 1.0"),
        (lambda: step(eta=-0.1), ValueError, "eta must lie in"),
        (lambda: run(times=[0.5]), ValueError, "times must be at least two, decreasing"),
        (lambda: run(times=[0.2, 0.5]), ValueError, "times must be at least two, decreasing"),
        (lambda: run(times=[1.2, 0.5]), ValueError, "times must be .*got"),
        (lambda: run(times=[0.5, math.nan]), ValueError, "times must be"),
        (lambda: run(eta=2), ValueError, "eta must lie in"),
        (lambda: run(eta=math.nan), ValueError, "eta must lie in"),
        (lambda: run(eps_fn=lambda x, t: x[:1]), ValueError, "eps must have the shape of x"),
        (lambda: run(x=np.zeros((2, 1))), TypeError, "x must be a floating-point tensor"),
        (lambda: gaussian_sample_variance(0, LINEAR, [1.0, 0.0]), ValueError, "s must be positive"),
        (
            lambda: gaussian_sample_variance(1, LINEAR, [1.0, 0.0], v_start=-1),
            ValueError,
            "v_start must be non-negative",
        ),
        (lambda: gaussian_sample_variance(1, LINEAR, [0.0]), ValueError, "times must be"),
        (lambda: gaussian_sample_variance(1, LINEAR, [1.0, 0.0], 7), ValueError, "eta must lie"),
        (lambda: noise_interpolation(X, X[:1], 0.5), ValueError, "z2 must have the shape of z1"),
        (lambda: noise_interpolation(X, X.double(), 0.5), TypeError, "share one dtype"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def step(**changes):
    arguments = {"x": X, "eps": X, "t": 0.5, "u": 0.4, "schedule": COSINE}
    return ddim_step(**{**arguments, **changes})


def run(**changes):
    arguments = {"eps_fn": lambda x, t: x, "schedule": LINEAR, "x": X, "times": [0.5, 0.0]}
    return sample(**{**arguments, **changes})


# --- the stored network ------------------------------------------------------------------------

PIXELS = digits(1500, seeded())
SEEN, UNSEEN = 2 * PIXELS.x_train - 1, 2 * PIXELS.x_test - 1
OFFSET = NoiseSchedule.cosine()


def drawn(noise, n, eta=0.0):
    times = OFFSET.times(n, 0.999)
    return sample(
        noise_model(digit_network(), OFFSET), OFFSET, noise, times, eta=eta, generator=seeded(1)
    )


def test_the_stored_network_denoises_digits_that_it_has_never_seen():
    times = torch.full(UNSEEN.shape[:1], 0.3)
    x_t, t, _ = velocity_batch(UNSEEN, times, OFFSET, seeded(1))
    ab, bb = OFFSET.alpha_bar(0.3), OFFSET.beta_bar(0.3)
    with torch.no_grad():
        guess = ab * x_t - bb * digit_network()(x_t, t)
    left = (guess - UNSEEN).square().mean() / (x_t / ab - UNSEEN).square().mean()
    assert left < 0.4


def test_a_classifier_knows_the_drawn_digits():
    classifier = LogisticRegression(max_iter=300, C=0.3).fit(SEEN.numpy(), PIXELS.y_train.numpy())
    noise = torch.randn(400, 64, generator=seeded())
    for n, eta in ((20, 0.0), (100, 1.0)):
        belief = classifier.predict_proba(drawn(noise, n, eta).numpy())
        shares = np.bincount(belief.argmax(1), minlength=10) / len(belief)
        assert belief.max(1).mean() > 0.8  # of digits never seen: 0.91
        assert -(shares * np.log(shares)).sum() > 2.1  # of ten equal classes: 2.30


def test_half_way_between_two_codes_the_arc_keeps_the_variance():
    z1, z2 = torch.randn(2, 300, 64, generator=seeded())
    arc, straight = (
        drawn(mix, 10).var(0).sum() for mix in (noise_interpolation(z1, z2, 0.5), (z1 + z2) / 2)
    )
    assert straight < 0.8 * arc


def test_training_repeats_and_learns():
    first, again = (train_digit_network(20).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    x_t, t, v = velocity_batch(UNSEEN, torch.linspace(0, 1, len(UNSEEN)), OFFSET, seeded())
    early, late = (
        (train_digit_network(steps)(x_t, t) - v).square().mean().item() for steps in (1, 60)
    )
    assert late < 0.8 * early


def test_training_refuses_no_steps():
    with pytest.raises(ValueError, match="steps and monitor_every must be positive, got 0"):
        train_digit_network(0)


@pytest.mark.parametrize("t", [1 - 1e-9, 1 - 1e-12, 0.9])
@pytest.mark.parametrize("u", [0.5, 0.1, 1e-9])
def test_a_step_with_all_its_noise_is_taken(t, u):
    x = torch.zeros(4, 2, dtype=torch.float64)
    after = ddim_step(x, x, t, u, NoiseSchedule.cosine(), eta=1.0)
    assert bool(after.isfinite().all())


def test_no_deviation_is_above_that_of_the_noise():
    assert ddpm_sigma(0.0, 1e-300, 1.0, 1e300) == 1e300
    with pytest.raises(ValueError, match="bb_t must be at least"):
        ddpm_sigma(1e-300, 1e-300, 1.0, 1e300)
