"""Unit, oracle, property and bad-input tests of diffusion.poisson_flow."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.integrate import quad
from scipy.optimize import brentq
from tensors import seeded, t64

from kexue_lab.diffusion.diffusion_ode import denoiser_score, sample_ode
from kexue_lab.diffusion.mixtures import GaussianMixture
from kexue_lab.diffusion.poisson_flow import (
    perturb,
    poisson_denoiser,
    poisson_field,
    prior_tv_constant,
    sample_prior,
    voigt_field,
)

SOURCES, MASSES = t64([0.0, 0.0], [1.0, 0.5], [-0.5, 2.0]), t64(0.5, 0.2, 0.3)
POINT = t64([0.3, -0.7])


# --- field and denoiser ------------------------------------------------------------------------


def test_the_field_by_its_digits():
    field = poisson_field(POINT, 0.8, SOURCES, MASSES)
    digits = t64([0.00691530334, -0.027873740995, 0.027473282864])
    torch.testing.assert_close(field, digits, rtol=0, atol=1e-11)
    denoised = poisson_denoiser(POINT, 0.8, SOURCES, MASSES)
    expected = t64([0.098631903613, 0.111661020136])
    torch.testing.assert_close(denoised, expected, rtol=0, atol=1e-11)
    torch.testing.assert_close(field[:, :2] / field[:, 2:], (POINT - denoised) / 0.8)


@pytest.mark.parametrize(
    ("aug_dim", "radius", "digits"),
    [
        (8, 0.8 * math.sqrt(8), (0.11625070, 0.07682420)),
        (math.inf, 0.8, (0.12123441, 0.06441170)),
    ],
)
def test_more_dimensions_by_their_digits(aug_dim, radius, digits):
    denoised = poisson_denoiser(POINT, radius, SOURCES, MASSES, aug_dim=aug_dim)
    assert denoised[0].tolist() == pytest.approx(digits, abs=1e-8)


@settings(deadline=None, max_examples=25)
@given(d=st.integers(1, 5), seed=st.integers(0, 10**6), t=st.floats(0.2, 3))
def test_the_field_has_no_divergence(d, seed, t):
    data = torch.randn(4, d, generator=seeded(seed), dtype=torch.float64)
    x = torch.randn(1, d, generator=seeded(seed + 1), dtype=torch.float64)

    def value(point):
        offsets = torch.cat([point[:-1] - data, point[-1].expand(4, 1)], -1)
        return (offsets / offsets.norm(dim=-1, keepdim=True) ** (d + 1)).mean(0)

    area = 2 * math.pi ** ((d + 1) / 2) / math.gamma((d + 1) / 2)
    point = torch.cat([x[0], t64(t)])
    torch.testing.assert_close(poisson_field(x, t, data)[0], value(point) / area)
    step = 1e-4
    shifts = step * torch.eye(d, dtype=torch.float64)
    ours = lambda y, s: poisson_field(y, s, data)  # noqa: E731
    divergence = sum(
        (ours(x + shifts[i], t) - ours(x - shifts[i], t))[0, i] / (2 * step) for i in range(d)
    )
    divergence += (ours(x, t + step) - ours(x, t - step))[0, d] / (2 * step)
    assert abs(divergence) < 1e-4 * (1 + poisson_field(x, t, data).norm() / t)


@settings(deadline=None, max_examples=25)
@given(d=st.integers(1, 6), seed=st.integers(0, 10**6), t=st.floats(0.1, 50))
def test_the_tangent_of_a_field_line_hits_the_mean_datum(d, seed, t):
    data = torch.randn(5, d, generator=seeded(seed), dtype=torch.float64)
    x = 3 * torch.randn(3, d, generator=seeded(seed + 1), dtype=torch.float64)
    field = poisson_field(x, t, data)
    on_the_floor = x - t * field[:, :d] / field[:, d:]
    torch.testing.assert_close(on_the_floor, poisson_denoiser(x, t, data), rtol=0, atol=1e-9)


def test_twice_the_height_component_is_the_cauchy_density():
    x = torch.linspace(-3, 3, 7, dtype=torch.float64)[:, None]
    density = 2 * poisson_field(x, 0.5, t64([0.2]))[:, 1]
    expected = stats.cauchy.pdf(x[:, 0].numpy(), 0.2, 0.5)
    torch.testing.assert_close(density, torch.as_tensor(expected))


def test_the_denoiser_is_the_regression_of_the_data():
    data = t64([-1.0], [1.0])
    assert poisson_denoiser(t64([0.5]), 0.5, data).item() == pytest.approx(2 / 3)
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    wide = poisson_denoiser(x, 0.7 * math.sqrt(1e7), data, aug_dim=10**7)
    points = GaussianMixture(t64(0.5, 0.5), data, t64(0.0, 0.0))
    torch.testing.assert_close(wide, points.posterior_mean(x, 1.0, 0.7), rtol=0, atol=1e-5)
    normal = poisson_denoiser(x, 0.7, data, aug_dim=math.inf)
    torch.testing.assert_close(normal, points.posterior_mean(x, 1.0, 0.7))


def test_many_dimensions_do_not_overflow():
    x = 100 * torch.randn(3, 3072, generator=seeded())
    data = torch.randn(5, 3072, generator=seeded(1))
    denoised = poisson_denoiser(x, 40.0, data)
    assert denoised.isfinite().all()
    torch.testing.assert_close(
        denoised.double(), poisson_denoiser(x.double(), 40.0, data.double()), rtol=0, atol=0.05
    )


def test_the_flow_leads_to_the_data():
    x = perturb(SOURCES[[0] * 500 + [1] * 200 + [2] * 300], 20.0, generator=seeded())
    score = denoiser_score(lambda x, r: poisson_denoiser(x, r, SOURCES, MASSES))
    radii = torch.logspace(math.log10(20), -2, 60, dtype=torch.float64)
    found = sample_ode(score, x, radii, method="heun", denoise=True)
    distance = torch.cdist(found, SOURCES)
    assert (distance.amin(-1) < 0.1).double().mean() > 0.97
    shares = torch.bincount(distance.argmin(-1), minlength=3) / 1000
    assert (shares - MASSES).abs().max() < 0.06


# --- noise -------------------------------------------------------------------------------------


@pytest.mark.parametrize("aug_dim", [1, 3, 64])
@pytest.mark.parametrize("d", [1, 2, 7])
def test_the_radius_of_the_prior_has_a_beta_law(d, aug_dim):
    x = sample_prior(20_000, d, 5.0, aug_dim=aug_dim, generator=seeded(d)).double()
    squares = x.square().sum(-1)
    share = (squares / (squares + 25)).numpy()
    assert stats.kstest(share, stats.beta(d / 2, aug_dim / 2).cdf).pvalue > 1e-4


@pytest.mark.parametrize(
    ("d", "quantiles"),
    [
        (2, (0.484322, 1.732051, 9.949874)),
        (64, (4.793252, 11.793453, 63.411046)),
        (3072, (33.69, 82.16, 441.03)),
    ],
)
def test_quantiles_of_the_radius_by_their_digits(d, quantiles):
    share = stats.beta(d / 2, 0.5).ppf([0.1, 0.5, 0.9])
    np.testing.assert_allclose(np.sqrt(share / (1 - share)), quantiles, rtol=2e-4)
    radii = sample_prior(4000, d, 1.0, generator=seeded()).norm(dim=-1)
    for level, quantile in zip((0.1, 0.5, 0.9), quantiles, strict=True):
        below = (radii < quantile).double().mean()
        assert abs(below - level) < 5 * math.sqrt(level * (1 - level) / 4000)


@pytest.mark.parametrize("aug_dim", [1, 2, 8])
def test_on_a_line_the_noise_has_students_law(aug_dim):
    x0 = t64([0.5]).expand(20_000, 1)
    x = perturb(x0, 2 * math.sqrt(aug_dim), aug_dim=aug_dim, generator=seeded(aug_dim))
    assert stats.kstest(x[:, 0].numpy(), stats.t(aug_dim, 0.5, 2).cdf).pvalue > 1e-4


def test_infinitely_many_dimensions_give_a_normal():
    x0 = t64([2.0, -1.0]).expand(50_000, 2)
    x = perturb(x0, 0.5, aug_dim=math.inf, generator=seeded())
    assert x.dtype == torch.float64
    for column, mean in zip(x.T, (2, -1), strict=True):
        assert stats.kstest(column.numpy(), stats.norm(mean, 0.5).cdf).pvalue > 1e-4


# --- one dimension -----------------------------------------------------------------------------

WEIGHTS, MEANS, STDS = (0.3, 0.7), (-1.5, 1.0), (0.3, 0.5)


def smoothed(x, t):
    def integrand(y):
        density = sum(
            w * stats.norm.pdf(y, m, s) for w, m, s in zip(WEIGHTS, MEANS, STDS, strict=True)
        )
        return density * np.array([t, x - y]) / (math.pi * ((x - y) ** 2 + t**2))

    return [quad(lambda y, i=i: integrand(y)[i], -8, 8, limit=200)[0] for i in range(2)]


def test_the_voigt_field_by_its_digits_and_by_convolution():
    rho, conjugate = voigt_field(0.3, 0.5, WEIGHTS, MEANS, STDS)
    assert float(rho) == pytest.approx(0.2034221961, abs=1e-10)
    assert float(conjugate) == pytest.approx(-0.1036505391, abs=1e-10)
    x = np.array([[-2.0, 0.1], [1.4, 6.0]])
    rho, conjugate = voigt_field(x, 1.3, WEIGHTS, MEANS, STDS)
    expected = np.array([[smoothed(v, 1.3) for v in row] for row in x])
    np.testing.assert_allclose(rho, expected[..., 0], rtol=1e-8)
    np.testing.assert_allclose(conjugate, expected[..., 1], rtol=1e-7)


def test_at_height_zero_it_is_the_mixture():
    x = np.linspace(-3, 3, 7)
    mixture = GaussianMixture(t64(*WEIGHTS), t64(*MEANS)[:, None], t64(*STDS) ** 2)
    expected = mixture.log_prob(torch.as_tensor(x)[:, None]).exp()
    np.testing.assert_allclose(voigt_field(x, 0.0, WEIGHTS, MEANS, STDS)[0], expected)


FLOW = {-1.5: -19.438857868, 0.0: -6.346571345, 1.3: 14.838414458}


@pytest.mark.parametrize("start", FLOW)
def test_the_flow_keeps_the_distribution_function(start):
    def below(x, t):
        # The Cauchy distribution function, averaged over the mixture.
        def integrand(y):
            p = sum(
                w * stats.norm.pdf(y, m, s) for w, m, s in zip(WEIGHTS, MEANS, STDS, strict=True)
            )
            return p * (0.5 + math.atan((x - y) / t) / math.pi)

        return quad(integrand, -6, 6, limit=200, epsabs=1e-12)[0]

    level = sum(
        w * stats.norm.cdf(start, m, s) for w, m, s in zip(WEIGHTS, MEANS, STDS, strict=True)
    )
    exact = brentq(lambda x: below(x, 10.0) - level, -60, 60, xtol=1e-10)
    assert exact == pytest.approx(FLOW[start], abs=1e-6)

    def score(x, t):
        rho, conjugate = voigt_field(x.numpy(), t, WEIGHTS, MEANS, STDS)
        return torch.as_tensor(-conjugate / (rho * t))

    radii = torch.logspace(1, -5, 400, dtype=torch.float64)
    back = sample_ode(score, t64([exact]), radii, method="rk4")
    assert back.item() == pytest.approx(start, abs=1e-3)


# --- the prior's error -------------------------------------------------------------------------


def test_the_prior_constant_by_its_digits():
    digits = {1: 0.206748336, 2: 0.278854801, 3: 1 / math.pi, 8: 0.392231652, 64: 0.452014300}
    for d, value in digits.items():
        assert prior_tv_constant(d) == pytest.approx(value, abs=1e-9)
    limit = 3**1.5 * math.exp(-1.5) / math.sqrt(2 * math.pi)
    assert prior_tv_constant(10**6) == pytest.approx(limit, rel=1e-5)
    values = [prior_tv_constant(d) for d in range(1, 50)]
    assert sorted(values) == values


def test_the_prior_constant_by_integration():
    means = np.array(MEANS) - 0.25
    x = np.linspace(-4000, 4000, 2_000_001)
    rho = voigt_field(x, 40.0, WEIGHTS, means, STDS)[0]
    distance = 0.5 * np.abs(rho - stats.cauchy.pdf(x, 0, 40)).sum() * (x[1] - x[0])
    assert distance * 40**2 / 1.5145 == pytest.approx(0.206628, abs=2e-4)


# --- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [poisson_field, poisson_denoiser])
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"x": [[0.0, 0.0]]}, TypeError, "x must be a floating-point tensor, got list"),
        ({"x": POINT[0]}, ValueError, r"x must have shape \(B, d\), got \(2,\)"),
        ({"data": SOURCES[:, :1]}, ValueError, r"data must have shape \(N, 2\)"),
        ({"data": SOURCES[:0]}, ValueError, r"data must have shape .*\(0, 2\)"),
        ({"data": SOURCES.float()}, TypeError, "x, data must share one dtype"),
        ({"r": 0.0}, ValueError, "r must be positive and finite, got 0.0"),
        ({"weights": MASSES[:2]}, ValueError, r"weights must have shape \(3,\), got \(2,\)"),
        ({"weights": 2 * MASSES}, ValueError, "weights must be .* sum 1, got sum 2"),
        ({"weights": t64(1.5, -0.5, 0.0)}, ValueError, "weights must be non-negative"),
    ],
)
def test_bad_input_of_fields(function, changes, error, message):
    arguments = {"x": POINT, "r": 0.8, "data": SOURCES, "weights": MASSES} | changes
    with pytest.raises(error, match=message):
        function(*arguments.values())


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: poisson_denoiser(POINT, 1, SOURCES, aug_dim=0.5),
            ValueError,
            "aug_dim must be at",
        ),
        (lambda: perturb(POINT, 1.0, aug_dim=2.5), ValueError, "aug_dim must be whole or infinite"),
        (lambda: perturb(POINT, -1.0), ValueError, "r must be positive"),
        (lambda: perturb(POINT[0], 1.0), ValueError, "x0 must have shape"),
        (lambda: sample_prior(0, 2, 1.0), ValueError, "n must be at least 1"),
        (lambda: sample_prior(1, 2.0, 1.0), TypeError, "d must be an integer"),
        (lambda: sample_prior(1, 2, math.inf), ValueError, "r must be positive and finite"),
        (lambda: voigt_field(0, -1, (1,), (0,), (1,)), ValueError, "t must be non-negative"),
        (lambda: voigt_field(0, 1, (1,), (0,), (0,)), ValueError, "stds must be positive"),
        (lambda: voigt_field(0, 1, (0.5,), (0,), (1,)), ValueError, "weights must be non-negative"),
        (lambda: voigt_field(0, 1, (1,), (0, 1), (1,)), ValueError, r"must have one shape \(K,\)"),
        (lambda: prior_tv_constant(0), ValueError, "d must be at least 1"),
        (lambda: prior_tv_constant(1.5), TypeError, "d must be an integer"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_very_large_dimension_is_nearly_the_gaussian_limit(dtype):
    g = torch.Generator().manual_seed(0)
    data, x = torch.randn(6, 2, generator=g).to(dtype), torch.randn(4, 2, generator=g).to(dtype)
    gauss = poisson_denoiser(x, 0.7, data, aug_dim=math.inf)
    near = poisson_denoiser(x, 0.7 * 1e4, data, aug_dim=1e8)
    assert torch.allclose(near, gauss, rtol=0, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
@pytest.mark.parametrize("aug_dim", [1, 4, math.inf])
def test_the_denoiser_scales_with_everything(scale, aug_dim):
    g = torch.Generator().manual_seed(1)
    data, x = (torch.randn(n, 2, generator=g, dtype=torch.float64) for n in (6, 4))
    expected = poisson_denoiser(x, 0.7, data, aug_dim=aug_dim)
    scaled = poisson_denoiser(x * scale, 0.7 * scale, data * scale, aug_dim=aug_dim)
    assert torch.allclose(scaled / scale, expected, rtol=1e-12, atol=0)


def test_far_from_the_data_the_nearest_point_still_wins():
    data = torch.tensor([[-1.0], [1.0]])
    x = torch.tensor([[1e20], [-1e20]])
    assert poisson_denoiser(x, 1.0, data, aug_dim=math.inf).tolist() == [[1], [-1]]


def test_half_precision_draws_stay_finite():
    x0 = torch.zeros(100_000, 2, dtype=torch.float16)
    assert bool(perturb(x0, 10.0, generator=torch.Generator().manual_seed(0)).isfinite().all())


def test_the_prior_constant_keeps_its_digits_in_huge_dimensions():
    limit = 0.5 * math.sqrt(2 / math.pi) * 3**1.5 * math.exp(-1.5)
    for d in (10**8, 10**12, 10**15):
        assert prior_tv_constant(d) == pytest.approx(limit, rel=1e-7)
