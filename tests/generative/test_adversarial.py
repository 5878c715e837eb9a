import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import energy_distance as energy_on_a_line
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from kexue_lab.generative.adversarial import (
    Recipe,
    critic_loss,
    energy_distance,
    gaussian_ring,
    generator_loss,
    mode_statistics,
    power_step,
    r1_penalty,
    train_gans,
)
from kexue_lab.generative.autoencoder import mlp
from kexue_lab.training import TrainingDiverged, generator


def random(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


# --- losses


@given(st.integers(0, 1000))
def test_logistic_loss_is_binary_cross_entropy_of_fake(seed):
    real, fake = random(5, seed=seed), random(7, seed=seed + 1)
    theirs = binary_cross_entropy_with_logits(
        real, torch.zeros_like(real)
    ) + binary_cross_entropy_with_logits(fake, torch.ones_like(fake))
    assert torch.allclose(critic_loss(real, fake), theirs)
    assert torch.allclose(generator_loss(fake), -logsigmoid(-fake).mean())


def test_wasserstein_loss_is_a_difference_of_means():
    real, fake = random(2, 5), random(2, 7, seed=1)
    assert torch.allclose(critic_loss(real, fake, "wasserstein"), real.mean(-1) - fake.mean(-1))
    assert torch.allclose(generator_loss(fake, "wasserstein"), fake.mean(-1))


def test_a_critic_at_zero_pays_two_log_two():
    zero = torch.zeros(3)
    assert float(critic_loss(zero, zero)) == pytest.approx(2 * math.log(2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: critic_loss(torch.ones(2), torch.ones(2), "hinge"), "loss must be one of"),
        (lambda: generator_loss(torch.ones(2), "hinge"), "loss must be one of"),
        (lambda: critic_loss(torch.ones(0), torch.ones(2)), r"real must have shape \(…, B\)"),
        (lambda: generator_loss(torch.tensor(1.0)), "fake must have shape"),
    ],
)
def test_losses_refuse(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- penalty


def test_penalty_of_a_quadratic_by_hand():
    A = random(3, 3)
    x = random(6, 3, seed=1).requires_grad_()
    values = (x @ A * x).sum(-1)
    by_hand = (x @ (A + A.T)).square().sum(-1)
    assert torch.allclose(r1_penalty(values, x, reduction="none"), by_hand)
    values = (x @ A * x).sum(-1)
    assert torch.allclose(r1_penalty(values, x), by_hand.mean())


def test_penalty_has_the_gradient_of_difference_quotients():
    net, x = mlp(2, 5, 1).double(), random(4, 2)

    def penalty():
        points = x.clone().requires_grad_()
        return r1_penalty(net(points)[:, 0], points)

    penalty().backward()
    weight = net[0].weight
    slope = float(weight.grad[1, 1])
    weight.data[1, 1] += 1e-5
    above = float(penalty().detach())
    weight.data[1, 1] -= 2e-5
    below = float(penalty().detach())
    assert slope == pytest.approx((above - below) / 2e-5, rel=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: r1_penalty(x.sum(-1), x.detach()), "must require a gradient"),
        (lambda x: r1_penalty(x.sum(-1).detach(), x), "must require a gradient"),
        (lambda x: r1_penalty(x, x), "leading shape"),
        (lambda x: r1_penalty(x.sum(-1), x.clone()), "do not depend"),
        (lambda x: r1_penalty(x.sum(-1), x, reduction="sum"), "reduction"),
    ],
)
def test_penalty_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.ones(3, 2, requires_grad=True))


# --- power iteration


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 1000), st.integers(1, 6), st.integers(1, 6))
def test_power_steps_reach_the_largest_singular_value(seed, m, n):
    weight = random(2, m, n, seed=seed)
    sigma, u = power_step(weight, random(2, m, seed=seed + 1), steps=200)
    exact = torch.linalg.matrix_norm(weight, 2)
    assert bool((sigma <= exact * (1 + 1e-12)).all())
    assert bool((sigma >= 0.97 * exact).all())
    assert torch.allclose(u.norm(dim=-1), torch.ones(2).double())


