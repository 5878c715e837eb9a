"""Unit, oracle, property and bad-input tests of diffusion.unified."""

import math
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.fft import dctn, idctn
from tensors import seeded

from kexue_lab.diffusion import tokens, unified
from kexue_lab.diffusion.ddim import ddim_step
from kexue_lab.diffusion.schedules import NoiseSchedule
from kexue_lab.diffusion.unified import (
    cold_step,
    dct_blur,
    edit_sampler_distribution,
    gaussian_mode_variance,
    mask_sample,
    mask_sampler_distribution,
    reverse_step,
)

LINEAR = NoiseSchedule.linear()


def forward(x0, eps, t):
    return LINEAR.alpha_bar(t) * x0 + LINEAR.beta_bar(t) * eps


def invert(x0, x, t):
    return (x - LINEAR.alpha_bar(t) * x0) / LINEAR.beta_bar(t)


def total_variation(p, q):
    return 0.5 * np.abs(p - q).sum()


# --- continuous data ---------------------------------------------------------------------------


@pytest.mark.parametrize("eta", [0.0, 0.4])
def test_with_gaussian_noise_it_is_the_ddim_family(eta):
    x, x0_hat = torch.randn(2, 50, 2, generator=seeded(), dtype=torch.float64)
    found = reverse_step(x, x0_hat, forward, invert, 0.7, 0.3, eta=eta, generator=seeded(1))
    eps = invert(x0_hat, x, 0.7)
    bb = LINEAR.beta_bar(0.3)
    plain = ddim_step(x, eps, 0.7, 0.3, LINEAR)
    noise = torch.randn(50, 2, generator=seeded(1), dtype=torch.float64)
    kept = math.sqrt(bb**2 - (bb * eta) ** 2)
    expected = plain + (kept - bb) * eps + bb * eta * noise
    torch.testing.assert_close(found, expected)


def test_the_baseline_forgets_the_noise():
    x, x0_hat = torch.randn(2, 50, 2, generator=seeded())
    noise = torch.randn(50, 2, generator=seeded(1))
    expected = forward(x0_hat, noise, 0.3)
    for inverse in (None, invert):
        found = reverse_step(x, x0_hat, forward, inverse, 0.7, 0.3, eta=1.0, generator=seeded(1))
        torch.testing.assert_close(found, expected)


def test_cold_steps_are_exact_for_a_straight_degradation():
    direction, matrix = torch.randn(3, generator=seeded()), torch.randn(3, 3, generator=seeded(1))
    x0 = torch.randn(5, 3, generator=seeded(2))
    degrade = lambda x, t: x + t * direction  # noqa: E731
    guess = torch.tanh(degrade(x0, 0.8) @ matrix)  # any restoration whatever
    exact = cold_step(degrade(x0, 0.8), guess, degrade, 0.8, 0.5)
    torch.testing.assert_close(exact, degrade(x0, 0.5))
    naive = cold_step(degrade(x0, 0.8), guess, degrade, 0.8, 0.5, improved=False)
    torch.testing.assert_close(naive, degrade(guess, 0.5))


VARIANCES = {
    (0.05, 4): (0.206180, 0.352230),
    (0.05, 16): (0.397569, 0.776825),
    (0.05, 64): (0.470194, 0.938007),
    (0.3, 4): (0.206210, 0.225895),
    (0.3, 16): (0.383817, 0.712804),
    (0.3, 64): (0.458814, 0.891132),
    (0.0, 16): (1.0, 1.0),
}


def attenuations(steps):
    return [math.exp(-8 * (steps - i) / steps) for i in range(steps + 1)]


@pytest.mark.parametrize("case", VARIANCES)
def test_mode_variances_by_their_digits(case):
    sigma, steps = case
    lambdas = attenuations(steps)
    found = [gaussian_mode_variance(2, lambdas, sigma, s) / 2 for s in ("naive", "improved")]
    assert found == pytest.approx(VARIANCES[case], abs=1e-6)
    for sampler in ("sampled", "sampled_improved"):
        assert gaussian_mode_variance(2, lambdas, sigma, sampler) == pytest.approx(2)


