import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import minimize
from scipy.stats import multivariate_normal, norm
from sklearn.datasets import load_iris
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from kexue_lab.generative.autoencoder import mlp
from kexue_lab.generative.vae_geometry import (
    VAE,
    active_axes,
    gaussian_kl,
    linear_elbo,
    naive_penalty,
    optimal_linear_encoder,
    optimal_radius,
    ppca,
    rate_split,
)
from kexue_lab.training import generator


def iris():
    x = torch.tensor(load_iris().data)
    return x, x.mean(0), torch.cov(x.T, correction=0)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


# --- prices


@pytest.mark.parametrize(
    ("mu", "sigma", "price"),
    [
        (0, 0.5, 0.3181471806),
        (0, 2, 0.8068528194),
        (1, 0.5, 0.8181471806),
        (2, 0.1, 3.8075850930),
    ],
)
def test_prices_of_single_ellipses(mu, sigma, price):
    mean = torch.tensor([[float(mu)]], dtype=torch.float64)
    log_var = torch.tensor([[2 * math.log(sigma)]], dtype=torch.float64)
    assert float(gaussian_kl(mean, log_var)) == pytest.approx(price, abs=1e-9)
    by_quadrature, _ = quad(
        lambda z: norm.pdf(z, mu, sigma) * (norm.logpdf(z, mu, sigma) - norm.logpdf(z)),
        mu - 12 * sigma,
        mu + 12 * sigma,
    )
    assert by_quadrature == pytest.approx(price, abs=1e-8)


@given(st.integers(0, 1000), st.integers(1, 5))
def test_price_is_torchs(seed, k):
    mean, log_var = random(4, k, seed=seed), random(4, k, seed=seed + 1)
    theirs = kl_divergence(Normal(mean, (log_var / 2).exp()), Normal(0.0, 1.0)).sum(-1)
    assert torch.allclose(gaussian_kl(mean, log_var), theirs, atol=1e-12)
    assert float(gaussian_kl(mean, log_var, reduction="sum")) == pytest.approx(float(theirs.sum()))
    assert float(gaussian_kl(mean, log_var, reduction="mean")) == pytest.approx(
        float(theirs.mean())
    )


@given(st.floats(-1e-3, 1e-3))
def test_price_near_the_disc_keeps_its_digits(log_var):
    price = gaussian_kl(torch.zeros(1, 1), torch.tensor([[log_var]]))
    exact = float(np.float32(log_var)) ** 2 / 4
    assert float(price) == pytest.approx(exact, rel=1e-3, abs=1e-45)


def test_both_prices_agree_to_second_order_up_to_weights():
    step = torch.tensor([[1e-4]], dtype=torch.float64)
    zero = torch.zeros_like(step)
    radius = 2 * torch.log1p(step)
    assert float(gaussian_kl(step, zero) / naive_penalty(step, zero)) == pytest.approx(0.5)
    ratio = float(gaussian_kl(zero, radius) / naive_penalty(zero, radius))
    assert ratio == pytest.approx(1, abs=1e-3)


def test_a_point_is_dear_by_the_divergence_only():
    point = torch.tensor([[-200.0]], dtype=torch.float64)
    assert float(gaussian_kl(point * 0, point)) > 99
    assert float(naive_penalty(point * 0, point)) == pytest.approx(1)


def test_prices_have_gradients():
    mean, log_var = (random(3, 2, seed=s).requires_grad_() for s in (0, 1))
    assert torch.autograd.gradcheck(gaussian_kl, (mean, log_var))
    assert torch.autograd.gradcheck(naive_penalty, (mean, log_var))


@pytest.mark.parametrize("price", [gaussian_kl, naive_penalty])
def test_prices_refuse_what_they_cannot_price(price):
    with pytest.raises(ValueError, match=r"share one shape, got \(2, 3\) and \(2, 4\)"):
        price(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="reduction"):
        price(torch.zeros(2, 3), torch.zeros(2, 3), reduction="median")
    with pytest.raises(TypeError, match="mean"):
        price(torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="the price must fit"):
        price(torch.zeros(1, 1), torch.full((1, 1), 800.0))


# --- linear autoencoders


