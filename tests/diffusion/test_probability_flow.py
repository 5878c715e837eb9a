import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from exact import MIXTURE
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from scipy.linalg import expm, solve_continuous_lyapunov
from scipy.sparse import identity, kron
from scipy.stats import kstest, multivariate_normal, norm

from kexue_lab.diffusion.mixtures import GaussianMixture
from kexue_lab.diffusion.probability_flow import (
    cell_averages,
    cell_averages_2d,
    family_drift,
    fokker_planck_generator,
    fokker_planck_generator_2d,
    log_likelihood,
    quantile_map,
    sample_family,
    solve_fokker_planck,
)
from kexue_lab.diffusion.schedules import NoiseSchedule, marginal_score
from kexue_lab.exercises import exercise

VP = NoiseSchedule.linear()
SCORE = marginal_score(MIXTURE, VP)

# The Ornstein–Uhlenbeck process f = −θx, g = 1 started from N(1.5, .3²).
THETA, M0, S0 = 0.5, 1.5, 0.3


def points(*values):
    return torch.tensor(values, dtype=torch.float64)[:, None]


def ou_marginal(t):
    variance = 1 + (S0**2 - 1) * math.exp(-2 * THETA * t)
    return norm(M0 * math.exp(-THETA * t), math.sqrt(variance))


def solve_ou(cells, steps, end=2.0):
    edges = np.linspace(-6, 6, cells + 1)
    p0 = cell_averages(ou_marginal(0.0).pdf, edges)
    times = np.linspace(0, end, steps + 1)
    return edges, solve_fokker_planck(p0, edges, lambda t, x: -THETA * x, lambda t: 1.0, times)


def gm2_cdf(t):
    at = VP.alpha_bar(t), VP.beta_bar(t)
    return lambda x: MIXTURE.cdf(torch.from_numpy(x)[:, None], *at).numpy()


def gm2_averages(t, edges):
    """Exact averages by differences of the distribution function."""
    return np.diff(gm2_cdf(t)(edges)) / np.diff(edges)


def gm2_density(t):
    at = VP.alpha_bar(t), VP.beta_bar(t)
    return lambda x: MIXTURE.log_prob(torch.from_numpy(x)[:, None], *at).exp().numpy()


def solve_gm2(kappa, cells, steps):
    edges = np.linspace(-6, 6, cells + 1)

    def drift(t, x):
        return family_drift(torch.from_numpy(x)[:, None], t, SCORE, VP, kappa)[:, 0].numpy()

    p0 = cell_averages(gm2_density(0.0), edges)
    times = np.linspace(0, 0.5, steps + 1)
    return edges, solve_fokker_planck(
        p0, edges, drift, lambda t: kappa * VP.diffusion_squared(t), times
    )


def l1(p, q, cell):
    return float(np.abs(p - q).sum() * cell)


def assert_ratios(errors, low, high):
    for coarse, fine in pairwise(errors):
        assert low <= coarse / fine <= high


# ---------------------------------------------------------------------------- generator


def test_generator_has_the_discrete_equilibrium():
    edges = np.linspace(-6, 6, 101)
    generator = fokker_planck_generator(edges, lambda x: -THETA * x, 1.0)
    centres = 0.5 * (edges[1:] + edges[:-1])
    equilibrium = np.exp(-THETA * centres**2)
    scale = np.abs(generator).max()
    assert np.abs(generator @ equilibrium).max() < 1e-12 * scale
    # It is the only null vector, so the statement holds for the null vector computed blindly.
    _, singular, vectors = np.linalg.svd(generator.toarray())
    null = vectors[-1] / vectors[-1][50] * equilibrium[50]
    assert singular[-2] > 1e-3
    np.testing.assert_allclose(null, equilibrium, rtol=0, atol=1e-12)


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**31),
    n=st.integers(2, 30),
    diffusion=st.one_of(st.just(0.0), st.floats(1e-8, 1e3)),
    speed=st.floats(0, 1e4),
)
def test_generator_conserves_mass_and_positivity(seed, n, diffusion, speed):
    velocity = speed * np.random.default_rng(seed).standard_normal(n - 1)
    matrix = fokker_planck_generator(np.linspace(-1, 2, n + 1), lambda x: velocity, diffusion)
    dense = matrix.toarray()
    assert np.abs(dense.sum(0)).max() <= 1e-13 * np.abs(dense).max()
    assert (dense[~np.eye(n, dtype=bool)] >= 0).all()