def test_power_steps_have_the_gradient_of_the_largest_singular_value():
    weight = random(4, 3).requires_grad_()
    power_step(weight, random(4, seed=1), steps=500)[0].backward()
    U, _, Vh = torch.linalg.svd(weight.detach())
    assert torch.allclose(weight.grad, torch.outer(U[:, 0], Vh[0]), atol=1e-10)


def test_power_steps_of_nothing():
    sigma, u = power_step(torch.zeros(3, 2), torch.tensor([3.0, 0.0, 4.0]))
    assert float(sigma) == 0
    assert u.tolist() == pytest.approx([0.6, 0, 0.8])
    for bad in (torch.zeros(3), torch.ones(2)):
        with pytest.raises(ValueError, match="u must"):
            power_step(torch.ones(3, 2), bad)


# --- ring


def test_ring_has_its_centres_and_spread():
    x = gaussian_ring(40_000, generator(0), modes=4, radius=3.0, sd=0.1).double()
    place = (torch.atan2(x[:, 1], x[:, 0]) / (math.pi / 2)).round().long() % 4
    for mode, centre in enumerate([(3, 0), (0, 3), (-3, 0), (0, -3)]):
        own = x[place == mode]
        assert len(own) / len(x) == pytest.approx(0.25, abs=0.01)
        assert own.mean(0).tolist() == pytest.approx(centre, abs=0.01)
        assert own.std(0).tolist() == pytest.approx([0.1, 0.1], abs=0.005)


def test_statistics_of_a_perfect_ring():
    found = mode_statistics(gaussian_ring(20_000, generator(0)))
    assert float(found.on) == pytest.approx(1 - math.exp(-4.5), abs=0.003)
    assert float(found.hit) == 8
    assert float(found.perplexity) == pytest.approx(8, abs=0.01)


def test_statistics_by_counting():
    x = 1.5 * random(3, 200, 2).sign() * torch.tensor([1.0, 0.0]) + 0.3 * random(3, 200, 2, seed=1)
    found = mode_statistics(x)
    for row, points in enumerate(x.numpy()):
        angle = np.arange(8) * np.pi / 4
        centres = 1.5 * np.stack([np.cos(angle), np.sin(angle)], 1)
        away = np.linalg.norm(points[:, None] - centres, axis=-1)
        counts = np.bincount(away.argmin(1)[away.min(1) < 0.45], minlength=8)
        law = counts[counts > 0] / counts.sum()
        assert float(found.on[row]) == pytest.approx(counts.sum() / 200)
        assert float(found.hit[row]) == (counts / 200 >= 0.25 / 8).sum()
        assert float(found.perplexity[row]) == pytest.approx(math.exp(-(law * np.log(law)).sum()))


def test_samples_at_the_centre_hit_nothing():
    assert [float(value) for value in mode_statistics(torch.zeros(5, 2))] == [0, 0, 0]


@given(st.integers(0, 1000))
def test_energy_distance_is_scipys_but_for_the_bias(seed):
    x, y = random(6, 1, seed=seed), 2 * random(9, 1, seed=seed + 1) + 1
    inside = sum(float(torch.cdist(a, a).mean()) / (len(a) - 1) for a in (x, y))
    biased = energy_on_a_line(x[:, 0].numpy(), y[:, 0].numpy()) ** 2
    assert float(energy_distance(x, y)) == pytest.approx(biased - inside, abs=1e-10)


def test_energy_distance_of_equal_laws_is_zero_on_average():
    found = [
        float(energy_distance(random(20, 2, seed=2 * s), random(20, 2, seed=2 * s + 1)))
        for s in range(200)
    ]
    assert abs(np.mean(found)) < 4 * np.std(found) / math.sqrt(200)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gaussian_ring(0), "n must be at least 1"),
        (lambda: gaussian_ring(3, sd=-1.0), "sd"),
        (lambda: gaussian_ring(3, radius=0.0), "radius"),
        (lambda: mode_statistics(torch.ones(3)), "samples must have shape"),
        (lambda: mode_statistics(torch.ones(3, 2), within=0.0), "within"),
        (lambda: energy_distance(torch.ones(1, 2), torch.ones(3, 2)), "x must be at least two"),
        (lambda: energy_distance(torch.ones(3, 1), torch.ones(3, 2)), "share d"),
    ],
)
def test_the_ring_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- training


