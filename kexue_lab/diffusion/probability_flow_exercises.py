"""What the exercises of diffusion/probability_flow check."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kexue_lab.diffusion.mixtures import GaussianMixture
from kexue_lab.diffusion.probability_flow import fokker_planck_generator, quantile_map
from kexue_lab.diffusion.schedules import NoiseSchedule
from kexue_lab.exercises import Exercise, Mistake

Array = NDArray[np.float64]
Inputs = Iterator[tuple[Any, ...]]

_VP = NoiseSchedule.linear(0.1, 20.0)
_GM2 = GaussianMixture(
    torch.tensor([0.3, 0.7], dtype=torch.float64),
    torch.tensor([[-1.5], [1.0]], dtype=torch.float64),
    torch.tensor([0.09, 0.25], dtype=torch.float64),
)
_POINTS = 8


# ---------------------------------------------------------------------------- 1: the family


def _ou_inputs(rng: np.random.Generator) -> Inputs:
    yield 1.0, 0.5, 0.0
    for kappa in (0.5, 2.0, 0.0) * 2:
        yield float(rng.normal()), float(rng.uniform(0, 3)), kappa


def _ou_score(x: float, t: float) -> float:
    return -(x - 1.5 * math.exp(-t / 2)) / (1 - 0.91 * math.exp(-t))


def _ou_drift(x: float, t: float, kappa: float) -> float:
    return -0.5 * x - 0.5 * (1 - kappa) * _ou_score(x, t)


# ---------------------------------------------------------------------------- 2: the schedule


def _inner_times(rng: np.random.Generator) -> Inputs:
    yield (0.4,)
    yield from ((float(t),) for t in rng.uniform(0.05, 0.95, 5))


# ---------------------------------------------------------------------------- 3: the grid


def _faces(rng: np.random.Generator) -> Inputs:
    centres = np.arange(-3, 4) * 0.5
    yield -0.5 * (centres[1:] + centres[:-1]) / 2, 1.2, 0.5
    yield np.array([1.5, 0.0, -0.7]), 0.8, 0.4
    for _ in range(5):
        n = int(rng.integers(3, 8))
        yield 4 * rng.normal(size=n), float(rng.uniform(0.3, 2)), float(rng.uniform(0.1, 0.6))


def _fitted(velocity: Array, diffusion: float, h: float) -> Array:
    edges = h * np.arange(len(velocity) + 2)
    return np.asarray(fokker_planck_generator(edges, lambda _: velocity, diffusion).toarray())


def _from_rates(up: Array, down: Array) -> Array:
    """The matrix of hops up from the left cell of a face, and down from the right one."""
    leaving = np.append(up, 0) + np.append(0, down)
    return np.asarray(np.diag(up, -1) + np.diag(down, 1) - np.diag(leaving))


def _central(velocity: Array, diffusion: float, h: float) -> Array:
    spread = diffusion / (2 * h**2)
    return _from_rates(spread + velocity / (2 * h), spread - velocity / (2 * h))


def _swapped(velocity: Array, diffusion: float, h: float) -> Array:
    return _fitted(-velocity, diffusion, h)


def _upwind(velocity: Array, diffusion: float, h: float) -> Array:
    spread = diffusion / (2 * h**2)
    return _from_rates(spread + np.maximum(velocity, 0) / h, spread + np.maximum(-velocity, 0) / h)


def _zero_over_zero(velocity: Array, diffusion: float, h: float) -> Array:
    """B(z) = z/(eᶻ − 1) as it stands, also at z = 0."""
    z = 2 * velocity * h / diffusion
    with np.errstate(invalid="ignore"):
        up, down = (diffusion / (2 * h**2) * (v / np.expm1(v)) for v in (-z, z))
    return _from_rates(up, down)


def _transposed(velocity: Array, diffusion: float, h: float) -> Array:
    return _fitted(velocity, diffusion, h).T


# ---------------------------------------------------------------------------- 4: the flow


def _origins(rng: np.random.Generator) -> Inputs:
    yield 0.5, 0.4
    for _ in range(4):
        yield float(rng.uniform(-2, 2)), float(rng.uniform(0.2, 0.9))


def _transported(x0: float, t: float) -> float:
    start = torch.tensor([[x0]], dtype=torch.float64)
    return float(quantile_map(start, _GM2, _VP, 0.0, t))


def _with_rate(low: float, high: float) -> Callable[[float, float], float]:
    """The quantile map of another schedule."""
    schedule = NoiseSchedule.linear(low, high)

    def transported(x0: float, t: float) -> float:
        start = torch.tensor([[x0]], dtype=torch.float64)
        return float(quantile_map(start, _GM2, schedule, 0.0, t))

    return transported


def _gaussian_flow(x0: float, t: float) -> float:
    """The linear map of a Gaussian with the mixture's mean and variance."""
    mean, variance = 0.25, 0.3 * (0.09 + 1.5**2) + 0.7 * (0.25 + 1) - 0.25**2
    alpha, beta = _VP.alpha_bar(t), _VP.beta_bar(t)
    return alpha * mean + math.sqrt(alpha**2 + beta**2 / variance) * (x0 - mean)