@pytest.mark.parametrize(
    ("k", "tau2", "likelihood"),
    [
        (1, 0.114139080, -3.137796389),
        (2, 0.050682148, -2.699751868),
        (3, 0.023676192, -2.532764201),
    ],
)
def test_iris_reaches_its_likelihood(k, tau2, likelihood):
    x, mean, covariance = iris()
    W, noise, _ = ppca(covariance, k)
    assert noise == pytest.approx(tau2, abs=1e-9)
    elbo = linear_elbo(x, W, mean, noise, *optimal_linear_encoder(W, noise)).mean()
    assert float(elbo) == pytest.approx(likelihood, abs=1e-9)
    law = multivariate_normal(mean.numpy(), (W @ W.T + noise * torch.eye(4)).numpy())
    assert float(elbo) == pytest.approx(law.logpdf(x.numpy()).mean(), abs=1e-9)


def test_fitted_covariance_is_the_datas_where_nothing_is_left_out():
    covariance = torch.diag(torch.tensor([4.0, 2.0, 0.5, 0.5], dtype=torch.float64))
    W, noise, values = ppca(covariance, 2)
    assert noise == pytest.approx(0.5)
    assert torch.allclose(W @ W.T + noise * torch.eye(4), covariance)
    assert values.tolist() == pytest.approx([4, 2, 0.5, 0.5])


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000))
def test_no_other_encoder_is_better(seed):
    x, W = random(20, 3, seed=seed), random(3, 2, seed=seed + 1)
    mean, tau2 = x.mean(0), 0.3
    V, delta = optimal_linear_encoder(W, tau2)
    best = float(linear_elbo(x, W, mean, tau2, V, delta).mean())
    moved_V = V + 0.05 * random(2, 3, seed=seed + 2)
    moved_delta = delta * (1 + 0.2 * random(2, seed=seed + 3).tanh())
    assert float(linear_elbo(x, W, mean, tau2, moved_V, delta).mean()) < best
    assert float(linear_elbo(x, W, mean, tau2, V, moved_delta).mean()) < best


@pytest.mark.parametrize(("angle", "gap"), [(0.2, 0.230896563), (math.pi / 4, 0.791577069)])
def test_rotated_axes_cost_what_hadamard_says(angle, gap):
    x, mean, covariance = iris()
    W, tau2, _ = ppca(covariance, 2)
    c, s = math.cos(angle), math.sin(angle)
    turned = W @ torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
    elbo = [
        float(linear_elbo(x, w, mean, tau2, *optimal_linear_encoder(w, tau2)).mean())
        for w in (W, turned)
    ]
    M = turned.T @ turned + tau2 * torch.eye(2)
    assert elbo[0] - elbo[1] == pytest.approx(gap, abs=1e-8)
    assert gap == pytest.approx(float(M.diagonal().log().sum() - M.logdet()) / 2, abs=1e-8)


@pytest.mark.parametrize("beta", [0.5, 1.0, 3.0])
def test_axes_survive_above_the_water(beta):
    """One axis at a time, found by a minimiser that knows no formula."""
    tau2 = 0.4
    for variance in (0.3, 1.1, 2.0):

        def loss(p, variance=variance):
            w, v, log_delta = p
            misfit = (1 - w * v) ** 2 * variance + w**2 * math.exp(log_delta)
            price = (v**2 * variance + math.exp(log_delta) - log_delta - 1) / 2
            return misfit / (2 * tau2) + beta * price

        found = minimize(loss, [0.8, 0.5, 0.0], tol=1e-12).x
        survives = active_axes(torch.tensor([variance]), tau2, beta)
        assert survives == int(variance > beta * tau2)
        assert found[0] ** 2 == pytest.approx(max(variance - beta * tau2, 0), abs=1e-3)
        assert math.exp(found[2]) == pytest.approx(min(beta * tau2 / variance, 1), abs=1e-3)


