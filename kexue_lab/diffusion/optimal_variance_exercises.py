"""What the exercises of diffusion/optimal_variance check."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kexue_lab.diffusion.ddim import ddpm_sigma, posterior_coefficients
from kexue_lab.diffusion.optimal_variance import (
    linear_mmse,
    optimal_reverse_variance,
    variance_from_noise,
)
from kexue_lab.exercises import Exercise, Mistake

Inputs = Iterator[tuple[Any, ...]]


def _levels(rng: np.random.Generator) -> tuple[float, float]:
    """A pair ᾱ, β̄ with ᾱ² + β̄² = 1."""
    angle = rng.uniform(0.2, 1.3)
    return math.cos(angle), math.sin(angle)


def _gaussians(rng: np.random.Generator) -> Inputs:
    for _ in range(6):
        yield float(rng.uniform(0.2, 3)), *_levels(rng)


def _steps(rng: np.random.Generator) -> Inputs:
    for _ in range(6):
        late, early = rng.uniform(0.8, 1.4), rng.uniform(0.2, 0.7)
        levels = math.cos(late), math.sin(late), math.cos(early), math.sin(early)
        sigma = float(rng.uniform(0.1, 0.9)) * levels[3]
        yield *levels, sigma, float(rng.uniform(0.1, 1.5))


def _noises(rng: np.random.Generator) -> Inputs:
    for scale in (0.5, 0.7, 1.5):
        # Not about 0; and with levels that leave the first two values between 0 and 1.
        eps = torch.from_numpy(scale * rng.standard_normal((40, 5)) + rng.choice((-0.3, 0.3)))
        angle = float(rng.uniform(0.3, 0.75))
        yield eps, math.cos(angle), math.sin(angle), (0.0, 1.0)
    yield torch.zeros(10, 3, dtype=torch.float64), 0.1, math.sqrt(0.99), (0.0, 1.0)


def _squares(rng: np.random.Generator) -> Inputs:
    for _ in range(6):
        earlier = rng.uniform(0.3, 0.99)
        yield float(earlier * rng.uniform(0.1, 0.95)), float(earlier)


def _data(rng: np.random.Generator) -> Inputs:
    for d in (6, 4, 3):
        # Coordinates of unlike size and far from 0, so that no two answers coincide by chance.
        sizes = np.geomspace(0.2, 3, d)
        mixed = rng.standard_normal((2000, d)) @ rng.standard_normal((d, d))
        rows = sizes * (mixed + rng.choice([-1, 1], d) * rng.uniform(2, 4, d))
        yield torch.from_numpy(rows), *_levels(rng)


def _linear_bound(x0: Tensor, ab: float, bb: float) -> float:
    return float(linear_mmse(torch.linalg.eigvalsh(torch.cov(x0.T)), ab, bb))


def _bound_from_mean_variance(x0: Tensor, ab: float, bb: float) -> float:
    variance = float(x0.var(0).mean())
    return variance * bb**2 / (ab**2 * variance + bb**2)


def _bound_from_diagonal(x0: Tensor, ab: float, bb: float) -> float:
    variances = x0.var(0)
    return float((variances * bb**2 / (ab**2 * variances + bb**2)).mean())


def _bound_from_second_moments(x0: Tensor, ab: float, bb: float) -> float:
    return float(linear_mmse(torch.linalg.eigvalsh(x0.T @ x0 / len(x0)), ab, bb))


def _lambda(A: float, A1: float) -> float:
    levels = math.sqrt(A), math.sqrt(1 - A), math.sqrt(A1), math.sqrt(1 - A1)
    return posterior_coefficients(*levels, ddpm_sigma(*levels))[1]


EXERCISES = (
    Exercise(
        "what is uncertain of Gaussian data",
        solution=lambda s, ab, bb: s**2 * bb**2 / (ab**2 * s**2 + bb**2),
        inputs=_gaussians,
        mistakes=(
            Mistake(
                "variances subtracted",
                lambda s, ab, bb: s**2 - bb**2 / ab**2,
                "precisions add: 1/s² from the data, ᾱ²/β̄² from the observation x_t.",
            ),
            Mistake(
                "noise in units of x_t",
                lambda s, ab, bb: s**2 * bb**2 / (s**2 + bb**2),
                "x_t shrinks the data by ᾱ before the noise is added.",
            ),
            Mistake(
                "the observation alone",
                lambda s, ab, bb: bb**2 / ab**2,
                "this is the uncertainty from x_t alone; what is known of the data beforehand "
                "lowers it.",
            ),
            Mistake(
                "the standard deviation",
                lambda s, ab, bb: s * bb / math.sqrt(ab**2 * s**2 + bb**2),
                "this is the standard deviation; the variance is asked for.",
            ),
            Mistake(
                "the variance of the posterior mean",
                lambda s, ab, bb: ab**2 * s**4 / (ab**2 * s**2 + bb**2),
                "this is how much the posterior *mean* varies; s² minus it is left.",
            ),
        ),
    ),
    Exercise(
        "the variance of a whole step",
        solution=optimal_reverse_variance,
        inputs=_steps,
        mistakes=(
            Mistake(
                "without the coefficient",
                lambda ab_t, bb_t, ab_u, bb_u, sigma, sigma_bar2: sigma**2 + sigma_bar2,
                "x_0 enters the step with the coefficient λ, so its variance enters with λ².",
            ),
            Mistake(
                "standard deviations added",
                lambda *a: (a[4] + posterior_coefficients(*a[:5])[1] * math.sqrt(a[5])) ** 2,
                "two independent noises: variances add, standard deviations do not.",
                variants=(lambda *a: a[4] + posterior_coefficients(*a[:5])[1] * math.sqrt(a[5]),),
            ),
            Mistake(
                "λ = ᾱ_u",
                lambda ab_t, bb_t, ab_u, bb_u, sigma, sigma_bar2: sigma**2 + ab_u**2 * sigma_bar2,
                "λ = ᾱ_u − ᾱ_t κ: part of x_0 is already in κ x_t.",
            ),
            Mistake(
                "λ not squared",
                lambda *a: a[4] ** 2 + posterior_coefficients(*a[:5])[1] * a[5],
                "x_0 enters with the coefficient λ, so its variance enters with λ².",
            ),
            Mistake(
                "λ of DDIM",
                lambda *a: a[4] ** 2 + posterior_coefficients(*(*a[:4], 0.0))[1] ** 2 * a[5],
                "κ leaves room for σ: with σ > 0 it is √(β̄_u² − σ²)/β̄_t.",
            ),
        ),
    ),
    Exercise(
        "the second estimator, clipped",
        solution=lambda eps, ab, bb, clip: float(variance_from_noise(eps, ab, bb, clip=clip)),
        inputs=_noises,
        mistakes=(
            Mistake(
                "sum over the dimensions",
                lambda eps, ab, bb, clip: float(
                    ((bb / ab) ** 2 * (1 - eps.square().sum(-1).mean())).clamp(*clip)
                ),
                "the squared length grows with d: divide by it.",
            ),
            Mistake(
                "not clipped",
                lambda eps, ab, bb, clip: float(variance_from_noise(eps, ab, bb)),
                "the value must stay within clip = (lower, upper).",
            ),
            Mistake(
                "the predicted part",
                lambda eps, ab, bb, clip: float(
                    ((bb / ab) ** 2 * eps.square().mean()).clamp(*clip)
                ),
                "the predicted part has the variance E ε²; what is left is 1 minus that.",
            ),
        ),
    ),
    Exercise(
        "λ of DDPM's step",
        solution=_lambda,
        inputs=_squares,
        mistakes=(
            Mistake(
                "λ = ᾱ_u",
                lambda A, A1: math.sqrt(A1),
                "λ = ᾱ_u − ᾱ_t κ, and κ is not 0.",
            ),
            Mistake(
                "squares not undone",
                lambda A, A1: A1 * (1 - A / A1) / (1 - A),
                "A and A_1 are squares of ᾱ: the factor in front is a square root.",
            ),
            Mistake(
                "λ of DDIM",
                lambda A, A1: math.sqrt(A1) - math.sqrt(A * (1 - A1) / (1 - A)),
                "this is λ for σ = 0; here κ = √(β̄_u² − β̃²)/β̄_t.",
            ),
        ),
    ),
    Exercise(
        "the linear bound of a data set",
        solution=_linear_bound,
        inputs=_data,
        mistakes=(
            Mistake(
                "only the mean variance",
                _bound_from_mean_variance,
                "use each eigenvalue by itself, and average the results.",
            ),
            Mistake(
                "variances of the coordinates",
                _bound_from_diagonal,
                "the coordinates are correlated: take the eigenvalues of the covariance matrix.",
            ),
            Mistake(
                "second moments",
                _bound_from_second_moments,
                "subtract the mean first.",
            ),
        ),
        rtol=2e-3,
    ),
)