# ---------------------------------------------------------------------------- 5: the likelihood


class _LinearFlow:
    """The velocity Ax + tc."""

    def __init__(self, matrix: Tensor, shift: Tensor) -> None:
        self.matrix, self.shift = matrix, shift

    def __call__(self, x: Tensor, t: float) -> Tensor:
        return x @ self.matrix.T + t * self.shift

    def __repr__(self) -> str:
        return f"x ↦ A x + t c with A = {self.matrix.tolist()}, c = {self.shift.tolist()}"


class _StandardNormal:
    """log N(x; 0, I)."""

    def __call__(self, x: Tensor) -> Tensor:
        return -0.5 * (x.square().sum(-1) + x.shape[-1] * math.log(2 * math.pi))

    def __repr__(self) -> str:
        return "the log-density of N(0, I)"


def _flows(rng: np.random.Generator) -> Inputs:
    for d in (2, 2, 3):
        matrix = torch.tensor(rng.normal(size=(d, d)) * 0.5)
        # A trace away from 0 tells a right sign from a wrong one.
        matrix += torch.eye(d, dtype=torch.float64) * (0.6 - matrix.trace() / d)
        shift = torch.tensor(rng.normal(size=d))
        points = torch.tensor(rng.normal(size=(_POINTS, d)))
        signs = torch.tensor(rng.choice([-1.0, 1.0], size=(_POINTS, d)))
        yield points, _LinearFlow(matrix, shift), _StandardNormal(), signs


def _hutchinson(
    x: Tensor,
    velocity: _LinearFlow,
    log_prior: Callable[[Tensor], Tensor],
    z: Tensor,
    sign: float = 1.0,
    probe: Callable[[Tensor], Tensor] = lambda z: z,
    weight: float = 0.5,
) -> Tensor:
    # Of a linear velocity the directional derivative is known.
    divergence = (probe(z) @ velocity.matrix.T * probe(z)).sum(-1)
    step = 1 / 100
    for k in range(100):
        start = velocity(x, k * step)
        end = velocity(x + step * start, (k + 1) * step)
        x = x + step * ((1 - weight) * start + weight * end)
    return log_prior(x) + sign * divergence


def _with_exact_divergence(
    x: Tensor, velocity: _LinearFlow, log_prior: Callable[[Tensor], Tensor], z: Tensor
) -> Tensor:
    return _hutchinson(x, velocity, log_prior, z, 0.0) + velocity.matrix.trace()