def test_generator_is_central_where_diffusion_rules_and_upwind_where_drift_rules():
    edges = np.linspace(0, 1, 11)
    h = 0.1

    def drift(x):
        return np.where(x < 0.5, 1.0, -2.0)

    weak = fokker_planck_generator(edges, drift, 1e-6).toarray()
    none = fokker_planck_generator(edges, drift, 0.0).toarray()
    np.testing.assert_allclose(weak, none, rtol=1e-4, atol=1e-4)
    assert none[1, 0] == pytest.approx(1 / h)
    assert none[8, 9] == pytest.approx(2 / h)
    strong = fokker_planck_generator(edges, drift, 1e6).toarray()
    assert strong[1, 0] == pytest.approx(1e6 / (2 * h**2) + 1 / (2 * h), rel=1e-12)
    assert strong[0, 1] == pytest.approx(1e6 / (2 * h**2) - 1 / (2 * h), rel=1e-12)


def test_two_dimensional_generator_is_the_kronecker_sum():
    edges = np.linspace(-2, 2, 13)

    def f(x):
        return np.sin(2 * x)

    def g(y):
        return 1 - y**2

    along_x = fokker_planck_generator(edges, f, 0.7)
    along_y = fokker_planck_generator(edges, g, 0.7)
    expected = kron(along_x, identity(12)) + kron(identity(12), along_y)
    found = fokker_planck_generator_2d(edges, lambda x, y: (f(x), g(y)), 0.7)
    np.testing.assert_allclose(found.toarray(), expected.toarray(), rtol=0, atol=1e-12)


# ---------------------------------------------------------------------------- solver


def test_ou_second_order_mass_and_positivity():
    expected = [1.420e-3, 3.546e-4, 8.865e-5, 2.216e-5, 5.540e-6]
    errors = []
    for level in range(5):
        cells, steps = 100 * 2**level, 50 * 2**level
        edges, path = solve_ou(cells, steps)
        cell = 12 / cells
        errors.append(l1(path[-1], cell_averages(ou_marginal(2.0).pdf, edges), cell))
        assert np.abs(path.sum(1) * cell - 1).max() < 1e-12
        assert path.min() > 0
    assert errors == pytest.approx(expected, rel=1e-3)
    assert_ratios(errors, 3.9, 4.1)


def test_ou_moments():
    edges, path = solve_ou(1600, 800)
    centres, cell = 0.5 * (edges[1:] + edges[:-1]), 12 / 1600
    mean = path[-1] @ centres * cell
    variance = path[-1] @ (centres - mean) ** 2 * cell
    assert mean == pytest.approx(0.551819162, abs=1e-5)
    assert variance == pytest.approx(0.876844892, abs=3e-5)


@pytest.mark.parametrize(
    ("kappa", "expected", "rel", "ratios"),
    [
        (2.0, [1.48e-4, 3.71e-5, 9.27e-6], 5e-3, (3.9, 4.1)),
        (1.0, [1.13e-4, 2.82e-5, 7.04e-6], 5e-3, (3.9, 4.1)),
        (0.5, [8.1e-5, 2.03e-5, 5.06e-6], 5e-3, (3.9, 4.1)),
        (0.1, [1.6e-3, 4.2e-4, 1.1e-4], 4e-2, (3.8, 4.1)),
        (0.0, [3.13e-2, 1.65e-2, 8.54e-3], 5e-3, (1.85, 2.05)),
    ],
)
def test_family_on_the_grid(kappa, expected, rel, ratios):
    errors = []
    for cells, steps in ((200, 50), (400, 100), (800, 200)):
        edges, path = solve_gm2(kappa, cells, steps)
        errors.append(l1(path[-1], gm2_averages(0.5, edges), 12 / cells))
        assert np.abs(path.sum(1) * 12 / cells - 1).max() < 2e-14
        assert path.min() > 0
    assert errors == pytest.approx(expected, rel=rel)
    assert_ratios(errors, *ratios)


