import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import dblquad
from scipy.optimize import minimize_scalar
from scipy.spatial.distance import jensenshannon
from scipy.stats import chi2, entropy, multivariate_normal
from sklearn.neighbors import NearestNeighbors
from torch import nn

from kexue_lab.generative.autoencoder import mlp
from kexue_lab.generative.info_max import (
    CorrelatedGaussian,
    InfoMax,
    f_conjugate,
    f_generator,
    mi_bound,
    retrieval_precision,
)
from kexue_lab.training import generator

DIVERGENCES = ("kl", "reverse_kl", "chi2", "hellinger2", "gan")
KINDS = ("infonce", "nwj", "dv", "jsd")


def random(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


# --- bounds


def by_loops(scores, kind):
    n = len(scores)
    true = [scores[i, i] for i in range(n)]
    shuffled = [scores[i, j] for i in range(n) for j in range(n) if i != j]
    if kind == "infonce":
        rows = [scores[i, i] - np.log(np.mean(np.exp(scores[i]))) for i in range(n)]
        return np.mean(rows)
    if kind == "nwj":
        return np.mean(true) - np.mean(np.exp(np.array(shuffled) - 1))
    if kind == "dv":
        return np.mean(true) - np.log(np.mean(np.exp(shuffled)))
    right = np.mean(np.log(1 / (1 + np.exp(-np.array(true)))))
    wrong = np.mean(np.log(1 - 1 / (1 + np.exp(-np.array(shuffled)))))
    return math.log(2) + (right + wrong) / 2


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 1000), n=st.integers(2, 7))
def test_bounds_are_their_formulas(kind, seed, n):
    scores = random(n, n, seed=seed)
    assert float(mi_bound(scores, kind)) == pytest.approx(by_loops(scores.numpy(), kind), abs=1e-12)


@given(seed=st.integers(0, 1000), n=st.integers(2, 7), scale=st.sampled_from([0.1, 1.0, 30.0]))
def test_bounds_keep_their_order_and_ceiling(seed, n, scale):
    scores = scale * random(n, n, seed=seed)
    assert float(mi_bound(scores, "infonce")) <= math.log(n) + 1e-12
    assert float(mi_bound(scores, "jsd")) <= math.log(2)
    assert float(mi_bound(scores, "nwj")) <= float(mi_bound(scores, "dv")) + 1e-9
    assert float(mi_bound(scores + 3, "dv")) == pytest.approx(float(mi_bound(scores, "dv")))


def test_a_constant_critic_knows_nothing():
    scores = torch.zeros(5, 5)
    for kind in ("infonce", "dv", "jsd"):
        assert float(mi_bound(scores, kind)) == pytest.approx(0, abs=1e-6)
    assert float(mi_bound(scores + 1, "nwj")) == pytest.approx(0, abs=1e-6)


def test_bounds_have_gradients():
    scores = random(4, 4).requires_grad_()
    for kind in KINDS:
        assert torch.autograd.gradcheck(lambda s, kind=kind: mi_bound(s, kind), (scores,))


@pytest.mark.parametrize(
    ("N", "means"), [(64, (9.24, 8.60, 4.091)), (1024, (8.36, 8.34, 6.38))], ids=str
)
def test_the_exact_critic_of_ten_pairs(N, means):
    """Means of 40 batches, computed elsewhere: within what such a mean scatters."""
    pair, g = CorrelatedGaussian(10, 0.9), generator(0)
    rows = []
    for _ in range(40 if N < 1000 else 8):
        x, y = pair.sample(N, g)
        log_r = pair.log_ratio(x[:, None], y)
        values = mi_bound(log_r, "dv"), mi_bound(1 + log_r, "nwj"), mi_bound(log_r)
        rows.append([float(value) for value in values])
    error = np.std(rows, axis=0, ddof=1) * math.sqrt(1 / 40 + 1 / len(rows))
    assert np.all(np.abs(np.mean(rows, 0) - means) < 5 * error + 0.01)


# --- divergences