EXERCISES = (
    Exercise(
        "the family's drift for Ornstein–Uhlenbeck",
        solution=_ou_drift,
        inputs=_ou_inputs,
        mistakes=(
            Mistake(
                "without ½",
                lambda x, t, kappa: -0.5 * x - (1 - kappa) * _ou_score(x, t),
                "the noise enters the equation as ½g²: the added drift has the factor ½ too.",
            ),
            Mistake(
                "in equilibrium",
                lambda x, t, kappa: -0.5 * kappa * x,
                "this holds in equilibrium, p = N(0, 1); here p_t depends on t.",
            ),
            Mistake(
                "the reverse drift",
                lambda x, t, kappa: -0.5 * x - 0.5 * (1 + kappa) * _ou_score(x, t),
                "this is the drift of the reverse process; forwards it is g² − σ².",
            ),
            Mistake(
                "a standard deviation in the score",
                lambda x, t, kappa: (
                    -0.5 * x
                    - 0.5 * (1 - kappa) * _ou_score(x, t) * math.sqrt(1 - 0.91 * math.exp(-t))
                ),
                "the score of a Gaussian is −(x − mean)/variance: not its root.",
            ),
            Mistake(
                "the mean of the start",
                lambda x, t, kappa: (
                    -0.5 * x + 0.5 * (1 - kappa) * (x - 1.5) / (1 - 0.91 * math.exp(-t))
                ),
                "the mean shrinks on the way, by e^(−t/2).",
            ),
            Mistake(
                "the score's sign",
                lambda x, t, kappa: -0.5 * x + 0.5 * (1 - kappa) * _ou_score(x, t),
                "the drift loses ½(g² − σ²) times the score: what less noise no longer spreads, "
                "the drift must.",
            ),
        ),
    ),
    Exercise(
        "the noise rate of the cosine schedule",
        solution=lambda t: math.pi * math.tan(math.pi * t / 2),
        inputs=_inner_times,
        mistakes=(
            Mistake(
                "no contraction",
                lambda t: math.pi / 2 * math.sin(math.pi * t),
                "this is dβ̄²/dt; the noise that the drift shrinks must be replaced as well.",
            ),
            Mistake(
                "g instead of its square",
                lambda t: math.sqrt(math.pi * math.tan(math.pi * t / 2)),
                "this is g; give its square.",
            ),
        ),
    ),
    Exercise(
        "a generator that keeps mass and sign",
        solution=_fitted,
        inputs=_faces,
        mistakes=(
            Mistake(
                "central differences",
                _central,
                "central differences: rates off the diagonal become negative when |f|h > g².",
            ),
            Mistake(
                "the wrong way",
                _swapped,
                "a positive drift must carry mass to the right: exchange B(z) and B(−z).",
            ),
            Mistake(
                "transposed",
                _transposed,
                "columns must sum to 0: what leaves cell j stands in column j.",
            ),
            Mistake(
                "upwind",
                _upwind,
                "upwind differences keep the sign but add noise |f|h; the rates with B(z) do not.",
            ),
            Mistake(
                "not divided by the width",
                lambda velocity, diffusion, h: h * _fitted(velocity, diffusion, h),
                "the change of a cell's *average* is the difference of the fluxes divided by h.",
            ),
            Mistake(
                "0/0 without drift",
                _zero_over_zero,
                "where the drift is 0, z/(eᶻ − 1) is 0/0: its value there is B(0) = 1.",
            ),
        ),
    ),
    Exercise(
        "a point carried by the probability flow",
        solution=_transported,
        inputs=_origins,
        mistakes=(
            Mistake(
                "straight rescaling",
                lambda x0, t: _VP.alpha_bar(t) * x0,
                "ᾱx0 is the mean of the noisy process; the flow keeps the quantile.",
            ),
            Mistake(
                "as if the data were Gaussian",
                _gaussian_flow,
                "this is the linear map of a single Gaussian; GM2 has two bumps.",
            ),
            Mistake(
                "without ½ in the exponent",
                _with_rate(0.2, 40.0),
                "ᾱ is exp(−½∫β): it is ᾱ² that falls like exp(−∫β).",
            ),
            Mistake(
                "the rate not integrated",
                _with_rate(0.1, 39.9),
                "the integral of 19.9t is 19.9t²/2.",
            ),
        ),
        rtol=1e-6,
        atol=1e-6,
    ),
    Exercise(
        "likelihood by Hutchinson's estimator",
        solution=_hutchinson,
        inputs=_flows,
        mistakes=(
            Mistake(
                "the sign of the integral",
                lambda x, velocity, log_prior, z: _hutchinson(x, velocity, log_prior, z, -1.0),
                "log p falls along the flow by the divergence, so log p_0 is log p_1 plus it.",
            ),
            Mistake(
                "no divergence",
                lambda x, velocity, log_prior, z: _hutchinson(x, velocity, log_prior, z, 0.0),
                "this is only log p_1 at the end of the path; the volume changes on the way.",
            ),
            Mistake(
                "all ones",
                lambda x, velocity, log_prior, z: _hutchinson(
                    x, velocity, log_prior, z, probe=torch.ones_like
                ),
                "with z = (1, …, 1) off-diagonal entries do not average out; use the given signs.",
            ),
            Mistake(
                "the exact divergence",
                _with_exact_divergence,
                "this is the divergence itself; the estimate zᵀJz with the given signs is asked "
                "for.",
            ),
            Mistake(
                "Euler's method",
                lambda x, velocity, log_prior, z: _hutchinson(
                    x, velocity, log_prior, z, weight=0.0
                ),
                "Heun's method averages the slopes at the start and at the predicted end of a "
                "step.",
            ),
        ),
        rtol=1e-6,
        atol=1e-6,
    ),
)
