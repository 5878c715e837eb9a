"""A small network that the articles of this series train on vectors, such as 8×8 digits."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from kexue_lab.diffusion.ddim import NoiseModel
from kexue_lab.diffusion.schedules import NoiseSchedule
from kexue_lab.validation import check_count


class VelocityNetwork(nn.Module):
    """A residual MLP that predicts v = ᾱ_t ε − β̄_t x_0 from x_t = ᾱ_t x_0 + β̄_t ε.

    Noise and data follow as ε = ᾱ_t v + β̄_t x_t and x_0 = ᾱ_t x_t − β̄_t v, without a division that
    would blow up at either end (Salimans and Ho, arXiv:2202.00512). The last layer starts at 0.

    Args:
        dim: d, entries of a point.
        width: hidden units.
        blocks: residual blocks.
        time_features: even number of sines and cosines of t.

    Raises:
        TypeError: if an argument is not an integer.
        ValueError: if an argument is below 1, or time_features is odd.
    """

    def __init__(
        self, dim: int, width: int = 256, blocks: int = 2, time_features: int = 16
    ) -> None:
        check_count(dim=dim, width=width, blocks=blocks, time_features=time_features)
        if time_features % 2:
            raise ValueError(f"time_features must be even, got {time_features}")
        super().__init__()
        frequencies = torch.exp(torch.linspace(0, math.log(64), time_features // 2)) * math.pi / 2
        self.frequencies: Tensor
        self.register_buffer("frequencies", frequencies)
        self.entry = nn.Linear(dim + time_features, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
            for _ in range(blocks)
        )
        self.exit = nn.Linear(width, dim)
        nn.init.zeros_(self.exit.weight)
        nn.init.zeros_(self.exit.bias)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return v at points x, (B, d), and times t, (B,)."""
        angles = t[:, None] * self.frequencies
        h = self.entry(torch.cat([x, angles.sin(), angles.cos()], -1))
        for block in self.blocks:
            h = h + block(h)
        v: Tensor = self.exit(nn.functional.silu(h))
        return v


def velocity_batch(
    x0: Tensor, t: Tensor, schedule: NoiseSchedule, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Return x_t, t and the target v = ᾱ_t ε − β̄_t x_0 for the loss ‖network(x_t, t) − v‖².

    Args:
        x0: data, (B, d).
        t: times in [0, 1], (B,).
        schedule: gives ᾱ and β̄.
        generator: source of the noise ε.

    Raises:
        ValueError: if t is not (B,) or outside [0, 1].
    """
    if t.shape != x0.shape[:1]:
        raise ValueError(f"t must have shape ({len(x0)},), got {tuple(t.shape)}")
    noise = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)
    ab, bb = schedule.alpha_bar(t)[:, None], schedule.beta_bar(t)[:, None]
    return ab * x0 + bb * noise, t, ab * noise - bb * x0


def noise_model(network: nn.Module, schedule: NoiseSchedule) -> NoiseModel:
    """Return (x, t) ↦ ε = ᾱ_t v + β̄_t x of a network that predicts v."""

    def eps(x: Tensor, t: float) -> Tensor:
        times = torch.full(x.shape[:1], t, dtype=x.dtype, device=x.device)
        v: Tensor = network(x, times)
        return schedule.alpha_bar(t) * v + schedule.beta_bar(t) * x

    return eps
