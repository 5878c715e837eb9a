"""Unit, oracle, property and bad-input tests of diffusion.imperfect_mean."""

import math

import pytest
import torch
from exact import COSINE, MIXTURE
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import seeded, t64

from kexue_lab.diffusion.imperfect_mean import (
    VarianceHead,
    analytic_error,
    gaussian_excess,
    npr_loss,
    residual_variance,
    sn_loss,
    sn_variance,
    to_x0_variance,
    variance_nll,
)
from kexue_lab.diffusion.optimal_variance import kl_excess, variance_from_noise

AB, BB = COSINE.alpha_bar(0.5), COSINE.beta_bar(0.5)


def draws(n, g):
    """Noise ε and the exact E[ε | x_t] at t = ½."""
    noise = torch.randn(n, 1, generator=g, dtype=torch.float64)
    return noise, MIXTURE.noise(AB * MIXTURE.sample(n, g) + BB * noise, AB, BB)


# --- variances ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("k", "right", "analytic"),
    [
        (0.1, 0.530014171, 0.425572876),
        (-0.1, 0.530014171, 0.615466140),
        (0.5, 0.643950130, -0.068149611),
    ],
)
def test_a_scaled_mean_fools_the_analytic_variance_only(k, right, analytic):
    noise, exact = draws(400_000, seeded())
    found = residual_variance(noise, (1 + k) * exact)
    spread = (noise - (1 + k) * exact).square().std() / math.sqrt(len(noise))
    assert abs(found - right) < 5 * spread
    other = variance_from_noise((1 + k) * exact, AB, BB) * (AB / BB) ** 2
    assert abs(other - analytic) < 5 * ((1 + k) * exact).square().std() / math.sqrt(len(noise))


def test_residuals_per_dimension():
    noise, eps = torch.randn(2, 40, 2, 3, generator=seeded(), dtype=torch.float64)
    each = residual_variance(noise, eps, per_dim=True)
    torch.testing.assert_close(each, ((noise - eps) ** 2).mean(0))
    assert each.mean().item() == pytest.approx(residual_variance(noise, eps).item())


def test_the_analytic_error_is_the_difference_of_the_two_variances():
    noise, eps = torch.randn(2, 300, 2, 3, generator=seeded(), dtype=torch.float64)
    noise = noise / noise.square().mean(0).sqrt()  # of mean square 1, as the formula presumes
    each = analytic_error(noise, eps, per_dim=True)
    torch.testing.assert_close(
        each, residual_variance(noise, eps, per_dim=True) - (1 - eps.square().mean(0))
    )
    assert analytic_error(noise, eps).item() == pytest.approx(each.mean().item())


@settings(deadline=None)
@given(decay=st.floats(0, 3), seed=st.integers(0, 99))
def test_the_analytic_error_of_a_decayed_fit(decay, seed):
    feature, noise = torch.randn(2, 50, 1, generator=seeded(seed), dtype=torch.float64)
    c = (noise * feature).mean() / (feature.square().mean() + decay)
    error = analytic_error(noise, c * feature)
    assert error.item() == pytest.approx(-2 * decay * float(c) ** 2, abs=1e-9)


VALUES = {
    -0.4: (-0.302146012, 1.248914671, 1.288914671, 1.329773076),
    0.3: (-0.265852998, 0.585280348, 0.625280348, 0.651621547),
    1.5: (0.901539723, 0.210636318, 0.250636318, -0.189979571),
}


@pytest.mark.parametrize("x", VALUES)
def test_pointwise_variances_by_their_digits(x):
    eps, variance, npr, sn = VALUES[x]
    point = t64([x])
    exact = MIXTURE.noise(point, AB, BB)
    assert exact.item() == pytest.approx(eps, abs=1e-9)
    spread = MIXTURE.posterior_cov(point, AB, BB)[0] * (AB / BB) ** 2
    assert spread.item() == pytest.approx(variance, abs=1e-8)
    second_moment = spread + exact**2
    assert (spread + 0.2**2).item() == pytest.approx(npr, abs=1e-8)
    found = sn_variance(second_moment, exact + 0.2, floor=-math.inf)
    assert found.item() == pytest.approx(sn, abs=1e-8)
    assert sn_variance(second_moment, exact + 0.2).item() == max(found.item(), 0)


