"""Gaussian mixtures by EM, against scikit-learn, autograd and their own laws."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from small_mixtures import F64, iris, iris_start, line, line_start, q_value, t
from torch import Tensor

from kexue_lab.mathematics import gaussian_mixture
from kexue_lab.mathematics.gaussian_mixture import (
    Mixture,
    fit_gmm,
    gmm_e_step,
    gmm_log_joint,
    gmm_log_prior,
    gmm_m_step,
)
from kexue_lab.mathematics.soft_kmeans import fit_spherical_gmm, soft_kmeans_energy


def iris_restarts(k: int, batch: int, seed: int) -> Mixture:
    x = iris()
    gen = torch.Generator().manual_seed(seed)
    rows = torch.stack([torch.randperm(len(x), generator=gen)[:k] for _ in range(batch)])
    weights = torch.full((k,), 1 / k, dtype=F64)
    return Mixture(weights, x[rows], torch.cov(x.mT).expand(k, 4, 4))


def random_mixture(seed: int, n: int, k: int, d: int) -> tuple[Tensor, Mixture]:
    gen = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=gen, dtype=F64)
    weights = torch.softmax(torch.randn(k, generator=gen, dtype=F64), -1)
    root = torch.randn(k, d, d, generator=gen, dtype=F64)
    means = torch.randn(k, d, generator=gen, dtype=F64)
    return x, Mixture(weights, means, root @ root.mT + 0.5 * torch.eye(d, dtype=F64))


def average(x: Tensor, mixture: Mixture) -> float:
    return gmm_e_step(x, *mixture).log_likelihood.item()


def sklearn_fit(
    x: Tensor, start: Mixture, max_iter: int, reg: float = 0.0, tol: float = 0.0
) -> GaussianMixture:
    weights, means, covariances = start
    model = GaussianMixture(
        len(weights),
        tol=tol,
        reg_covar=reg,
        max_iter=max_iter,
        weights_init=weights.numpy(),
        means_init=means.numpy(),
        precisions_init=np.linalg.inv(covariances.numpy()),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(x.numpy())


def test_log_joint_matches_scipy_in_a_batch() -> None:
    x, first = random_mixture(0, 7, 3, 2)
    _, second = random_mixture(1, 7, 3, 2)
    batch = tuple(torch.stack(pair) for pair in zip(first, second, strict=True))
    got = gmm_log_joint(x, *batch)
    assert got.shape == (2, 7, 3)
    for i, (weights, means, covariances) in enumerate((first, second)):
        for k in range(3):
            expected = weights[k].log() + t(
                multivariate_normal(means[k].numpy(), covariances[k].numpy()).logpdf(x.numpy())
            )
            torch.testing.assert_close(got[i, :, k], expected, rtol=0, atol=1e-12)


def test_weights_of_zero_are_allowed() -> None:
    resp, value = gmm_e_step(line(), t([1.0, 0.0]), *line_start()[1:])
    assert torch.equal(resp, t([[1.0, 0.0]]).repeat(6, 1))
    single = gmm_log_joint(line(), t([1.0]), t([[-1.0]]), t([[[1.0]]])).mean()
    assert value.item() == pytest.approx(single.item(), abs=1e-14)


def test_e_step_far_from_every_component_is_finite() -> None:
    resp, value = gmm_e_step(t([[60.0]]), *line_start((-1.0, 1.0)))
    # The log odds of two unit Gaussians at +-1 are 2x.
    torch.testing.assert_close(resp, t([[math.exp(-120.0), 1.0]]), rtol=1e-12, atol=0)
    assert math.isfinite(value.item())


def test_line_steps() -> None:
    x, start = line(), line_start()
    one, ten = fit_gmm(x, *start, max_iter=1), fit_gmm(x, *start, max_iter=10)
    assert one.log_likelihoods.item() == pytest.approx(-2.0767556788, abs=1e-9)
    assert average(x, one.mixture) == pytest.approx(-2.0266563735, abs=1e-9)
    assert one.weights[0].item() == pytest.approx(0.5803356317, abs=1e-9)
    torch.testing.assert_close(one.means[:, 0], t([-0.7175795057, 2.9780233525]), rtol=0, atol=1e-9)
    torch.testing.assert_close(
        one.covariances[:, 0, 0], t([1.0654170275, 1.2574226261]), rtol=0, atol=1e-9
    )
    assert average(x, ten.mixture) == pytest.approx(-1.8967149849, abs=1e-9)


def ascent_parts(x: Tensor, old: Mixture, new: Mixture) -> tuple[float, float, float]:
    """Return the rise of the likelihood, the rise of Q, the mean KL between the posteriors."""
    resp, before = gmm_e_step(x, *old)
    new_resp, after = gmm_e_step(x, *new)
    divergence = (resp * (resp.log() - new_resp.log())).sum(-1).mean().item()
    rise = (q_value(x, resp, new) - q_value(x, resp, old)).item()
    return (after - before).item(), rise, divergence


def test_ascent_identity_on_the_line() -> None:
    x, start = line(), line_start()
    new = fit_gmm(x, *start, max_iter=1).mixture
    parts = ascent_parts(x, start, new)
    assert parts == pytest.approx((0.0500993054, 0.0427548495, 0.0073444559), abs=1e-9)


@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 3))
@settings(deadline=None, max_examples=30)
def test_m_step_raises_q_and_the_ascent_identity_holds(seed: int, k: int, d: int) -> None:
    x, start = random_mixture(seed, 40, k, d)
    new = gmm_m_step(x, gmm_e_step(x, *start)[0])
    rise, q_rise, divergence = ascent_parts(x, start, new)
    assert rise == pytest.approx(q_rise + divergence, abs=1e-11)
    assert q_rise >= -1e-12
    assert divergence >= -1e-12


@pytest.mark.parametrize("prior", [(0.0, 0.0), (0.3, 1.5)])
def test_m_step_is_a_maximum_of_q(prior: tuple[float, float]) -> None:
    x, start = random_mixture(3, 30, 2, 2)
    resp, _ = gmm_e_step(x, *start)
    best = gmm_m_step(x, resp, prior=prior)

    def objective(logits: Tensor, means: Tensor, covariances: Tensor) -> Tensor:
        q = q_value(x, resp, (torch.softmax(logits, -1), means, covariances))
        return q + gmm_log_prior(covariances, prior) / len(x)

    leaves = [p.requires_grad_() for p in (best[0].log(), best[1], best[2])]
    gradients = torch.autograd.grad(objective(*leaves), leaves)
    for gradient in gradients:
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-12)


def test_fisher_identity() -> None:
    x, (weights, means, covariances) = line(), line_start()
    resp, _ = gmm_e_step(x, weights, means, covariances)
    means.requires_grad_()
    of_l = torch.autograd.grad(gmm_e_step(x, weights, means, covariances)[1], means)[0][:, 0]
    of_q = torch.autograd.grad(q_value(x, resp, (weights, means, covariances)), means)[0][:, 0]
    torch.testing.assert_close(of_l, of_q, rtol=0, atol=1e-12)
    torch.testing.assert_close(of_l, t([0.163898676, -0.009222816]), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("steps", "expected"), [(1, -1.6782918158), (5, -1.2728707859), (50, -1.2012365142)]
)
def test_iris_agrees_with_scikit_learn(steps: int, expected: float) -> None:
    x, start = iris(), iris_start()
    ours, theirs = fit_gmm(x, *start, max_iter=steps), sklearn_fit(x, start, steps)
    assert ours.log_likelihoods.shape == (steps,)
    assert average(x, ours.mixture) == pytest.approx(expected, abs=1e-9)
    assert average(x, ours.mixture) == pytest.approx(theirs.score(x.numpy()), abs=1e-9)
    for mine, name in zip(ours.mixture, ("weights_", "means_", "covariances_"), strict=True):
        np.testing.assert_allclose(mine.numpy(), getattr(theirs, name), rtol=0, atol=1e-9)
    if steps == 50:
        weights = t([0.3333333333, 0.2991931878, 0.3674734789])
        torch.testing.assert_close(ours.weights, weights, rtol=0, atol=1e-9)


def test_restarts_with_reg_agree_with_scikit_learn() -> None:
    x = iris()
    weights, means, covariances = iris_restarts(5, 6, seed=0)
    ours = fit_gmm(x, weights, means, covariances, max_iter=60, reg=1e-3)
    scores = gmm_e_step(x, *ours.mixture)[1]
    for i in range(6):
        theirs = sklearn_fit(x, (weights, means[i], covariances), 60, reg=1e-3)
        assert scores[i].item() == pytest.approx(theirs.score(x.numpy()), abs=1e-8)


def test_tol_stops_where_scikit_learn_stops() -> None:
    x, start = iris(), iris_start()
    theirs = sklearn_fit(x, start, 200, tol=1e-4)
    ours = fit_gmm(x, *start, max_iter=200, tol=1e-4)
    assert 2 < theirs.n_iter_ < 200
    assert ours.log_likelihoods.shape == (theirs.n_iter_,)
    np.testing.assert_allclose(ours.means.numpy(), theirs.means_, rtol=0, atol=1e-9)


def test_tol_needs_two_values_to_compare() -> None:
    assert fit_gmm(line(), *line_start(), tol=1e9).log_likelihoods.shape == (2,)


def test_tol_waits_for_the_slowest_restart() -> None:
    x, (weights, _, covariances) = iris(), iris_start()
    means = torch.stack([x[[0, 50, 100]], x[[3, 60, 61]], x[[7, 8, 9]]])
    alone = [
        fit_gmm(x, weights, m, covariances, 300, tol=1e-5).log_likelihoods.shape[0] for m in means
    ]
    together = fit_gmm(x, weights, means, covariances, 300, tol=1e-5)
    assert min(alone) < max(alone) < 300
    assert together.log_likelihoods.shape == (3, max(alone))


def test_batch_axes_broadcast_and_equal_single_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    x = iris()
    weights, means, covariances = iris_restarts(4, 6, seed=1)
    means = means.reshape(2, 3, 4, 4)
    together = fit_gmm(x, weights, means, covariances, max_iter=20, reg=1e-3)
    assert together.weights.shape == (2, 3, 4)
    assert together.covariances.shape == (2, 3, 4, 4, 4)
    assert together.log_likelihoods.shape == (2, 3, 20)
    assert together.collapsed.shape == (2, 3)
    # One component at a time: the pieces into which the work is cut do not show.
    monkeypatch.setattr(gaussian_mixture, "_CHUNK", 1)
    alone = fit_gmm(x, weights, means[1, 2], covariances, max_iter=20, reg=1e-3)
    for mine, theirs in zip(together.mixture, alone.mixture, strict=True):
        torch.testing.assert_close(mine[1, 2], theirs, rtol=0, atol=1e-11)
    torch.testing.assert_close(
        together.log_likelihoods[1, 2], alone.log_likelihoods, rtol=0, atol=1e-12
    )


def test_steps_by_hand_equal_the_fit() -> None:
    x = iris()
    weights, means, covariances = iris_restarts(3, 4, seed=2)
    state = Mixture(weights, means, covariances)
    for _ in range(5):
        resp, _ = gmm_e_step(x, *state)
        assert resp.shape == (4, 150, 3)
        state = gmm_m_step(x, resp, reg=0.01, prior=(0.05, 1.0))
    fit = fit_gmm(x, weights, means, covariances, 5, reg=0.01, prior=(0.05, 1.0))
    for mine, theirs in zip(state, fit.mixture, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


def test_data_far_from_the_origin() -> None:
    shift = 2.0**20
    weights, means, covariances = iris_start()
    # Rounded so that adding the shift is exact; the fit must then not see it.
    x = (iris() * 2**20).round() / 2**20
    near = fit_gmm(x, weights, means, covariances, 50)
    far = fit_gmm(x + shift, weights, means + shift, covariances, 50)
    torch.testing.assert_close(near.log_likelihoods, far.log_likelihoods, rtol=0, atol=1e-8)
    torch.testing.assert_close(near.covariances, far.covariances, rtol=0, atol=1e-8)


def test_dtype_is_kept() -> None:
    weights, means, covariances = (p.float() for p in iris_start())
    fit = fit_gmm(iris().float(), weights, means, covariances, 50)
    assert {p.dtype for p in (*fit.mixture, fit.log_likelihoods)} == {torch.float32}
    assert average(iris().float(), fit.mixture) == pytest.approx(-1.2012365142, abs=1e-4)


def test_reg_breaks_the_ascent() -> None:
    x = line()
    values = fit_gmm(x, *line_start(), max_iter=3, reg=0.5).log_likelihoods
    expected = t([-2.0767556788, -2.0494802258, -2.0542207194])
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-9)


def test_map_em_on_the_line() -> None:
    x, state, prior = line(), line_start(), (0.05, 1.0)
    objectives = []
    for _ in range(3):
        objectives.append(average(x, state) + gmm_log_prior(state[2], prior).item() / 6)
        state = fit_gmm(x, *state, max_iter=1, prior=prior).mixture
        if len(objectives) == 1:
            variances = t([0.8388632784, 0.9142084819])
            torch.testing.assert_close(state[2][:, 0, 0], variances, rtol=0, atol=1e-9)
    assert objectives == pytest.approx([-2.0850890122, -2.0299301277, -1.9800881514], abs=1e-9)


@pytest.mark.parametrize("k", [3, 10])
def test_map_em_never_falls(k: int) -> None:
    x, prior, state = iris(), (0.05, 1.0), iris_restarts(k, 64, seed=0)
    objectives = []
    for _ in range(100):
        resp, value = gmm_e_step(x, *state)
        objectives.append(value + gmm_log_prior(state[2], prior) / len(x))
        state = gmm_m_step(x, resp, prior=prior)
    increments = torch.stack(objectives).diff(dim=0)
    assert increments.min().item() >= -1e-12
    assert increments.max().item() > 0.1


def test_plain_em_never_falls_unless_collapsed() -> None:
    x = iris()
    fit = fit_gmm(x, *iris_restarts(6, 64, seed=0), max_iter=200)
    assert 5 < int(fit.collapsed.sum()) < 50
    assert fit.log_likelihoods[~fit.collapsed].diff(dim=-1).min().item() >= -1e-12


def test_likelihood_is_unbounded() -> None:
    x = line()
    expected = {1e-1: -2.1782604682, 1e-2: -1.7969096755, 1e-4: -1.0296489302, 1e-8: 0.5054050934}
    for s, value in expected.items():
        got = average(x, line_start((-2.0, 1.0), (s * s, 4.0)))
        assert got == pytest.approx(value, abs=1e-9)
    assert got + math.log(1e-8) / 6 == pytest.approx(-2.5647083640, abs=1e-9)


def test_collapse_freezes_one_restart_and_lets_the_other_converge() -> None:
    x = line()
    starts = [line_start((-2.0, 1.0), (v, 4.0)) for v in (0.1, 0.2)]
    batch = tuple(torch.stack(pair) for pair in zip(*starts, strict=True))
    fit = fit_gmm(x, *batch, max_iter=200)
    assert fit.collapsed.tolist() == [True, False]
    # Its variance falls 0.1, 0.060, 0.0028, 5e-76: the third step is not taken.
    finite = fit.log_likelihoods.isfinite()
    assert finite[0].sum().item() == 3
    assert finite[0, :3].all()
    assert finite[1].all()
    assert fit.covariances[0, 0, 0, 0].item() == pytest.approx(0.0028, abs=5e-5)
    frozen = average(x, (fit.weights[0], fit.means[0], fit.covariances[0]))
    assert frozen == pytest.approx(fit.log_likelihoods[0, 2].item(), abs=1e-14)
    for i, start in enumerate(starts):
        alone = fit_gmm(x, *start, max_iter=200)
        assert bool(alone.collapsed) == bool(fit.collapsed[i])
        # A fit of which nothing is left to do ends.
        assert alone.log_likelihoods.shape == ((3,) if i == 0 else (200,))
        for mine, theirs in zip(alone.mixture, fit.mixture, strict=True):
            torch.testing.assert_close(mine, theirs[i], rtol=0, atol=1e-12)


def test_collapse_by_hand_is_faster_than_exponential() -> None:
    x, state = line(), line_start((-2.0, 1.0), (0.1, 4.0))
    variances = []
    for _ in range(2):
        state = gmm_m_step(x, gmm_e_step(x, *state)[0])
        variances.append(state[2][0, 0, 0].item())
    assert variances == pytest.approx([0.060, 0.0028], abs=5e-4)
    # Next comes about 1e-75, and then nothing: no covariance. Where rounding has moved the mean off
    # its point by one bit, the point is so many deviations away that the component loses its mass.

    def go_on(state):
        for _ in range(2):
            state = gmm_m_step(x, gmm_e_step(x, *state)[0])
            assert state[2][0, 0, 0] < 1e-70
        gmm_e_step(x, *state)

    with pytest.raises(ValueError, match=r"positive definite|zero mass"):
        go_on(state)


def test_a_component_without_mass_collapses() -> None:
    start = line_start((0.0, 1e6))
    with pytest.raises(ValueError, match="zero mass"):
        gmm_m_step(line(), gmm_e_step(line(), *start)[0])
    fit = fit_gmm(line(), *start, max_iter=5)
    assert bool(fit.collapsed)
    assert torch.equal(fit.means, start[1])


@pytest.mark.parametrize("slope", [0.5, 0.7, 0.9, 1.1, 1.3, 1.7, 1.9])
def test_collapse_onto_a_line_is_seen_through_rounding(slope: float) -> None:
    # Thirty points lie on a line, up to rounding: their covariance has a second eigenvalue of
    # some 1e-17 of either sign, and its factorisation may go through by luck at every step.
    along = torch.linspace(-1, 1, 30, dtype=F64)
    on_line = torch.stack([along, slope * along + 10], 1)
    gen = torch.Generator().manual_seed(0)
    x = torch.cat([on_line, 3 * torch.randn(40, 2, generator=gen, dtype=F64)])
    tight = t([[0.4, 0.4 * slope], [0.4 * slope, 0.4 * slope**2 + 0.01]])
    covariances = torch.stack([tight, 9 * torch.eye(2, dtype=F64)])
    fit = fit_gmm(x, t([0.5, 0.5]), t([[0.0, 10.0], [0.0, 0.0]]), covariances, 100)
    assert bool(fit.collapsed)
    assert fit.log_likelihoods.shape[0] < 10
    assert torch.linalg.eigvalsh(fit.covariances).min().item() > 1e-15


def test_reg_and_prior_prevent_collapse() -> None:
    start = iris_restarts(10, 32, seed=0)
    assert fit_gmm(iris(), *start, max_iter=50).collapsed.any()
    assert not fit_gmm(iris(), *start, max_iter=50, reg=1e-3).collapsed.any()
    assert not fit_gmm(iris(), *start, max_iter=50, prior=(0.05, 1.0)).collapsed.any()


def test_k_means_limit() -> None:
    x, (weights, start, _) = iris(), iris_start()
    variance = 1e-3
    means = fit_spherical_gmm(x, weights, start, variance, max_iter=200)
    distances = torch.cdist(x, means).square()
    hard = distances.min(1).values.sum().item()
    oracle = KMeans(3, init=start.numpy(), n_init=1, tol=0, algorithm="lloyd").fit(x.numpy())
    assert hard == pytest.approx(78.8514414261, abs=1e-9)
    assert hard == pytest.approx(oracle.inertia_, abs=1e-9)
    soft = soft_kmeans_energy(x, weights, means, variance).item()
    assert soft == pytest.approx(79.1810251127, abs=1e-9)
    excess = soft - hard
    assert excess == pytest.approx(0.3295836866, abs=1e-9)
    assert -1e-9 <= excess <= 2 * variance * len(x) * math.log(3) + 1e-9


@given(st.integers(0, 10**6), st.floats(-2, 1))
@settings(deadline=None, max_examples=30)
def test_soft_energy_bounds_and_descent(seed: int, exponent: float) -> None:
    x, (weights, means, _) = random_mixture(seed, 30, 3, 2)
    variance = 10**exponent
    soft = soft_kmeans_energy(x, weights, means, variance).item()
    nearest = torch.cdist(x, means).square().min(1)
    slack = -2 * variance * weights[nearest.indices].log().sum().item()
    hard = nearest.values.sum().item()
    assert hard - 1e-9 <= soft <= hard + slack + 1e-9
    stepped = fit_spherical_gmm(x, weights, means, variance, max_iter=1)
    assert soft_kmeans_energy(x, weights, stepped, variance).item() <= soft + 1e-9


def test_spherical_step_is_the_mixture_step() -> None:
    x, (weights, means, _) = random_mixture(5, 30, 3, 2)
    covariances = (0.7 * torch.eye(2, dtype=F64)).expand(3, 2, 2)
    resp, value = gmm_e_step(x, weights, means, covariances)
    expected = gmm_m_step(x, resp)[1]
    got = fit_spherical_gmm(x, weights, means, 0.7, max_iter=1)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    # Energy and likelihood differ by the normalising constant alone.
    energy = soft_kmeans_energy(x, weights, means, 0.7).item()
    constant = math.log(2 * math.pi * 0.7)
    assert -energy / (2 * 0.7 * 30) - constant == pytest.approx(value.item(), abs=1e-12)


def test_spherical_fit_leaves_a_mean_without_data() -> None:
    means = fit_spherical_gmm(line(), t([0.5, 0.5]), t([[0.0], [1e6]]), 1.0, max_iter=3)
    torch.testing.assert_close(means, t([[5 / 6], [1e6]]))


PAIR = (torch.tensor([0.5, 0.5]), torch.tensor([[-1.0], [1.0]]), torch.ones(2, 1, 1))


@pytest.mark.parametrize("far", [1e6, 1e10, 1e20, 1e30])
def test_the_nearer_component_takes_points_that_lie_far_out(far: float) -> None:
    resp, _ = gmm_e_step(torch.tensor([[far], [-far], [0.0]]), *PAIR)
    assert resp.tolist() == [[0, 1], [1, 0], [0.5, 0.5]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_mixtures_in_half_precision(dtype: torch.dtype) -> None:
    x = torch.linspace(-2, 2, 9)[:, None]
    resp, average = gmm_e_step(x.to(dtype), *(p.to(dtype) for p in PAIR))
    expected, expected_average = gmm_e_step(x, *PAIR)
    assert torch.allclose(resp.float(), expected, atol=2 * torch.finfo(dtype).eps)
    assert average.item() == pytest.approx(expected_average.item(), rel=torch.finfo(dtype).eps)
    with pytest.raises(TypeError, match="x must be float32 or float64"):
        fit_gmm(x.to(dtype), *(p.to(dtype) for p in PAIR))


def test_tiny_variances_are_k_means() -> None:
    x = torch.tensor([[-3.0], [-1.0], [2.0], [4.0]])
    weights, means, _ = PAIR
    assert soft_kmeans_energy(x, weights, means, 1e-300).item() == 4 + 0 + 1 + 9
    assert fit_spherical_gmm(x, weights, means, 1e-300).tolist() == [[-2], [3]]


# --- what is refused

W, M, C = line_start()
X = line()
R = torch.full((6, 2), 0.5, dtype=F64)
NAN = float("nan")
ASYMMETRIC = t([[[1.0, 0.2], [0.0, 1.0]]])
CASES = [
    (gmm_log_joint, (X[:, 0], W, M, C), ValueError, r"x must have shape.*\(6,\)"),
    (gmm_log_joint, (X.long(), W, M, C), TypeError, "x must be a floating-point"),
    (gmm_log_joint, (X * NAN, W, M, C), ValueError, "x must be finite"),
    (gmm_log_joint, (X, t([0.5, 0.7]), M, C), ValueError, r"weights must sum to 1.*1\.2"),
    (gmm_log_joint, (X, t([NAN, 0.7]), M, C), ValueError, "weights must be non-negative"),
    (gmm_log_joint, (X, t(1.0), M, C), ValueError, "weights must have shape"),
    (gmm_log_joint, (X, W, M[:1], C), ValueError, r"means must have shape.*\(1, 1\)"),
    (gmm_log_joint, (X, W, M * NAN, C), ValueError, "means must be finite"),
    (gmm_log_joint, (X, W, M, C[:, 0]), ValueError, "covariances must have shape"),
    (gmm_log_joint, (X, W, M, -C), ValueError, "covariances must be positive definite"),
    (gmm_log_joint, (X, W, M, C * NAN), ValueError, "covariances must be finite"),
    (gmm_log_joint, (X, W, M.expand(2, 2, 1), C.expand(3, 2, 1, 1)), ValueError, "broadcast"),
    (gmm_e_step, (X, W, M, 0 * C), ValueError, "covariances must be positive definite"),
    (gmm_e_step, (X.expand(6, 2), t([1.0]), t([[0.0, 0.0]]), ASYMMETRIC), ValueError, "symmetric"),
    (gmm_m_step, (X, R[:5]), ValueError, r"resp must have shape.*\(5, 2\)"),
    (gmm_m_step, (X, 2 * R), ValueError, "resp must sum to 1"),
    (gmm_m_step, (X, t([[1.5, -0.5]]).repeat(6, 1)), ValueError, "resp must be non-negative"),
    (gmm_m_step, (X, t([[1.0, 0.0]]).repeat(6, 1)), ValueError, "zero mass"),
    (gmm_m_step, (X, R, -1.0), ValueError, r"reg.*-1\.0"),
    (gmm_m_step, (X, R, 0.0, (-1.0, 1.0)), ValueError, "prior"),
    (gmm_m_step, (X, R, 0.0, (1.0, NAN)), ValueError, "prior"),
    (gmm_m_step, (X, R.tolist()), TypeError, "resp"),
    (gmm_log_prior, (C[0], (1.0, 1.0)), ValueError, "covariances must have shape"),
    (gmm_log_prior, (-C, (1.0, 1.0)), ValueError, "covariances must be positive definite"),
    (gmm_log_prior, (C, (1.0, -1.0)), ValueError, "prior"),
    (gmm_log_prior, (C.long(), (1.0, 1.0)), TypeError, "covariances"),
    (fit_gmm, (X, W, M, C, 0), ValueError, "max_iter.*0"),
    (fit_gmm, (X, W, M, C, 2.5), TypeError, "max_iter must be an integer"),
    (fit_gmm, (X, W, M, C, 5, -1.0), ValueError, "tol"),
    (fit_gmm, (X, W, M, C, 5, NAN), ValueError, "tol"),
    (fit_gmm, (X, W, M, C, 5, 0.0, -1.0), ValueError, "reg"),
    (fit_gmm, (X, W, M, -C), ValueError, "covariances"),
    (fit_gmm, (X, W, M, 1e-40 * C), ValueError, "covariances must not be singular"),
    (soft_kmeans_energy, (X, W, M, 0.0), ValueError, "variance"),
    (soft_kmeans_energy, (X, W, M.mT, 1.0), ValueError, "means must have shape"),
    (soft_kmeans_energy, (X, W[None], M, 1.0), ValueError, "weights must have shape"),
    (soft_kmeans_energy, (X, 2 * W, M, 1.0), ValueError, "weights must sum"),
    (soft_kmeans_energy, (X, None, M, 1.0), TypeError, "weights"),
    (fit_spherical_gmm, (X, W, M, NAN), ValueError, "variance"),
    (fit_spherical_gmm, (X, W, M, 1.0, 0), ValueError, "max_iter"),
]


@pytest.mark.parametrize(("function", "arguments", "error", "match"), CASES)
def test_bad_input(function, arguments, error, match) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=match):
        function(*arguments)