def test_two_dimensional_non_normal_drift():
    matrix = np.array([[-0.5, 1.2], [-0.4, -0.8]])
    rate, m0, c0 = 0.5, np.array([1.0, -0.5]), np.array([[0.15, 0.05], [0.05, 0.1]])
    flow = expm(matrix)
    stationary = solve_continuous_lyapunov(matrix, -rate * np.eye(2))
    mean, cov = flow @ m0, flow @ (c0 - stationary) @ flow.T + stationary
    np.testing.assert_allclose(mean, [0.18969853, -0.36057653], atol=5e-9)
    np.testing.assert_allclose(cov, [[0.46521083, 0.07140404], [0.07140404, 0.24442575]], atol=5e-9)

    def density(mean, cov):
        return lambda x, y: multivariate_normal(mean, cov).pdf(np.stack([x, y], -1))

    def drift(t, x, y):
        return matrix[0, 0] * x + matrix[0, 1] * y, matrix[1, 0] * x + matrix[1, 1] * y

    errors = []
    for cells, steps in ((60, 25), (120, 50)):
        edges, area = np.linspace(-3.5, 3.5, cells + 1), (7 / cells) ** 2
        p0 = cell_averages_2d(density(m0, c0), edges)
        path = solve_fokker_planck(p0, edges, drift, lambda t: rate, np.linspace(0, 1, steps + 1))
        assert path.shape == (steps + 1, cells, cells)
        assert np.abs((path.sum((1, 2)) - p0.sum()) * area).max() < 1e-12
        assert path.min() > 0
        errors.append(l1(path[-1], cell_averages_2d(density(mean, cov), edges), area))
    assert errors == pytest.approx([6.56e-3, 1.65e-3], rel=1e-3)
    assert_ratios(errors, 3.9, 4.1)


@pytest.mark.parametrize(("theta", "order"), [(0.5, 2), (1.0, 1)])
def test_order_in_time_against_the_matrix_exponential(theta, order):
    edges = np.linspace(-3, 3, 41)
    p0 = cell_averages(norm(0.5, 0.6).pdf, edges)
    exact = expm(0.5 * fokker_planck_generator(edges, np.sin, 0.8).toarray()) @ p0
    errors = []
    for steps in (40, 80, 160):
        times = np.linspace(1, 1.5, steps + 1)
        path = solve_fokker_planck(
            p0, edges, lambda t, x: np.sin(x), lambda t: 0.8, times, theta=theta
        )
        errors.append(l1(path[-1], exact, 0.15))
    assert_ratios(errors, 2**order - 0.1, 2**order + 0.1)


@pytest.mark.parametrize("steady", [True, False])
def test_steps_may_differ_and_coefficients_may_change(steady):
    # One call over unequal steps equals a call for each step: no stale factorisation is used.
    edges, times = np.linspace(-4, 4, 41), [0.0, 0.1, 0.2, 0.25, 0.3, 0.9, 1.5]

    def drift(t, x):
        return -x * (1.0 if steady or t < 0.27 else t)

    def diffusion(t):
        return 1.0 if steady or t < 0.15 else 0.5 + t

    p = cell_averages(norm(1, 0.5).pdf, edges)
    path = solve_fokker_planck(p, edges, drift, diffusion, times)
    assert path.shape == (7, 40)
    np.testing.assert_array_equal(path[0], p)
    for k, step in enumerate(pairwise(times)):
        p = solve_fokker_planck(p, edges, drift, diffusion, step)[-1]
        np.testing.assert_allclose(path[k + 1], p, rtol=1e-12)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31), step=st.floats(1e-3, 10), diffusion=st.floats(0, 100))
def test_backward_euler_is_positive_for_any_step(seed, step, diffusion):
    rng = np.random.default_rng(seed)
    velocity, p0 = 10 * rng.standard_normal(29), rng.random(30) * (rng.random(30) < 0.2)
    path = solve_fokker_planck(
        p0, np.linspace(0, 1, 31), lambda t, x: velocity, lambda t: diffusion, [0, step], theta=1.0
    )
    assert path.min() >= 0
    assert path[1].sum() == pytest.approx(p0.sum(), rel=1e-9)


def test_relative_entropy_to_equilibrium_dissipates():
    # d KL(p_t‖N(0, 1))/dt = −½ g² E|∇ log(p_t/q)|², on the grid and in closed form.
    cells, step = 1600, 0.0025
    edges, path = solve_ou(cells, 801, end=801 * step)
    equilibrium, cell = cell_averages(norm.pdf, edges), 12 / cells

    def entropy(k):
        return float((path[k] * np.log(path[k] / equilibrium)).sum() * cell)

    def dissipation(k):
        slope = np.gradient(np.log(path[k] / equilibrium), cell)
        return -0.5 * float((path[k] * slope**2).sum() * cell)

    instants = [0, 200, 800]
    assert [entropy(k) for k in instants] == pytest.approx(
        [1.873972804, 0.807792842, 0.156387222], abs=3e-5
    )
    assert [dissipation(k) for k in instants] == pytest.approx(
        [-5.725555556, -1.022304740, -0.160900919], abs=3e-4
    )
    for k in instants[1:]:
        slope = (entropy(k + 1) - entropy(k - 1)) / (2 * step)
        assert slope == pytest.approx(dissipation(k), rel=1e-4)