@settings(deadline=None)
@given(m=st.floats(-3, 3), v=st.floats(0, 3), b=st.floats(-2, 2))
def test_the_error_of_squared_noise(m, v, b):
    h, eps = t64(v + m**2), t64(m + b)
    error = sn_variance(h, eps, floor=-math.inf) - (v + b**2)
    assert error.item() == pytest.approx(-2 * b * (m + b), abs=1e-9)


# --- losses ------------------------------------------------------------------------------------

LOSSES = {
    "npr": lambda g, noise, eps, **kw: npr_loss(g, noise, eps, **kw),
    "sn": lambda g, noise, eps, **kw: sn_loss(g, noise, **kw),
    "nll": lambda g, noise, eps, **kw: variance_nll(g.log(), noise, eps, **kw),
}


@pytest.mark.parametrize(("name", "best"), [("npr", 0.5652668), ("nll", 0.5652668), ("sn", 1.0)])
def test_the_minimiser_is_the_variance_it_should_be(name, best):
    # With a constant error 0.2: E(ε − ε_θ)² = 0.525266840 + 0.04; E ε² = 1.
    noise, exact = draws(400_000, seeded(1))
    g = t64(0.5).requires_grad_()
    optimiser = torch.optim.LBFGS([g], max_iter=50, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        loss = LOSSES[name](g.expand(noise.shape), noise, exact + 0.2)
        loss.backward()
        return loss

    optimiser.step(closure)
    assert g.item() == pytest.approx(best, abs=0.01)


@pytest.mark.parametrize("name", ["npr", "nll"])
def test_no_gradient_reaches_the_mean(name):
    noise = torch.randn(5, 2, generator=seeded())
    eps = torch.zeros(5, 2, requires_grad=True)
    g = torch.ones(5, 2, requires_grad=True)
    LOSSES[name](g, noise, eps).backward()
    assert eps.grad is None
    assert g.grad.abs().sum() > 0


def test_gradients_by_hand():
    noise, eps = torch.randn(2, 6, 3, generator=seeded(), dtype=torch.float64)
    g = (1 + torch.rand(6, 3, generator=seeded(1), dtype=torch.float64)).requires_grad_()
    r2 = (noise - eps) ** 2
    (gradient,) = torch.autograd.grad(npr_loss(g, noise, eps, scale=2.0, reduction="sum"), g)
    torch.testing.assert_close(gradient, (g - r2).detach() / 2)
    (gradient,) = torch.autograd.grad(variance_nll(g.log(), noise, eps, reduction="sum"), g)
    torch.testing.assert_close(gradient, ((g - r2) / (2 * g**2)).detach())


@pytest.mark.parametrize("name", LOSSES)
def test_reductions(name):
    g = 1 + torch.rand(4, 2, generator=seeded())
    noise, eps = torch.randn(2, 4, 2, generator=seeded(1))
    each = LOSSES[name](g, noise, eps, reduction="none")
    assert each.shape == (4, 2)
    torch.testing.assert_close(LOSSES[name](g, noise, eps, reduction="sum"), each.sum())
    torch.testing.assert_close(LOSSES[name](g, noise, eps), each.mean())


def test_the_scale_may_depend_on_the_row():
    g, noise, eps = torch.ones(4, 2), torch.zeros(4, 2), torch.zeros(4, 2)
    scale = torch.tensor([[1.0], [2.0], [4.0], [0.5]])
    loss = npr_loss(g, noise, eps, scale=scale, reduction="none")
    torch.testing.assert_close(loss, (1 / scale**2).expand(4, 2))


def test_the_excess_is_that_of_the_likelihood():
    g_true, g = t64(0.5, 1.0, 2.0), t64(1.0, 1.0, 0.3)
    expected = [kl_excess(b, a, 1) for a, b in zip(g_true.tolist(), g.tolist(), strict=True)]
    assert gaussian_excess(g_true, g).tolist() == pytest.approx(expected)


def test_to_the_scale_of_the_data():
    g = t64(-0.5, 0.3, 2.0)
    torch.testing.assert_close(to_x0_variance(g, 0.6, 0.8), g * 16 / 9)
    torch.testing.assert_close(to_x0_variance(g, 0.6, 0.8, clip=(0.0, 1.0)), t64(0, 16 / 30, 1))


# --- the head ----------------------------------------------------------------------------------


def test_heads_have_the_signs_they_promise():
    x, t = 5 * torch.randn(200, 3, generator=seeded()), torch.rand(200, generator=seeded(1))
    torch.manual_seed(0)
    assert (VarianceHead(3)(x, t) > 0).all()
    for output in ("raw", "log"):
        values = VarianceHead(3, width=16, output=output)(x, t)
        assert values.shape == (200, 3)
        assert values.min() < 0 < values.max()
    head = VarianceHead(3)
    assert not torch.allclose(head(x, t), head(x, 1 - t))


# --- bad input ---------------------------------------------------------------------------------

X, Y = torch.ones(2, 3), torch.ones(2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: residual_variance(X, Y), ValueError, "noise, eps_pred must share one non-empty"),
        (lambda: residual_variance(X[:0], X[:0]), ValueError, r"got \(0, 3\), \(0, 3\)"),
        (lambda: residual_variance([1.0], X), TypeError, "noise must be a floating-point tensor"),
        (lambda: residual_variance(X, X.double()), TypeError, "share one dtype"),
        (lambda: analytic_error(X, Y), ValueError, "noise, eps_pred must share one non-empty"),
        (lambda: analytic_error(X, X.double()), TypeError, "share one dtype"),
        (lambda: npr_loss(Y, X, X), ValueError, "g, noise, eps_pred must share"),
        (lambda: npr_loss(X, X, X, scale=0.0), ValueError, "scale must be positive"),
        (lambda: npr_loss(X, X, X, reduction="max"), ValueError, "reduction must be .*'max'"),
        (lambda: sn_loss(X, Y), ValueError, "h, noise must share"),
        (lambda: sn_loss(X, X, reduction=None), ValueError, "reduction must be .*None"),
        (lambda: sn_variance(X, Y), ValueError, "h, eps_pred must share"),
        (lambda: sn_variance(X, X, floor=math.nan), ValueError, "floor must be a number"),
        (lambda: variance_nll(X, X, Y), ValueError, "log_g, noise, eps_pred must share"),
        (lambda: variance_nll(X, X, X, reduction="x"), ValueError, "reduction must be"),
        (lambda: gaussian_excess(X, 0 * X), ValueError, "g must be positive, got minimum 0"),
        (lambda: gaussian_excess(-X, X), ValueError, "g_true must be positive, got minimum -1"),
        (lambda: gaussian_excess(1.0, X), TypeError, "g_true must be a floating-point tensor"),
        (lambda: to_x0_variance(X, 0.0, 1.0), ValueError, "alpha_bar must be positive"),
        (lambda: to_x0_variance(X, 1.0, -1.0), ValueError, "beta_bar must be non-negative"),
        (lambda: to_x0_variance(X, 1.0, 1.0, clip=(1, 0)), ValueError, "clip must be"),
        (lambda: to_x0_variance(1.0, 1.0, 1.0), TypeError, "g must be a floating-point tensor"),
        (lambda: VarianceHead(0), ValueError, "dim must be at least 1"),
        (lambda: VarianceHead(1, 2.5), TypeError, "width must be an integer"),
        (lambda: VarianceHead(1, output="exp"), ValueError, "output must be one of .*'exp'"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
