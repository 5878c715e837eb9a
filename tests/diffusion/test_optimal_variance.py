"""Unit, oracle, property and bad-input tests of diffusion.optimal_variance."""

import math

import pytest
import torch
from exact import COSINE, MIXTURE, exact_noise
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from sklearn.linear_model import LinearRegression
from tensors import seeded, t64

from kexue_lab.diffusion.ddim import ddpm_sigma, posterior_coefficients, sample
from kexue_lab.diffusion.mixtures import GaussianMixture
from kexue_lab.diffusion.optimal_variance import (
    kl_excess,
    linear_mmse,
    optimal_reverse_variance,
    sample_analytic,
    variance_bounds,
    variance_from_mean,
    variance_from_noise,
)

MEAN, VARIANCE = 0.25, 1.5145
TRUE = {0.05: 0.005977142, 0.2: 0.072156631, 0.5: 0.525266840, 0.8: 1.301224256, 0.95: 1.500403834}
LINEAR = {0.05: 0.006169, 0.2: 0.098693, 0.5: 0.602307, 0.8: 1.305727, 0.95: 1.500425}
GRID = torch.linspace(-9, 9, 20_001, dtype=torch.float64)[:, None]


def bars(t):
    return COSINE.alpha_bar(t), COSINE.beta_bar(t)


def quadrature(values, t):
    """E of a function of x_t, given at GRID."""
    density = MIXTURE.log_prob(GRID, *bars(t)).exp()
    return float((density * values).sum() * (GRID[1] - GRID[0]))


def noised(n, t, g):
    ab, bb = bars(t)
    return ab * MIXTURE.sample(n, g) + bb * torch.randn(n, 1, generator=g, dtype=torch.float64)


# --- the estimators ----------------------------------------------------------------------------


@pytest.mark.parametrize("t", TRUE)
def test_both_estimators_are_exact_in_the_mean(t):
    ab, bb = bars(t)
    mean, noise = MIXTURE.posterior_mean(GRID, ab, bb), MIXTURE.noise(GRID, ab, bb)
    # Each estimate is affine in what it averages, so its mean is its value under quadrature.
    by_mean = [float(variance_from_mean(m[None], MEAN, VARIANCE)) for m in mean[::200]]
    direct = VARIANCE - (mean[::200, 0] - MEAN) ** 2
    assert by_mean == pytest.approx(direct.tolist())
    first = VARIANCE - quadrature((mean[:, 0] - MEAN) ** 2, t)
    second = (bb / ab) ** 2 * (1 - quadrature(noise[:, 0] ** 2, t))
    third = quadrature(MIXTURE.posterior_cov(GRID, ab, bb)[:, 0, 0], t)
    assert (first, second, third) == pytest.approx(3 * (TRUE[t],), abs=1e-7)


@pytest.mark.parametrize("t", [0.2, 0.5, 0.8])
def test_estimates_from_samples_within_their_error(t):
    ab, bb = bars(t)
    spread = {0.2: (0.0405, 0.00149), 0.5: (0.0306, 0.0295), 0.8: (0.0091, 0.381)}[t]
    g, both = seeded(5), []
    for _ in range(300):
        x = noised(1000, t, g)
        mu, eps = MIXTURE.posterior_mean(x, ab, bb), MIXTURE.noise(x, ab, bb)
        both.append((variance_from_mean(mu, MEAN, VARIANCE), variance_from_noise(eps, ab, bb)))
    estimates = t64(*both)
    for estimate, sd in zip(estimates.T, spread, strict=True):
        assert abs(estimate.mean() - TRUE[t]) < 5 * estimate.std() / math.sqrt(300)
        assert estimate.std().item() == pytest.approx(sd, rel=0.2)


def test_for_gaussian_data_the_spreads_differ_by_the_squared_signal_to_noise_ratio():
    data = GaussianMixture(t64(1.0), t64([0.0]), t64(0.49))
    for t, ratio in ((0.2, 0.0464207), (0.5, 4.1649313), (0.8, 373.683297)):
        ab, bb = bars(t)
        x = math.sqrt(0.49 * ab**2 + bb**2) * torch.randn(40, 500, generator=seeded()).double()
        mu = [data.posterior_mean(row[:, None], ab, bb) for row in x]
        eps = [data.noise(row[:, None], ab, bb) for row in x]
        first = torch.stack([variance_from_mean(m, 0.0, 0.49) for m in mu]).std()
        second = torch.stack([variance_from_noise(e, ab, bb) for e in eps]).std()
        assert (second / first).item() == pytest.approx(ratio, rel=1e-6)


