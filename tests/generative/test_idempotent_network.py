import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from torch import nn

from kexue_lab.generative.adversarial import gaussian_ring
from kexue_lab.generative.autoencoder import mlp
from kexue_lab.generative.idempotent_network import (
    WEIGHTS,
    IGNRecipe,
    idempotence_error,
    ign_loss,
    ign_losses,
    linear_ign_flow,
    linear_ign_gradient,
    scalar_fixed_points,
    single_loss_gan,
    train_igns,
)
from kexue_lab.training import TrainingDiverged, generator

EYE = torch.eye(2, dtype=torch.float64)
seeds = st.integers(0, 1000)


def draw(seed, *shape):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def network(seed, *widths):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return mlp(*widths).double()


def slopes(loss, *nets):
    return torch.autograd.grad(loss, [p for net in nets for p in net.parameters()])


def close(ours, theirs, atol=1e-12):
    return all(torch.allclose(a, b, rtol=0, atol=atol) for a, b in zip(ours, theirs, strict=True))


@settings(max_examples=10, deadline=None)
@given(seeds)
def test_single_loss_has_the_gradients_of_both_losses(seed):
    D, G = network(seed, 2, 5, 1), network(seed + 1, 3, 5, 2)
    x, z = draw(seed, 7, 2), draw(seed + 1, 9, 3)
    loss = single_loss_gan(D, G, x, z)
    assert close(slopes(loss, D), slopes(D(x).mean() - D(G(z)).mean(), D))
    assert close(slopes(single_loss_gan(D, G, x, z), G), slopes(D(G(z)).mean(), G))
    assert float(loss.detach()) == pytest.approx(float((D(x).mean() - D(G(z)).mean()).detach()))


def by_clones(f, x, z, weights=WEIGHTS, clamp=None):
    frozen = copy.deepcopy(f)

    def square(a, b):
        return ((a - b) ** 2).sum(1).mean()

    rec, idem, tight = (
        square(f(x), x),
        square(frozen(f(z)), f(z)),
        -square(f(frozen(z)), frozen(z)),
    )
    if clamp:
        r = rec.item()
        tight = clamp * r * torch.tanh(tight / (clamp * r))
    return weights[0] * rec + weights[1] * idem + weights[2] * tight


@settings(max_examples=10, deadline=None)
@given(seeds, st.sampled_from([None, 0.3, 1.5]))
def test_gradient_is_that_of_cloned_networks(seed, clamp):
    f, x, z = network(seed, 2, 6, 2), draw(seed, 8, 2), draw(seed + 1, 5, 2)
    ours = ign_loss(f, x, z, clamp=clamp)
    theirs = by_clones(f, x, z, clamp=clamp)
    assert float(ours) == pytest.approx(float(theirs))
    assert close(slopes(ours, f), slopes(theirs, f))


def test_losses_of_other_shapes_and_a_perfect_map():
    class Same(nn.Module):
        def forward(self, y):
            return y

    x = draw(0, 3, 2, 2)
    assert [float(v) for v in ign_losses(Same(), x, x).values()] == [0, 0, 0]
    assert float(ign_loss(Same(), x, x)) == 0


def test_clamp_bounds_tight():
    f = nn.Linear(2, 2).double()
    parts = ign_losses(f, draw(0, 5, 2), 100 * draw(1, 5, 2))
    total = ign_loss(f, draw(0, 5, 2), 100 * draw(1, 5, 2), weights=(0, 0, 1), clamp=1.5)
    assert float(parts["tight"]) < float(total)
    assert float(total) == pytest.approx(-1.5 * float(parts["rec"]))


@settings(max_examples=15, deadline=None)
@given(seeds)
def test_linear_gradient_is_autograds(seed):
    f = nn.Linear(3, 3, bias=False).double()
    f.weight.data = draw(seed, 3, 3)
    x, z = draw(seed + 1, 50, 3), draw(seed + 2, 60, 3)
    (theirs,) = slopes(ign_loss(f, x, z, clamp=None), f)
    ours = linear_ign_gradient(f.weight.detach(), x.T @ x / 50, z.T @ z / 60)
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-9)


