"""Which sampler gives what: those of the series, on one exact mixture and one stored network.

Each sampler looks at the noise equally often, at the times of three clocks. How far its
points are from data is their energy distance: 0 for equal laws, on average also for two samples.
What twenty seeds gave is stored (`kexue_lab/course/openings.py`) and opens the series.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from kexue_lab.data import digits
from kexue_lab.diffusion import ddim
from kexue_lab.diffusion.ddim import NoiseModel
from kexue_lab.diffusion.diffusion_ode import Grid, sigma_grid
from kexue_lab.diffusion.mixtures import GaussianMixture
from kexue_lab.diffusion.networks import digit_network, noise_model
from kexue_lab.diffusion.optimal_variance import (
    sample_analytic,
    variance_bounds,
    variance_from_noise,
)
from kexue_lab.diffusion.samplers import SAMPLERS, steps_within
from kexue_lab.diffusion.schedules import NoiseSchedule
from kexue_lab.generative.adversarial import energy_distance
from kexue_lab.training import generator

BUDGETS = (5, 10, 20, 50)
"""Looks at the noise: calls of the noise model."""

CLOCKS = ("even times", "equal factors", "ρ = 7")
"""Times spread evenly; or noise levels that fall by equal factors, or with even seventh roots
(Karras et al.), and then to 0."""

NAMES = (
    "DDPM",
    "DDPM, best variance",
    "DDIM",
    "DDIM, best variance",
    "Heun",
    "Adams–Bashforth",
    "DPM-Solver++(2M)",
)
"""The samplers, in the order of the tables."""

_SOLVERS = dict(zip(NAMES[4:], ("heun", "adams_bashforth", "dpm_multistep"), strict=True))
_FIRST_LEVEL, _LAST_LEVELS = 60.0, {"equal factors": 0.05, "ρ = 7": 0.02}


@dataclass(frozen=True)
class Setting:
    """Data, a guess of the noise in them, and how many points are drawn.

    Attributes:
        eps_fn: noise model.
        schedule: gives ᾱ and β̄.
        data: draws (n, d) points of the data.
        count: points to draw with each sampler.
        largest: the data's mean variance per dimension, a bound of what a guess leaves open.
    """

    eps_fn: NoiseModel
    schedule: NoiseSchedule
    data: Callable[[int, torch.Generator], Tensor]
    count: int
    largest: float


def ring_setting() -> Setting:
    """Six bumps on a circle, with their exact noise."""
    angles = 2 * math.pi * torch.arange(6, dtype=torch.float64) / 6
    ring = GaussianMixture(
        torch.full((6,), 1 / 6, dtype=torch.float64),
        1.5 * torch.stack([angles.cos(), angles.sin()], -1),
        torch.full((6,), 0.15**2, dtype=torch.float64),
    )
    schedule = NoiseSchedule.cosine(0)

    def eps_fn(x: Tensor, t: float) -> Tensor:
        return ring.noise(x, schedule.alpha_bar(t), schedule.beta_bar(t))

    return Setting(eps_fn, schedule, ring.sample, 2000, 1.5**2 / 2 + 0.15**2)


def digit_setting() -> Setting:
    """Handwritten digits, with the network that is stored with the course."""
    schedule = NoiseSchedule.cosine()
    noise = noise_model(digit_network(), schedule)
    seen = (2 * digits(1500, generator(0)).x_train - 1).double()

    def eps_fn(x: Tensor, t: float) -> Tensor:
        return noise(x.float(), t).double()

    def data(n: int, g: torch.Generator) -> Tensor:
        return seen[torch.randint(len(seen), (n,), generator=g)]

    return Setting(eps_fn, schedule, data, 500, float(seen.var(0).mean()))


@torch.no_grad()
def compare(setting: Setting, seed: int) -> dict[str, Tensor]:
    """Run all samplers from one set of noises, and measure how far they end from the data.

    Args:
        setting: what is drawn.
        seed: of noises, fresh noises and data.

    Returns:
        "distance": (samplers, clocks, budgets), energy distances to as many data;
        "again": that of as many other data, ().
    """
    g = generator(seed)
    goal, again = setting.data(setting.count, g), setting.data(setting.count, g)
    start = torch.randn(goal.shape, generator=g, dtype=torch.float64)
    far = [
        [
            [
                energy_distance(draw(setting, name, start, clock, looks, g), goal)
                for looks in BUDGETS
            ]
            for clock in CLOCKS
        ]
        for name in NAMES
    ]
    return {"distance": torch.tensor(far), "again": energy_distance(again, goal)}


def draw(
    setting: Setting, name: str, start: Tensor, clock: str, looks: int, g: torch.Generator
) -> Tensor:
    """Draw the points of one sampler, (n, d).

    Args:
        setting: what is drawn.
        name: one of `NAMES`.
        start: noises, (n, d).
        clock: one of `CLOCKS`.
        looks: how often the noise model may be called.
        g: source of fresh noise, and of the data from which the best variance is estimated.

    Raises:
        ValueError: if there is no such sampler or clock, or looks is below 2.
    """
    if name not in NAMES:
        raise ValueError(f"name must be one of {NAMES}, got {name!r}")
    solver = _SOLVERS.get(name)
    times = clock_times(setting.schedule, clock, steps_within(solver or "euler", looks))
    sampler = _sampler(setting, name, times, g)
    return sampler(setting.eps_fn, setting.schedule, start, times)


def clock_times(schedule: NoiseSchedule, clock: str, steps: int) -> list[float]:
    """Return steps + 1 falling times, the last of them 0.

    Args:
        schedule: gives the noise levels.
        clock: one of `CLOCKS`.
        steps: at least 2.

    Raises:
        ValueError: if there is no such clock, or steps is below 2.

    Example:
        >>> [round(t, 2) for t in clock_times(NoiseSchedule.cosine(0), "even times", 4)]
        [0.99, 0.74, 0.49, 0.25, 0.0]
    """
    if clock not in CLOCKS:
        raise ValueError(f"clock must be one of {CLOCKS}, got {clock!r}")
    if steps < 2:
        raise ValueError(f"steps must be at least 2, got {steps}")
    if clock == "even times":
        times: list[float] = schedule.times(steps, schedule.t_from_sigma(_FIRST_LEVEL)).tolist()
        return times
    kind: Grid = "log" if clock == "equal factors" else "rho"
    levels = sigma_grid(steps - 1, _LAST_LEVELS[clock], _FIRST_LEVEL, kind)
    return [*schedule.t_from_sigma(levels).tolist(), 0.0]


def _sampler(
    setting: Setting, name: str, times: list[float], g: torch.Generator
) -> Callable[..., Tensor]:
    if name in _SOLVERS:
        return SAMPLERS[_SOLVERS[name]]
    eta = float(name.startswith("DDPM"))
    if name.endswith("best variance"):
        open_ = [left_open(setting, t, g) for t in times[:-1]]
        return partial(sample_analytic, sigma_bar2=open_, eta=eta, generator=g)
    return partial(ddim.sample, eta=eta, generator=g)


def left_open(setting: Setting, t: float, g: torch.Generator) -> float:
    """Return the variance per dimension that the guess leaves open at t, from 2000 data.

    Source: arXiv:2201.06503, equation 8; `kexue_lab.diffusion.optimal_variance`.
    """
    ab, bb = setting.schedule.alpha_bar(t), setting.schedule.beta_bar(t)
    x0 = setting.data(2000, g)
    x = ab * x0 + bb * torch.randn(x0.shape, generator=g, dtype=x0.dtype)
    bounds = variance_bounds(ab, bb, data_variance=setting.largest)
    return float(variance_from_noise(setting.eps_fn(x, t), ab, bb, clip=bounds))
