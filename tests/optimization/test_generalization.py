"""Noise, penalties and adversaries: against autograd, scikit-learn, samples and their orders."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge
from torch import nn
from torch.autograd.functional import hessian
from torch.nn.functional import cross_entropy

from kexue_lab.optimization.generalization import (
    fast_gradient_perturbation,
    gradient_penalty_loss,
    jacobian_penalty,
    noise_penalty,
    virtual_adversarial_direction,
    virtual_adversarial_loss,
)

RNG = np.random.default_rng(0)
W = torch.from_numpy(RNG.normal(size=(4, 10)))
X = torch.from_numpy(RNG.normal(size=(1, 10)))


def linear(x):
    return x @ W.T


def net(seed=0, d=6, m=4):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(d, 16), nn.Tanh(), nn.Linear(16, m)).double()


def inputs(n=5, d=6, seed=1):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def divergence(model, x, step):
    p, q = (model(v).log_softmax(-1) for v in (x, x + step))
    return (p.exp() * (p - q)).sum(-1)


def curvature(model, x):
    """The Hessian of the divergence in the step, at 0."""
    return hessian(lambda s: divergence(model, x, s[None])[0], torch.zeros_like(x[0]))


def slope_of(errors, sizes):
    return np.polyfit(np.log(sizes), np.log(errors), 1)[0]


# --- noise -------------------------------------------------------------------------------------


def test_the_noise_penalty_is_half_the_trace_of_the_hessian():
    found = noise_penalty(linear, X, 0.05).item()
    assert found == pytest.approx(0.5 * 0.05**2 * curvature(linear, X).trace().item())
    assert curvature(linear, X).trace().item() == pytest.approx(1.74731809)


def test_sampled_noise_costs_what_the_penalty_says():
    noise = 0.05 * torch.randn(200_000, 10, generator=torch.Generator().manual_seed(2)).double()
    sampled = divergence(linear, X, noise)
    error = sampled.std() / len(noise) ** 0.5
    assert abs(sampled.mean() - noise_penalty(linear, X, 0.05)[0]) < 4 * error + 2e-5


def test_the_jacobian_penalty_is_the_jacobians():
    model, x = net(), inputs()
    jacobian = torch.func.vmap(torch.func.jacrev(model))(x)
    torch.testing.assert_close(jacobian_penalty(model, x), jacobian.square().sum((1, 2)))


def test_random_signs_are_right_on_average():
    model, x = net(), inputs(3)
    g = torch.Generator().manual_seed(0)
    draws = torch.stack([jacobian_penalty(model, x, 1, generator=g) for _ in range(2000)])
    error = draws.std(0) / 2000**0.5
    assert ((draws.mean(0) - jacobian_penalty(model, x)).abs() < 4 * error + 1e-12).all()


def test_for_a_linear_model_noise_is_ridge_regression():
    data = load_diabetes()
    x, y = data.data[:60, :4] * 10, data.target[:60]
    x, y = x - x.mean(0), y - y.mean()
    sigma = 0.5
    rows = torch.from_numpy(x)
    w = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
    penalty = 60 * sigma**2 * jacobian_penalty(lambda v: v @ w.T, rows).mean()
    loss = (rows @ w[0] - torch.from_numpy(y)).square().sum() + penalty
    # It is a square in w: one Newton step from 0 is the minimum.
    (slope,) = torch.autograd.grad(loss, w, create_graph=True)
    matrix = torch.stack([torch.autograd.grad(s, w, retain_graph=True)[0][0] for s in slope[0]])
    found = -torch.linalg.solve(matrix, slope[0]).detach()
    ridge = Ridge(alpha=60 * sigma**2, fit_intercept=False).fit(x, y)
    np.testing.assert_allclose(found, ridge.coef_)


# --- adversaries that know the label -----------------------------------------------------------


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_no_other_small_step_raises_a_linear_loss_more(norm):
    model, x, y = net(), inputs(), torch.tensor([0, 1, 2, 3, 0])
    step = fast_gradient_perturbation(model, x, y, 0.3, norm)
    sizes = step.norm(dim=1) if norm == "l2" else step.abs().amax(1)
    torch.testing.assert_close(sizes, torch.full_like(sizes, 0.3))
    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(cross_entropy(model(leaf), y, reduction="sum"), leaf)
    gain = (step * slope).sum(1)
    dual = slope.norm(dim=1) if norm == "l2" else slope.abs().sum(1)
    torch.testing.assert_close(gain, 0.3 * dual)


def test_a_step_held_fixed_is_half_of_the_squared_penalty():
    model, x, y = net(), inputs(), torch.tensor([0, 1, 2, 3, 0])
    parameters = list(model.parameters())

    def gradient(loss):
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])

    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(cross_entropy(model(leaf), y, reduction="sum"), leaf)
    errors, wrong, sizes = [], [], [1e-1, 1e-2, 1e-3]
    for epsilon in sizes:
        fixed = gradient(cross_entropy(model(x + epsilon * slope), y))
        base = gradient(cross_entropy(model(x), y))
        penalty = gradient(gradient_penalty_loss(model, x, y, epsilon))
        errors.append((fixed - base - penalty).norm().item())
        wrong.append((fixed - base - 2 * penalty).norm().item())
    assert slope_of(errors, sizes) == pytest.approx(2, abs=0.1)
    assert slope_of(wrong, sizes) == pytest.approx(1, abs=0.1)


def test_the_unsquared_penalty_is_the_length_of_the_slope():
    model, x, y = net(), inputs(), torch.tensor([0, 1, 2, 3, 0])
    squared = gradient_penalty_loss(model, x, y, 1.0, reduction="none")
    plain = gradient_penalty_loss(model, x, y, 1.0, squared=False, reduction="none")
    torch.testing.assert_close(0.5 * plain.square(), squared)


# --- adversaries that do not -------------------------------------------------------------------


def test_the_direction_is_the_top_eigenvectors():
    values, vectors = torch.linalg.eigh(curvature(linear, X))
    assert values.flip(0)[:3].tolist() == pytest.approx([1.65670319, 0.05630446, 0.03431048])
    u = virtual_adversarial_direction(linear, X, 1e-3, 5)[0]
    assert abs(u @ vectors[:, -1]).item() == pytest.approx(1, abs=1e-4)
    assert u.norm().item() == pytest.approx(1)


def test_one_iteration_is_mostly_enough():
    H = curvature(linear, X)
    top = torch.linalg.eigvalsh(H)[-1]
    g = torch.Generator().manual_seed(0)
    found = [virtual_adversarial_direction(linear, X, 1e-3, 1, generator=g)[0] for _ in range(20)]
    shares = torch.stack([u @ H @ u / top for u in found])
    assert shares.median() > 0.9


@given(seed=st.integers(0, 20))
def test_the_gain_over_noise_is_at_least_d_over_the_rank(seed):
    model, x = net(seed, d=12, m=3), inputs(1, 12, seed)
    H = curvature(model, x)
    assert 12 * torch.linalg.eigvalsh(H)[-1] / H.trace() >= 12 / 2 - 1e-6


def test_the_loss_is_the_divergence_along_the_direction():
    model, x = net(), inputs()
    loss = [
        virtual_adversarial_loss(
            model, x, 0.1, generator=torch.Generator().manual_seed(3), reduction=reduction
        )
        for reduction in ("none", "mean", "sum")
    ]
    u = virtual_adversarial_direction(model, x, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(loss[0], divergence(model, x, 0.1 * u))
    torch.testing.assert_close(loss[1], loss[0].mean())
    torch.testing.assert_close(loss[2], loss[0].sum())


def test_parameters_keep_their_gradients_and_learn_from_the_loss_only():
    model, x = net(), inputs()
    virtual_adversarial_direction(model, x, n_iter=3)
    assert all(p.grad is None for p in model.parameters())
    virtual_adversarial_loss(model, x, 0.1).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_model_without_slope_gives_a_random_direction_of_length_1():
    def flat(x):
        return 0 * x[:, :3]

    u = virtual_adversarial_direction(flat, inputs())
    torch.testing.assert_close(u.norm(dim=1), torch.ones(5, dtype=torch.float64))
    y = torch.zeros(5, dtype=torch.int64)
    assert fast_gradient_perturbation(flat, inputs(), y, 1.0).abs().max() == 0


def test_pictures_are_taken_as_they_are():
    x = inputs(3, 16).view(3, 1, 4, 4)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3)).double()
    y = torch.tensor([0, 1, 2])
    assert virtual_adversarial_direction(model, x).shape == x.shape
    assert fast_gradient_perturbation(model, x, y, 0.1, "linf").shape == x.shape
    assert noise_penalty(model, x, 0.1).shape == (3,)
    assert gradient_penalty_loss(model, x, y, 0.1).shape == ()


def test_the_example_by_hand():
    def two_classes(x):
        z = x @ torch.tensor([3.0, 4.0], dtype=torch.float64)
        return torch.stack([z, 0 * z], -1)

    x, y = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([0])
    assert noise_penalty(two_classes, x, 0.2).item() == pytest.approx(0.02 * 6.25)
    assert gradient_penalty_loss(two_classes, x, y, 0.2, squared=False).item() == pytest.approx(0.5)
    step = fast_gradient_perturbation(two_classes, x, y, 0.2)
    assert step[0].tolist() == pytest.approx([-0.12, -0.16])
    u = virtual_adversarial_direction(two_classes, x)[0]
    assert u.abs().tolist() == pytest.approx([0.6, 0.8])


def test_holding_the_base_fixed_changes_the_first_order_which_cancels_over_both_signs():
    model, x = net(), inputs(1)
    u = virtual_adversarial_direction(model, x, generator=torch.Generator().manual_seed(0))
    parameters = list(model.parameters())

    def gap(step):
        base, moved = model(x).log_softmax(-1), model(x + step).log_softmax(-1)
        free = (base.exp() * (base - moved)).sum()
        fixed = (base.detach().exp() * (base.detach() - moved)).sum()
        slopes = torch.autograd.grad(fixed - free, parameters, allow_unused=True)
        return torch.cat([s.flatten() for s in slopes if s is not None])

    sizes = [1e-1, 1e-2, 1e-3]
    single = [gap(size * u).norm().item() for size in sizes]
    averaged = [((gap(size * u) + gap(-size * u)) / 2).norm().item() for size in sizes]
    assert slope_of(single, sizes) == pytest.approx(1, abs=0.1)
    assert slope_of(averaged, sizes) == pytest.approx(2, abs=0.1)


LABELS = torch.zeros(5, dtype=torch.int64)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: noise_penalty(net(), inputs(), 0.0), ValueError, "sigma must be positive"),
        (lambda: noise_penalty(net(), inputs()[0], 0.1), ValueError, "x must have shape"),
        (lambda: noise_penalty(net(), inputs() / 0, 0.1), ValueError, "x must be finite"),
        (lambda: noise_penalty(net(), [1.0], 0.1), TypeError, "x must be"),
        (lambda: noise_penalty(net(m=1), inputs(), 0.1), ValueError, "m >= 2"),
        (lambda: jacobian_penalty(net(), inputs(), 0), ValueError, "n_samples"),
        (lambda: jacobian_penalty(torch.sum, inputs()), ValueError, "model must return"),
        (
            lambda: fast_gradient_perturbation(net(), inputs(), LABELS, -1.0),
            ValueError,
            "epsilon must be positive",
        ),
        (
            lambda: fast_gradient_perturbation(net(), inputs(), LABELS, 1.0, "l1"),
            ValueError,
            "norm must be one of",
        ),
        (
            lambda: gradient_penalty_loss(net(), inputs(), LABELS + 9, 1.0),
            ValueError,
            "target must lie in 0..3, got 9",
        ),
        (
            lambda: gradient_penalty_loss(net(), inputs(), LABELS, 1.0, reduction="x"),
            ValueError,
            "reduction must be one of",
        ),
        (lambda: virtual_adversarial_direction(net(), inputs(), 0.0), ValueError, "xi must be"),
        (
            lambda: virtual_adversarial_direction(net(), inputs(), n_iter=-1),
            ValueError,
            "n_iter must be",
        ),
        (lambda: virtual_adversarial_loss(net(), inputs(), math.inf), ValueError, "epsilon"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
