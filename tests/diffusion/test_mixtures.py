"""Gaussian mixtures under noise, against integrals, mpmath and torch.distributions."""

import math

import numpy as np
import pytest
import torch
from exact import MIXTURE
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import kstest, norm

from kexue_lab.diffusion.mixtures import GaussianMixture
from kexue_lab.diffusion.schedules import NoiseSchedule, marginal_score


@pytest.fixture
def gm3d():
    generator = torch.Generator().manual_seed(3)
    return GaussianMixture(
        torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64),
        torch.randn(3, 3, generator=generator, dtype=torch.float64),
        torch.tensor([0.3, 0.05, 0.6], dtype=torch.float64),
    )


def points(*values):
    return torch.tensor(values, dtype=torch.float64)[:, None]


def gm2_density(x):
    return 0.3 * norm.pdf(x, -1.5, 0.3) + 0.7 * norm.pdf(x, 1, 0.5)


def integrate(function, centre=0.0):
    breaks = sorted({-1.5, 0.0, 1.0, centre})
    return quad(function, -6, 6, points=breaks, epsabs=1e-13, epsrel=1e-12, limit=400)[0]


def test_gm2_values():
    schedule = NoiseSchedule.linear()
    density = [
        float(MIXTURE.log_prob(points(0.0), schedule.alpha_bar(t), schedule.beta_bar(t)).exp())
        for t in (0.0, 0.2, 0.5)
    ]
    assert density == pytest.approx([0.075588840, 0.234642178, 0.388958820], abs=5e-10)
    at = schedule.alpha_bar(0.2), schedule.beta_bar(0.2)
    assert float(MIXTURE.score(points(0.3), *at)) == pytest.approx(0.846579627, abs=5e-10)
    assert float(MIXTURE.cdf(points(0.5), *at)) == pytest.approx(0.530567644, abs=5e-10)


@pytest.mark.parametrize(("a", "b"), [(0.9, 0.2), (0.5, 0.8), (1.0, 2.0), (0.0, 1.0)])
@pytest.mark.parametrize("x", [-1.7, 0.3, 2.5])
def test_against_integrals_over_x0(a, b, x):
    def moment(g):
        centre = x / a if a else 0.0
        return integrate(lambda x0: g(x0) * gm2_density(x0) * norm.pdf(x, a * x0, b), centre)

    density, distribution = (
        moment(lambda x0: 1.0),
        integrate(lambda x0: gm2_density(x0) * norm.cdf(x, a * x0, b)),
    )
    mean = moment(lambda x0: x0) / density
    variance = moment(lambda x0: (x0 - mean) ** 2) / density
    noise = moment(lambda x0: (x - a * x0) / b) / density
    at = points(x)
    assert float(MIXTURE.log_prob(at, a, b).exp()) == pytest.approx(density, rel=1e-9)
    assert float(MIXTURE.cdf(at, a, b)) == pytest.approx(distribution, rel=1e-9)
    assert float(MIXTURE.posterior_mean(at, a, b)) == pytest.approx(mean, rel=1e-9)
    assert float(MIXTURE.posterior_cov(at, a, b)) == pytest.approx(variance, rel=1e-8)
    assert float(MIXTURE.noise(at, a, b)) == pytest.approx(noise, rel=1e-9)


def test_log_prob_against_torch_distributions(gm3d):
    a, b = 0.6, 0.4
    scale = (a**2 * gm3d.variances + b**2).sqrt()[:, None].expand(3, 3)
    components = torch.distributions.Independent(
        torch.distributions.Normal(a * gm3d.means, scale), 1
    )
    oracle = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(gm3d.weights), components
    )
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(gm3d.log_prob(x, a, b), oracle.log_prob(x), rtol=1e-12, atol=0)


@settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 2**31),
    k=st.integers(1, 4),
    d=st.integers(1, 4),
    a=st.floats(0.05, 2),
    b=st.floats(0.05, 3),
)
def test_score_posterior_mean_and_covariance_are_derivatives_of_log_prob(seed, k, d, a, b):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    mixture = GaussianMixture(draw(k).softmax(0), draw(k, d), draw(k).exp())
    x = draw(5, d)

    def log_density(point):
        return mixture.log_prob(point[None], a, b)[0]

    score = torch.func.vmap(torch.func.grad(log_density))(x)
    hessian = torch.func.vmap(torch.func.hessian(log_density))(x)
    identity = torch.eye(d, dtype=torch.float64)
    torch.testing.assert_close(mixture.score(x, a, b), score, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(mixture.noise(x, a, b), -b * score, rtol=1e-9, atol=1e-10)
    # Tweedie's formula for the mean, and its second-order form for the covariance.
    torch.testing.assert_close(
        a * mixture.posterior_mean(x, a, b), x + b**2 * score, rtol=1e-9, atol=1e-9
    )
    torch.testing.assert_close(
        a**2 * mixture.posterior_cov(x, a, b),
        b**2 * (identity + b**2 * hessian),
        rtol=1e-8,
        atol=1e-8,
    )


def test_marginal_solves_the_fokker_planck_equation():
    # ∂p/∂t = −∂(f x p)/∂x + ½g² ∂²p/∂x² by autograd in t and x; needs ᾱ, β̄ and log p together.
    schedule = NoiseSchedule.cosine()

    def density(x, t):
        return MIXTURE.log_prob(x[None, None], schedule.alpha_bar(t), schedule.beta_bar(t)).exp()[0]

    for x in (-1.2, 0.1, 1.9):
        for time in (0.1, 0.6):
            at = torch.tensor(x, dtype=torch.float64), torch.tensor(time, dtype=torch.float64)
            p, p_x, p_t = density(*at), *torch.func.grad(density, (0, 1))(*at)
            p_xx = torch.func.grad(torch.func.grad(density))(*at)
            f, rate = schedule.drift(time), schedule.diffusion_squared(time)
            assert float(p_t) == pytest.approx(
                float(-f * p - f * x * p_x + 0.5 * rate * p_xx), rel=1e-9
            )


def test_defaults_are_the_data_itself():
    x = points(-1.4, 0.2)
    expected = torch.from_numpy(gm2_density(x[:, 0].numpy()))
    torch.testing.assert_close(MIXTURE.log_prob(x).exp(), expected)
    torch.testing.assert_close(MIXTURE.posterior_mean(x), x)
    torch.testing.assert_close(MIXTURE.posterior_cov(x), torch.zeros(2, 1, 1, dtype=torch.float64))
    assert not MIXTURE.noise(x).any()


@pytest.mark.parametrize(
    "method", ["log_prob", "score", "noise", "posterior_mean", "posterior_cov", "cdf"]
)
def test_one_coefficient_for_each_point(method):
    function = getattr(MIXTURE, method)
    x, a, b = points(-1.0, 0.5, 2.0), torch.tensor([0.9, 0.5, 0.1]), torch.tensor([0.1, 0.7, 1.0])
    each = [function(x[i : i + 1], float(a[i]), float(b[i])) for i in range(3)]
    torch.testing.assert_close(function(x, a, b), torch.cat(each), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "method", ["log_prob", "score", "noise", "posterior_mean", "posterior_cov", "cdf"]
)
def test_results_keep_the_dtype_of_x(method):
    x = points(-1.0, 0.5)
    single = getattr(MIXTURE, method)(x.float(), 0.8, 0.6)
    assert single.dtype == torch.float32
    torch.testing.assert_close(
        single.double(), getattr(MIXTURE, method)(x, 0.8, 0.6), rtol=1e-5, atol=1e-6
    )


def test_far_from_all_components():
    # Every density underflows; on both sides the wider component (mean 1, sd .5) is what is left.
    x = points(-1e4, 1e4)
    torch.testing.assert_close(MIXTURE.score(x), -(x - 1) / 0.25)
    assert MIXTURE.log_prob(x).isfinite().all()


def test_points_instead_of_components():
    # Data of three points: the posterior is a softmax of −|x − ᾱμ|²/2β̄².
    means = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    data = GaussianMixture(
        torch.full((3,), 1 / 3, dtype=torch.float64), means, torch.zeros(3, dtype=torch.float64)
    )
    x, a, b = torch.tensor([[0.4, 0.3]], dtype=torch.float64), 0.7, 0.5
    likelihood = np.exp(-((x - a * means) ** 2).sum(1).numpy() / (2 * b**2))
    expected = likelihood @ means.numpy() / likelihood.sum()
    assert data.posterior_mean(x, a, b)[0].tolist() == pytest.approx(expected.tolist())
    with pytest.raises(ValueError, match="beta_bar"):
        data.score(x)


def test_samples_follow_the_cdf():
    x = MIXTURE.sample(20_000, torch.Generator().manual_seed(0))
    assert x.shape == (20_000, 1)

    def cdf(values):
        return MIXTURE.cdf(torch.from_numpy(values)[:, None]).numpy()

    assert kstest(x[:, 0].numpy(), cdf).statistic < 1.63 / math.sqrt(20_000)
    again = MIXTURE.sample(20_000, torch.Generator().manual_seed(0))
    assert torch.equal(x, again)


def test_samples_have_the_mixture_moments(gm3d):
    n = 100_000
    x = gm3d.sample(n, torch.Generator().manual_seed(1))
    mean = gm3d.weights @ gm3d.means
    spread = gm3d.means - mean
    cov = torch.einsum("k,ki,kj->ij", gm3d.weights, spread, spread)
    cov += (gm3d.weights @ gm3d.variances) * torch.eye(3, dtype=torch.float64)
    products = torch.einsum("ni,nj->nij", x - mean, x - mean)
    assert ((x.mean(0) - mean).abs() < 5 * x.std(0) / math.sqrt(n)).all()
    assert ((products.mean(0) - cov).abs() < 5 * products.std(0) / math.sqrt(n)).all()


@settings(deadline=None, max_examples=30)
@given(x=st.floats(-5, 5), a=st.floats(0, 1), b=st.floats(0.01, 2))
def test_cdf_is_the_integral_of_the_density(x, a, b):
    mixture = GaussianMixture(
        torch.tensor([0.4, 0.6], dtype=torch.float64), points(-1.0, 2.0), torch.ones(2).double()
    )
    slope = torch.func.grad(lambda y: mixture.cdf(y[None, None], a, b)[0])
    at = torch.tensor(x, dtype=torch.float64)
    density = mixture.log_prob(at[None, None], a, b).exp()[0]
    assert float(slope(at)) == pytest.approx(float(density), rel=1e-9)


def test_cdf_is_accurate_in_the_tails():
    x = np.array([-30.0, -12.0, -5.0, 5.0, 30.0])
    left = norm.cdf(x, -1.2, math.sqrt(0.64 * 0.09 + 0.36))
    right = norm.cdf(x, 0.8, math.sqrt(0.64 * 0.25 + 0.36))
    found = MIXTURE.cdf(points(*x), 0.8, 0.6)
    np.testing.assert_allclose(found.numpy(), 0.3 * left + 0.7 * right, rtol=1e-11, atol=1e-300)


def test_marginal_score_is_the_score_at_time_t(gm3d):
    schedule = NoiseSchedule.cosine()
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    a, b = math.cos(0.3), math.sin(0.3)
    t = schedule.t_from_sigma(math.tan(0.3))
    (expected,) = torch.autograd.grad(gm3d.log_prob(x, a, b).sum(), x)
    torch.testing.assert_close(marginal_score(gm3d, schedule)(x, t), expected, rtol=1e-9, atol=0)


def mixture(weights=(0.5, 0.5), means=((0.0,), (1.0,)), variances=(1.0, 1.0)):
    return GaussianMixture(torch.tensor(weights), torch.tensor(means), torch.tensor(variances))


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: mixture(weights=(0.5, 0.7)), ValueError, "weights must sum to 1, got sum 1.2"),
        (lambda: mixture(weights=(1.5, -0.5)), ValueError, "weights must be non-negative"),
        (lambda: mixture(weights=(0.2, 0.3, 0.5)), ValueError, "weights must have shape"),
        (lambda: mixture(means=(0.0, 1.0)), ValueError, "means must have shape"),
        (lambda: mixture(means=((0.0,), (math.nan,))), ValueError, "means must be finite"),
        (lambda: mixture(variances=(1.0, -1.0)), ValueError, "variances must be non-negative"),
        (lambda: mixture(variances=(1.0, math.inf)), ValueError, "variances must be"),
        (lambda: mixture(variances=(1.0,)), ValueError, "variances must have shape"),
        (lambda: mixture(means=((0,), (1,))), TypeError, "means must be"),
        (
            lambda: GaussianMixture([1.0], torch.zeros(1, 1), torch.ones(1)),
            TypeError,
            "weights must be a floating-point tensor, got list",
        ),
        (
            lambda: GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.ones(1).double()),
            TypeError,
            "share one dtype",
        ),
        (lambda: mixture().sample(0), ValueError, "n must"),
        (lambda: mixture().log_prob(torch.zeros(3)), ValueError, "x must have shape"),
        (lambda: mixture().score(torch.zeros(3, 2)), ValueError, "x must have shape"),
        (lambda: mixture().noise([[0.0]]), TypeError, "x must be"),
        (lambda: mixture().posterior_mean(torch.zeros(3, 1).int()), TypeError, "x must be"),
        (lambda: mixture().posterior_cov(torch.zeros(1, 1), -1.0), ValueError, "alpha_bar"),
        (lambda: mixture().score(torch.zeros(1, 1), 1.0, math.inf), ValueError, "beta_bar"),
        (
            lambda: mixture().score(torch.zeros(3, 1), torch.ones(3, 1), 1.0),
            ValueError,
            "alpha_bar must be a number or have shape",
        ),
        (
            lambda: mixture(means=((0.0, 1.0), (1.0, 1.0))).cdf(torch.zeros(1, 2)),
            ValueError,
            "means must have d = 1",
        ),
        (
            lambda: marginal_score(mixture(), NoiseSchedule.linear())(torch.zeros(1, 1), 2.0),
            ValueError,
            r"\bt must",
        ),
    ],
)
def test_bad_mixture_arguments_raise(call, error, match):
    with pytest.raises(error, match=match):
        call()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("far", [1e4, 3e4])
def test_the_nearer_component_takes_points_that_lie_far_out(dtype, far):
    pair = GaussianMixture(
        torch.tensor([0.5, 0.5]), torch.tensor([[-1.0], [1.0]]), torch.tensor([1e-4, 1e-4])
    )
    x = torch.tensor([[far], [-far], [0.0]], dtype=dtype)
    assert pair.posterior_mean(x, 1.0, 1.0)[2].item() == 0
    mean = pair.posterior_mean(x.double() * 1e16, 1.0, 1.0)
    assert torch.allclose(mean, x.double() * 1e16 * (1e-4 / (1 + 1e-4)), rtol=1e-6)


def test_the_likelier_of_two_points_far_out_is_certain():
    pair = GaussianMixture(torch.tensor([0.5, 0.5]), torch.tensor([[-1.0], [1.0]]), torch.zeros(2))
    x = torch.tensor([[1e20], [-1e20], [0.0]])
    assert pair.posterior_mean(x, 1.0, 1.0).tolist() == [[1], [-1], [0]]
    with pytest.raises(ValueError, match="x must lie within 1e150"):
        pair.score(x.double() * 1e150, 1.0, 1.0)
