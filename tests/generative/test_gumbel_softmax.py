"""Unit, oracle, property and bad-input tests of generative.gumbel_softmax."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.integrate import dblquad, quad
from tensors import seeded, t64

from kexue_lab.generative.gumbel_softmax import (
    binary_relaxation_moments,
    concrete_log_prob,
    exact_gradient,
    gumbel_max,
    gumbel_softmax,
    optimal_baseline,
    sample_gumbel,
    score_function_gradient,
    score_function_variance,
)

THETA, F = t64(0.5, -0.3, 1, 0), t64(1, -2, 0.5, 3)
P = THETA.softmax(-1)


def table(one_hot):
    return one_hot @ F.to(one_hot)


# --- noise and classes -------------------------------------------------------------------------


def test_gumbel_noise_has_the_gumbel_law():
    noise = sample_gumbel((100_000,), generator=seeded(), dtype=torch.float64)
    assert stats.kstest(noise.numpy(), stats.gumbel_r.cdf).pvalue > 1e-4
    assert noise.mean().item() == pytest.approx(0.5772156649, abs=5 * math.pi / math.sqrt(6e5))


def test_gumbel_noise_is_finite():
    noise = sample_gumbel((4_000_000,), generator=seeded(), dtype=torch.float32)
    assert noise.dtype == torch.float32
    assert noise.isfinite().all()


def test_gumbel_noise_repeats_with_its_generator():
    assert torch.equal(
        sample_gumbel((5,), generator=seeded(1)), sample_gumbel((5,), generator=seeded(1))
    )
    assert sample_gumbel((2, 0, 3)).shape == (2, 0, 3)


def test_gumbel_max_has_the_softmax_law():
    draws = gumbel_max(THETA, n_samples=200_000, generator=seeded())
    counts = torch.bincount(draws, minlength=4)
    assert stats.chisquare(counts.numpy(), (P * 200_000).numpy()).pvalue > 1e-4


def test_gumbel_max_shapes_and_impossible_classes():
    logits = torch.zeros(2, 3, 5)
    logits[..., 1] = -math.inf
    assert gumbel_max(logits).shape == (2, 3)
    draws = gumbel_max(logits, n_samples=1000, generator=seeded())
    assert draws.shape == (1000, 2, 3)
    assert draws.dtype == torch.int64
    assert set(draws.unique().tolist()) == {0, 2, 3, 4}


# --- relaxation --------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10**6), tau=st.floats(0.05, 20), k=st.integers(1, 6))
def test_relaxed_samples_lie_on_the_simplex_with_the_argmax_of_the_draw(seed, tau, k):
    logits = torch.randn(7, k, generator=seeded(seed), dtype=torch.float64)
    noise = sample_gumbel((7, k), generator=seeded(seed + 1), dtype=torch.float64)
    y = gumbel_softmax(logits, tau, gumbels=noise)
    assert (y >= 0).all()
    torch.testing.assert_close(y.sum(-1), torch.ones(7).double())
    hard = gumbel_softmax(logits, tau, hard=True, gumbels=noise)
    expected = torch.nn.functional.one_hot((logits + noise).argmax(-1), k)
    assert torch.equal(hard, expected.double())


@pytest.mark.parametrize("hard", [False, True])
def test_values_and_gradients_are_those_of_torch(hard):
    logits = THETA.expand(3, 4).clone().requires_grad_()
    other = logits.detach().clone().requires_grad_()
    torch.manual_seed(5)
    theirs = torch.nn.functional.gumbel_softmax(logits, 0.7, hard=hard)
    torch.manual_seed(5)
    noise = -torch.empty(3, 4, dtype=torch.float64).exponential_().log()
    ours = gumbel_softmax(other, 0.7, hard=hard, gumbels=noise)
    torch.testing.assert_close(ours, theirs)
    (theirs @ F).sum().backward()
    (ours @ F).sum().backward()
    torch.testing.assert_close(other.grad, logits.grad)


def test_straight_through_gradients_are_the_soft_ones_for_linear_f():
    noise = sample_gumbel((4,), generator=seeded(), dtype=torch.float64)
    gradients = [
        torch.func.jacrev(lambda th, h=hard: gumbel_softmax(th, 0.6, hard=h, gumbels=noise))(THETA)
        for hard in (False, True)
    ]
    torch.testing.assert_close(*gradients)


def test_the_density_by_its_digits_and_its_integral():
    y, logits = t64(0.2, 0.3, 0.5), t64(0.2, 0.5, 0.3).log()
    assert concrete_log_prob(y, logits, 1.0).exp().item() == pytest.approx(1.9124684443, abs=1e-9)
    assert concrete_log_prob(y, logits, 0.7).exp().item() == pytest.approx(0.9807986317, abs=1e-9)

    def density(b, a):
        return concrete_log_prob(t64(a, b, 1 - a - b), logits, 2.0).exp().item()

    mass = dblquad(density, 1e-12, 1 - 1e-9, 1e-12, lambda a: 1 - a - 1e-12, epsabs=1e-6)[0]
    assert mass == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("tau", [0.4, 1.0, 3.0])
def test_the_binary_density_is_the_logistic_one_transformed(tau):
    y = torch.linspace(0.02, 0.98, 9, dtype=torch.float64)
    ours = concrete_log_prob(torch.stack([y, 1 - y], -1), t64(0.4, -0.5), tau).exp()
    theirs = stats.logistic.pdf(tau * torch.logit(y).numpy() - 0.9) * tau / (y * (1 - y)).numpy()
    torch.testing.assert_close(ours, torch.as_tensor(theirs))


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), tau=st.floats(0.1, 5), shift=st.floats(-50, 50))
def test_the_density_ignores_a_shift_of_the_logits(seed, tau, shift):
    logits = torch.randn(3, 5, generator=seeded(seed), dtype=torch.float64)
    y = torch.randn(2, 1, 5, generator=seeded(seed + 1), dtype=torch.float64).softmax(-1)
    density = concrete_log_prob(y, logits, tau)
    assert density.shape == (2, 3)
    torch.testing.assert_close(concrete_log_prob(y, logits + shift, tau), density)


# --- the exact gradient and the score function -------------------------------------------------


def test_the_exact_gradient_is_that_of_the_enumerated_sum():
    gradient = torch.func.grad(lambda th: th.softmax(-1) @ F)(THETA)
    torch.testing.assert_close(exact_gradient(THETA, F), gradient)
    digits = t64(0.0698988508, -0.3324627031, -0.1072809464, 0.3698447988)
    torch.testing.assert_close(exact_gradient(THETA, F), digits, rtol=0, atol=1e-10)


def test_variances_and_the_optimal_baseline_by_their_digits():
    best = optimal_baseline(THETA, F).item()
    assert best == pytest.approx(0.7662126242, abs=1e-10)
    for baseline, variance in (
        (0, 1.9623076216),
        (0.7410540529, 1.5590955438),
        (best, 1.5586603574),
    ):
        assert score_function_variance(THETA, F, baseline).item() == pytest.approx(
            variance, abs=1e-9
        )
    assert score_function_variance(THETA, F + 10).item() == pytest.approx(81.2533369, abs=1e-6)
    assert score_function_variance(THETA, F + 10, best + 10).item() == pytest.approx(1.5586603574)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10**6), k=st.integers(2, 6), step=st.floats(-3, 3))
def test_no_baseline_beats_the_optimal_one(seed, k, step):
    logits = torch.randn(k, generator=seeded(seed), dtype=torch.float64)
    values = torch.randn(k, generator=seeded(seed + 1), dtype=torch.float64)
    best = optimal_baseline(logits, values).item()
    least = score_function_variance(logits, values, best)
    assert score_function_variance(logits, values, best + step) >= least - 1e-12


def autograd_samples(baseline):
    """The K possible one-sample gradients, written with autograd."""
    rows = []
    for z in range(4):
        score = torch.func.grad(lambda th, z=z: th.log_softmax(-1)[z])(THETA)
        rows.append((F[z] - baseline) * score)
    return torch.stack(rows)


def test_the_variance_is_that_of_all_samples():
    samples = autograd_samples(0.3)
    variance = P @ (samples - P @ samples).square().sum(-1)
    torch.testing.assert_close(score_function_variance(THETA, F, 0.3), variance)


@pytest.mark.parametrize("baseline", ["none", "mean", "optimal", "leave_one_out"])
def test_every_estimator_is_unbiased(baseline):
    g = seeded(3)
    draws = torch.stack(
        [
            score_function_gradient(THETA, table, 4, baseline=baseline, generator=g)
            for _ in range(4000)
        ]
    )
    error = draws.mean(0) - exact_gradient(THETA, F)
    assert (error.abs() < 4.5 * draws.std(0) / math.sqrt(4000)).all()
    constants = {"none": 0.0, "mean": float(P @ F), "optimal": float(optimal_baseline(THETA, F))}
    if baseline in constants:
        expected = float(score_function_variance(THETA, F, constants[baseline])) / 4
    else:
        expected = 0.5143503415
    assert draws.var(0).sum().item() == pytest.approx(expected, rel=0.1)


def test_leave_one_out_over_all_pairs_by_enumeration():
    scores, total, mean = autograd_samples(0.0) / F[:, None], 0.0, 0.0
    for a, b in itertools.product(range(4), repeat=2):
        estimate = ((F[a] - F[b]) * scores[a] + (F[b] - F[a]) * scores[b]) / 2
        total += P[a] * P[b] * estimate.square().sum()
        mean += P[a] * P[b] * estimate
    assert (total - mean.square().sum()).item() == pytest.approx(1.5270065052, abs=1e-9)
    torch.testing.assert_close(mean, exact_gradient(THETA, F))
    draws = [
        score_function_gradient(THETA, table, 2, baseline="leave_one_out", generator=seeded(s))
        for s in range(3000)
    ]
    assert torch.stack(draws).var(0).sum().item() == pytest.approx(1.5270065052, rel=0.1)


# --- the binary relaxation ---------------------------------------------------------------------

MOMENTS = {
    1.0: (0.6147939220, 0.1587328541, 0.0310923834),
    0.25: (0.6612870603, 0.2146125355, 0.1458777877),
}


@pytest.mark.parametrize("tau", MOMENTS)
def test_binary_moments_by_their_digits(tau):
    assert binary_relaxation_moments(0.7, tau) == pytest.approx(MOMENTS[tau], abs=1e-9)


@pytest.mark.parametrize("logit", [-2.0, 0.3, 1.5])
def test_binary_moments_at_temperature_one_in_closed_form(logit):
    a = math.exp(logit)
    mean = a / (a - 1) - a * logit / (a - 1) ** 2
    slope = a * (2 - 2 * a + (a + 1) * logit) / (a - 1) ** 3
    assert binary_relaxation_moments(logit, 1.0)[:2] == pytest.approx((mean, slope), abs=1e-10)


@pytest.mark.parametrize("tau", [0.001, 0.02, 0.3, 4.0, 100.0])
def test_binary_slopes_are_derivatives_of_the_mean(tau):
    h = 1e-3
    above, below = (binary_relaxation_moments(0.7 + s * h, tau).mean for s in (1, -1))
    moments = binary_relaxation_moments(0.7, tau)
    assert (above - below) / (2 * h) == pytest.approx(moments.slope, rel=1e-5)
    assert moments.second_moment >= moments.slope**2
    mirrored = binary_relaxation_moments(-0.7, tau)
    assert mirrored == pytest.approx((1 - moments.mean, moments.slope, moments.second_moment))


def test_binary_moments_against_another_quadrature():
    def over_u(g):
        return quad(lambda u: g((0.4 + math.log(u / (1 - u))) / 0.6), 0, 1, epsabs=1e-12)[0]

    def slope(w):
        return 1 / (4 * 0.6 * math.cosh(w / 2) ** 2) if abs(w) < 600 else 0.0

    expected = (
        over_u(lambda w: 0.5 * (1 + math.tanh(w / 2))),
        over_u(slope),
        over_u(lambda w: slope(w) ** 2),
    )
    assert binary_relaxation_moments(0.4, 0.6) == pytest.approx(expected, abs=1e-9)


def test_the_bias_of_the_value_vanishes_like_tau_squared():
    p = 1 / (1 + math.exp(-0.7))
    limit = math.pi**2 / 6 * p * (1 - p) * (1 - 2 * p)
    bias = (binary_relaxation_moments(0.7, 0.05).mean - p) / 0.05**2
    assert bias == pytest.approx(limit, rel=0.01)
    small = binary_relaxation_moments(0.7, 0.001).second_moment * 0.001
    assert small == pytest.approx(p * (1 - p) / 6, rel=1e-4)


# --- bad input ---------------------------------------------------------------------------------

NAN = t64(0.0, math.nan)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: sample_gumbel((2,), dtype=torch.int64), TypeError, "dtype must be floating"),
        (lambda: sample_gumbel((-1,)), ValueError, r"shape must be non-negative, got \(-1,\)"),
        (lambda: gumbel_max([0.0]), TypeError, "logits must be a floating-point tensor, got list"),
        (lambda: gumbel_max(NAN), ValueError, "logits must be below infinity, not nan"),
        (lambda: gumbel_max(t64(math.inf, 0)), ValueError, "logits must be below infinity"),
        (lambda: gumbel_max(t64(-math.inf, -math.inf)), ValueError, "not all -inf"),
        (lambda: gumbel_max(torch.zeros(2, 0)), ValueError, r"logits must have shape .*\(2, 0\)"),
        (lambda: gumbel_max(THETA, n_samples=0), ValueError, "n_samples must be at least 1"),
        (lambda: gumbel_max(THETA, n_samples=2.5), TypeError, "n_samples must be an integer"),
        (
            lambda: gumbel_softmax(THETA, 0.0),
            ValueError,
            "tau must be positive and finite, got 0.0",
        ),
        (lambda: gumbel_softmax(NAN), ValueError, "logits must be below infinity, not nan"),
        (lambda: gumbel_softmax(THETA, gumbels=F[:2]), ValueError, "gumbels must have the shape"),
        (lambda: gumbel_softmax(THETA, gumbels=F.float()), TypeError, "share one dtype"),
        (lambda: concrete_log_prob(P, THETA, -1.0), ValueError, "tau must be positive"),
        (
            lambda: concrete_log_prob(P[:3], THETA, 1.0),
            ValueError,
            r"y must have shape .*got \(3,\)",
        ),
        (lambda: concrete_log_prob(P * 2, THETA, 1.0), ValueError, "y must be positive with sum 1"),
        (lambda: concrete_log_prob(t64(0, 1), t64(0, 0), 1.0), ValueError, "y must be positive"),
        (lambda: concrete_log_prob(t64(0.5, 0.5), NAN, 1.0), ValueError, "logits must be below"),
        (lambda: concrete_log_prob(P, THETA.float(), 1.0), TypeError, "share one dtype"),
        (lambda: exact_gradient(THETA, F[:2]), ValueError, r"values must .*got \(2,\) for logits"),
        (
            lambda: exact_gradient(THETA[None], F[None]),
            ValueError,
            r"logits must have shape \(K,\)",
        ),
        (lambda: exact_gradient(THETA, F * math.nan), ValueError, "values must be finite"),
        (lambda: exact_gradient(THETA, [1.0]), TypeError, "values must be a floating-point"),
        (
            lambda: score_function_variance(THETA, F, math.inf),
            ValueError,
            "baseline must be finite",
        ),
        (lambda: optimal_baseline(t64(0.0), t64(1.0)), ValueError, "at least two classes possible"),
        (lambda: sf(n_samples=0), ValueError, "n_samples must be at least 1"),
        (lambda: sf(n_samples=1, baseline="leave_one_out"), ValueError, "at least 2 for leave_one"),
        (lambda: sf(baseline="best"), ValueError, "baseline must be one of .*got 'best'"),
        (lambda: sf(logits=NAN), ValueError, "logits must be below infinity"),
        (lambda: sf(logits=THETA[None]), ValueError, r"logits must have shape \(K,\)"),
        (lambda: sf(f=lambda z: z), ValueError, r"f must return shape \(3,\), got \(3, 4\)"),
        (lambda: binary_relaxation_moments(0.0, 0.0), ValueError, "tau must be positive"),
        (lambda: binary_relaxation_moments(math.nan, 1.0), ValueError, "l must be finite, got nan"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def sf(**changes):
    return score_function_gradient(**{"logits": THETA, "f": table, "n_samples": 3, **changes})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("tau", [1e-4, 1e-30, 1e-300])
def test_a_tiny_temperature_gives_one_hot_rows(dtype, tau):
    g = torch.Generator().manual_seed(0)
    y = gumbel_softmax(torch.zeros(2000, 8, dtype=dtype), tau, generator=g)
    assert torch.allclose(y.double().sum(-1), torch.ones(2000, dtype=torch.float64), atol=1e-2)
    assert bool((y.amax(-1) >= 0.5 - 1e-2).all())


def test_noise_beside_huge_equal_logits_is_not_lost():
    drawn = gumbel_max(
        torch.full((2,), 1e30), n_samples=1000, generator=torch.Generator().manual_seed(0)
    )
    assert abs(float(drawn.double().mean()) - 0.5) < 0.08


def test_a_constant_of_the_values_does_not_cancel():
    logits, values = torch.tensor([0.0, 1.0, -1.0]), torch.tensor([0.0, 1.0, 2.0])
    shifted = exact_gradient(logits, values + 1e6)
    assert torch.allclose(shifted, exact_gradient(logits, values), rtol=1e-6)


def test_moments_of_a_nearly_certain_class():
    far = binary_relaxation_moments(-50.0, 1.0)
    assert far.mean == pytest.approx(math.exp(-50) * (50 + -1), rel=0.05)
    with pytest.raises(ValueError, match=r"tau must be at least 1e-150.*1e-300"):
        binary_relaxation_moments(0.0, 1e-300)
