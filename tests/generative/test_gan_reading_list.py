import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad, solve_ivp
from scipy.stats import norm
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm as torch_spectral_norm

from kexue_lab.generative.gan_reading_list import (
    DiracGAN,
    conv_operator_norm,
    spectral_norm,
    wgan_gp_cycle,
)
from kexue_lab.training import generator

R1 = {g: DiracGAN(penalty="r1", strength=g) for g in (0.1, 0.2, 0.25, 0.3, 0.5, 1.0, 2.0)}
PLAIN = DiracGAN()
SMOOTH = [
    PLAIN,
    DiracGAN("wasserstein"),
    R1[0.3],
    DiracGAN(penalty="instance_noise", strength=0.7),
    DiracGAN("wasserstein", "instance_noise", 0.7),
    DiracGAN(penalty="roth", strength=0.7),
    DiracGAN("wasserstein", "r1", 0.4),
]


def value(gan, theta, psi):
    """L and the critic's penalty, written down from the definitions, in torch."""
    f = torch.nn.functional.logsigmoid if gan.loss == "logistic" else (lambda t: t)
    if gan.penalty == "instance_noise":
        nodes, weights = np.polynomial.hermite_e.hermegauss(96)
        noise = torch.tensor(nodes) * math.sqrt(gan.strength)
        law = torch.tensor(weights / weights.sum())
        return (law * (f(psi * (theta + noise)) + f(-psi * noise))).sum(), 0 * psi
    game = f(theta * psi) + f(0 * psi)
    penalty = 0 * psi
    if gan.penalty == "r1":
        penalty = gan.strength / 2 * psi**2
    elif gan.penalty == "wgan_gp":
        penalty = gan.strength / 2 * (psi.abs() - 1) ** 2
    elif gan.penalty == "roth":
        on_data, on_fake = torch.sigmoid(-0 * psi), torch.sigmoid(-theta * psi)
        penalty = gan.strength / 2 * ((1 - on_data) ** 2 + on_fake**2) * psi**2
    return game, penalty


@given(st.sampled_from([*SMOOTH, DiracGAN("wasserstein", "wgan_gp", 0.8)]), st.integers(0, 500))
def test_field_is_the_gradient_of_the_game(gan, seed):
    theta, psi = torch.randn(2, generator=generator(seed), dtype=torch.float64)
    theta.requires_grad_()
    psi.requires_grad_()
    game, penalty = value(gan, theta, psi)
    (down,) = torch.autograd.grad(game, theta, retain_graph=True)
    (up,) = torch.autograd.grad(game - penalty, psi)
    ours = [float(part) for part in gan.field(float(theta.detach()), float(psi.detach()))]
    assert ours == pytest.approx([-float(down), float(up)], abs=1e-10)


@pytest.mark.parametrize("gan", SMOOTH, ids=str)
def test_jacobian_is_that_of_difference_quotients(gan):
    e = 1e-5
    columns = [
        (np.array(gan.field(*(e * axis))) - np.array(gan.field(*(-e * axis)))) / (2 * e)
        for axis in np.eye(2)
    ]
    assert np.allclose(np.array(columns).T, gan.jacobian(), atol=1e-8)


@pytest.mark.parametrize("gan", SMOOTH, ids=str)
@pytest.mark.parametrize("alternating", [False, True])
def test_step_matrix_is_that_of_difference_quotients(gan, alternating):
    e = 1e-5
    columns = [
        (
            np.array(gan.step(*(e * axis), 0.3, alternating))
            - np.array(gan.step(*(-e * axis), 0.3, alternating))
        )
        / (2 * e)
        for axis in np.eye(2)
    ]
    assert np.allclose(np.array(columns).T, gan.step_matrix(0.3, alternating), atol=1e-8)


