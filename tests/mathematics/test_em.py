"""EM: the joint KL divergence, rates, pLSA, linkage data, the symmetric mixture."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import minimize_scalar
from scipy.stats import entropy
from sklearn.decomposition import NMF
from sklearn.exceptions import ConvergenceWarning
from small_mixtures import F64, iris, iris_start, line, line_start, q_value, t
from torch import Tensor

from kexue_lab.mathematics.em import (
    Mixture,
    em_rate,
    fit_gmm,
    gmm_e_step,
    gmm_m_step,
    joint_kl,
    linkage_em_step,
    linkage_mle,
    linkage_rate,
    plsa_em_step,
    symmetric_mixture_population,
    symmetric_mixture_rate,
    symmetric_mixture_step,
)

RAO = (125, 18, 20, 34)


# --- the joint KL divergence -----------------------------------------------------------------


def test_joint_kl_matches_scipy() -> None:
    p_x, q = t([0.2, 0.8]), t([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]])
    joint = t([[0.1, 0.2, 0.05], [0.3, 0.15, 0.2]])
    total, marginal, conditional = joint_kl(p_x, q, joint)
    assert total.item() == pytest.approx(
        entropy((p_x[:, None] * q).flatten(), joint.flatten()), abs=1e-14
    )
    assert marginal.item() == pytest.approx(entropy(p_x, joint.sum(1)), abs=1e-14)
    posterior = joint / joint.sum(1, keepdim=True)
    rows = [entropy(q[i], posterior[i]) for i in range(2)]
    assert conditional.item() == pytest.approx(0.2 * rows[0] + 0.8 * rows[1], abs=1e-14)


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 5))
@settings(deadline=None, max_examples=50)
def test_joint_kl_chain_rule(seed: int, n: int, k: int) -> None:
    gen = torch.Generator().manual_seed(seed)
    p_x = torch.softmax(3 * torch.randn(n, generator=gen, dtype=F64), -1)
    q = torch.softmax(3 * torch.randn(n, k, generator=gen, dtype=F64), -1)
    joint = torch.softmax(3 * torch.randn(n * k, generator=gen, dtype=F64), -1).reshape(n, k)
    total, marginal, conditional = joint_kl(p_x, q, joint)
    assert total.item() == pytest.approx((marginal + conditional).item(), abs=1e-12)
    assert min(marginal.item(), conditional.item()) >= -1e-14
    at_posterior = joint_kl(p_x, joint / joint.sum(1, keepdim=True), joint)
    assert at_posterior[2].item() == pytest.approx(0, abs=1e-14)
    assert at_posterior[0].item() == pytest.approx(marginal.item(), abs=1e-12)


# --- Gaussian mixtures -------------------------------------------------------------------------


# --- monotone and not monotone -----------------------------------------------------------------


# --- collapse ----------------------------------------------------------------------------------


# --- rate of convergence -----------------------------------------------------------------------

_LOW = torch.tril_indices(4, 4)


def pack(mixture: Mixture) -> Tensor:
    weights, means, covariances = mixture
    return torch.cat([weights[:2], means.flatten(), covariances[:, _LOW[0], _LOW[1]].flatten()])


def unpack(theta: Tensor) -> Mixture:
    rest = 1 - theta[:2].sum()
    low = torch.zeros(3, 4, 4, dtype=theta.dtype).index_put(
        (torch.arange(3)[:, None], _LOW[0], _LOW[1]), theta[14:].reshape(3, 10)
    )
    covariances = low + low.mT - torch.diag_embed(low.diagonal(dim1=-2, dim2=-1))
    return torch.cat([theta[:2], rest[None]]), theta[2:14].reshape(3, 4), covariances


def test_rate_of_the_iris_mixture() -> None:
    x, start = iris(), iris_start()

    def update(theta: Tensor) -> Tensor:
        return pack(gmm_m_step(x, gmm_e_step(x, *unpack(theta))[0]))

    star = pack(fit_gmm(x, *start, max_iter=200).mixture)
    assert (update(star) - star).abs().max().item() < 1e-13
    jacobian = torch.func.jacrev(update)(star)
    eigenvalues = torch.linalg.eigvals(jacobian)
    assert eigenvalues.imag.abs().max().item() < 1e-8
    leading = eigenvalues.real.sort(descending=True).values
    expected = t([0.5654835246, 0.3714828373, 0.2339000080])
    torch.testing.assert_close(leading[:3], expected, rtol=0, atol=1e-9)
    assert leading[-1].item() > -1e-8
    assert em_rate(update, star) == pytest.approx(0.5654835246, abs=1e-9)

    errors = [(pack(fit_gmm(x, *start, max_iter=n).mixture) - star).norm() for n in (50, 51)]
    assert (errors[1] / errors[0]).item() == pytest.approx(0.565486, abs=1e-4)

    # The missing-information theorem: J = I - H_Q^-1 H_L.
    resp, _ = gmm_e_step(x, *unpack(star))
    h_q = torch.autograd.functional.hessian(lambda v: q_value(x, resp, unpack(v)), star)
    h_l = torch.autograd.functional.hessian(lambda v: gmm_e_step(x, *unpack(v))[1], star)
    information = torch.eye(44, dtype=F64) - torch.linalg.solve(h_q, h_l)
    torch.testing.assert_close(jacobian, information, rtol=0, atol=1e-11)
    assert torch.linalg.eigvalsh(-h_l)[0].item() == pytest.approx(0.458, abs=5e-4)


def test_em_rate_of_a_rotation() -> None:
    # Complex eigenvalues 0.6 +- 0.3i: the modulus counts.
    matrix = t([[0.6, -0.3], [0.3, 0.6]])
    assert em_rate(lambda v: matrix @ v, t([0.0, 0.0])) == pytest.approx(math.sqrt(0.45), abs=1e-14)


def test_linkage() -> None:
    theta = t([0.5])
    for expected in (0.608247422680, 0.624321050369, 0.626488879080):
        theta = linkage_em_step(theta, RAO)
        assert theta.item() == pytest.approx(expected, abs=1e-11)
    assert linkage_mle(RAO) == pytest.approx(0.626821497871, abs=1e-11)
    assert linkage_mle(RAO) == pytest.approx((15 + math.sqrt(53809)) / 394, abs=1e-15)
    assert linkage_rate(RAO) == pytest.approx(0.132778733746, abs=1e-11)
    assert linkage_rate(RAO) == pytest.approx((72809 - 303 * math.sqrt(53809)) / 19000, abs=1e-12)


@given(
    st.tuples(st.integers(0, 500), st.integers(1, 200), st.integers(0, 200), st.integers(1, 500))
)
@settings(deadline=None, max_examples=60)
def test_linkage_closed_forms(counts: tuple[int, int, int, int]) -> None:
    a, b, c, d = counts

    def negative(p: float) -> float:
        return -(a * math.log(2 + p) + (b + c) * math.log(1 - p) + d * math.log(p))

    star = linkage_mle(counts)
    numerical = minimize_scalar(negative, bounds=(0, 1), method="bounded", options={"xatol": 1e-9})
    assert star == pytest.approx(numerical.x, abs=1e-5)
    theta = t([star])
    torch.testing.assert_close(linkage_em_step(theta, counts), theta, rtol=0, atol=1e-12)
    rate = em_rate(lambda v: linkage_em_step(v, counts), theta)
    assert linkage_rate(counts) == pytest.approx(rate, abs=1e-12)
    assert 0 <= rate < 1


def test_linkage_without_counts_in_the_last_cell() -> None:
    assert linkage_mle((10, 20, 30, 0)) == 0.0
    assert linkage_rate((10, 20, 30, 0)) == pytest.approx(0.1)
    assert linkage_mle((60, 20, 10, 0)) == 0.0
    assert linkage_mle((100, 20, 10, 0)) == pytest.approx(4 / 13, abs=1e-15)


@pytest.mark.parametrize(("mu", "rate"), [(0.5, 0.656736047), (1, 0.266088328), (2, 0.021655482)])
def test_symmetric_mixture_rate(mu: float, rate: float) -> None:
    assert symmetric_mixture_rate(mu) == pytest.approx(rate, abs=1e-9)

    def squared_score(x: float) -> float:
        mixture = 0.5 * (math.exp(-0.5 * (x - mu) ** 2) + math.exp(-0.5 * (x + mu) ** 2))
        return (x * math.tanh(mu * x) - mu) ** 2 * mixture / math.sqrt(2 * math.pi)

    observed = quad(squared_score, -15, 15, epsabs=1e-13, limit=200)[0]
    assert symmetric_mixture_rate(mu) == pytest.approx(1 - observed, abs=1e-9)


@given(st.floats(0, 4), st.floats(-4, 4))
@settings(deadline=None, max_examples=40)
def test_symmetric_mixture_population(mu: float, m: float) -> None:
    assert symmetric_mixture_population(mu, mu) == pytest.approx(mu, abs=1e-11)
    assert symmetric_mixture_population(0.0, mu) == 0.0
    assert symmetric_mixture_rate(mu, 0.0) == pytest.approx(1 + mu * mu, abs=1e-11)
    odd = symmetric_mixture_population(m, mu) + symmetric_mixture_population(-m, mu)
    assert odd == pytest.approx(0, abs=1e-12)
    h = 1e-4
    above, below = (symmetric_mixture_population(m + s, mu) for s in (h, -h))
    assert symmetric_mixture_rate(mu, m) == pytest.approx((above - below) / (2 * h), abs=2e-5)


def test_symmetric_mixture_tiny_rate_has_relative_accuracy() -> None:
    # E[x^2 sech^2(mu x)] = e^(-mu^2/2) * integral of x^2 e^(-x^2/2) / cosh(mu x) dx / sqrt(2 pi).
    mu = 9.0
    integral = quad(lambda x: x * x * math.exp(-x * x / 2) / math.cosh(mu * x), -5, 5)[0]
    expected = math.exp(-mu * mu / 2) * integral / math.sqrt(2 * math.pi)
    assert symmetric_mixture_rate(mu) == pytest.approx(expected, rel=1e-6, abs=0)


@pytest.mark.parametrize("m", [2 - 1e-15, 2.0, 2 + 1e-15])
def test_symmetric_mixture_where_break_points_nearly_meet(m: float) -> None:
    # 20 / m lies one rounding error from mu + 8, and quad must not warn of that.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert symmetric_mixture_population(m, 2.0) == pytest.approx(2.0, abs=1e-13)
        assert symmetric_mixture_rate(2.0, m) == pytest.approx(0.021655482, abs=1e-9)


def test_symmetric_mixture_far_from_its_fixed_point() -> None:
    # A peak 1/m wide: M'(m) -> phi(mu) * integral of x^2 sech^2(m x) = phi(mu) pi^2 / (6 m^3), and
    # M(m) -> E|x|.
    m, mu, phi = 1e5, 0.5, math.exp(-0.125) / math.sqrt(2 * math.pi)
    assert symmetric_mixture_rate(mu, m) == pytest.approx(
        phi * math.pi**2 / (6 * m**3), rel=1e-8, abs=0
    )
    mean_size = 2 * phi + mu * math.erf(mu / math.sqrt(2))
    assert symmetric_mixture_population(m, mu) == pytest.approx(mean_size, abs=1e-10)


def test_symmetric_mixture_step_on_data() -> None:
    gen = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (20000,), generator=gen) * 2 - 1
    x = 1.5 * signs + torch.randn(20000, generator=gen, dtype=F64)
    m = t([[0.0, 0.7], [1.5, 3.0]])
    got = symmetric_mixture_step(m, x)
    assert got.shape == (2, 2)
    assert got[0, 0].item() == 0.0
    for value, start in zip(got.flatten().tolist(), m.flatten().tolist(), strict=True):
        error = (x * torch.tanh(start * x)).std().item() / math.sqrt(len(x))
        assert abs(value - symmetric_mixture_population(start, 1.5)) <= 4.5 * error
    # The same step as the general mixture's with weights, variances and symmetry held fixed.
    resp, _ = gmm_e_step(x[:, None], *line_start((-0.7, 0.7)))
    by_resp = ((resp[:, 1] - resp[:, 0]) * x).mean()
    assert got[0, 1].item() == pytest.approx(by_resp.item(), abs=1e-13)


# --- pLSA --------------------------------------------------------------------------------------

COUNTS = ((4, 1, 0), (2, 3, 1), (0, 1, 5))


def plsa_start() -> tuple[Tensor, Tensor, Tensor]:
    a = t([[0.6, 0.4], [0.5, 0.5], [0.3, 0.7]])
    return t(COUNTS), a, t([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5]])


def plsa_value(counts: Tensor, a: Tensor, b: Tensor) -> float:
    return torch.xlogy(counts, a @ b).sum().item()


def test_plsa_steps() -> None:
    counts, a, b = plsa_start()
    values = [plsa_value(counts, a, b)]
    for _ in range(3000):
        a, b = plsa_em_step(counts, a, b)
        values.append(plsa_value(counts, a, b))
    assert values[0] == pytest.approx(-17.4976570966, abs=1e-9)
    assert values[1] == pytest.approx(-15.8585876454, abs=1e-9)
    assert values[10] == pytest.approx(-12.0225806938, abs=1e-9)
    # By now factors have underflowed to exact zeros.
    assert values[-1] == pytest.approx(-12.0219528303, abs=1e-9)
    assert (b == 0).any()
    assert torch.tensor(values).diff().min().item() >= -1e-12
    bound = torch.xlogy(counts, counts / counts.sum(1, keepdim=True)).sum().item()
    assert bound == pytest.approx(-11.2738049591, abs=1e-9)
    assert values[-1] < bound


def test_plsa_limit_agrees_with_nmf() -> None:
    counts, a, b = plsa_start()
    model = NMF(2, solver="mu", beta_loss="kullback-leibler", init="custom", tol=0, max_iter=5000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        w = model.fit_transform(counts.numpy(), W=a.numpy().copy(), H=b.numpy().copy())
    product = w @ model.components_
    product /= product.sum(1, keepdims=True)
    for _ in range(2000):
        a, b = plsa_em_step(counts, a, b)
    np.testing.assert_allclose((a @ b).numpy(), product, rtol=0, atol=1e-9)


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 6), st.integers(1, 4))
@settings(deadline=None, max_examples=40)
def test_plsa_step_from_its_definition(seed: int, i: int, j: int, k: int) -> None:
    gen = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, 4, (i, j), generator=gen).to(F64) + torch.eye(i, j, dtype=F64)
    a = torch.softmax(torch.randn(i, k, generator=gen, dtype=F64), -1)
    b = torch.softmax(torch.randn(k, j, generator=gen, dtype=F64), -1)
    new_a, new_b = plsa_em_step(counts, a, b)
    resp = torch.einsum("iz,zy->iyz", a, b)
    joint = counts[..., None] * resp / resp.sum(-1, keepdim=True)
    by_topic, by_document = joint.sum(0).T, joint.sum(1)
    torch.testing.assert_close(new_b, by_topic / by_topic.sum(-1, keepdim=True))
    has_counts = counts.sum(1) > 0
    expected = by_document / by_document.sum(-1, keepdim=True)
    torch.testing.assert_close(new_a[has_counts], expected[has_counts])
    assert torch.equal(new_a[~has_counts], a[~has_counts])
    assert plsa_value(counts, new_a, new_b) >= plsa_value(counts, a, b) - 1e-11


def test_plsa_keeps_rows_without_counts() -> None:
    counts = t([[1.0, 2.0], [0.0, 0.0]])
    a, b = t([[1.0, 0.0], [0.3, 0.7]]), t([[0.5, 0.5], [0.9, 0.1]])
    new_a, new_b = plsa_em_step(counts, a, b)
    assert torch.equal(new_a, a)
    torch.testing.assert_close(new_b, t([[1 / 3, 2 / 3], [0.9, 0.1]]), rtol=0, atol=1e-15)
    # Probability zero where there are counts: that cell is explained by nothing and has no say.
    a, b = plsa_em_step(
        t([[1.0, 0.0, 1.0]]), t([[0.5, 0.5]]), t([[0.7, 0.3, 0.0], [0.2, 0.8, 0.0]])
    )
    torch.testing.assert_close(a, t([[7 / 9, 2 / 9]]), rtol=0, atol=1e-15)
    assert torch.equal(b, t([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]))


# --- bad input ---------------------------------------------------------------------------------

X = line()
PX, Q, J = t([0.5, 0.5]), t([[0.5, 0.5], [0.2, 0.8]]), t([[0.2, 0.2], [0.3, 0.2]])
NAN = float("nan")
CASES = [
    (joint_kl, ([0.5], Q, J), TypeError, "p_x"),
    (joint_kl, (PX[None], Q, J), ValueError, r"p_x.*\(1, 2\)"),
    (joint_kl, (PX, Q[:1], J), ValueError, "q_y_given_x"),
    (joint_kl, (PX, Q, J[:, :1]), ValueError, "joint must have shape"),
    (joint_kl, (t([1.5, -0.5]), Q, J), ValueError, "p_x must be non-negative"),
    (joint_kl, (t([0.7, 0.5]), Q, J), ValueError, r"p_x must sum to 1.*1\.2"),
    (joint_kl, (PX, 2 * Q, J), ValueError, "q_y_given_x must sum"),
    (joint_kl, (PX, Q, 0 * J), ValueError, "joint must be positive"),
    (joint_kl, (PX, Q, 2 * J), ValueError, r"joint must sum to at most 1.*1\.8"),
    (joint_kl, (PX, Q.float(), J), TypeError, "p_x, q_y_given_x, joint must share one dtype"),
    (plsa_em_step, (-t(COUNTS), *plsa_start()[1:]), ValueError, "counts must be non-negative"),
    (plsa_em_step, (0 * t(COUNTS), *plsa_start()[1:]), ValueError, "positive sum"),
    (plsa_em_step, (t([1.0]), *plsa_start()[1:]), ValueError, r"counts must have shape"),
    (plsa_em_step, (t(COUNTS), Q, Q), ValueError, r"a must have shape \(3, K\), got \(2, 2\)"),
    (plsa_em_step, (t(COUNTS), plsa_start()[1], Q), ValueError, "b must have shape"),
    (plsa_em_step, (t(COUNTS), 2 * plsa_start()[1], plsa_start()[2]), ValueError, "a must sum"),
    (plsa_em_step, (t(COUNTS), plsa_start()[1], 2 * plsa_start()[2]), ValueError, "b must sum"),
    (plsa_em_step, (t(COUNTS).long(), *plsa_start()[1:]), TypeError, "counts"),
    (em_rate, (torch.sin, t(1.0)), ValueError, "theta_star"),
    (em_rate, (torch.sin, 1.0), TypeError, "theta_star"),
    (em_rate, (torch.sum, t([1.0, 2.0])), ValueError, "update"),
    (linkage_em_step, (t(1.5), RAO), ValueError, r"theta.*1\.5"),
    (linkage_em_step, (0.5, RAO), TypeError, "theta"),
    (linkage_em_step, (t(0.5), (1, 2, 3)), ValueError, "counts must be four"),
    (linkage_mle, ((1, -2, 3, 4),), ValueError, "counts must be non-negative"),
    (linkage_mle, ((1, 0, 0, 4),), ValueError, r"counts must have b \+ c > 0"),
    (linkage_rate, ((1, 2, 3, NAN),), ValueError, "counts"),
    (symmetric_mixture_step, (t(1.0), X), ValueError, "x must have shape"),
    (symmetric_mixture_step, (1.0, X[:, 0]), TypeError, "m must be a floating-point tensor"),
    (symmetric_mixture_population, (NAN, 1.0), ValueError, "m must be finite"),
    (symmetric_mixture_population, (1.0, math.inf), ValueError, "mu must be finite"),
    (symmetric_mixture_rate, (NAN,), ValueError, "mu must be finite"),
    (symmetric_mixture_rate, (1.0, math.inf), ValueError, "m must be finite"),
]


@pytest.mark.parametrize(("function", "arguments", "error", "match"), CASES)
def test_bad_input(function, arguments, error, match) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=match):
        function(*arguments)


# ---------------------------------------------------------------- data of any size and precision


def test_linkage_counts_of_any_size() -> None:
    for scale in (1e-300, 1e300):
        counts = [value * scale for value in (125.0, 18.0, 20.0, 34.0)]
        assert linkage_mle(counts) == pytest.approx(linkage_mle((125, 18, 20, 34)))
        assert linkage_rate(counts) == pytest.approx(linkage_rate((125, 18, 20, 34)))


@pytest.mark.parametrize(
    ("mu", "m", "rate"), [(20, 20, 5.26852e-91), (30, 30, 4.20201e-200), (30, 10, 7.73728e-172)]
)
def test_rates_that_lie_in_the_far_tail(mu: float, m: float, rate: float) -> None:
    assert symmetric_mixture_rate(mu, m) == pytest.approx(rate, rel=1e-5)


def test_means_far_beyond_the_noise() -> None:
    assert symmetric_mixture_population(1.0, 1e200) == pytest.approx(1e200)