def test_estimates_per_dimension_and_clipping():
    mu = torch.randn(50, 2, 3, generator=seeded(), dtype=torch.float64)
    mean, variance = torch.randn(2, 3, generator=seeded(1)), torch.full((3,), 2.0)
    each = variance_from_mean(mu, mean, variance, per_dim=True)
    assert each.shape == (2, 3)
    assert each.mean().item() == pytest.approx(variance_from_mean(mu, mean, variance).item())
    each = variance_from_noise(mu, 0.6, 0.8, per_dim=True)
    torch.testing.assert_close(each, 16 / 9 * (1 - mu.square().mean(0)))
    assert each.mean().item() == pytest.approx(variance_from_noise(mu, 0.6, 0.8).item())
    clipped = variance_from_noise(10 * mu, 0.6, 0.8, clip=(0.0, 1.0))
    assert clipped.item() == 0
    assert variance_from_noise(mu * 0, 0.6, 0.8, clip=(0.0, 1.0)).item() == 1


# --- the best variance -------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(a=st.floats(0.05, 0.9), gap=st.floats(0.01, 0.09), s=st.floats(0, 3))
def test_ddpm_has_two_ends(a, gap, s):
    ab_t, ab_u = a, a + gap
    levels = ab_t, math.sqrt(1 - ab_t**2), ab_u, math.sqrt(1 - ab_u**2)
    sigma = ddpm_sigma(*levels)
    beta2 = 1 - (ab_t / ab_u) ** 2
    assert optimal_reverse_variance(*levels, sigma, 0.0) == pytest.approx(sigma**2)
    # Standard normal data: its posterior variance is β̄².
    assert optimal_reverse_variance(*levels, sigma, levels[1] ** 2) == pytest.approx(beta2)
    small, large = sorted([s, s + 0.1])
    assert optimal_reverse_variance(*levels, sigma, small) < optimal_reverse_variance(
        *levels, sigma, large
    )


def test_it_minimises_the_expected_kl():
    levels, e = (0.5, 0.8, 0.7, 0.6), 0.3
    _, lam = posterior_coefficients(*levels, 0.2)

    def kl(v):
        return 0.5 * 3 * (math.log(v / 0.04) - 1 + (0.04 + lam**2 * e) / v)

    best = minimize_scalar(kl, bounds=(0.01, 1), method="bounded", options={"xatol": 1e-10})
    star = optimal_reverse_variance(*levels, 0.2, e)
    assert best.x == pytest.approx(star, rel=1e-5)
    for v in (0.03, 0.1, 0.5):
        assert kl(v) - kl(star) == pytest.approx(kl_excess(v, star, 3), abs=1e-12)


@settings(deadline=None, max_examples=40)
@given(t=st.floats(0.1, 0.95), share=st.floats(0, 0.9), x=st.floats(-1.5, 1.5))
def test_it_is_the_variance_of_the_true_step(t, share, x):
    """That of κ x_t + λ x_0 + σ z with x_0 of the mixture's posterior, by quadrature."""
    u = share * t
    levels = (*bars(t), *bars(u))
    sigma = 0.5 * ddpm_sigma(*levels)
    kappa, lam = posterior_coefficients(*levels, sigma)
    x0 = torch.linspace(-5, 5, 20_001, dtype=torch.float64)[:, None]
    log_joint = MIXTURE.log_prob(x0) - (x - levels[0] * x0[:, 0]).square() / (2 * levels[1] ** 2)
    weight = log_joint.softmax(0)
    mean = kappa * x + lam * x0[:, 0]
    second = float(weight @ (mean - weight @ mean).square()) + sigma**2
    point = torch.tensor([[x]], dtype=torch.float64)
    known = float(MIXTURE.posterior_cov(point, *bars(t)))
    assert optimal_reverse_variance(*levels, sigma, known) == pytest.approx(second, rel=1e-4)


