"""What the exercises of optimization/gradient_clipping check."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kexue_lab.exercises import Exercise, Mistake
from kexue_lab.optimization.gradient_clipping import descent_upper_bound, power_function_l0

Inputs = Iterator[tuple[Any, ...]]


def _constants(rng: np.random.Generator) -> Inputs:
    yield 4.0, 2.0, 1.0
    for _ in range(5):
        L0, L1, c = rng.uniform(0.2, 9), rng.uniform(0.2, 5), rng.uniform(2, 64)
        yield float(L0), float(L1), float(c)


def _slopes(rng: np.random.Generator) -> Inputs:
    yield (1.0,)
    yield from ((float(v),) for v in rng.uniform(0.3, 5, 5))


def _rates(rng: np.random.Generator) -> Inputs:
    yield 1.0, 2.0, 3.0
    yield 0.5, 1.0, 1.0
    for _ in range(5):
        yield float(rng.uniform(0.3, 1.5)), float(rng.uniform(0.2, 9)), float(rng.uniform(0.2, 5))


def _starts(rng: np.random.Generator) -> Inputs:
    yield 10.0, 1e-2
    for _ in range(3):
        yield float(rng.uniform(3, 12)), float(10 ** rng.uniform(-2.5, -1.5))


def _gradients(rng: np.random.Generator) -> Inputs:
    for scale in (3.0, 0.1, 5.0):
        shapes = [(2, 3), (4,), (3, 1, 2)]
        gamma = float(rng.uniform(0.6, 1.8))
        yield [torch.tensor(scale * rng.standard_normal(shape)) for shape in shapes], gamma


def _hard_clip_bound(c: float, L0: float, L1: float) -> float:
    gamma, step = (torch.tensor(v, dtype=torch.float64) for v in (L0 / L1, c / L1))
    return float(descent_upper_bound(gamma, step, L0, L1))


def _step_of_the_rate(c: float, L0: float, L1: float) -> float:
    gamma, step = (torch.tensor(v, dtype=torch.float64) for v in (L0 / L1, c / L0))
    return float(descent_upper_bound(gamma, step, L0, L1))


def _quartic_steps(theta0: float, eps: float) -> int:
    """Steps of gradient descent, one after the other."""
    theta, steps = theta0, 0
    while 4 * theta**3 > eps:
        theta -= theta**3 / (3 * theta0**2)
        steps += 1
    return steps


def _clipped_by_torch(gradients: list[Tensor], gamma: float) -> list[Tensor]:
    params = [torch.zeros_like(g).requires_grad_() for g in gradients]
    for p, g in zip(params, gradients, strict=True):
        p.grad = g.clone()
    torch.nn.utils.clip_grad_norm_(params, gamma)
    return [p.grad for p in params if p.grad is not None]


def _each_by_itself(gradients: list[Tensor], gamma: float) -> list[Tensor]:
    return [g * min(1.0, gamma / float(g.norm())) for g in gradients]


def _always_rescaled(gradients: list[Tensor], gamma: float) -> list[Tensor]:
    norm = math.sqrt(sum(float((g**2).sum()) for g in gradients))
    return [g * gamma / norm for g in gradients]


def _by_coordinate(gradients: list[Tensor], gamma: float) -> list[Tensor]:
    return [g.clamp(-gamma, gamma) for g in gradients]


def _softly(gradients: list[Tensor], gamma: float) -> list[Tensor]:
    norm = math.sqrt(sum(float((g**2).sum()) for g in gradients))
    return [g * gamma / (norm + gamma) for g in gradients]


def _sum_of_norms(gradients: list[Tensor], gamma: float) -> list[Tensor]:
    norm = sum(float(g.norm()) for g in gradients)
    return [g * min(1.0, gamma / norm) for g in gradients]


EXERCISES = (
    Exercise(
        "the rate and the threshold for a rescaled loss",
        solution=lambda L0, L1, c: (1 / (c * L0), c * L0 / L1),
        inputs=_constants,
        mistakes=(
            Mistake(
                "threshold upside down",
                lambda L0, L1, c: (1 / (c * L0), L1 / (c * L0)),
                "the threshold has the units of a gradient: compare ηγ/(G + γ) with the factor "
                "that the safe step needs again.",
            ),
            Mistake(
                "both constants rescaled",
                lambda L0, L1, c: (1 / (c * L0), L0 / L1),
                "c multiplies Hessian and gradient alike, so L1 stays as it is; the threshold "
                "must grow with the gradients.",
            ),
            Mistake(
                "nothing rescaled",
                lambda L0, L1, c: (1 / L0, L0 / L1),
                "these are the values for f itself; which pair of constants has c f?",
            ),
            Mistake(
                "threshold divided",
                lambda L0, L1, c: (1 / (c * L0), L0 / (c * L1)),
                "gradients of c f are c times larger, so the threshold must be, too.",
            ),
            Mistake(
                "the pair exchanged",
                lambda L0, L1, c: (c * L0 / L1, 1 / (c * L0)),
                "the rate comes first, then the threshold.",
            ),
        ),
    ),
    Exercise(
        "the least L0 of θ⁶",
        solution=lambda L1: power_function_l0(3, L1),
        inputs=_slopes,
        mistakes=(
            Mistake(
                "the formula of θ⁴",
                lambda L1: 16 / L1**2,
                "this is the formula of θ⁴; put k = 3.",
            ),
            Mistake(
                "the place, not the value",
                lambda L1: 4 / L1,
                "this is where the maximum sits; the question is how large f'' - L1|f'| is there.",
            ),
            Mistake(
                "k = 6",
                lambda L1: power_function_l0(6, L1),
                "step 7 treats θ^(2k): for θ⁶, k = 3.",
            ),
        ),
    ),
    Exercise(
        "the bound for hard clipping at its threshold",
        solution=_hard_clip_bound,
        inputs=_rates,
        mistakes=(
            Mistake(
                "the classic lemma",
                lambda c, L0, L1: (c**2 - c) * L0 / L1**2,
                "this uses ½ in place of (e^r - 1 - r)/r², with r = L1 s = c.",
            ),
            Mistake(
                "soft clipping",
                lambda c, L0, L1: (2 * math.exp(c / 2) - 2 - 1.5 * c) * L0 / L1**2,
                "this is soft clipping, which halves the step at G = γ; hard clipping does not.",
            ),
            Mistake(
                "curvature L0",
                lambda c, L0, L1: (math.exp(c) - 1 - 2 * c) * L0 / L1**2,
                "the curvature at the start is L0 + L1 G, which is 2 L0 at G = γ.",
            ),
            Mistake(
                "the rate for the step",
                _step_of_the_rate,
                "the step is the rate times the gradient: s = ηG = c/L1 at G = γ, not c/L0.",
            ),
        ),
    ),
    Exercise(
        "how many steps gradient descent needs on θ⁴",
        solution=_quartic_steps,
        inputs=_starts,
        mistakes=(
            Mistake(
                "without the factor 8",
                lambda theta0, eps: 12 * theta0**2 * (4 / eps) ** (2 / 3),
                "(1/θ²)' is 8η, not η: divide by 8.",
            ),
            Mistake(
                "stopping at θ = ε",
                lambda theta0, eps: 1.5 * theta0**2 / eps**2,
                "one stops when the gradient 4θ³ has fallen to ε, not θ itself.",
            ),
        ),
        rtol=1e-2,
    ),
    Exercise(
        "clipping by the global norm",
        solution=_clipped_by_torch,
        inputs=_gradients,
        keeps_inputs=True,
        mistakes=(
            Mistake(
                "each tensor by itself",
                _each_by_itself,
                "one norm over all entries of all tensors, and one factor for all of them; else "
                "the direction changes.",
            ),
            Mistake(
                "always rescaled",
                _always_rescaled,
                "a gradient shorter than γ must stay as it is.",
            ),
            Mistake(
                "coordinate by coordinate",
                _by_coordinate,
                "this cuts each entry off, as clip_grad_value_ does, and changes the direction.",
            ),
            Mistake(
                "the soft factor",
                _softly,
                "this is soft clipping, γ/(G + γ); libraries leave short gradients as they are.",
            ),
            Mistake(
                "the sum of the norms",
                _sum_of_norms,
                "squares of norms add up, norms do not: take the root of the sum of squares.",
            ),
        ),
        rtol=1e-5,
    ),
)