@pytest.mark.parametrize("name", DIVERGENCES)
@given(u=st.floats(0.05, 20))
def test_conjugate_and_generator_touch(name, u):
    """f(u) = u f'(u) − f*(f'(u)), and Young's inequality elsewhere."""
    at = torch.tensor(u, dtype=torch.float64, requires_grad=True)
    value = f_generator(name, at)
    (slope,) = torch.autograd.grad(value, at)
    value = value.detach()
    assert float(u * slope - f_conjugate(name, slope)) == pytest.approx(float(value), abs=1e-9)
    other = f_generator(name, torch.tensor(1.3 * u, dtype=torch.float64))
    assert float(other) >= float(1.3 * u * slope - f_conjugate(name, slope)) - 1e-9


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("t", [-3.0, -0.7, -0.1])
def test_conjugate_is_a_supremum(name, t):
    def gap(log_u):
        u = torch.tensor(math.exp(log_u), dtype=torch.float64)
        return float(f_generator(name, u)) - float(u) * t

    best = minimize_scalar(gap, bounds=(-30, 6), method="bounded", options={"xatol": 1e-10})
    assert float(f_conjugate(name, torch.tensor(t, dtype=torch.float64))) == pytest.approx(
        -best.fun, abs=1e-6
    )


def test_the_gans_divergence_is_twice_scipys():
    p, q = np.array([0.2, 0.5, 0.3]), np.array([0.6, 0.1, 0.3])
    ours = float(torch.tensor(q) @ f_generator("gan", torch.tensor(p / q)))
    assert ours == pytest.approx(2 * jensenshannon(p, q) ** 2)


# --- Gaussian pairs


@pytest.mark.parametrize(
    ("dim", "rho", "information", "js"),
    [
        (1, 0.3, 0.0471553397, 0.0119140947),
        (1, 0.6, 0.2231435513, 0.0577735525),
        (1, 0.9, 0.8303656034, 0.2145530675),
        (1, 0.99, 1.9585177736, 0.4413680661),
        (5, 0.6, 1.1157177566, 0.2400706555),
        (10, 0.9, 8.3036560341, 0.6758678218),
    ],
)
def test_information_and_divergence(dim, rho, information, js):
    pair = CorrelatedGaussian(dim, rho)
    assert pair.mutual_information == pytest.approx(information, abs=1e-9)
    assert pair.js_divergence() == pytest.approx(js, abs=1e-8)
    assert CorrelatedGaussian(dim, -rho).js_divergence() == pytest.approx(js, abs=1e-8)


@pytest.mark.parametrize("rho", [0.3, 0.6])
def test_divergence_by_another_quadrature(rho):
    def density(x, y, r):
        form = (x * x - 2 * r * x * y + y * y) / (1 - r * r)
        return math.exp(-form / 2) / (2 * math.pi * math.sqrt(1 - r * r))

    def integrand(y, x):
        p, q = density(x, y, rho), density(x, y, 0)
        return (p * math.log(2 * p / (p + q)) + q * math.log(2 * q / (p + q))) / 2

    value, _ = dblquad(integrand, -8, 8, -8, 8, epsabs=1e-9)
    assert CorrelatedGaussian(1, rho).js_divergence() == pytest.approx(value, abs=1e-8)


def test_twice_the_divergence_is_the_information_less_that_of_the_mean():
    p, q = np.array([0.2, 0.5, 0.3]), np.array([0.6, 0.1, 0.3])
    rest = entropy((p + q) / 2, q)
    assert entropy(p, q) == pytest.approx(2 * jensenshannon(p, q) ** 2 + 2 * rest)
    for dim, rho in ((1, 0.1), (1, 0.9), (5, 0.6), (10, 0.9)):
        pair = CorrelatedGaussian(dim, rho)
        assert 2 * pair.js_divergence() < pair.mutual_information


def test_divergence_at_the_ends():
    assert CorrelatedGaussian(3, 0).js_divergence() == pytest.approx(0, abs=1e-12)
    assert CorrelatedGaussian(3, 0).mutual_information == 0
    assert CorrelatedGaussian(900, 0.9).js_divergence() == pytest.approx(math.log(2))
    near = CorrelatedGaussian(1, 1 - 1e-12)
    assert near.mutual_information == pytest.approx(-math.log(2e-12) / 2)
    assert 0 < CorrelatedGaussian(1, 0.5).js_divergence(order=1) < math.log(2)


def test_log_ratio_is_that_of_the_densities():
    pair = CorrelatedGaussian(2, -0.7)
    x, y = random(6, 2), random(6, 2, seed=1)
    joint = multivariate_normal([0, 0], [[1, -0.7], [-0.7, 1]])
    alone = multivariate_normal([0, 0], np.eye(2))
    each = torch.stack([x, y], -1).numpy()
    expected = (joint.logpdf(each) - alone.logpdf(each)).sum(-1)
    assert pair.log_ratio(x, y).numpy() == pytest.approx(expected)
    assert pair.log_ratio(x[:, None], y).shape == (6, 6)