def test_cell_averages_are_exact_differences_of_the_cdf():
    edges = np.linspace(-6, 6, 201)
    np.testing.assert_allclose(
        cell_averages(gm2_density(0.0), edges), gm2_averages(0.0, edges), rtol=0, atol=1e-12
    )
    squares = cell_averages_2d(lambda x, y: norm.pdf(x, 1, 0.7) * norm.pdf(y, -1, 0.5), edges)
    product = np.outer(*(np.diff(norm.cdf(edges, *law)) for law in ((1, 0.7), (-1, 0.5))))
    np.testing.assert_allclose(squares, product / 0.06**2, rtol=0, atol=1e-12)


# ---------------------------------------------------------------------------- family


@settings(deadline=None, max_examples=50)
@given(x=st.floats(-3, 3), t=st.floats(0, 1), kappa=st.floats(0, 3))
def test_family_drift(x, t, kappa):
    at = points(x)
    f, rate, score = VP.drift(t), VP.diffusion_squared(t), SCORE(at, t)
    forward = family_drift(at, t, SCORE, VP, kappa)
    backward = family_drift(at, t, SCORE, VP, kappa, reverse=True)
    # Nelson: the two drifts of one process differ by σ² ∇ log p; their mean is the ODE.
    torch.testing.assert_close(forward - backward, kappa * rate * score)
    torch.testing.assert_close((forward + backward) / 2, family_drift(at, t, SCORE, VP))
    torch.testing.assert_close(family_drift(at, t, SCORE, VP, 1.0), f * at)
    torch.testing.assert_close(
        family_drift(at, t, SCORE, VP, 1.0, reverse=True), f * at - rate * score
    )


def test_family_drift_for_the_gaussian():
    # N(0, s²): every forward drift is linear, −½β(1 − (1 − κ)/v) x.
    data = GaussianMixture(*(torch.tensor(v).double() for v in ([1.0], [[0.0]], [4.0])))
    variance = VP.alpha_bar(0.3) ** 2 * 4 + VP.beta_bar(0.3) ** 2
    found = family_drift(points(2.0), 0.3, marginal_score(data, VP), VP, 0.4)
    rate = 0.1 + 19.9 * 0.3
    assert float(found) == pytest.approx(-0.5 * rate * (1 - 0.6 / variance) * 2.0)


@pytest.mark.parametrize("kappa", [0.0, 0.5, 1.0, 2.0])
def test_particles_follow_the_marginal_for_every_kappa(kappa):
    generator = torch.Generator().manual_seed(0)
    x = MIXTURE.sample(20_000, generator)
    end = sample_family(SCORE, VP, x, np.linspace(0, 0.5, 201), kappa, generator=generator)
    assert kstest(end[:, 0].numpy(), gm2_cdf(0.5)).statistic < 1.63 / math.sqrt(20_000)


@pytest.mark.parametrize("kappa", [0.0, 0.5, 1.0])
def test_reverse_particles_return_to_the_data(kappa):
    generator = torch.Generator().manual_seed(0)
    at = VP.alpha_bar(1.0), VP.beta_bar(1.0)
    x = at[0] * MIXTURE.sample(20_000, generator)
    x = x + at[1] * torch.randn(20_000, 1, generator=generator, dtype=torch.float64)
    # Steps that shrink with the noise keep the Euler bias below the sampling error.
    times = VP.times(300) ** 2
    end = sample_family(SCORE, VP, x, times, kappa, generator=generator)
    assert kstest(end[:, 0].numpy(), gm2_cdf(0.0)).statistic < 1.63 / math.sqrt(20_000)


def test_path_laws_differ_within_the_family():
    # Stationary Ornstein–Uhlenbeck: corr(x_0, x_1) = e^{−κθ}, θ = ½.
    constant, n, steps = NoiseSchedule.linear(1.0, 1.0), 50_000, 100
    for kappa, expected in zip(
        (0.0, 0.5, 1.0, 2.0), (1, 0.778801, 0.606531, 0.367879), strict=True
    ):
        generator = torch.Generator().manual_seed(7)
        x = torch.randn(n, 1, generator=generator, dtype=torch.float64)
        y = sample_family(
            lambda x, t: -x, constant, x, np.linspace(0, 1, steps + 1), kappa, generator=generator
        )
        rho = float(torch.corrcoef(torch.stack([x[:, 0], y[:, 0]]))[0, 1])
        bias = abs((1 - 0.5 * kappa / steps) ** steps - expected)
        assert abs(rho - expected) <= 5 * (1 - expected**2) / math.sqrt(n) + 2 * bias + 1e-9
        assert float(y.var()) == pytest.approx(1, abs=5 * math.sqrt(2 / n) + kappa / steps)