def test_what_is_lost_completely():
    lambdas = [0.0, *attenuations(16)[1:]]
    expected = {0.0: (0, 0), 0.05: (0.397569, 0.776664), 0.3: (0.383817, 0.712800)}
    for sigma, values in expected.items():
        found = [gaussian_mode_variance(2, lambdas, sigma, s) / 2 for s in ("naive", "improved")]
        assert found == pytest.approx(values, abs=1e-6)
    assert gaussian_mode_variance(2, lambdas, 0.05, "sampled") == pytest.approx(2)


@pytest.mark.parametrize("sampler", ["naive", "improved", "sampled", "sampled_improved"])
def test_the_variance_is_that_of_the_chain(sampler):
    c, sigma, n, g = 1.5, 0.4, 400_000, seeded(3)
    lambdas = [0.2, 0.5, 0.8, 1.0]
    normal = lambda: torch.randn(n, generator=g, dtype=torch.float64)  # noqa: E731
    x = lambdas[0] * math.sqrt(c) * normal() + sigma * normal()
    for a, b in pairwise(lambdas):
        total = a**2 * c + sigma**2
        guess = a * c / total * x
        if sampler.startswith("sampled"):
            guess = guess + math.sqrt(c * sigma**2 / total) * normal()
        noise = (x - a * guess) / sigma if sampler.endswith("improved") else normal()
        x = b * guess + (sigma if b < 1 else 0.0) * noise
    exact = gaussian_mode_variance(c, lambdas, sigma, sampler)
    assert abs(x.var().item() / exact - 1) < 5 * math.sqrt(2 / n)


@pytest.mark.parametrize("sigma", [0.1, 1.0, 3.0])
def test_short_naive_steps_come_to_rest_at_their_share(sigma):
    rho = 1 / (1 + sigma**2)  # c = λ = 1
    final = gaussian_mode_variance(1.0, [1.0] * 3000, sigma, "naive")
    assert final == pytest.approx(rho**2 * (1 + sigma**2) / (1 + rho))
    kept = gaussian_mode_variance(1.0, [1.0] * 3000, sigma, "improved")
    assert kept == pytest.approx(rho**2 * (1 + sigma**2))


def test_the_tokens_are_offered_here_as_well():
    assert unified.mask_sample is tokens.mask_sample
    assert set(unified.__all__) >= {"edit_sampler_distribution", "mask_sampler_distribution"}


def test_blur_damps_each_cosine_mode():
    images = torch.randn(3, 8, 6, generator=seeded(), dtype=torch.float64)
    rows, columns = np.arange(8)[:, None], np.arange(6)
    damping = np.exp(-3 * (rows**2 + columns**2) * 0.3**2)
    modes = dctn(images.numpy(), axes=(1, 2), norm="ortho") * damping
    expected = torch.as_tensor(idctn(modes, axes=(1, 2), norm="ortho"))
    torch.testing.assert_close(dct_blur(images, 0.3), expected)
    torch.testing.assert_close(dct_blur(images, 0.0), images)
    each = torch.stack(
        [dct_blur(x[None], t)[0] for x, t in zip(images, (0.1, 0.5, 1.0), strict=True)]
    )
    torch.testing.assert_close(dct_blur(images, torch.tensor([0.1, 0.5, 1.0])), each)
    flat = dct_blur(images.float(), 1.0, strength=50.0)
    assert flat.dtype == torch.float32
    torch.testing.assert_close(flat, images.float().mean((1, 2), keepdim=True).expand(3, 8, 6))


# --- tokens ------------------------------------------------------------------------------------

MASK = {
    0: (0.076487, 0.253709, 0.605212),
    1: (0.079698, 0.227741, 0.632095),
    2: (0.085085, 0.262165, 0.635110),
}
EDIT = {  # factorised baseline, factorised improved, exact improved from uniform tokens
    0: (0.225800, 0.105658, 0.011954),
    1: (0.212275, 0.113658, 0.014593),
    2: (0.237461, 0.086293, 0.006053),
}


def random_law(seed):
    return np.random.default_rng(seed).dirichlet([0.2] * 81).reshape(3, 3, 3, 3)