@pytest.mark.parametrize(
    ("gan", "alternating", "norm_"),
    [
        (PLAIN, False, 2.253579),
        (PLAIN, True, 1.415444),
        (R1[0.5], False, 6.4578e-6),
        (R1[1.0], False, 2.2829e-10),
        (R1[2.0], False, 1.2247e-3),
        (DiracGAN("wasserstein"), True, 1.410257),
    ],
)
def test_five_hundred_steps(gan, alternating, norm_):
    last = gan.trajectory(500, 0.1, alternating=alternating)[-1]
    assert np.hypot(*last) == pytest.approx(norm_, rel=1e-4)


@pytest.mark.parametrize(
    ("gan", "distance"),
    [(PLAIN, math.sqrt(2)), (R1[0.3], 0.0654009), (R1[1.0], 0.00050981), (R1[2.0], 0.0705261)],
)
def test_flow_to_time_twenty(gan, distance):
    found = solve_ivp(lambda _, y: np.array(gan.field(*y)), (0, 20), [1, 1], rtol=1e-11, atol=1e-11)
    assert np.hypot(*found.y[:, -1]) == pytest.approx(distance, rel=1e-4)


@pytest.mark.parametrize(
    ("gamma", "h", "alternating", "radius"),
    [
        (0, 0.1, False, 1.0012492197),
        (0.5, 0.1, False, 0.9759610648),
        (1, 0.1, False, 0.95),
        (2, 0.1, False, 0.9866025404),
        (0.2, 1, False, 1.0246950766),
        (0.25, 1, False, 1),
        (0, 0.1, True, 1),
        (1, 0.1, True, 0.96),
        (1, 0.5, True, 0.8475970508),
    ],
)
def test_spectral_radii(gamma, h, alternating, radius):
    matrix = DiracGAN(penalty="r1", strength=gamma).step_matrix(h, alternating)
    # A double eigenvalue is known to half the digits only.
    assert np.abs(np.linalg.eigvals(matrix)).max() == pytest.approx(radius, abs=1e-7)


@pytest.mark.parametrize(("theta", "psi", "sigma"), [(0.7, 1.3, 0.8), (-2.0, 5.0, 1.0)])
def test_noise_is_averaged_as_by_quadrature(theta, psi, sigma):
    def integrand(e):
        return norm.pdf(e) / (1 + math.exp(min(psi * (theta + sigma * e), 700)))

    fake, _ = quad(integrand, -12, 12, limit=400, epsabs=1e-11)
    gan = DiracGAN(penalty="instance_noise", strength=sigma**2)
    assert float(gan.field(theta, psi)[0]) == pytest.approx(-psi * fake, abs=psi * 1e-6)


@given(st.floats(-3, 3), st.floats(-3, 3))
def test_without_a_penalty_the_flow_turns(theta, psi):
    for gan in (PLAIN, DiracGAN("wasserstein"), DiracGAN(penalty="r1")):
        a, b = gan.field(theta, psi)
        assert float(theta * a + psi * b) == pytest.approx(0, abs=1e-12)


def test_fields_take_arrays():
    theta, psi = np.meshgrid(np.linspace(-1, 1, 3), np.linspace(-1, 1, 4))
    for gan in SMOOTH:
        a, b = gan.field(theta, psi)
        assert a.shape == b.shape == (4, 3)
        assert float(a[1, 2]) == pytest.approx(float(gan.field(theta[1, 2], psi[1, 2])[0]))


@pytest.mark.parametrize(
    ("lam", "target", "crossing"),
    [(0.5, 1, 1.2996753479), (1, 1, 1.3895820002), (1.5, 1, 1.5876123648), (1, 2.5, None)],
)
def test_cycle_by_integration(lam, target, crossing):
    ours = wgan_gp_cycle(lam, target)
    if crossing:
        assert ours == pytest.approx(crossing, abs=1e-9)

    def flow(_, y):
        theta, psi = y
        return [-psi, theta - lam * (abs(psi) - target) * (1 if psi >= 0 else -1)]

    def crossed(_, y):
        return y[1]

    crossed.terminal, crossed.direction = True, -1
    theta = ours
    found = solve_ivp(flow, (0, 60), [theta, 1e-12], events=crossed, rtol=1e-11, atol=1e-12)
    assert found.y_events[0][0][0] == pytest.approx(-ours, abs=1e-7)