def test_for_gaussian_data_the_best_steps_lose_no_nats():
    """The telescoping sum of the notebook's step 3: Σ ½ ln(v*/β²) = ½ ln(s²/V_T)."""
    s, total = 0.7, 0.0
    for t, u in ((0.9, 0.6), (0.6, 0.35), (0.35, 0.1), (0.1, 0.0)):
        levels = (*bars(t), *bars(u))
        open_ = linear_mmse(t64(s**2), *bars(t)).item()
        best = optimal_reverse_variance(*levels, ddpm_sigma(*levels), open_)
        total += 0.5 * math.log(best / (1 - (levels[0] / levels[2]) ** 2))
    v_start = bars(0.9)[0] ** 2 * s**2 + bars(0.9)[1] ** 2
    assert total == pytest.approx(0.5 * math.log(s**2 / v_start), abs=1e-12)


def test_half_the_variance_in_two_dimensions():
    assert kl_excess(0.5, 1.0, 2) == pytest.approx(0.306852819, abs=1e-9)
    assert kl_excess(0.7, 0.7, 5) == 0


# --- bounds ------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", LINEAR)
def test_bounds_by_their_digits(t):
    low, high = variance_bounds(*bars(t), data_variance=VARIANCE)
    assert low == 0
    assert high == pytest.approx(LINEAR[t], abs=5e-7)
    assert TRUE[t] < high
    assert high < variance_bounds(*bars(t))[1]


def test_the_linear_bound_is_the_error_of_a_regression():
    covariance = t64([1.0, 0.4], [0.4, 0.5])
    root = torch.linalg.cholesky(covariance)
    x0 = torch.randn(200_000, 2, generator=seeded(), dtype=torch.float64) @ root.T
    x = 0.6 * x0 + 0.8 * torch.randn(x0.shape, generator=seeded(1), dtype=torch.float64)
    residual = x0.numpy() - LinearRegression().fit(x, x0).predict(x)
    bound = linear_mmse(torch.linalg.eigvalsh(covariance), 0.6, 0.8).item()
    assert (residual**2).mean() == pytest.approx(bound, rel=0.01)


@settings(deadline=None, max_examples=50)
@given(
    eigenvalues=st.lists(st.floats(0, 5), min_size=1, max_size=6),
    ab=st.floats(0.01, 1),
    bb=st.floats(0.05, 3),
)
def test_more_knowledge_means_a_tighter_bound(eigenvalues, ab, bb):
    spectrum = t64(*eigenvalues)
    variance = spectrum.mean().item()
    known = {"data_variance": variance}
    assert variance_bounds(ab, bb)[1] >= variance_bounds(ab, bb, **known)[1] - 1e-12
    both = variance_bounds(ab, bb, eigenvalues=spectrum, **known)[1]
    assert both == pytest.approx(linear_mmse(spectrum, ab, bb).item(), abs=1e-12)
    assert both <= variance + 1e-12
    assert variance_bounds(ab, bb, data_range=(0.0, 0.02))[1] == min(1e-4, (bb / ab) ** 2)


def test_pure_noise_has_only_the_bound_of_the_data():
    assert variance_bounds(0.0, 1.0)[1] == math.inf
    assert variance_bounds(0.0, 1.0, data_variance=2.0)[1] == pytest.approx(2)


# --- the sampler -------------------------------------------------------------------------------


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_gaussian_data_keeps_its_variance_in_any_number_of_steps(eta):
    data = GaussianMixture(t64(1.0), t64([0.0]), t64(0.25))
    times = COSINE.times(4, 0.95)
    forgotten = [0.25 * bb**2 / (0.25 * ab**2 + bb**2) for ab, bb in map(bars, times[:-1].tolist())]
    g = seeded(3)
    ab, bb = bars(0.95)
    x = math.sqrt(0.25 * ab**2 + bb**2) * torch.randn(100_000, 1, generator=g).double()
    found = sample_analytic(
        exact_noise(data), COSINE, x, times, forgotten, eta=eta, last_noise=True, generator=g
    )
    assert abs(found.var() / 0.25 - 1) < 5 * math.sqrt(2 / 100_000)
    plain = sample(exact_noise(data), COSINE, x, times, eta=eta, generator=g)
    assert plain.var() < 0.2


def test_without_a_correction_it_is_ddim():
    x = torch.randn(50, 1, generator=seeded(), dtype=torch.float64)
    times = COSINE.times(6, 0.9)
    for eta in (0.0, 0.6):
        arguments = exact_noise(MIXTURE), COSINE, x, times
        plain = sample(*arguments, eta=eta, generator=seeded(2))
        ours = sample_analytic(*arguments, [0.0] * 6, eta=eta, generator=seeded(2))
        torch.testing.assert_close(ours, plain)


