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
)

Inputs = Iterator[tuple[Any, ...]]
Array = NDArray[np.float64]


def _uniforms(rng: np.random.Generator) -> Inputs:
    yield np.array([0.3]), 1.0, 2.0
    for size in (4, (2, 3)):
        m, s = float(rng.normal(0, 2)), float(rng.uniform(0.3, 0.8) + rng.integers(0, 2))
        yield rng.uniform(0.001, 0.999, size), m, s


def _scaled_noise(rng: np.random.Generator) -> Inputs:
    yield np.array([1.0, 0.0]), 2.0
    for size in (2, 3, 5):
        yield rng.normal(0, 1.5, size), float(rng.uniform(0.3, 0.8) + rng.integers(0, 2))


def _tables(rng: np.random.Generator) -> Inputs:
    yield np.array([0.2, 0.3, 0.5]), np.array([1.0, 0.0, -0.5])
    for size in (3, 4, 6):
        yield rng.dirichlet(np.ones(size)), 3 * rng.standard_normal(size)


def _quadratics(rng: np.random.Generator) -> Inputs:
    for size in (2, 3, 5):
        theta, noise, f, c = (torch.tensor(rng.standard_normal(size)) for _ in range(4))
        yield theta, noise, float(rng.uniform(0.3, 0.9)), f, c


def _logit_differences(rng: np.random.Generator) -> Inputs:
    yield (1.0,)
    yield from ((v,) for v in (0.0, 1e-6, -1e-4, 300.0, -800.0, 800.0))
    yield from ((float(v),) for v in (-1) ** rng.integers(0, 2, 4) * rng.uniform(0.3, 4, 4))


def _wins_with_scaled_noise(theta: Array, s: float) -> float:
    weights = np.exp((theta - theta.max()) / s)
    return float(weights[0] / weights.sum())


def _wins_with_normal_noise(theta: Array, s: float) -> float:
    scale = s * math.pi / math.sqrt(6)
    margins = (theta[0] - theta[1:]) / scale
    return float(quad(lambda v: norm.pdf(v) * norm.cdf(margins + v).prod(), -9, 9)[0])


def _pairwise_wins(theta: Array, s: float) -> float:
    return float(np.prod(1 / (1 + np.exp((theta[1:] - theta[0]) / s))))


def _best_baseline(p: Array, f: Array) -> float:
    return float(optimal_baseline(torch.tensor(p).log(), torch.tensor(f)))


def _lengths(p: Array) -> Array:
    return np.array(1 - 2 * p + p @ p)


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


def _hard_jacobian(
    theta: torch.Tensor, noise: torch.Tensor, tau: float, f: torch.Tensor, c: torch.Tensor
) -> torch.Tensor:
    y = gumbel_softmax(theta, tau, hard=True, gumbels=noise)
    slope = 2 * f * (y - c)
    return y * (slope - y @ slope) / tau


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


EXERCISES = (
    Exercise(
        "Gumbel noise with a location and a scale",
        solution=lambda u, m, s: m - s * np.log(-np.log(u)),
        inputs=_uniforms,
        forms=(lambda u, m, s: m - s * np.log(-np.log1p(-u)),),
        mistakes=(
            Mistake(
                "the outer sign",
                lambda u, m, s: m + s * np.log(-np.log(u)),
                "this is m - sG: its long tail points down. Solve u = exp(-exp(-(x - m)/s)) for x.",
            ),
            Mistake(
                "exponential noise",
                lambda u, m, s: m - s * np.log(u),
                "this is m + sE with an exponential variable E; Gumbel noise is -log E.",
            ),
            Mistake(
                "divided by the scale",
                lambda u, m, s: m - np.log(-np.log(u)) / s,
                "a large scale must make the noise large: it divides x - m inside the law.",
            ),
            Mistake(
                "the location is scaled, too",
                lambda u, m, s: s * (m - np.log(-np.log(u))),
                "scale the standard noise first, then shift it by m.",
            ),
            Mistake(
                "the location taken for the mean",
                lambda u, m, s: m - s * (np.log(-np.log(u)) + np.euler_gamma),
                "this noise has the mean m; in the law, m is the location, and the mean is "
                "m + 0.577 s.",
            ),
        ),
    ),
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
        "the best baseline",
        solution=_best_baseline,
        inputs=_tables,
        mistakes=(
            Mistake(
                "the mean of f",
                lambda p, f: float(p @ f),
                "this is J. Set the derivative of Σ p (f - b)² ‖e - p‖² by b to zero: the "
                "squared lengths stay in as weights.",
            ),
            Mistake(
                "lengths not squared",
                lambda p, f: float(p * np.sqrt(_lengths(p)) @ f / (p @ np.sqrt(_lengths(p)))),
                "the weights are squared lengths ‖e_z - p‖².",
            ),
            Mistake(
                "weights without p",
                lambda p, f: float(_lengths(p) @ f / _lengths(p).sum()),
                "the samples come with probability p_z; it belongs into the weights.",
            ),
            Mistake(
                "the plain mean of f",
                lambda p, f: float(np.mean(f)),
                "the samples come with probability p_z, and the squared lengths ‖e_z - p‖² weigh"
                " them as well.",
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
                "this is σ(l), the mean of a hard bit, for which y² = y; use y² = y - y(1 - y).",
            ),
            Mistake(
                "the mean",
                lambda x: binary_relaxation_moments(x, 1.0).mean,
                "this is E y; subtract its slope, since y(1 - y) = τ ∂y/∂l.",
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
)
