"""Unit, oracle, property and bad-input tests of diffusion.skip_tuning."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import kstest
from sklearn.datasets import load_digits
from tensors import seeded, t64

from kexue_lab.diffusion.ddim import sample
from kexue_lab.diffusion.diffusion_ode import denoiser_score, sample_ode
from kexue_lab.diffusion.mixtures import GaussianMixture
from kexue_lab.diffusion.schedules import NoiseSchedule
from kexue_lab.diffusion.skip_tuning import (
    TinyUNet,
    edm_batch,
    edm_denoise,
    edm_error,
    edm_loss,
    gaussian_gain,
    gaussian_path_variance,
    karras_sigmas,
    sample_edm,
    skip_weights,
)
from kexue_lab.training import fit


def trained_looking(net):
    """A network whose zero-initialised output is random, so that its inputs matter."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for parameter in net.exit.parameters():
            torch.nn.init.normal_(parameter)
    return net.eval()


MIXTURE = GaussianMixture(t64(0.3, 0.7), t64([-1.5], [1.0]), t64(0.09, 0.25))


def denoise(x, sigma):
    return MIXTURE.posterior_mean(x, 1.0, sigma)


# --- weights and grids -------------------------------------------------------------------------


def test_weights_run_from_top_to_bottom():
    assert skip_weights(4, 0.7) == pytest.approx((1.0, 0.9, 0.8, 0.7))
    assert skip_weights(3, 0.5, 0.9) == pytest.approx((0.9, 0.7, 0.5))
    assert skip_weights(2, 1.3) == pytest.approx((1.0, 1.3))
    assert skip_weights(1, 0.6) == (0.6,)


def test_karras_levels():
    grid = karras_sigmas(5)
    assert grid.shape == (6,)
    assert grid[[0, 4, 5]].tolist() == pytest.approx([20, 0.02, 0])
    roots = grid[:5] ** (1 / 7)
    torch.testing.assert_close(roots.diff(), roots.diff().mean().expand(4))
    assert karras_sigmas(1).tolist() == [20, 0]
    peer = pytest.importorskip("diffusers", reason="diffusers is not installed")
    scheduler = peer.EDMEulerScheduler(sigma_min=0.02, sigma_max=20.0)
    scheduler.set_timesteps(5)
    torch.testing.assert_close(scheduler.sigmas, grid.float(), rtol=1e-5, atol=1e-6)


# --- the network -------------------------------------------------------------------------------


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


# --- samplers ----------------------------------------------------------------------------------


def test_euler_and_heun_are_those_of_the_ode():
    x = 5 * torch.randn(20, 1, generator=seeded(), dtype=torch.float64)
    sigmas = [5.0, 2.0, 0.7, 0.1]
    for method in ("euler", "heun"):
        expected = sample_ode(denoiser_score(denoise), x, sigmas, method=method)
        torch.testing.assert_close(sample_edm(denoise, x, sigmas, method=method), expected)


def test_ancestral_sampling_is_ddpm():
    schedule = NoiseSchedule.linear()
    times = schedule.times(8, 0.9, 0.1)
    noise = lambda x, t: MIXTURE.noise(x, schedule.alpha_bar(t), schedule.beta_bar(t))  # noqa: E731
    x = torch.randn(20, 1, generator=seeded(), dtype=torch.float64)
    ddpm = sample(noise, schedule, x, times, eta=1.0, generator=seeded(1))
    y = x / schedule.alpha_bar(0.9)
    ours = sample_edm(denoise, y, schedule.sigma(times), method="ancestral", generator=seeded(1))
    torch.testing.assert_close(ours, ddpm / schedule.alpha_bar(0.1))


@pytest.mark.parametrize("method", ["euler", "heun", "ancestral"])
def test_the_step_to_zero_is_the_denoiser(method):
    x = torch.randn(6, 1, generator=seeded(), dtype=torch.float64)
    found = sample_edm(denoise, x, [0.4, 0.0], method=method)
    torch.testing.assert_close(found, denoise(x, 0.4))


def test_a_peer_takes_the_same_euler_steps():
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    scheduler = diffusers.EDMEulerScheduler(
        sigma_min=0.02, sigma_max=20.0, sigma_data=0.6, prediction_type="epsilon"
    )
    scheduler.set_timesteps(8)
    start = 20 * torch.randn(50, 1, generator=seeded())
    single = lambda x, s: denoise(x.double(), float(s)).to(x)  # noqa: E731
    x = start
    for step, sigma in zip(scheduler.timesteps, karras_sigmas(8)[:-1].tolist(), strict=True):
        scale = math.sqrt(sigma**2 + 0.36)
        # Its "model output" F gives D = c_skip x + c_out F with the same coefficients.
        out = (single(x, sigma) - 0.36 / scale**2 * x) * scale / (sigma * 0.6)
        x = scheduler.step(out, step, x).prev_sample
    ours = sample_edm(single, start, karras_sigmas(8))
    torch.testing.assert_close(ours, x, rtol=0, atol=1e-4)


# --- Gaussian data -----------------------------------------------------------------------------