def test_ode_sampling_is_first_order_and_reversible():
    x0, exact = points(-1.5, 0.0, 1.3), points(-1.034801151, -0.477486956, 0.872285961)
    forth, back = [], []
    for n in (200, 400, 800):
        forth.append(float((sample_family(SCORE, VP, x0, VP.times(n).flip(0)) - exact).abs().max()))
        back.append(float((sample_family(SCORE, VP, exact, VP.times(n)) - x0).abs().max()))
    assert_ratios(forth, 1.9, 2.1)
    assert_ratios(back, 1.9, 2.1)


def test_return_path():
    x = points(-1.0, 0.5)
    times = [0.8, 0.5, 0.1]
    path = sample_family(
        SCORE, VP, x, times, 1.0, generator=torch.Generator().manual_seed(0), return_path=True
    )
    end = sample_family(SCORE, VP, x, times, 1.0, generator=torch.Generator().manual_seed(0))
    assert path.shape == (3, 2, 1)
    assert torch.equal(path[0], x)
    assert torch.equal(path[-1], end)
    assert not torch.equal(path[1], end)


def test_sampling_and_likelihood_keep_dtype_and_build_no_graph():
    network = torch.nn.Linear(2, 2)
    x = torch.zeros(3, 2)
    for result in (
        sample_family(lambda x, t: network(x), VP, x, [0.0, 0.5], 1.0),
        log_likelihood(x, lambda x, t: network(x), VP, n_steps=2),
        log_likelihood(x, lambda x, t: network(x), VP, n_steps=2, divergence="hutchinson"),
        quantile_map(torch.zeros(3, 1), MIXTURE, VP, 0.0, 1.0),
    ):
        assert result.dtype == torch.float32
        assert not result.requires_grad


# ---------------------------------------------------------------------------- exact flow


def integrate_ode(x0, score, t0, t1):
    """DOP853 for (x, ∫∇·v dt) of one point of the line."""

    def field(t, state):
        x = torch.tensor([[state[0]]], dtype=torch.float64, requires_grad=True)
        velocity = family_drift(x, t, score, VP)
        (slope,) = torch.autograd.grad(velocity.sum(), x)
        return [velocity.item(), slope.item()]

    solution = solve_ivp(field, (t0, t1), [x0, 0.0], "DOP853", rtol=1e-11, atol=1e-13)
    return solution.y[:, -1]


@pytest.mark.parametrize(
    ("x0", "x1", "log_p0", "log_p0_normal_prior"),
    [
        (-1.5, -1.034801151, -0.918933316, -0.917232620),
        (0.0, -0.477486956, -2.582446628, -2.581652190),
        (1.3, 0.872285961, -0.762466297, -0.763895432),
    ],
)
def test_ode_is_the_quantile_map_and_gives_the_likelihood(x0, x1, log_p0, log_p0_normal_prior):
    end, integral = integrate_ode(x0, SCORE, 0.0, 1.0)
    mapped = float(quantile_map(points(x0), MIXTURE, VP, 0.0, 1.0))
    assert mapped == pytest.approx(x1, abs=5e-10)
    assert mapped == pytest.approx(end, abs=1e-10)
    prior = float(MIXTURE.log_prob(points(end), VP.alpha_bar(1.0), VP.beta_bar(1.0)))
    assert float(MIXTURE.log_prob(points(x0))) == pytest.approx(log_p0, abs=5e-10)
    assert prior + integral == pytest.approx(log_p0, abs=5e-10)
    assert prior + integral == pytest.approx(float(MIXTURE.log_prob(points(x0))), abs=1e-10)
    assert norm.logpdf(end) + integral == pytest.approx(log_p0_normal_prior, abs=1e-9)