def test_log_ratio_has_the_law_of_two_chi_squares():
    pair = CorrelatedGaussian(5, 0.8)
    x, y = pair.sample(200_000, generator(0))
    log_r = pair.log_ratio(x.double(), y.double())
    assert float(log_r.mean()) == pytest.approx(pair.mutual_information, abs=0.03)
    assert float(log_r.std()) == pytest.approx(0.8 * math.sqrt(5), rel=0.02)
    rng = np.random.default_rng(0)
    drawn = pair.mutual_information + 0.4 * (
        chi2.rvs(5, size=200_000, random_state=rng) - chi2.rvs(5, size=200_000, random_state=rng)
    )
    assert np.quantile(log_r, [0.05, 0.5, 0.95]) == pytest.approx(
        np.quantile(drawn, [0.05, 0.5, 0.95]), abs=0.06
    )


def test_notes_by_their_law():
    """n symbols without noise: scipy's divergence of the two tables."""
    for n, js in ((2, 0.2157615543), (10, 0.5255973270), (100, 0.6650964125)):
        true = (np.eye(n) / n).ravel()
        shuffled = np.full(n * n, 1 / n**2)
        assert jensenshannon(true, shuffled) ** 2 == pytest.approx(js, abs=1e-9)
        formula = math.log(2) + (math.log(n / (n + 1)) - math.log(n + 1) / n) / 2
        assert formula == pytest.approx(js, abs=1e-9)


@pytest.mark.parametrize(
    ("gamma", "best", "loss"),
    [
        (0.1, 3.8725, 0.52391),
        (0.3, 2.0388, 1.09062),
        (0.4, 1.4121, 1.26278),
        (0.5, 0.7349, 1.37182),
    ],
)
def test_the_best_information(gamma, best, loss):
    def value(i):
        pair = CorrelatedGaussian(1, math.sqrt(-math.expm1(-2 * i)))
        return 2 * math.log(2) - 2 * pair.js_divergence() + gamma * i

    found = minimize_scalar(value, bounds=(0.2, 6), method="bounded", options={"xatol": 1e-9})
    assert found.x == pytest.approx(best, abs=1e-3)
    assert found.fun == pytest.approx(loss, abs=1e-5)
    assert value(0) == pytest.approx(2 * math.log(2))


def test_price_splits_for_a_discrete_code():
    rng = np.random.default_rng(0)
    joint = rng.dirichlet(np.ones(20)).reshape(4, 5)
    prior = rng.dirichlet(np.ones(5))
    of_x, of_z = joint.sum(1), joint.sum(0)
    information = np.sum(joint * np.log(joint / np.outer(of_x, of_z)))
    price = np.sum(joint * np.log(joint / of_x[:, None] / prior))
    misfit = np.sum(of_z * np.log(of_z / prior))
    for lam in (0.3, 2.0):
        assert -information + lam * misfit == pytest.approx(
            -(1 + lam) * information + lam * price, abs=1e-12
        )


# --- networks


class Encoder(nn.Module):
    def __init__(self, maps=False):
        super().__init__()
        self.patch, self.code, self.maps = mlp(3, 5), mlp(20, 4), maps

    def forward(self, x):
        features = self.patch(x)
        mean, log_var = self.code(features.flatten(1)).chunk(2, -1)
        if self.maps:
            features = features.mT.unflatten(2, (2, 2))
        return features, mean, log_var


def test_loss_by_hand():
    net = InfoMax(Encoder(), 5, 2, patches=4, hidden=6, alpha=0.7, beta=2, gamma=0.3).double()
    x = random(8, 4, 3)
    total, parts = net.loss(x, generator(1))
    features, mean, log_var = net.encoder(x)
    noise = torch.randn(8, 2, generator=generator(1), dtype=torch.float64)
    of_local, of_global = net.of_code(mean + (log_var / 2).exp() * noise).chunk(2, -1)
    logits = torch.einsum("bph,ch->bpc", net.of_patch(features), of_local)
    whole = net.of_sample(features.flatten(1)) @ of_global.T

    def told(table):
        true = [table[i, i] for i in range(8)]
        shuffled = [table[i, i - 1] for i in range(8)]
        likely = [torch.sigmoid(v).log() for v in true]
        return sum(likely) / 8 + sum(torch.sigmoid(-v).log() for v in shuffled) / 8

    local = sum(told(logits[:, p]) for p in range(4)) / 4
    kl = (mean.square() + log_var.exp() - log_var - 1).sum(1).mean() / 2
    expected = -0.7 * told(whole) - 2 * local + 0.3 * kl
    assert float(total) == pytest.approx(float(expected))
    assert [float(part) for part in parts] == pytest.approx(
        [float(told(whole)), float(local), float(kl)]
    )