@pytest.mark.parametrize("seed", MASK)
def test_mask_samplers_by_their_digits(seed):
    p = random_law(seed)
    for k, expected in zip((1, 2, 4), MASK[seed], strict=True):
        baseline = mask_sampler_distribution(p, k=k, improved=False)
        assert total_variation(baseline, p) == pytest.approx(expected, abs=1e-6)
        improved = mask_sampler_distribution(p, k=k)
        assert total_variation(improved, p) == pytest.approx(
            0 if k == 1 else expected, abs=1e-6 if k > 1 else 1e-12
        )


@pytest.mark.parametrize("seed", EDIT)
def test_edit_samplers_by_their_digits(seed):
    p = random_law(seed)
    baseline = edit_sampler_distribution(p, factorised=True, improved=False)
    improved = edit_sampler_distribution(p, factorised=True, improved=True)
    uniform = edit_sampler_distribution(p, factorised=False, improved=True)
    found = tuple(total_variation(q, p) for q in (baseline, improved, uniform))
    assert found == pytest.approx(EDIT[seed], abs=1e-6)


@settings(deadline=None, max_examples=25)
@given(
    shape=st.sampled_from([(2, 2), (2, 2, 2), (3, 3), (4,), (2,) * 5]),
    seed=st.integers(0, 10**6),
    k=st.integers(1, 3),
    sparse=st.booleans(),
)
def test_exact_predictions_are_exact_in_any_number_of_steps(shape, seed, k, sparse):
    rng = np.random.default_rng(seed)
    weights = rng.random(shape) * (rng.random(shape) < 0.5 if sparse else 1)
    weights.flat[0] += 0.1
    p = weights / weights.sum()
    for improved in (False, True):
        mask = mask_sampler_distribution(p, k=k, factorised=False, improved=improved)
        edit = edit_sampler_distribution(p, factorised=False, improved=improved, start="true")
        np.testing.assert_allclose(mask, p, atol=1e-12)
        np.testing.assert_allclose(edit, p, atol=1e-12)
    for factorised, improved in product((False, True), repeat=2):
        law = edit_sampler_distribution(p, factorised=factorised, improved=improved)
        assert law.sum() == pytest.approx(1)
        assert law.min() >= 0


def test_independent_tokens_are_no_problem():
    p = np.einsum("i,j,k->ijk", [0.2, 0.8], [0.5, 0.5], [0.9, 0.1])
    for k, improved in product((1, 2, 3), (False, True)):
        law = mask_sampler_distribution(p, k=k, improved=improved)
        np.testing.assert_allclose(law, p, atol=1e-12)


def test_two_equal_tokens_at_once_are_wrong_half_the_time():
    p = np.diag([0.5, 0.5])
    assert total_variation(mask_sampler_distribution(p, k=2), p) == pytest.approx(0.5)


@pytest.mark.parametrize("improved", [False, True])
def test_sequences_have_the_law_of_the_enumeration(improved):
    p = np.random.default_rng(4).dirichlet([0.5] * 8).reshape(2, 2, 2)

    def logits(tokens, count):
        """The exact conditional of each position; token 2 is the mask, with a logit that lies."""
        rows = []
        for row in tokens.tolist():
            index = tuple(slice(None) if v == 2 else v for v in row)
            given = np.zeros((2, 2, 2))
            given[index] = p[index]
            given = given if given.sum() > 0 else np.ones((2, 2, 2))
            marginals = [given.sum(tuple({0, 1, 2} - {i})) for i in range(3)]
            rows.append([[math.log(max(v, 1e-30)) for v in m] + [50.0] for m in marginals])
            assert row.count(2) == count
        return torch.tensor(rows)

    n = 4000
    tokens = mask_sample(logits, n, 3, 2, 3, improved=improved, generator=seeded(5))
    assert tokens.dtype == torch.int64
    assert tokens.max() == 1
    index, counts = np.unique(tokens @ torch.tensor([4, 2, 1]), return_counts=True)
    found = np.zeros(8)
    found[index] = counts / n
    exact = mask_sampler_distribution(p, k=1, improved=improved).ravel()
    assert (np.abs(found - exact) < 5 * np.sqrt(exact * (1 - exact) / n) + 1e-9).all()