def test_quantile_map_of_a_gaussian():
    data = GaussianMixture(*(torch.tensor(v).double() for v in ([1.0], [[2.0]], [0.25])))
    found = float(quantile_map(points(2.7), data, VP, 0.0, 0.3))
    alpha, beta = VP.alpha_bar(0.3), VP.beta_bar(0.3)
    variance = alpha**2 * 0.25 + beta**2
    assert variance == pytest.approx(0.702750098, abs=5e-10)
    assert found == pytest.approx(2.432722679, abs=5e-10)
    # Both tails stay exact, 20 standard deviations out.
    for z in (-20, -8, 0, 8, 20):
        there = float(quantile_map(points(2 + 0.5 * z), data, VP, 0.0, 0.3))
        assert there == pytest.approx(2 * alpha + math.sqrt(variance) * z, rel=1e-12)


def test_quantile_map_value_at_half_time():
    found = float(quantile_map(points(0.5), MIXTURE, VP, 0.0, 0.5))
    assert found == pytest.approx(-0.155486036, abs=5e-10)


@settings(deadline=None, max_examples=25)
@given(x=st.floats(-4, 4), shift=st.floats(1e-3, 1), t0=st.floats(0, 1), t1=st.floats(0, 1))
def test_quantile_map_is_monotone_and_invertible(x, shift, t0, t1):
    there = quantile_map(points(x, x + shift), MIXTURE, VP, t0, t1)
    assert there[0] < there[1]
    back = quantile_map(there, MIXTURE, VP, t1, t0)
    torch.testing.assert_close(back, points(x, x + shift), rtol=0, atol=1e-8)


# ---------------------------------------------------------------------------- likelihood


@pytest.mark.parametrize("x0", [-1.5, 0.0, 1.3])
def test_log_likelihood_against_the_exact_integral(x0):
    end, integral = integrate_ode(x0, SCORE, 0.0, 1.0)
    found = float(log_likelihood(points(x0), SCORE, VP, n_steps=200))
    assert found == pytest.approx(norm.logpdf(end) + integral, abs=2e-4)


def gm_plane():
    generator = torch.Generator().manual_seed(5)
    means = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    variances = torch.tensor([0.3, 0.2, 0.5], dtype=torch.float64)
    return GaussianMixture(torch.full((3,), 1 / 3, dtype=torch.float64), means, variances)


def test_log_likelihood_is_second_order_with_the_true_prior():
    data = gm_plane()
    start, end = ((VP.alpha_bar(t), VP.beta_bar(t)) for t in (0.1, 0.6))
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def prior(x):
        return data.log_prob(x, *end)

    errors = []
    for n in (50, 100, 200):
        found = log_likelihood(
            x, marginal_score(data, VP), VP, t0=0.1, t1=0.6, n_steps=n, prior=prior
        )
        errors.append(float((found - data.log_prob(x, *start)).abs().max()))
    assert errors[-1] < 1e-4
    assert_ratios(errors, 3.8, 4.2)


def test_log_likelihood_of_a_ring_in_sixty_steps():
    angles = torch.arange(8, dtype=torch.float64) * math.pi / 4
    means = 1.5 * torch.stack([angles.cos(), angles.sin()], -1)
    ring = GaussianMixture(
        torch.full((8,), 1 / 8).double(), means, torch.full((8,), 0.15**2).double()
    )
    x = ring.sample(1000, torch.Generator().manual_seed(0))
    found = log_likelihood(x, marginal_score(ring, VP), VP, n_steps=60)
    assert abs(float((found - ring.log_prob(x)).mean())) < 1e-3


def test_log_likelihood_of_the_stationary_law_is_exact():
    x = torch.randn(10, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = multivariate_normal(np.zeros(3)).logpdf(x.numpy())
    found = log_likelihood(x, lambda x, t: -x, VP, n_steps=3)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


def test_hutchinson_is_unbiased_and_exact_on_the_line():
    score, n = marginal_score(gm_plane(), VP), 4000
    x = torch.tensor([[0.4, -0.3]], dtype=torch.float64)
    exact = float(log_likelihood(x, score, VP, n_steps=10))
    draws = log_likelihood(
        x.expand(n, 2),
        score,
        VP,
        n_steps=10,
        divergence="hutchinson",
        generator=torch.Generator().manual_seed(0),
    )
    assert float(draws.std()) > 1e-3
    assert abs(float(draws.mean()) - exact) < 4 * float(draws.std()) / math.sqrt(n)
    on_line = points(-1.5, 0.3)
    torch.testing.assert_close(
        log_likelihood(on_line, SCORE, VP, n_steps=10, divergence="hutchinson"),
        log_likelihood(on_line, SCORE, VP, n_steps=10),
    )


# ---------------------------------------------------------------------------- bad input

GRID = np.linspace(0, 1, 5)
X = torch.zeros(3, 1)
PLANE = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.ones(1))


