"""Samplers without fresh noise: one function each, all with the signature of `ddim.sample`.

In y = x/ᾱ and the clock σ = β̄/ᾱ the diffusion ODE is dy/dσ = ε(ᾱy, t): the noise is the slope. A
sampler estimates the area under this slope from each noise level to the next. With `n` steps

- `euler` looks n times, and is DDIM;
- `heun` looks twice a step, but once in a step to σ = 0;
- `adams_bashforth` and `dpm_multistep` look n times, and use the look before as well.

`SAMPLERS` holds them by name, `steps_within` says how many steps a budget of looks pays for.
Source: Karras et al., arXiv:2206.00364; Lu et al., arXiv:2211.01095; kexue.fm/archives/9280.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from kexue_lab.diffusion.ddim import NoiseModel, check_decreasing_times
from kexue_lab.diffusion.schedules import NoiseSchedule
from kexue_lab.precision import narrowed, widened
from kexue_lab.validation import check_count, check_floating


class Sampler(Protocol):
    """From x at times[0] to the points at times[-1], or at every time with `return_path`."""

    def __call__(
        self,
        eps_fn: NoiseModel,
        schedule: NoiseSchedule,
        x: Tensor,
        times: Sequence[float] | Tensor,
        *,
        return_path: bool = False,
    ) -> Tensor:
        """Return (B, …), or (m, B, …) with `return_path`."""
        ...


def euler(
    eps_fn: NoiseModel,
    schedule: NoiseSchedule,
    x: Tensor,
    times: Sequence[float] | Tensor,
    *,
    return_path: bool = False,
) -> Tensor:
    """Sample by Euler's method in σ, which is DDIM: the slope stays what it is at the start.

    Args:
        eps_fn: noise model, (x: (B, …), t) ↦ ε, (B, …).
        schedule: gives ᾱ and σ.
        x: (B, …), points at times[0].
        times: (m,), m ≥ 2, strictly decreasing in [0, 1], with ᾱ > 0.
        return_path: return the points at every time.

    Returns:
        (B, …) at times[-1], or (m, B, …) with `return_path`; without gradients.

    Raises:
        TypeError: if x or what eps_fn returns is not a floating-point tensor.
        ValueError: if times do not decrease, ᾱ is 0 at times[0], or eps_fn changes the shape.

    Source: Song, Meng, Ermon, arXiv:2010.02502; equation (7) of `diffusion/ddim`.

    Example:
        >>> at_one = lambda x, t: (x - schedule.alpha_bar(t)) / schedule.beta_bar(t)
        >>> schedule = NoiseSchedule.cosine(0)
        >>> euler(at_one, schedule, torch.tensor([0.3, -2.0]), [0.9, 0.0]).round(decimals=3)
        tensor([1., 1.])
    """
    return _march(_euler_step, eps_fn, schedule, x, times, return_path)


def heun(
    eps_fn: NoiseModel,
    schedule: NoiseSchedule,
    x: Tensor,
    times: Sequence[float] | Tensor,
    *,
    return_path: bool = False,
) -> Tensor:
    """Sample by Heun's method in σ: Euler's step is a trial, and the two slopes' mean counts.

    A step to σ = 0 is Euler's, since the noise model need not exist there. Second order.

    Args:
        eps_fn: as in `euler`.
        schedule: as in `euler`.
        x: as in `euler`.
        times: as in `euler`.
        return_path: as in `euler`.

    Returns:
        As `euler`.

    Raises:
        TypeError, ValueError: as `euler`.

    Source: Karras et al., arXiv:2206.00364, algorithm 1.
    """
    return _march(_heun_step, eps_fn, schedule, x, times, return_path)


def adams_bashforth(
    eps_fn: NoiseModel,
    schedule: NoiseSchedule,
    x: Tensor,
    times: Sequence[float] | Tensor,
    *,
    return_path: bool = False,
) -> Tensor:
    """Sample by the two-step method in σ: the noise is extrapolated to the middle of the step.

    The first step is Euler's. Second order.

    Args:
        eps_fn: as in `euler`.
        schedule: as in `euler`.
        x: as in `euler`.
        times: as in `euler`.
        return_path: as in `euler`.

    Returns:
        As `euler`.

    Raises:
        TypeError, ValueError: as `euler`.

    Source: Hairer, Nørsett, Wanner, "Solving Ordinary Differential Equations I", III.5.
    """
    return _march(_adams_step, eps_fn, schedule, x, times, return_path)


def dpm_multistep(
    eps_fn: NoiseModel,
    schedule: NoiseSchedule,
    x: Tensor,
    times: Sequence[float] | Tensor,
    *,
    return_path: bool = False,
) -> Tensor:
    """Sample by DPM-Solver++(2M): the guessed datum is extrapolated, to the middle in ln σ.

    The first step, and a step to σ = 0, are Euler's. Second order.

    Args:
        eps_fn: as in `euler`.
        schedule: as in `euler`.
        x: as in `euler`.
        times: as in `euler`.
        return_path: as in `euler`.

    Returns:
        As `euler`.

    Raises:
        TypeError, ValueError: as `euler`.

    Source: Lu et al., "DPM-Solver++", arXiv:2211.01095, algorithm 2.
    """
    return _march(_dpm_step, eps_fn, schedule, x, times, return_path)


SAMPLERS: dict[str, Sampler] = {
    "euler": euler,
    "heun": heun,
    "adams_bashforth": adams_bashforth,
    "dpm_multistep": dpm_multistep,
}
"""The samplers of this module by name."""


def steps_within(name: str, evaluations: int) -> int:
    """Return the largest n whose n steps, the last of them to σ = 0, need so many evaluations.

    Args:
        name: a key of `SAMPLERS`.
        evaluations: calls of the noise model that are allowed, ≥ 1.

    Raises:
        TypeError: if evaluations is not an integer.
        ValueError: if there is no such sampler, or evaluations is below 1.

    Example:
        >>> [steps_within(name, 10) for name in SAMPLERS]
        [10, 5, 10, 10]
    """
    if name not in SAMPLERS:
        raise ValueError(f"name must be one of {tuple(SAMPLERS)}, got {name!r}")
    check_count(evaluations=evaluations)
    return (evaluations + 1) // 2 if name == "heun" else evaluations


@dataclass(frozen=True)
class _Here:
    """What a step knows: the point y, its noise, the look before, and the three noise levels."""

    y: Tensor
    noise: Tensor
    before: tuple[Tensor, Tensor] | None  # y and noise of the look before
    sigmas: tuple[float, float, float]  # of the look before (nan at first), here, of the end
    look: Callable[[Tensor], Tensor]  # the noise of a point at the end of the step

    @property
    def width(self) -> float:
        return self.sigmas[2] - self.sigmas[1]


_Step = Callable[[_Here], Tensor]


def _euler_step(here: _Here) -> Tensor:
    return here.y + here.width * here.noise


def _heun_step(here: _Here) -> Tensor:
    trial = _euler_step(here)
    if here.sigmas[2] == 0:
        return trial
    return here.y + 0.5 * here.width * (here.noise + here.look(trial))


def _adams_step(here: _Here) -> Tensor:
    if here.before is None:
        return _euler_step(here)
    last, now, _ = here.sigmas
    change = (here.noise - here.before[1]) / (now - last)
    return here.y + here.width * (here.noise + 0.5 * here.width * change)


def _dpm_step(here: _Here) -> Tensor:
    last, now, end = here.sigmas
    if here.before is None or end == 0:
        return _euler_step(here)
    guess = here.y - now * here.noise
    guess_before = here.before[0] - last * here.before[1]
    # ln σ falls by a from the look before, and by b in this step.
    a, b = math.log(last / now), math.log(now / end)
    middle = guess + 0.5 * b / a * (guess - guess_before)
    return end / now * here.y + (1 - end / now) * middle


def _march(
    step: _Step,
    eps_fn: NoiseModel,
    schedule: NoiseSchedule,
    x: Tensor,
    times: Sequence[float] | Tensor,
    return_path: bool,
) -> Tensor:
    check_floating(x=x)
    clock = check_decreasing_times(times)
    if schedule.alpha_bar(clock[0]) == 0:
        raise ValueError(f"times must start where alpha_bar > 0, got {clock[0]}: start earlier")

    def noise(y: Tensor, t: float) -> Tensor:
        eps = eps_fn((schedule.alpha_bar(t) * y).to(x.dtype), t)
        check_floating(x=x, eps=eps)
        if eps.shape != x.shape:
            raise ValueError(f"eps_fn must return {tuple(x.shape)}, got {tuple(eps.shape)}")
        return widened(eps)

    y, path = widened(x) / schedule.alpha_bar(clock[0]), [x]
    before, last = None, math.nan
    with torch.no_grad():
        for t, u in pairwise(clock):
            slope, now = noise(y, t), schedule.sigma(t)
            look = partial(noise, t=u)
            here = _Here(y, slope, before, (last, now, schedule.sigma(u)), look)
            before, last, y = (y, slope), now, step(here)
            if return_path or u == clock[-1]:
                path.append(narrowed(schedule.alpha_bar(u) * y, x.dtype, "x_u"))
    return torch.stack(path) if return_path else path[-1]