# --- bad input ---------------------------------------------------------------------------------

X, P = torch.zeros(2, 3), np.full((2, 2), 0.25)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: step(x=[0.0]), TypeError, "x must be a floating-point tensor, got list"),
        (lambda: step(x0_hat=X.double()), TypeError, "x, x0_hat must share one dtype"),
        (lambda: step(u=0.5), ValueError, "u must be before t = 0.5, got 0.5"),
        (lambda: step(eta=1.5), ValueError, r"eta must lie in \[0, 1\], got 1.5"),
        (lambda: step(invert=None), ValueError, "eta must be 1 if the noise cannot be recovered"),
        (lambda: cold_step(X, X, lambda x, t: x, 0.5, 0.6), ValueError, "u must be before"),
        (lambda: cold_step(X, X.int(), lambda x, t: x, 0.5, 0.4), TypeError, "x0_hat must be"),
        (lambda: gaussian_mode_variance(0, [0, 1], 1, "naive"), ValueError, "c must be positive"),
        (lambda: gaussian_mode_variance(1, [1], 1, "naive"), ValueError, "lambdas must be"),
        (lambda: gaussian_mode_variance(1, [0, 0.9], 1, "naive"), ValueError, "end at 1"),
        (lambda: gaussian_mode_variance(1, [-1, 1], 1, "naive"), ValueError, "lambdas must be non"),
        (lambda: gaussian_mode_variance(1, [0, 1], -1, "naive"), ValueError, "sigma must be non"),
        (
            lambda: gaussian_mode_variance(1, [0, 1], 1, "best"),
            ValueError,
            "sampler must be one of",
        ),
        (lambda: dct_blur(X, 0.5), ValueError, r"images must have shape \(B, H, W\)"),
        (lambda: dct_blur(X[None], 1.5), ValueError, "t must lie in"),
        (lambda: dct_blur(X[None], torch.zeros(2)), ValueError, "t must be a number or"),
        (lambda: dct_blur(X[None], 0.5, 0.0), ValueError, "strength must be positive"),
        (lambda: dct_blur(X[None].int(), 0.5), TypeError, "images must be a floating-point"),
        (lambda: mask_sampler_distribution(P * 2), ValueError, "p must be .* sum 1, got sum 2"),
        (lambda: mask_sampler_distribution(P[:1]), ValueError, "axes of one size V >= 2"),
        (lambda: mask_sampler_distribution(P, k=0), ValueError, "k must be at least 1"),
        (lambda: mask_sampler_distribution(P, k=1.0), TypeError, "k must be an integer"),
        (
            lambda: mask_sampler_distribution(np.full((2,) * 13, 2.0**-13)),
            ValueError,
            "at most 4096 states, got 8192",
        ),
        (lambda: edit(-P), ValueError, "p must be non-negative with sum 1"),
        (lambda: edit(P, start="random"), ValueError, "start must be"),
        (lambda: draw(steps=4), ValueError, "steps must be at most length = 3, got 4"),
        (lambda: draw(n=0), ValueError, "n must be at least 1"),
        (lambda: draw(mask_id=-1), ValueError, "mask_id must be at least 0"),
        (lambda: draw(length=1.5), TypeError, "length must be an integer"),
        (
            lambda: draw(logits_fn=lambda tokens, count: torch.zeros(2, 2, 5)),
            ValueError,
            r"logits_fn must return \(2, 3, V\), got \(2, 2, 5\)",
        ),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def step(**changes):
    arguments = {"x": X, "x0_hat": X, "forward": forward, "invert": invert, "t": 0.5, "u": 0.4}
    return reverse_step(**arguments | changes)


def edit(p, **changes):
    return edit_sampler_distribution(p, **{"factorised": True, "improved": True} | changes)


def draw(**changes):
    arguments = {"logits_fn": lambda tokens, count: torch.zeros(*tokens.shape, 5), "n": 2}
    return mask_sample(**arguments | {"length": 3, "mask_id": 4, "steps": 2} | changes)