def test_linear_gradient_by_hand():
    W = torch.tensor([[0.9, 0.2], [-0.1, 0.4]], dtype=torch.float64)
    C = torch.tensor([[1, 0.3], [0.3, 0.5]], dtype=torch.float64)
    expected = torch.tensor([[-0.605, 3.425], [-10.965, -5.975]], dtype=torch.float64)
    assert torch.allclose(linear_ign_gradient(W, C, EYE), expected, atol=1e-12)
    half = linear_ign_gradient(W.half(), C.half(), EYE.half())
    assert half.dtype == torch.float16
    assert torch.allclose(half.double(), expected, atol=0.02)


def test_identity_is_at_rest():
    assert not linear_ign_gradient(EYE, draw(0, 2, 2), draw(1, 2, 2)).any()


def test_flow_comes_to_a_projector_and_explodes():
    C = torch.diag(torch.tensor([1.0, 0.6, 0.0], dtype=torch.float64))
    eye = torch.eye(3, dtype=torch.float64)
    end = linear_ign_flow(0.7 * eye + 0.05 * draw(0, 3, 3), C, eye, n_steps=4000)[-1]
    assert (end @ end - end).norm() < 1e-12
    assert torch.allclose(end @ C, C, atol=1e-12)
    stay = linear_ign_flow(1.3 * eye, C, eye, n_steps=4000)[-1]
    assert torch.allclose(stay, torch.diag(torch.tensor([1, 1, 8 / 7]).double()), atol=1e-6)
    one = torch.ones(1, 1, dtype=torch.float64)
    with pytest.raises(FloatingPointError, match="became"):
        linear_ign_flow(1.05 * one, 0 * one, one, (20, 20, 25), step=1e-3, n_steps=5000)


@settings(max_examples=25, deadline=None)
@given(
    st.floats(0, 2),
    st.floats(0.1, 3),
    st.floats(0.1, 30),
    st.floats(0.1, 30),
    st.floats(0, 30),
)
def test_fixed_points_are_the_real_roots(c, s, r, i, t):
    found = scalar_fixed_points(c, s, (r, i, t))
    speed = np.polynomial.Polynomial([1.0])
    w = np.polynomial.Polynomial([0.0, 1.0])
    speed = -2 * (w - 1) * (r * c - t * s * w**2 + i * s * w * (w - 1))
    points = [point for point, _ in found]
    assert points == sorted(points)
    assert 1.0 in points
    for point, slope in found:
        size = 1 + abs(point) ** 3
        assert abs(speed(point)) < 1e-8 * size * (r + i + t) * (1 + c + s)
        assert slope == pytest.approx(speed.deriv()(point), abs=1e-6 * size * 1000, rel=1e-6)


@pytest.mark.parametrize(
    ("c", "start", "end"),
    [
        (0, 0.9, 0),
        (0, 1.1, 8 / 7),
        (0.05, 0.3, 0.052403),
        (0.1, 1.1, 1.032129),
        (0.13, 0.9, 0.149576),
    ],
)
def test_the_flow_of_a_gain(c, start, end):
    one = torch.ones(1, 1, dtype=torch.float64)
    last = linear_ign_flow(start * one, c * one, one, n_steps=10000)[-1]
    assert float(last) == pytest.approx(end, abs=1e-5)
    assert any(abs(w - end) < 1e-5 and slope < 0 for w, slope in scalar_fixed_points(c, 1.0))
    found = solve_ivp(
        lambda _, w: -2 * (w - 1) * (20 * c - 2.5 * w**2 + 20 * w * (w - 1)), (0, 30), [start]
    )
    assert found.y[0, -1] == pytest.approx(end, abs=1e-2)


def test_degenerate_fixed_points():
    assert [w for w, _ in scalar_fixed_points(1.0, 1.0, (20, 20, 20))] == [1.0]
    assert [w for w, _ in scalar_fixed_points(0.5, 1.0, (20, 20, 20))] == [0.5, 1.0]
    assert [w for w, _ in scalar_fixed_points(0.0, 1.0, (1, 0, 1))] == [0.0, 1.0]
    with pytest.raises(ValueError, match="weights must move w"):
        scalar_fixed_points(0.0, 1.0, (1, 0, 0))


def test_idempotence_error():
    z = draw(0, 10, 2)
    assert float(idempotence_error(lambda y: y / 2, z)) == pytest.approx(
        float(z.norm(dim=1).mean() / 4)
    )