def test_a_conditional_variance_is_called_with_points_and_time():
    x = torch.randn(5, 2, generator=seeded())
    seen = []

    def variance(points, t):
        seen.append((points.shape, t))
        return points.new_full((2,), 0.1)

    times = [0.8, 0.5, 0.2]
    constant = sample_analytic(lambda x, t: 0 * x, COSINE, x, times, [0.1] * 2, generator=seeded(1))
    called = sample_analytic(lambda x, t: 0 * x, COSINE, x, times, variance, generator=seeded(1))
    torch.testing.assert_close(constant, called)
    assert called.dtype == torch.float32
    assert seen == [((5, 2), 0.8)]  # the last step has no noise


# --- bad input ---------------------------------------------------------------------------------

X = torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: variance_from_mean([0.0], 0, 1), TypeError, "mu must be a floating-point tensor"),
        (lambda: variance_from_mean(X[:0], 0, 1), ValueError, r"mu must have shape .*\(0, 3\)"),
        (lambda: variance_from_mean(X, torch.zeros(2), 1), ValueError, "data_mean must broadcast"),
        (lambda: variance_from_mean(X, 0, torch.ones(2)), ValueError, "data_variance must broad"),
        (lambda: variance_from_mean(X, 0, -1.0), ValueError, "data_variance must be non-negative"),
        (lambda: variance_from_noise(X, 0.0, 1.0), ValueError, "alpha_bar must be positive"),
        (lambda: variance_from_noise(X, 1.0, -1.0), ValueError, "beta_bar must be non-negative"),
        (lambda: variance_from_noise(X, 1, 1, clip=(1, 0)), ValueError, "clip must be"),
        (lambda: variance_from_noise(X.int(), 1, 1), TypeError, "eps must be a floating-point"),
        (
            lambda: optimal_reverse_variance(0.5, 0.8, 0.7, 0.6, 0.7, 0.1),
            ValueError,
            "sigma must lie in",
        ),
        (
            lambda: optimal_reverse_variance(0.5, 0.8, 0.7, 0.6, 0.1, -0.1),
            ValueError,
            "sigma_bar2 must be non-negative",
        ),
        (lambda: linear_mmse(X, 1, 1), ValueError, r"eigenvalues must have shape \(d,\)"),
        (lambda: linear_mmse(-X[0] - 1, 1, 1), ValueError, "eigenvalues must be non-negative"),
        (lambda: linear_mmse(X[0], 1, 0), ValueError, "beta_bar must be positive"),
        (lambda: linear_mmse([1.0], 1, 1), TypeError, "eigenvalues must be a floating-point"),
        (lambda: variance_bounds(-1, 1), ValueError, "alpha_bar must be non-negative"),
        (lambda: variance_bounds(1, 1, data_range=(1, 1)), ValueError, "data_range must be"),
        (lambda: variance_bounds(1, 1, data_variance=-1), ValueError, "data_variance must be non"),
        (lambda: kl_excess(0, 1, 1), ValueError, "v must be positive"),
        (lambda: kl_excess(1, -1, 1), ValueError, "v_star must be positive"),
        (lambda: kl_excess(1, 1, 0), ValueError, "d must be positive"),
        (lambda: analytic(x=[0.0]), TypeError, "x must be a floating-point tensor"),
        (lambda: analytic(times=[0.2, 0.5]), ValueError, "times must be"),
        (lambda: analytic(times=[1.0, 0.5]), ValueError, "times must start where alpha_bar > 0"),
        (lambda: analytic(sigma_bar2=[0.1, 0.1]), ValueError, r"sigma_bar2 must have shape \(1,\)"),
        (lambda: analytic(sigma_bar2=[-0.1]), ValueError, "sigma_bar2 must be non-negative"),
        (lambda: analytic(eta=2), ValueError, "eta must lie in"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def analytic(**changes):
    arguments = {"x": X, "times": [0.5, 0.2], "sigma_bar2": [0.1], "eta": 0.0} | changes
    eta = arguments.pop("eta")
    return sample_analytic(lambda x, t: x, COSINE, *arguments.values(), eta=eta)