def plain_training(recipe, steps, seed=3, batch=16):
    """One pair of networks with torch's own optimisers and schedule."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        G, D = mlp(2, 8, 8, 2), mlp(2, 8, 8, 1)
    g = generator(seed)
    g_steps, d_steps = (
        torch.optim.Adam(net.parameters(), recipe.rate, (recipe.beta1, 0.999))
        if recipe.adam
        else torch.optim.SGD(net.parameters(), recipe.rate)
        for net in (G, D)
    )
    torch.randn(500, 2, generator=g)
    fall = [
        torch.optim.lr_scheduler.LambdaLR(
            opt, lambda k: min(1, 2 * (1 - k / steps)) if recipe.falling else 1
        )
        for opt in (g_steps, d_steps)
    ]
    for _ in range(steps):
        x = gaussian_ring(batch, g).requires_grad_()
        z = torch.randn(batch, 2, generator=g)
        d_steps.zero_grad()
        real = D(x)[:, 0]
        loss = critic_loss(real, D(G(z).detach())[:, 0]) + recipe.r1 / 2 * r1_penalty(real, x)
        loss.backward()
        if recipe.alternating:
            d_steps.step()
        slopes = torch.autograd.grad(generator_loss(D(G(z))[:, 0]), list(G.parameters()))
        for p, slope in zip(G.parameters(), slopes, strict=True):
            p.grad = slope
        if not recipe.alternating:
            d_steps.step()
        g_steps.step()
        for schedule in fall:
            schedule.step()
    return G, D


def test_training_is_the_plain_loop():
    recipes = [
        Recipe(0.05, adam=False),
        Recipe(0.05, adam=False, r1=0.3, alternating=True),
        Recipe(1e-2, 0.9),
        Recipe(1e-2, 0.9, alternating=True),
        Recipe(2e-2, 0.0, r1=1.0),
        Recipe(1e-2, 0.5, falling=True),
    ]
    made = train_gans(
        recipes,
        gaussian_ring,
        seed=3,
        steps=15,
        batch=16,
        generator_widths=(2, 8, 8, 2),
        critic_widths=(2, 8, 8, 1),
    )
    for recipe, *ours in zip(recipes, made.generators, made.critics, strict=True):
        for net, theirs in zip(ours, plain_training(recipe, 15), strict=True):
            for p, q in zip(net.parameters(), theirs.parameters(), strict=True):
                assert torch.allclose(p, q, atol=2e-5)


def test_copies_do_not_touch_each_other():
    recipes = [Recipe(), Recipe(r1=1.0)]
    made = train_gans(recipes, gaussian_ring, seed=0, steps=120, record_every=60, record_size=10)
    alone = train_gans([Recipe()], gaussian_ring, seed=0, steps=120, record_size=10)
    z = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(made.generators[0](z), alone.generators[0](z), atol=1e-3)
    assert made.samples.shape == (2, 2, 10, 2)
    assert made.steps == [60, 120]
    assert alone.samples.shape[0] == 0


def test_training_leaves_the_global_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    train_gans([Recipe()], gaussian_ring, seed=0, steps=1)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipes": []}, "at least one"),
        ({"steps": 0}, "steps"),
        ({"batch": 0}, "batch"),
        ({"seed": -1}, "seed"),
        ({"loss": "hinge"}, "loss"),
        ({"critic_widths": (3, 1)}, "critic_widths"),
        ({"critic_widths": (2, 4)}, "critic_widths"),
        ({"recipes": [Recipe(rate=0.0)]}, "rate"),
        ({"recipes": [Recipe(beta1=1.0)]}, "beta1 must be below 1"),
        ({"recipes": [Recipe(r1=-1.0)]}, "r1"),
    ],
)
def test_training_refuses(changes, message):
    arguments = {"recipes": [Recipe()], "data": gaussian_ring, "seed": 0, "steps": 1} | changes
    with pytest.raises(ValueError, match=message):
        train_gans(arguments.pop("recipes"), arguments.pop("data"), **arguments)


def test_divergence_is_said():
    with pytest.raises(TrainingDiverged, match="not finite at step"):
        train_gans([Recipe(1e30, adam=False)], gaussian_ring, seed=0, steps=20)