def test_radii():
    slope = torch.tensor([2.0], dtype=torch.float64)
    assert float(optimal_radius(slope, 0.25)) == pytest.approx(0.242535625)
    assert float(optimal_radius(slope, 0.25, beta=4)) == pytest.approx(0.447213595)
    assert float(optimal_radius(slope * 0, 0.25)) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ppca(torch.eye(3), 3), "k must be below 3"),
        (lambda: ppca(torch.eye(3), 4, 0.1), "k must be at most 3"),
        (lambda: ppca(torch.ones(2, 3), 1), "square"),
        (lambda: ppca(torch.tensor([[1.0, 0.5], [0.0, 1.0]]), 1), "symmetric"),
        (lambda: ppca(torch.diag(torch.tensor([1.0, -1.0])), 1), "semidefinite"),
        (lambda: ppca(torch.diag(torch.tensor([1.0, 0.0])), 1), "leave no noise"),
        (lambda: ppca(torch.eye(2), 1, -1.0), "tau2"),
        (lambda: active_axes(torch.tensor([-1.0]), 1.0), "must not be negative"),
        (lambda: active_axes(torch.ones(2, 2), 1.0), "shape"),
        (lambda: optimal_radius(torch.tensor([-1.0]), 1.0), "must not be negative"),
        (lambda: optimal_linear_encoder(torch.eye(2), 0.0), "tau2"),
        (
            lambda: linear_elbo(
                torch.ones(3, 2),
                torch.ones(2, 1),
                torch.ones(1),
                1.0,
                torch.ones(1, 2),
                torch.ones(1),
            ),
            r"mean must have shape \(2,\)",
        ),
        (
            lambda: linear_elbo(
                torch.ones(3, 1),
                torch.ones(1, 1),
                torch.ones(1),
                1.0,
                torch.ones(1, 1),
                torch.zeros(1),
            ),
            "delta must be positive",
        ),
        (lambda: rate_split(torch.zeros(0, 1), torch.zeros(0, 1)), "N, d >= 1"),
        (lambda: rate_split(torch.zeros(2, 1), torch.zeros(2, 2)), "share one shape"),
        (lambda: mlp(3), "at least two"),
        (lambda: mlp(3, 0), r"widths\[1\]"),
        (lambda: VAE(3, 0), "latent"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- the union of the ellipses


def test_two_balls():
    mean = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    log_var = torch.full_like(mean, 2 * math.log(0.5))
    split = rate_split(mean, log_var, samples=10_000, generator=generator(0))
    assert split.rate == pytest.approx(split.information + split.aggregate_kl, abs=1e-12)
    assert split.rate == pytest.approx(0.818147181, abs=0.01)
    assert split.information == pytest.approx(0.632720194, abs=0.01)
    assert split.aggregate_kl == pytest.approx(0.185426987, abs=0.01)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.sampled_from([1e-3, 1.0, 50.0]))
def test_information_is_at_most_the_log_of_the_number(seed, spread):
    mean, log_var = spread * random(6, 2, seed=seed), random(6, 2, seed=seed + 1)
    split = rate_split(mean, log_var, samples=3, generator=generator(seed))
    assert split.information <= math.log(6) + 1e-12


def test_equal_ellipses_tell_nothing():
    split = rate_split(torch.ones(5, 2), torch.zeros(5, 2), generator=generator(0))
    assert split.information == pytest.approx(0, abs=1e-12)
    assert split.aggregate_kl == pytest.approx(1, abs=0.3)


# --- networks


def test_loss_by_hand():
    model, x = VAE(3, 2, hidden=4).double(), random(5, 3)
    mean, log_var = model.encode(x)
    noise = torch.randn(5, 2, generator=generator(1), dtype=torch.float64)
    decoded = model.decode(mean + (log_var / 2).exp() * noise)
    expected = ((x - decoded).square().sum(1) / 0.6 + 2 * gaussian_kl(mean, log_var)).mean()
    assert torch.allclose(model.loss(x, tau2=0.3, beta=2, generator=generator(1)), expected)


def test_full_covariance_price_is_above_its_diagonal():
    """The price of a turned ellipse, N1 of the general formula."""
    mu = torch.tensor([0.3, -0.7, 1.1], dtype=torch.float64)
    sigma = torch.tensor([[1, 0.3, 0], [0.3, 0.5, 0.1], [0, 0.1, 0.8]], dtype=torch.float64)
    disc = MultivariateNormal(torch.zeros(3).double(), torch.eye(3).double())
    full = float(kl_divergence(MultivariateNormal(mu, sigma), disc))
    assert full == pytest.approx(1.1178519481, abs=1e-9)
    assert float(gaussian_kl(mu[None], sigma.diagonal().log()[None])) < full


def test_without_a_penalty_nothing_is_random():
    model, x = VAE(3, 2, hidden=4), torch.randn(5, 3, generator=generator(0))
    first, second = (model.loss(x, tau2=1.0, penalty="none") for _ in range(2))
    assert torch.equal(first, second)
    with pytest.raises(ValueError, match="penalty"):
        model.loss(x, tau2=1.0, penalty="l1")


@pytest.mark.parametrize("penalty", ["kl", "naive", "centre", "none"])
def test_penalties_can_be_trained(penalty):
    model, x = VAE(3, 2, hidden=4), torch.randn(5, 3, generator=generator(0))
    model.loss(x, tau2=0.1, penalty=penalty, generator=generator(0)).backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.decoder.parameters())