GAINS = {
    (1, 2, 1): 0.918861170,
    (1, 1, 0.5): 0.837722340,
    (1, 0.5, 0): 0.527864045,
    (0.3, 1, 0.6): 0.974107371,
    (2, 5, 3): 0.958351216,
}


@pytest.mark.parametrize("case", GAINS)
def test_gains_by_their_digits_and_by_root_finding(case):
    s, sigma, following = case
    assert gaussian_gain(s**2, sigma, following) == pytest.approx(GAINS[case], abs=1e-9)
    exact = (s**2 + following**2) / (s**2 + sigma**2)

    def excess(c):
        return (1 + c * (following - sigma) * sigma / (s**2 + sigma**2)) ** 2 - exact

    assert gaussian_gain(s**2, sigma, following) == pytest.approx(brentq(excess, 0, 1))


@settings(deadline=None)
@given(variance=st.floats(0.01, 10), sigma=st.floats(0.1, 10), share=st.floats(0, 0.999))
def test_gains_are_between_zero_and_one(variance, sigma, share):
    assert 0 < gaussian_gain(variance, sigma, share * sigma) < 1


def digits_spectrum():
    data = torch.tensor(load_digits().data / 8 - 1)
    values = torch.linalg.eigvalsh(torch.cov(data.T))
    return values.clamp_min(1e-12)


def test_the_variance_of_few_step_samplers_by_its_digits():
    spectrum = digits_spectrum()
    assert spectrum.sum().item() == pytest.approx(18.783558, abs=1e-6)
    euler = {4: 5.96760307, 8: 11.48575775, 16: 14.89064743, 64: 17.70881453}
    heun = {5: 38.73998271, 10: 21.55003787, 20: 19.27148561}
    for method, digits in (("euler", euler), ("heun", heun)):
        for n, total in digits.items():
            found = gaussian_path_variance(spectrum, karras_sigmas(n), method=method).sum()
            assert found.item() == pytest.approx(total, abs=1e-6)


@pytest.mark.parametrize("method", ["euler", "heun"])
def test_the_variance_is_that_of_the_sampler(method):
    variances, sigmas = t64(0.2, 1.0, 4.0), [3.0, 1.0, 0.3, 0.0]
    linear = lambda x, sigma: variances / (variances + sigma**2) * x  # noqa: E731
    units = sample_edm(linear, torch.eye(3).double(), sigmas, method=method, gain=0.9)
    expected = gaussian_path_variance(
        variances, sigmas, method=method, gain=0.9, start=torch.ones(3).double()
    )
    torch.testing.assert_close(units.diagonal().square(), expected)


def test_exact_gains_make_every_step_exact():
    sigmas = karras_sigmas(6).tolist()
    variance = 0.7 + sigmas[0] ** 2
    for sigma, following in pairwise(sigmas):
        gain = gaussian_gain(0.7, sigma, following)
        variance = gaussian_path_variance(
            t64(0.7), [sigma, following], gain=gain, start=t64(variance)
        ).item()
    assert variance == pytest.approx(0.7, rel=1e-10)


# --- bad input ---------------------------------------------------------------------------------

X = torch.zeros(2, 1, 8, 8)
SIGMA = torch.ones(2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: skip_weights(0, 1.0), ValueError, "n_skips must be at least 1, got 0"),
        (lambda: skip_weights(2.0, 1.0), TypeError, "n_skips must be an integer"),
        (lambda: skip_weights(2, math.nan), ValueError, "rho_bottom must be finite"),
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
        (lambda: karras_sigmas(0), ValueError, "n must be at least 1"),
        (lambda: karras_sigmas(3, 2.0, 1.0), ValueError, "sigma_min must be below sigma_max"),
        (lambda: sample_edm(denoise, X, [1.0]), ValueError, "sigmas must be at least two"),
        (lambda: sample_edm(denoise, X, [0.5, 1.0]), ValueError, "sigmas must be .*decreasing"),
        (lambda: sample_edm(denoise, X, [1, 0.5], method="dpm"), ValueError, "method must be"),
        (lambda: sample_edm(denoise, X, [1, 0.5], gain=0), ValueError, "gain must be positive"),
        (lambda: sample_edm(denoise, [1.0], [1, 0.5]), TypeError, "x must be a floating-point"),
        (lambda: gaussian_gain(1, 1, 1), ValueError, "sigma_next must be below sigma = 1, got 1"),
        (lambda: gaussian_gain(0, 1, 0.5), ValueError, "variance must be positive"),
        (lambda: gaussian_gain(1, 1, -0.5), ValueError, "sigma_next must be non-negative"),
        (lambda: path(variances=t64(-1.0)), ValueError, r"variances must be \(d,\) and positive"),
        (lambda: path(variances=[1.0]), TypeError, "variances must be a floating-point"),
        (lambda: path(sigmas=[0.1, 0.2]), ValueError, "sigmas must be"),
        (lambda: path(method="ancestral"), ValueError, "method must be"),
        (lambda: path(gain=-1), ValueError, "gain must be positive"),
        (lambda: path(start=t64(1.0, 2.0)), ValueError, r"start must have shape \(1,\)"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def path(**changes):
    arguments = {"variances": t64(1.0), "sigmas": [1.0, 0.5]} | changes
    return gaussian_path_variance(**arguments)