def test_feature_maps_are_patches():
    nets = []
    for maps in (False, True):
        torch.manual_seed(0)
        nets.append(InfoMax(Encoder(maps), 5, 2, patches=4))
    x = torch.randn(6, 4, 3, generator=generator(0))
    first, second = (net.loss(x, generator(2))[0] for net in nets)
    assert float(first) == pytest.approx(float(second), abs=1e-6)


def test_a_network_can_be_trained():
    net = InfoMax(Encoder(), 5, 2, patches=4)
    net.loss(random(6, 4, 3).float())[0].backward()
    assert all(bool(p.grad.isfinite().all()) for p in net.parameters())


# --- retrieval


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), k=st.integers(1, 5))
def test_retrieval_is_sklearns(seed, k):
    features = random(30, 3, seed=seed)
    labels = torch.randint(3, (30,), generator=generator(seed))
    for metric in ("cosine", "euclidean"):
        search = NearestNeighbors(n_neighbors=k, metric=metric).fit(features.numpy())
        nearest = search.kneighbors(return_distance=False)
        expected = (labels.numpy()[nearest] == labels.numpy()[:, None]).mean()
        assert retrieval_precision(features, labels, k, metric) == pytest.approx(expected)


def test_retrieval_leaves_the_query_out():
    features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert retrieval_precision(features, torch.tensor([0, 1, 2]), k=2) == 0


# --- refusals


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mi_bound(torch.zeros(2, 3)), r"\(N, N\) with N >= 2, got \(2, 3\)"),
        (lambda: mi_bound(torch.zeros(1, 1)), "N >= 2"),
        (lambda: mi_bound(torch.zeros(2, 2), "mine"), "kind"),
        (lambda: mi_bound(torch.full((2, 2), math.nan)), "finite"),
        (lambda: mi_bound(torch.full((2, 2), 500.0), "nwj"), "the bound must fit"),
        (lambda: f_generator("kl", torch.tensor([0.0])), "u must be positive"),
        (lambda: f_generator("js", torch.tensor([1.0])), "name"),
        (lambda: f_conjugate("reverse_kl", torch.tensor([0.0])), "t must be below 0"),
        (lambda: f_conjugate("hellinger2", torch.tensor([1.0])), "t must be below 1"),
        (lambda: f_conjugate("gan", torch.tensor([0.7])), "t must be below 0.69"),
        (lambda: CorrelatedGaussian(1, 1.0), "rho must be between"),
        (lambda: CorrelatedGaussian(0, 0.5), "dim"),
        (lambda: CorrelatedGaussian(1, 0.5).sample(0), "n must be"),
        (lambda: CorrelatedGaussian(1, 0.5).js_divergence(0), "order"),
        (
            lambda: CorrelatedGaussian(2, 0.5).log_ratio(torch.zeros(3, 2), torch.zeros(3, 1)),
            "y must end in 2",
        ),
        (lambda: InfoMax(Encoder(), 5, 0, patches=4), "latent"),
        (lambda: InfoMax(Encoder(), 5, 2, patches=4, gamma=-1), "gamma"),
        (lambda: InfoMax(Encoder(), 5, 2, patches=4).loss(torch.zeros(1, 4, 3)), "at least 2"),
        (lambda: retrieval_precision(torch.zeros(3, 1), torch.zeros(3), 3), "k must be below"),
        (lambda: retrieval_precision(torch.zeros(3, 1), torch.zeros(2), 1), "labels"),
        (lambda: retrieval_precision(torch.zeros(3, 1), torch.zeros(3), 1, "l1"), "metric"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_whole_numbers_are_refused():
    with pytest.raises(TypeError, match="scores"):
        mi_bound(torch.zeros(2, 2, dtype=torch.int64))
