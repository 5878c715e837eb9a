import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import kstest, norm

from kexue_lab.diffusion.schedules import GaussianMixture, NoiseSchedule, marginal_score

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


@pytest.fixture
def gm2():
    """The one-dimensional mixture with weights .3, .7, means −1.5, 1 and deviations .3, .5."""
    return GaussianMixture(
        torch.tensor([0.3, 0.7], dtype=torch.float64),
        torch.tensor([[-1.5], [1.0]], dtype=torch.float64),
        torch.tensor([0.09, 0.25], dtype=torch.float64),
    )


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


# ---------------------------------------------------------------------------- schedules


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


# ---------------------------------------------------------------------------- mixtures


def test_gm2_values(gm2):
    schedule = NoiseSchedule.linear()
    density = [
        float(gm2.log_prob(points(0.0), schedule.alpha_bar(t), schedule.beta_bar(t)).exp())
        for t in (0.0, 0.2, 0.5)
    ]
    assert density == pytest.approx([0.075588840, 0.234642178, 0.388958820], abs=5e-10)
    at = schedule.alpha_bar(0.2), schedule.beta_bar(0.2)
    assert float(gm2.score(points(0.3), *at)) == pytest.approx(0.846579627, abs=5e-10)
    assert float(gm2.cdf(points(0.5), *at)) == pytest.approx(0.530567644, abs=5e-10)


@pytest.mark.parametrize(("a", "b"), [(0.9, 0.2), (0.5, 0.8), (1.0, 2.0), (0.0, 1.0)])
@pytest.mark.parametrize("x", [-1.7, 0.3, 2.5])
def test_against_integrals_over_x0(gm2, a, b, x):
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
    assert float(gm2.log_prob(at, a, b).exp()) == pytest.approx(density, rel=1e-9)
    assert float(gm2.cdf(at, a, b)) == pytest.approx(distribution, rel=1e-9)
    assert float(gm2.posterior_mean(at, a, b)) == pytest.approx(mean, rel=1e-9)
    assert float(gm2.posterior_cov(at, a, b)) == pytest.approx(variance, rel=1e-8)
    assert float(gm2.noise(at, a, b)) == pytest.approx(noise, rel=1e-9)


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


def test_marginal_solves_the_fokker_planck_equation(gm2):
    # ∂p/∂t = −∂(f x p)/∂x + ½g² ∂²p/∂x² by autograd in t and x; needs ᾱ, β̄ and log p together.
    schedule = NoiseSchedule.cosine()

    def density(x, t):
        return gm2.log_prob(x[None, None], schedule.alpha_bar(t), schedule.beta_bar(t)).exp()[0]

    for x in (-1.2, 0.1, 1.9):
        for time in (0.1, 0.6):
            at = torch.tensor(x, dtype=torch.float64), torch.tensor(time, dtype=torch.float64)
            p, p_x, p_t = density(*at), *torch.func.grad(density, (0, 1))(*at)
            p_xx = torch.func.grad(torch.func.grad(density))(*at)
            f, rate = schedule.drift(time), schedule.diffusion_squared(time)
            assert float(p_t) == pytest.approx(
                float(-f * p - f * x * p_x + 0.5 * rate * p_xx), rel=1e-9
            )


def test_defaults_are_the_data_itself(gm2):
    x = points(-1.4, 0.2)
    expected = torch.from_numpy(gm2_density(x[:, 0].numpy()))
    torch.testing.assert_close(gm2.log_prob(x).exp(), expected)
    torch.testing.assert_close(gm2.posterior_mean(x), x)
    torch.testing.assert_close(gm2.posterior_cov(x), torch.zeros(2, 1, 1, dtype=torch.float64))
    assert not gm2.noise(x).any()


@pytest.mark.parametrize(
    "method", ["log_prob", "score", "noise", "posterior_mean", "posterior_cov", "cdf"]
)
def test_one_coefficient_for_each_point(gm2, method):
    function = getattr(gm2, method)
    x, a, b = points(-1.0, 0.5, 2.0), torch.tensor([0.9, 0.5, 0.1]), torch.tensor([0.1, 0.7, 1.0])
    each = [function(x[i : i + 1], float(a[i]), float(b[i])) for i in range(3)]
    torch.testing.assert_close(function(x, a, b), torch.cat(each), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "method", ["log_prob", "score", "noise", "posterior_mean", "posterior_cov", "cdf"]
)
def test_results_keep_the_dtype_of_x(gm2, method):
    x = points(-1.0, 0.5)
    single = getattr(gm2, method)(x.float(), 0.8, 0.6)
    assert single.dtype == torch.float32
    torch.testing.assert_close(
        single.double(), getattr(gm2, method)(x, 0.8, 0.6), rtol=1e-5, atol=1e-6
    )


def test_far_from_all_components(gm2):
    # Every density underflows; on both sides the wider component (mean 1, sd .5) is what is left.
    x = points(-1e4, 1e4)
    torch.testing.assert_close(gm2.score(x), -(x - 1) / 0.25)
    assert gm2.log_prob(x).isfinite().all()


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


def test_samples_follow_the_cdf(gm2):
    x = gm2.sample(20_000, torch.Generator().manual_seed(0))
    assert x.shape == (20_000, 1)

    def cdf(values):
        return gm2.cdf(torch.from_numpy(values)[:, None]).numpy()

    assert kstest(x[:, 0].numpy(), cdf).statistic < 1.63 / math.sqrt(20_000)
    again = gm2.sample(20_000, torch.Generator().manual_seed(0))
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


def test_cdf_is_accurate_in_the_tails(gm2):
    x = np.array([-30.0, -12.0, -5.0, 5.0, 30.0])
    left = norm.cdf(x, -1.2, math.sqrt(0.64 * 0.09 + 0.36))
    right = norm.cdf(x, 0.8, math.sqrt(0.64 * 0.25 + 0.36))
    found = gm2.cdf(points(*x), 0.8, 0.6)
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


def test_signal_beyond_the_range_of_its_logarithm():
    steep = NoiseSchedule.linear(0.1, 1e4)
    assert steep.log_snr(1.0) == pytest.approx(-5000.05)
    assert NoiseSchedule.cosine(0.0).beta_bar(1e-200) == pytest.approx(0.5 * math.pi * 1e-200)
    assert NoiseSchedule.linear(0.0, 20.0).beta_bar(1e-200) == pytest.approx(10**0.5 * 1e-200)
    half = torch.linspace(0, 1, 9).half()
    expected = NoiseSchedule.linear().beta_bar(half.double())
    assert torch.allclose(NoiseSchedule.linear().beta_bar(half).double(), expected, rtol=1e-3)
