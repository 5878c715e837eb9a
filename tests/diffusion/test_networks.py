"""Tests of the series' network and of its targets."""

import pytest
import torch
from tensors import seeded
from torch.func import functional_call, stack_module_state, vmap

from kexue_lab.diffusion.networks import VelocityNetwork, noise_model, velocity_batch
from kexue_lab.diffusion.schedules import NoiseSchedule

SCHEDULE = NoiseSchedule.cosine()


def test_the_network_starts_at_zero_and_keeps_the_shape():
    network = VelocityNetwork(5, width=8, blocks=1, time_features=4)
    assert torch.equal(network(torch.ones(3, 5), torch.rand(3)), torch.zeros(3, 5))
    torch.manual_seed(0)
    torch.nn.init.normal_(network.exit.weight)
    early, late = (network(torch.ones(1, 5), torch.tensor([t])) for t in (0.1, 0.9))
    assert not torch.allclose(early, late)


def test_networks_can_be_stacked():
    networks = [VelocityNetwork(3, width=4) for _ in range(2)]
    parameters, buffers = stack_module_state(networks)
    x, t = torch.randn(2, 6, 3), torch.rand(2, 6)
    both = vmap(lambda p, b, x, t: functional_call(networks[0], (p, b), (x, t)))(
        parameters, buffers, x, t
    )
    assert both.shape == (2, 6, 3)


def test_noise_and_data_follow_from_the_target():
    x0 = torch.randn(4, 3, generator=seeded(), dtype=torch.float64)
    t = torch.tensor([0.0, 0.3, 0.8, 1.0], dtype=torch.float64)
    x_t, times, v = velocity_batch(x0, t, SCHEDULE, seeded(1))
    noise = torch.randn(4, 3, generator=seeded(1), dtype=torch.float64)
    ab, bb = SCHEDULE.alpha_bar(t)[:, None], SCHEDULE.beta_bar(t)[:, None]
    assert torch.equal(times, t)
    torch.testing.assert_close(ab * v + bb * x_t, noise)
    torch.testing.assert_close(ab * x_t - bb * v, x0)
    torch.testing.assert_close(x_t, ab * x0 + bb * noise)


def test_the_noise_model_of_a_perfect_network_is_the_noise():
    x0 = torch.zeros(4, 2, dtype=torch.float64)
    x_t, _, v = velocity_batch(x0, torch.full((4,), 0.6).double(), SCHEDULE, seeded(2))
    noise = torch.randn(4, 2, generator=seeded(2), dtype=torch.float64)
    torch.testing.assert_close(noise_model(lambda x, t: v, SCHEDULE)(x_t, 0.6), noise)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: VelocityNetwork(0), ValueError, "dim must be at least 1, got 0"),
        (lambda: VelocityNetwork(2, width=1.5), TypeError, "width must be an integer"),
        (lambda: VelocityNetwork(2, time_features=5), ValueError, "time_features must be even"),
        (
            lambda: velocity_batch(torch.zeros(3, 2), torch.zeros(2), SCHEDULE, seeded()),
            ValueError,
            r"t must have shape \(3,\), got \(2,\)",
        ),
        (
            lambda: velocity_batch(torch.zeros(1, 2), torch.tensor([1.5]), SCHEDULE, seeded()),
            ValueError,
            r"t must lie in \[0, 1\]",
        ),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
