"""What the exercises of generative/gumbel_softmax check."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.stats import norm

from kexue_lab.exercises import Exercise, Mistake
from kexue_lab.generative.gumbel_softmax import (
    binary_relaxation_moments,
    gumbel_softmax,
    optimal_baseline,
    score_function_variance,
)

Inputs = Iterator[tuple[Any, ...]]
Array = NDArray[np.float64]
_TIMES = 2
"""How many times the variance without a baseline is asked for."""
_LEAST = 0.01
"""The least probability of a door."""


# --- the winner under noise of another size


def _scaled_noise(rng: np.random.Generator) -> Inputs:
    yield np.array([1.0, 0.0]), 2.0
    for size in (2, 3, 5):
        yield rng.normal(0, 1.5, size), float(rng.uniform(0.3, 0.8) + rng.integers(0, 2))


def _wins_with_scaled_noise(theta: Array, s: float) -> float:
    weights = np.exp((theta - theta.max()) / s)
    return float(weights[0] / weights.sum())


def _wins_with_normal_noise(theta: Array, s: float) -> float:
    scale = s * math.pi / math.sqrt(6)
    margins = (theta[0] - theta[1:]) / scale
    return float(quad(lambda v: norm.pdf(v) * norm.cdf(margins + v).prod(), -9, 9)[0])


def _pairwise_wins(theta: Array, s: float) -> float:
    return float(np.prod(1 / (1 + np.exp((theta[1:] - theta[0]) / s))))


# --- two winners


def _probabilities(rng: np.random.Generator) -> Inputs:
    yield (np.array([0.5, 0.2, 0.3]),)
    for size in (3, 4, 6):
        yield (rng.dirichlet(3 * np.ones(size)),)


def _both_win(p: Array) -> float:
    return float(p[0] * p[1] / (1 - p[0]) + p[1] * p[0] / (1 - p[1]))


# --- leave-one-out


def _opened(rng: np.random.Generator) -> Inputs:
    yield np.array([0.5, 0.3, 0.2]), np.array([0.0, 3.0, 6.0]), np.array([1, 0, 2])
    for size, count in ((3, 2), (4, 5), (5, 4)):
        z = rng.integers(0, size, count)
        z[:2] = 0, size - 1  # not all the same
        yield rng.dirichlet(3 * np.ones(size)), 3 * rng.standard_normal(size), z


def _leave_one_out(
    p: Array, f: Array, z: NDArray[np.int64], *, own: bool = False, drawn: bool = False
) -> Array:
    value = f[z]
    baseline = value.mean() if own else (value.sum() - value) / (len(z) - 1)
    steps = np.eye(len(p))[z] - (p[z][:, None] if drawn else p)
    gradient: Array = ((value - baseline)[:, None] * steps).mean(0)
    return gradient


def _exact_mean(p: Array, f: Array, z: NDArray[np.int64]) -> Array:
    value = f[z]
    gradient: Array = ((value - p @ f)[:, None] * (np.eye(len(p))[z] - p)).mean(0)
    return gradient


# --- straight-through


def _quadratics(rng: np.random.Generator) -> Inputs:
    for size in (2, 3, 5):
        theta, noise, f, c = (torch.tensor(rng.standard_normal(size)) for _ in range(4))
        yield theta, noise, float(rng.uniform(0.3, 0.9)), f, c


def _quadratic_gradient(
    theta: torch.Tensor,
    noise: torch.Tensor,
    tau: float,
    f: torch.Tensor,
    c: torch.Tensor,
    hard: bool = True,
) -> torch.Tensor:
    """The gradient that autograd finds for Σ f_k (y_k − c_k)²."""
    leaf = theta.detach().clone().requires_grad_()
    y = gumbel_softmax(leaf, tau, hard=hard, gumbels=noise)
    (gradient,) = torch.autograd.grad(((y - c).square() * f).sum(), leaf)
    return gradient


def _diagonal_jacobian(
    theta: torch.Tensor, noise: torch.Tensor, tau: float, f: torch.Tensor, c: torch.Tensor
) -> torch.Tensor:
    soft = gumbel_softmax(theta, tau, gumbels=noise)
    hard = gumbel_softmax(theta, tau, hard=True, gumbels=noise)
    return soft * (1 - soft) * 2 * f * (hard - c) / tau


def _hard_jacobian(
    theta: torch.Tensor, noise: torch.Tensor, tau: float, f: torch.Tensor, c: torch.Tensor
) -> torch.Tensor:
    y = gumbel_softmax(theta, tau, hard=True, gumbels=noise)
    slope = 2 * f * (y - c)
    return y * (slope - y @ slope) / tau


# --- the mean square of a relaxed bit


def _logit_differences(rng: np.random.Generator) -> Inputs:
    yield (1.0,)
    yield from ((v,) for v in (0.0, 1e-6, -1e-4, 300.0, -800.0, 800.0))
    yield from ((float(v),) for v in (-1) ** rng.integers(0, 2, 4) * rng.uniform(0.3, 4, 4))


def _second_moment(logit: float) -> float:
    moments = binary_relaxation_moments(logit, 1.0)
    return moments.mean - moments.slope


def _as_it_stands(logit: float) -> float:
    """The closed form without care: digits are lost near 0, and e^l overflows."""
    if logit == 0:
        return 1 / 3
    with np.errstate(over="ignore", invalid="ignore"):
        a = np.exp(np.float64(logit))
        mean = a / (a - 1) - a * logit / (a - 1) ** 2
        return float(mean - a * (2 - 2 * a + (a + 1) * logit) / (a - 1) ** 3)


# --- a baseline worse than none


def _judge_baseline(got: Any) -> str | None:
    p, f = (np.asarray(part, dtype=float) for part in got)
    if p.ndim != 1 or p.shape != f.shape or len(p) < 2:
        return "return two rows of equal length: at least two probabilities, and as many values"
    if p.min() < _LEAST or abs(p.sum() - 1) > 1e-9:
        return f"probabilities are at least {_LEAST} here, and sum to 1, got {p.tolist()}"
    largest = abs(f).max()
    if largest == 0:
        return "all values are 0, and so are all gradients"
    logits, values = torch.tensor(p).log(), torch.tensor(f / largest)
    mean, none = (
        float(score_function_variance(logits, values, b)) for b in (float(p @ f / largest), 0.0)
    )
    if mean > _TIMES * none:
        return None
    ratio = mean / none if none > 0 else math.inf
    best = float(optimal_baseline(logits, values)) * largest
    return (
        f"the variance with b = J = {p @ f:.3g} is {ratio:.3g} times that with b = 0; more than "
        f"{_TIMES} is asked for (b* = {best:.3g})"
    )


EXERCISES = (
    Exercise(
        "the winner under noise of another size",
        solution=_wins_with_scaled_noise,
        inputs=_scaled_noise,
        mistakes=(
            Mistake(
                "the size is ignored",
                lambda theta, s: _wins_with_scaled_noise(theta, 1.0),
                "divide θ + sG by s: the winner does not change, but the logits do.",
            ),
            Mistake(
                "multiplied instead of divided",
                lambda theta, s: _wins_with_scaled_noise(theta * s * s, s),
                "more noise must make the classes more equal, not less.",
            ),
            Mistake(
                "Gaussian noise",
                _wins_with_normal_noise,
                "this is Gaussian noise of the same variance; only Gumbel noise gives a softmax.",
            ),
            Mistake(
                "pairwise wins multiplied",
                _pairwise_wins,
                "the comparisons are not independent: all of them share the noise of the first "
                "class.",
            ),
        ),
        rtol=1e-7,
    ),
    Exercise(
        "two winners",
        solution=_both_win,
        inputs=_probabilities,
        mistakes=(
            Mistake(
                "one order only",
                lambda p: float(p[0] * p[1] / (1 - p[0])),
                "this is door 1 first and door 2 second; the other order counts, too.",
                variants=(lambda p: float(p[0] * p[1] / (1 - p[1])),),
            ),
            Mistake(
                "drawn with replacement",
                lambda p: float(2 * p[0] * p[1]),
                "this draws twice from all doors, and may draw the same one; a clock that has "
                "rung is out of the race.",
            ),
            Mistake(
                "without the second race's new sum",
                lambda p: float(p[0] * p[1]),
                "after the first ring the others race on, with probabilities that sum to 1 again.",
            ),
            Mistake(
                "either of them first",
                lambda p: float(p[0] + p[1]),
                "this is the probability that the first ring is one of the two.",
            ),
        ),
    ),
    Exercise(
        "leave-one-out, mended",
        solution=_leave_one_out,
        inputs=_opened,
        mistakes=(
            Mistake(
                "its own value in the baseline",
                lambda p, f, z: _leave_one_out(p, f, z, own=True),
                "a baseline that holds the sample's own value depends on the sample: the mean "
                "shrinks by the factor (N - 1)/N. Leave that value out.",
            ),
            Mistake(
                "the drawn door's probability in every place",
                lambda p, f, z: _leave_one_out(p, f, z, drawn=True),
                "the gradient of log p_z is e_z - p: in the place of door k stands p_k, not p_z.",
            ),
            Mistake(
                "as it stands",
                lambda p, f, z: _leave_one_out(p, f, z, own=True, drawn=True),
                "look at the baseline (which values may it hold?) and at the steps (what is the "
                "gradient of log p_z?).",
            ),
            Mistake(
                "the sum of the others, not their mean",
                lambda p, f, z: (
                    (f[z] - (f[z].sum() - f[z]))[:, None] * (np.eye(len(p))[z] - p)
                ).mean(0),
                "the baseline is the mean of the others: divide by N - 1.",
            ),
            Mistake(
                "the exact mean as the baseline",
                _exact_mean,
                "this is unbiased, too, but needs the values of all doors; the exercise asks "
                "for the mean over the other samples.",
            ),
        ),
    ),
    Exercise(
        "a straight-through gradient by hand",
        solution=_quadratic_gradient,
        inputs=_quadratics,
        mistakes=(
            Mistake(
                "the soft gradient",
                lambda theta, noise, tau, f, c: _quadratic_gradient(
                    theta, noise, tau, f, c, hard=False
                ),
                "this differentiates f at the soft y; straight-through does it at the corner.",
            ),
            Mistake(
                "without the temperature",
                lambda theta, noise, tau, f, c: tau * _quadratic_gradient(theta, noise, tau, f, c),
                "the path is softmax((θ + G)/τ): a factor 1/τ is missing.",
            ),
            Mistake(
                "a diagonal Jacobian",
                _diagonal_jacobian,
                "each y_k depends on every entry of theta. Adding the same number to all of them "
                "changes nothing, so the entries of the gradient sum to 0.",
            ),
            Mistake(
                "hard Jacobian",
                _hard_jacobian,
                "at a corner the Jacobian of softmax is zero; the path is taken at the soft y.",
            ),
        ),
    ),
    Exercise(
        "the mean square of a relaxed bit",
        solution=_second_moment,
        inputs=_logit_differences,
        mistakes=(
            Mistake(
                "a hard bit",
                lambda x: 1 / (1 + math.exp(-x)),
                "this is F(l), the mean of a hard bit, for which y² = y; use y² = y - y(1 - y).",
            ),
            Mistake(
                "the mean",
                lambda x: binary_relaxation_moments(x, 1.0).mean,
                "this is E y; subtract its slope, since y(1 - y) = τ ∂y/∂l.",
            ),
            Mistake(
                "the slope added",
                lambda x: 2 * binary_relaxation_moments(x, 1.0).mean - _second_moment(x),
                "check the sign at y = 1/2: y² = 1/4, and y(1 - y) = 1/4, so y² = y - y(1 - y).",
            ),
            Mistake(
                "the square of the mean",
                lambda x: binary_relaxation_moments(x, 1.0).mean ** 2,
                "the mean of a square is more than the square of the mean.",
            ),
            Mistake(
                "the closed form as it stands",
                _as_it_stands,
                "near 0 the closed form divides tiny differences (use a series), and for large l"
                " e^l overflows (use e^(-l)).",
            ),
        ),
        rtol=1e-8,
    ),
    Exercise(
        "a baseline worse than none",
        solution=lambda: ([0.9, 0.1], [1.0, 0.0]),
        judge=_judge_baseline,
        mistakes=(
            Mistake(
                "the three doors",
                lambda: ([1 / 2, 1 / 3, 1 / 6], [0.0, 3.0, 6.0]),
                "here J lies between 0 and b*. By (3) you need b* near 0, and J far from it.",
            ),
            Mistake(
                "equal probabilities",
                lambda: ([0.5, 0.5], [1.0, 0.0]),
                "with equal probabilities all weights w are equal, and b* = J.",
            ),
            Mistake(
                "all values alike",
                lambda: ([0.9, 0.1], [1.0, 1.0]),
                "if f is the same behind every door, b = J leaves no variance at all.",
            ),
            Mistake(
                "the rare door has the prize",
                lambda: ([0.9, 0.1], [0.0, 1.0]),
                "a rare door counts for more in b*: here b* = 0.9 and J = 0.1. Turn it around.",
            ),
            Mistake(
                "two doors, not unequal enough",
                lambda: ([0.6, 0.4], [1.0, 0.0]),
                "the right direction: make the likely door likelier.",
            ),
        ),
    ),
)