def test_training_side_by_side_is_the_plain_loop():
    recipes = [IGNRecipe(clamp=1.5), IGNRecipe((20, 20, 25), rate=3e-3)]
    nets = train_igns(recipes, gaussian_ring, seed=3, steps=5, widths=(2, 8, 2), batch=16)
    for recipe, net in zip(recipes, nets, strict=True):
        torch.manual_seed(3)
        own, g = mlp(2, 8, 2), generator(3)
        optimizer = torch.optim.Adam(own.parameters(), recipe.rate, (0.5, 0.999))
        for _ in range(5):
            x, z = gaussian_ring(16, g), torch.randn(16, 2, generator=g)
            optimizer.zero_grad()
            ign_loss(own, x, z, weights=recipe.weights, clamp=recipe.clamp).backward()
            optimizer.step()
        assert torch.allclose(own(torch.ones(1, 2)), net(torch.ones(1, 2)), atol=1e-5)


def test_training_that_explodes_says_so():
    with pytest.raises((TrainingDiverged, ValueError), match=r"finite|must fit"):
        train_igns(
            [IGNRecipe((0, 0, 1e30), rate=1e3)], gaussian_ring, seed=0, steps=50, widths=(2, 2)
        )


ONE = torch.ones(1, 1)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: ign_losses(nn.Linear(2, 3), torch.ones(4, 2), torch.ones(4, 2)),
            ValueError,
            "keep",
        ),
        (
            lambda: ign_losses(nn.Linear(2, 2), torch.ones(4, 2), torch.ones(4, 3)),
            ValueError,
            "x and z",
        ),
        (lambda: ign_losses(nn.Linear(2, 2), np.ones((4, 2)), torch.ones(4, 2)), TypeError, "x"),
        (lambda: ign_loss(nn.Linear(2, 2), ONE, ONE, weights=(1, -1, 1)), ValueError, "idem"),
        (lambda: ign_loss(nn.Linear(1, 1), ONE, ONE, clamp=0.0), ValueError, "clamp"),
        (
            lambda: single_loss_gan(nn.Linear(2, 2), nn.Linear(1, 2), torch.ones(3, 2), ONE),
            ValueError,
            "critic",
        ),
        (
            lambda: single_loss_gan(nn.Linear(2, 1), nn.Linear(1, 3), torch.ones(3, 2), ONE),
            ValueError,
            "maker",
        ),
        (lambda: linear_ign_gradient(torch.ones(2, 3), ONE, ONE), ValueError, "W"),
        (lambda: linear_ign_gradient(ONE, torch.ones(2, 2), ONE), ValueError, "C"),
        (lambda: linear_ign_gradient(ONE, ONE, ONE * math.nan), ValueError, "S must be finite"),
        (lambda: linear_ign_flow(ONE, ONE, ONE, n_steps=0), ValueError, "n_steps"),
        (lambda: linear_ign_flow(ONE, ONE, ONE, step=0.0, n_steps=1), ValueError, "step"),
        (lambda: scalar_fixed_points(-1.0, 1.0), ValueError, "c must"),
        (lambda: scalar_fixed_points(1.0, 0.0), ValueError, "s must"),
        (lambda: scalar_fixed_points(1.0, 1.0, (1, 2)), ValueError, "three"),
        (lambda: idempotence_error(nn.Linear(2, 3), torch.ones(1)), ValueError, "z"),
        (lambda: train_igns([], gaussian_ring, seed=0, steps=1), ValueError, "recipes"),
        (lambda: train_igns([IGNRecipe()], gaussian_ring, seed=0, steps=0), ValueError, "steps"),
        (
            lambda: train_igns([IGNRecipe(rate=0.0)], gaussian_ring, seed=0, steps=1),
            ValueError,
            "rate",
        ),
        (
            lambda: train_igns([IGNRecipe()], gaussian_ring, seed=0, steps=1, widths=(2, 3)),
            ValueError,
            "widths",
        ),
        (
            lambda: train_igns([IGNRecipe((1.0, 2.0, math.inf))], gaussian_ring, seed=0, steps=1),
            ValueError,
            "tight",
        ),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