def still(x):
    return 0 * x


def solve(p0=(1.0, 1.0, 1.0, 1.0), edges=GRID, times=(0.0, 1.0), diffusion=1.0, **kwargs):
    return solve_fokker_planck(
        p0, edges, lambda t, x: still(x), lambda t: diffusion, times, **kwargs
    )


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: fokker_planck_generator([0, 1, 3], still, 1.0), ValueError, "edges"),
        (lambda: fokker_planck_generator([2, 1, 0], still, 1.0), ValueError, "edges"),
        (lambda: fokker_planck_generator([0, 1], still, 1.0), ValueError, "edges"),
        (lambda: fokker_planck_generator([0, 1, math.nan], still, 1.0), ValueError, "edges"),
        (lambda: fokker_planck_generator(GRID, still, -1.0), ValueError, "diffusion"),
        (lambda: fokker_planck_generator(GRID, still, math.nan), ValueError, "diffusion"),
        (lambda: fokker_planck_generator(GRID, lambda x: 0.0, 1.0), ValueError, "drift"),
        (lambda: fokker_planck_generator(GRID, lambda x: x * np.nan, 1.0), ValueError, "drift"),
        (lambda: fokker_planck_generator_2d([0, 1, 3], np.add, 1.0), ValueError, "edges"),
        (
            lambda: fokker_planck_generator_2d(GRID, lambda x, y: (x, y, x), 1.0),
            ValueError,
            "drift must return 2 components, got 3",
        ),
        (lambda: fokker_planck_generator_2d(GRID, lambda x, y: (x, y), -1), ValueError, "diffus"),
        (lambda: solve(p0=[1.0, 1.0]), ValueError, "p0 must have shape"),
        (lambda: solve(p0=[1.0, 1.0, -1.0, 1.0]), ValueError, "p0 must be non-negative"),
        (lambda: solve(p0=[1.0, 1.0, math.nan, 1.0]), ValueError, "p0 must be"),
        (lambda: solve(edges=[0, 1, 1, 2, 3]), ValueError, "edges"),
        (lambda: solve(times=[1.0, 0.0]), ValueError, "times"),
        (lambda: solve(times=[]), ValueError, "times"),
        (lambda: solve(times=[0.0, math.nan]), ValueError, "times"),
        (lambda: solve(diffusion=-1.0), ValueError, "diffusion"),
        (lambda: solve(theta=0.4), ValueError, "theta"),
        (lambda: cell_averages(norm.pdf, [0, 1, 3]), ValueError, "edges"),
        (lambda: cell_averages(lambda x: 1.0, GRID), ValueError, "density"),
        (lambda: cell_averages_2d(lambda x, y: x, [0, 1, 3]), ValueError, "edges"),
        (lambda: cell_averages_2d(lambda x, y: x[0], GRID), ValueError, "density"),
        (lambda: family_drift(X, 0.5, SCORE, VP, -0.1), ValueError, "kappa"),
        (lambda: family_drift(X, 0.5, SCORE, VP, math.inf), ValueError, "kappa"),
        (lambda: family_drift(X, 1.5, lambda x, t: x, VP), ValueError, r"\bt must"),
        (lambda: family_drift(X, 1.0, SCORE, NoiseSchedule.cosine()), ValueError, "finite g_t²"),
        (lambda: family_drift(torch.zeros(3), 0.5, SCORE, VP), ValueError, "x must have shape"),
        (lambda: family_drift(X.int(), 0.5, SCORE, VP), TypeError, "x must be"),
        (lambda: family_drift(X, 0.5, lambda x, t: x[0], VP), ValueError, "score"),
        (lambda: sample_family(SCORE, VP, X, [0.0, 1.0], -1.0), ValueError, "kappa"),
        (lambda: sample_family(SCORE, VP, X, [0.5]), ValueError, "times"),
        (lambda: sample_family(SCORE, VP, X, [0.0, 0.5, 0.2]), ValueError, "times"),
        (lambda: sample_family(SCORE, VP, X, [0.0, 0.5, 0.5]), ValueError, "times"),
        (lambda: sample_family(SCORE, VP, X, [0.0, 1.5]), ValueError, "times"),
        (lambda: sample_family(SCORE, VP, torch.zeros(3), [0.0, 1.0]), ValueError, "x must"),
        (lambda: sample_family(SCORE, VP, [[0.0]], [0.0, 1.0]), TypeError, "x must"),
        (lambda: log_likelihood(torch.zeros(3), SCORE, VP), ValueError, "x must"),
        (lambda: log_likelihood(X.int(), SCORE, VP), TypeError, "x must"),
        (lambda: log_likelihood(X, SCORE, VP, t0=0.5, t1=0.5), ValueError, "t0 and t1"),
        (lambda: log_likelihood(X, SCORE, VP, t1=1.5), ValueError, "t0 and t1"),
        (lambda: log_likelihood(X, SCORE, VP, n_steps=0), ValueError, "n_steps"),
        (lambda: log_likelihood(X, SCORE, VP, divergence="trace"), ValueError, "divergence"),
        (lambda: quantile_map(torch.zeros(3, 2), MIXTURE, VP, 0.0, 1.0), ValueError, "x must have"),
        (lambda: quantile_map(torch.zeros(3), MIXTURE, VP, 0.0, 1.0), ValueError, "x0 must have"),
        (lambda: quantile_map(0.5, MIXTURE, VP, 0.0, 1.0), TypeError, "x0 must be"),
        (lambda: quantile_map(torch.zeros(3, 2), PLANE, VP, 0.0, 1.0), ValueError, "means"),
        (lambda: quantile_map(X + 1e3, MIXTURE, VP, 0.0, 1.0), ValueError, "x0 lies too far"),
        (lambda: quantile_map(X * math.nan, MIXTURE, VP, 0.0, 1.0), ValueError, "x0 lies too far"),
        (lambda: quantile_map(X, MIXTURE, VP, 0.0, 1.1), ValueError, r"\bt must"),
    ],
)
def test_bad_input_raises(call, error, match):
    with pytest.raises(error, match=match):
        call()