def test_small_cycles_are_circles():
    for lam in (1e-300, 1e-12, 1e-6):
        assert wgan_gp_cycle(lam) == pytest.approx(4 / math.pi, rel=1e-6)


# --- norms


W = torch.tensor([[4, 1, 0], [1, 3, 1], [0, 1, 2], [1, 0, 1]], dtype=torch.float64)


def test_power_steps_on_a_small_matrix():
    u, found = torch.full((4,), 0.5, dtype=torch.float64), []
    for _ in range(3):
        sigma, u = spectral_norm(W, u)
        found.append(float(sigma))
    assert found == pytest.approx([4.7468376349, 4.8320503466, 4.8401777541], abs=1e-9)
    values = np.linalg.svd(W.numpy(), compute_uv=False)
    for _ in range(4):
        previous, (sigma, u) = sigma, spectral_norm(W, u)
    ratio = (values[0] - float(sigma)) / (values[0] - float(previous))
    assert ratio == pytest.approx((values[1] / values[0]) ** 4, abs=1e-3)


def test_norm_of_a_convolution_flattened_is_torchs():
    layer = torch_spectral_norm(nn.Conv2d(3, 4, 3), n_power_iterations=50)
    raw = layer.parametrizations.weight.original.detach()
    sigma, _ = spectral_norm(raw, torch.ones(4), steps=100)
    assert torch.allclose(raw / sigma, layer.weight.detach(), atol=1e-4)


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 1000), st.sampled_from([1, 2, 3]))
def test_norm_of_the_operator_by_brute_force(seed, k):
    kernel = torch.randn(3, 2, k, k, generator=generator(seed), dtype=torch.float64)
    size = 5
    basis = torch.eye(2 * size**2, dtype=torch.float64).reshape(-1, 2, size, size)
    wrapped = nn.functional.pad(basis, (0, k - 1, 0, k - 1), mode="circular")
    columns = nn.functional.conv2d(wrapped, kernel).reshape(len(basis), -1)
    exact = float(torch.linalg.matrix_norm(columns, 2))
    assert conv_operator_norm(kernel, size) == pytest.approx(exact, abs=1e-10)
    flat = float(torch.linalg.matrix_norm(kernel.flatten(1), 2))
    assert exact <= k * flat * (1 + 1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DiracGAN("hinge"), "loss"),
        (lambda: DiracGAN(penalty="r2"), "penalty"),
        (lambda: DiracGAN(penalty="r1", strength=-1.0), "strength"),
        (lambda: DiracGAN("wasserstein", "roth", 1.0), "must go with the logistic loss"),
        (lambda: DiracGAN(penalty="wgan_gp", strength=1.0).jacobian(), "must have a derivative"),
        (lambda: PLAIN.step(0.0, 0.0, -1.0), "h must be positive"),
        (lambda: PLAIN.step_matrix(0.0), "h must be positive"),
        (lambda: PLAIN.trajectory(0, 0.1), "n must be at least 1"),
        (lambda: DiracGAN("wasserstein").trajectory(3, 1e200, (1e200, 1e200)), "stay finite"),
        (lambda: PLAIN.field(math.nan, 0.0), "theta must be numbers"),
        (lambda: wgan_gp_cycle(2.0), "below 2"),
        (lambda: wgan_gp_cycle(0.0), "lam must be positive"),
        (lambda: wgan_gp_cycle(1.0, -1.0), "target must be positive"),
        (lambda: spectral_norm(torch.ones(3), torch.ones(3)), "two axes"),
        (lambda: spectral_norm(torch.ones(3, 2), torch.zeros(3)), "u must not be 0"),
        (lambda: spectral_norm(torch.ones(3, 2), torch.ones(3), 0), "steps"),
        (lambda: conv_operator_norm(torch.ones(3, 2), 4), "shape"),
        (lambda: conv_operator_norm(torch.ones(3, 2, 3, 3), 2), "size must be at least 3"),
        (lambda: conv_operator_norm(torch.full((1, 1, 1, 1), math.nan), 2), "finite"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
