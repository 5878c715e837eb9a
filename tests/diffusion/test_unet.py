"""Unit, oracle and bad-input tests of diffusion.unet."""

import math

import pytest
import torch
from scipy.stats import kstest
from tensors import seeded, t64

from kexue_lab.data import digits
from kexue_lab.diffusion.networks import velocity_batch
from kexue_lab.diffusion.schedules import NoiseSchedule
from kexue_lab.diffusion.unet import (
    TinyUNet,
    digit_unet,
    edm_batch,
    edm_denoise,
    edm_error,
    edm_loss,
    train_digit_unet,
)
from kexue_lab.training import fit, generator


def trained_looking(net):
    """A network whose zero-initialised output is random, so that its inputs matter."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for parameter in net.exit.parameters():
            torch.nn.init.normal_(parameter)
    return net.eval()


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return trained_looking(TinyUNet(8, 16))


def test_the_network_starts_at_zero_and_keeps_the_shape():
    for channels, shape in ((1, (2, 1, 8, 8)), (3, (1, 3, 4, 12))):
        net = TinyUNet(8, in_channels=channels)
        x = torch.randn(shape, generator=seeded())
        assert torch.equal(net(x, torch.zeros(len(x))), torch.zeros(shape))


def test_weights_of_one_change_nothing_and_zeros_cut_the_skips(net):
    x, t = torch.randn(2, 1, 8, 8, generator=seeded()), t64(-0.3, 0.4).float()
    plain = net(x, t)
    assert torch.equal(net(x, t, (1.0, 1.0, 1.0, 1.0)), plain)
    one_each = [net(x, t, tuple(float(i != j) for i in range(4))) for j in range(4)]
    assert all(not torch.allclose(cut, plain) for cut in one_each)
    # With the second half of each decoder block's input zeroed by hooks, weights do not matter.
    widths = {net.up_low1: 16, net.up_low2: 16, net.up_high1: 16, net.up_high2: 8}

    def without_skip(block, inputs):
        h, emb = inputs
        return torch.cat([h[:, : widths[block]], 0 * h[:, widths[block] :]], 1), emb

    handles = [block.register_forward_pre_hook(without_skip) for block in widths]
    cut = net(x, t)
    for handle in handles:
        handle.remove()
    assert torch.equal(net(x, t, (0.0, 0.0, 0.0, 0.0)), cut)


def test_each_weight_scales_its_own_skip(net):
    x, t = torch.randn(1, 1, 8, 8, generator=seeded()), torch.zeros(1)
    blocks = ((net.up_high2, 8), (net.up_high1, 16), (net.up_low2, 16), (net.up_low1, 16))
    for i, (block, width) in enumerate(blocks):
        skips = []

        def record(_, inputs, width=width, skips=skips):
            skips.append(inputs[0][:, width:].clone())

        handle = block.register_forward_pre_hook(record)
        net(x, t)
        net(x, t, tuple(2.0 if j == i else 1.0 for j in range(4)))
        handle.remove()
        torch.testing.assert_close(skips[1], 2 * skips[0])


def test_preconditioning_of_a_zero_network_is_the_linear_denoiser():
    net = TinyUNet(8)
    x = torch.randn(3, 1, 8, 8, generator=seeded())
    sigma = torch.tensor([0.1, 1.0, 30.0])
    expected = 0.36 / (0.36 + sigma**2)[:, None, None, None] * x
    torch.testing.assert_close(edm_denoise(net, x, sigma), expected)
    torch.testing.assert_close(edm_denoise(net, x, 1.0), 0.36 / 1.36 * x)


def test_the_network_sees_scaled_images_and_the_log_level():
    seen = []

    def spy(x, t, weights):
        seen.append((x, t, weights))
        return torch.ones_like(x)

    x = torch.full((1, 1, 4, 4), 3.0)
    out = edm_denoise(spy, x, 0.8, sigma_data=0.6, skip_weights=(1, 2))
    torch.testing.assert_close(seen[0][0], x)  # 1/√(0.64 + 0.36) = 1
    assert seen[0][1].tolist() == pytest.approx([math.log(0.8) / 4])
    assert seen[0][2] == (1, 2)
    torch.testing.assert_close(out, 0.36 * x + 0.48)


def test_the_weighted_loss_is_that_of_the_network_s_own_target():
    # F = 0 on standard data of σ_d: its target has variance 1 at every level.
    x0 = 0.6 * torch.randn(4000, 1, 4, 4, generator=seeded())
    losses = edm_loss(TinyUNet(4), x0, generator=seeded(1), reduction="none")
    assert losses.shape == (4000,)
    assert abs(losses.mean() - 1) < 5 * losses.std() / math.sqrt(4000)
    mean = edm_loss(TinyUNet(4), x0, generator=seeded(1))
    assert mean.item() == pytest.approx(losses.mean().item())


def test_the_loss_is_the_error_of_a_drawn_batch():
    net = trained_looking(TinyUNet(4))
    x0 = torch.rand(6, 1, 4, 4, generator=seeded())
    noised, sigma = edm_batch(x0, generator=seeded(1))
    errors = edm_error(net, x0, noised, sigma)
    torch.testing.assert_close(
        errors, edm_loss(net, x0, generator=seeded(1), reduction="none"), rtol=0, atol=0
    )
    # Written out: ‖D − x_0‖² per pixel times the weight 1/σ² + 1/σ_d².
    squared = (edm_denoise(net, noised, sigma) - x0).square().mean((1, 2, 3))
    torch.testing.assert_close(errors, squared * (1 / sigma**2 + 1 / 0.36))


def test_noise_levels_are_log_normal():
    x0 = torch.zeros(20_000, 3, dtype=torch.float64)
    noised, sigma = edm_batch(x0, p_mean=0.5, p_std=0.7, generator=seeded())
    assert kstest(sigma.log(), "norm", (0.5, 0.7)).pvalue > 1e-3
    assert kstest((noised / sigma[:, None]).ravel(), "norm").pvalue > 1e-3


def test_several_networks_train_at_once():
    images = torch.rand(20, 1, 4, 4, generator=seeded())

    def batch(g):
        x0 = images[torch.randint(20, (8,), generator=g)]
        return x0, *edm_batch(x0, generator=g)

    def loss(net, x0, noised, sigma):
        return edm_error(net, x0, noised, sigma).mean()

    runs = [
        fit(lambda g: TinyUNet(4), batch, loss, seeds=[0, 1], steps=5, vectorize=v, device="cpu")
        for v in (True, False)
    ]
    torch.testing.assert_close(runs[0].losses, runs[1].losses, rtol=1e-3, atol=1e-4)


def loss_of(target, number=0):
    """Mean squared error on the digits that it has not seen."""
    x0 = (2 * digits(900, generator(0)).x_test - 1).repeat(2, 1)
    schedule, g = NoiseSchedule.cosine(), generator(7)
    x, t, v = velocity_batch(x0, torch.rand(len(x0), generator=g), schedule, g)
    a, b = schedule.alpha_bar(t)[:, None], schedule.beta_bar(t)[:, None]
    goal = {"velocity": v, "noise": a * v + b * x, "datum": a * x - b * v}[target]
    with torch.no_grad():
        guess = digit_unet(target, number)(x.reshape(-1, 1, 8, 8), t).flatten(1)
    return (guess - goal).square().mean().item(), goal.square().mean().item()


@pytest.mark.parametrize(
    ("target", "number"),
    [("velocity", 0), ("velocity", 1), ("velocity", 2), ("noise", 0), ("datum", 0)],
)
def test_the_stored_networks_guess_what_they_should(target, number):
    loss, nothing = loss_of(target, number)
    assert loss < 0.45 * nothing


def test_stored_networks_differ():
    first, second = (digit_unet("velocity", k).exit.weight for k in (0, 1))
    assert not torch.equal(first, second)


def test_training_starts_from_its_seed():
    a, b, c = (train_digit_unet("noise", seed, 3, 4).exit.weight for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


X = torch.zeros(2, 1, 8, 8)
SIGMA = torch.ones(2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: TinyUNet(6), ValueError, "channels must be a multiple of 4 .* got 6"),
        (lambda: TinyUNet(8, 7), ValueError, "emb even, got 8 and 7"),
        (lambda: TinyUNet(8, in_channels=0), ValueError, "in_channels must be at least 1"),
        (lambda: TinyUNet(4)(X[..., :6], torch.zeros(2)), ValueError, "x must have shape"),
        (lambda: TinyUNet(4)(X, torch.zeros(3)), ValueError, r"t must have shape \(2,\)"),
        (
            lambda: TinyUNet(4)(X, torch.zeros(2), (1.0,)),
            ValueError,
            "skip_weights must be 4 numbers, got 1",
        ),
        (lambda: edm_denoise(None, X, 0.0), ValueError, "sigma must be positive"),
        (lambda: edm_denoise(None, X, torch.ones(3)), ValueError, r"got \(3,\)"),
        (lambda: edm_denoise(None, X, 1.0, sigma_data=0), ValueError, "sigma_data must be pos"),
        (lambda: edm_denoise(None, [0.0], 1.0), TypeError, "x must be a floating-point tensor"),
        (lambda: edm_batch(X, p_std=-1.0), ValueError, "p_std must be positive and finite, got -1"),
        (lambda: edm_batch([1.0]), TypeError, "x0 must be a floating-point tensor"),
        (lambda: edm_error(None, X, X[:1], SIGMA), ValueError, "noised and sigma must have"),
        (lambda: edm_error(None, X, X, SIGMA[:1]), ValueError, r"and \(1,\)"),
        (lambda: edm_error(None, X, X, SIGMA, sigma_data=0), ValueError, "sigma_data must be"),
        (lambda: edm_error(None, X, X, SIGMA.double()), TypeError, "float64"),
        (lambda: edm_loss(None, X, p_std=0.0), ValueError, "p_std must be positive"),
        (lambda: edm_loss(None, X, reduction="sum"), ValueError, "reduction must be"),
        (lambda: edm_loss(None, X.int()), TypeError, "x0 must be a floating-point tensor"),
        (lambda: digit_unet("score"), ValueError, "target must be one of"),
        (lambda: digit_unet("noise", 1), ValueError, "number must be below 1 for 'noise', got 1"),
        (lambda: digit_unet("velocity", 1.0), TypeError, "number must be an integer"),
        (lambda: digit_unet("velocity", -1), ValueError, "number must be at least 0"),
        (lambda: train_digit_unet("score"), ValueError, "target must be one of"),
        (lambda: train_digit_unet(steps=0), ValueError, "steps"),
        (lambda: train_digit_unet(steps=1, channels=6), ValueError, "channels must be a multiple"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