# ---------------------------------------------------------------- the exercises' own mathematics


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_memory_of_a_still_cloud(eta):
    """The Ornstein–Uhlenbeck process of `family_drift`'s rule, by its exact transition."""
    theta, t, n = 0.8, 0.9, 200
    share = eta**2
    drift = -theta + 0.5 * (1 - share) * 2 * theta  # the score is −x
    factor = math.exp(drift * t / n)
    covariance = variance = 1.0
    for _ in range(n):
        covariance *= factor
        fresh = -share * theta / drift * (1 - factor**2) if drift else 0.0
        variance = factor**2 * variance + fresh
    assert variance == pytest.approx(1.0)
    assert exercise("diffusion/probability_flow", 1).solution(theta, eta, t) == pytest.approx(
        covariance
    )


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_sampler_without_shrinking_arrives_at_the_data(eta):
    solution = exercise("diffusion/probability_flow", 3).solution
    rng, m, s = np.random.default_rng(0), 1.0, 0.5
    times = np.linspace(2, 0.01, 400)
    x = m + math.sqrt(s**2 + 4) * rng.normal(size=20_000)
    z = rng.normal(size=(399, 20_000))
    ended = solution(x, lambda y, t: t * (y - m) / (s**2 + t**2), times, eta, z)
    assert ended.mean() == pytest.approx(m, abs=0.02)
    assert ended.std() == pytest.approx(s, rel=0.02)


@pytest.mark.parametrize(
    ("answer", "passes"),
    [
        (lambda x, y, t: (x / (2 + 2 * t) + t * y, y / (2 + 2 * t) - t * x), True),
        (
            lambda x, y, t: (
                x / (2 + 2 * t) - y * np.sin(x**2 + y**2),
                y / (2 + 2 * t) + x * np.sin(x**2 + y**2),
            ),
            True,
        ),
        (lambda x, y, t: (x / (2 + 2 * t) - y * x, y / (2 + 2 * t) + x * x), False),
        (lambda x, y, t: (x / (2 + 2 * t) - 1e-3 * y, y / (2 + 2 * t) + 1e-3 * x), False),
    ],
    ids=["rotation", "speed by radius", "speed by place", "too slow to tell"],
)
def test_another_velocity_is_judged(answer, passes):
    assert exercise("diffusion/probability_flow", 4).check(answer).passed is passes


def test_the_fewest_hops_change_every_share_as_before():
    rng = np.random.default_rng(0)
    p, up, down = rng.uniform(0.1, 1, 6), rng.uniform(0, 2, 5), rng.uniform(0, 2, 5)
    new_up, new_down = exercise("diffusion/probability_flow", 5).solution(p, up, down)
    assert (new_up * new_down == 0).all()
    assert ((new_up >= 0) & (new_down >= 0)).all()
    np.testing.assert_allclose(new_up * p[:-1] - new_down * p[1:], up * p[:-1] - down * p[1:])
