"""What the exercises of generative/idempotent_network check."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kexue_lab.exercises import Exercise, Mistake
from kexue_lab.generative.idempotent_network import scalar_fixed_points

Inputs = Iterator[tuple[Any, ...]]
Array = NDArray[np.float64]


# --- one loss with other shares


def _shares(rng: np.random.Generator) -> Inputs:
    yield 1.0, 1.0
    yield 0.3, 1.7
    for _ in range(4):
        yield float(rng.uniform(0.2, 3)), float(rng.uniform(0.2, 3))


# --- which twin is frozen


class _Twin:
    """A small network y -> tanh(y) W + 0.3."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def __repr__(self) -> str:
        return "a network that learns" if self.weight.requires_grad else "its frozen twin"

    def __call__(self, y: Tensor) -> Tensor:
        return torch.tanh(y) @ self.weight + 0.3


def _twins(rng: np.random.Generator) -> Inputs:
    for rows in (1, 4, 7):
        weight, z = torch.tensor(rng.normal(size=(3, 3))), torch.tensor(rng.normal(size=(rows, 3)))
        yield _Twin(weight.clone().requires_grad_()), _Twin(weight), z


def _loss_and_gradient(loss: Any, f: _Twin, frozen: _Twin, z: Tensor) -> list[Any]:
    """The value, and the gradient by the weights that learn."""
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise ValueError("return the loss as one number, a torch tensor")
    if not loss.requires_grad:
        return [loss.numpy(), np.zeros((3, 3))]
    (gradient,) = torch.autograd.grad(loss.sum(), f.weight)
    return [loss.detach().numpy(), gradient.numpy()]


def _tight(outer: str, inner: str, target: str) -> Callable[[_Twin, _Twin, Tensor], Tensor]:
    def answer(f: _Twin, frozen: _Twin, z: Tensor) -> Tensor:
        of = {"f": f, "frozen": frozen}
        gap = of[outer](of[inner](z)) - of[target](z)
        return -gap.square().sum(1).mean()

    return answer


# --- the end of a gain


def _starts(rng: np.random.Generator) -> Inputs:
    usual = (20.0, 20.0, 2.5)
    for c in (0.0, 0.05, 0.1, 0.13, 0.2, 0.5):
        for start in (0.3, 0.9, 1.1):
            yield c, 1.0, start, usual
    yield 0.0, 1.0, 1.2, (20.0, 20.0, 25.0)  # runs away
    yield 0.0, 1.0, 0.8, (20.0, 20.0, 25.0)
    yield 0.4, 2.0, 0.6, (10.0, 20.0, 5.0)
    for _ in range(3):
        c, s, start = rng.uniform((0, 0.5, 0.2), (0.4, 2, 0.95))
        yield float(c), float(s), float(start), usual


def _limit(c: float, s: float, w0: float, weights: tuple[float, float, float]) -> float:
    zeros = [w for w, _ in scalar_fixed_points(c, s, weights)]
    r, i, t = weights
    speed = -2 * (w0 - 1) * (r * c - t * s * w0**2 + i * s * w0 * (w0 - 1))
    if speed > 0:
        return min((w for w in zeros if w > w0), default=math.inf)
    return max((w for w in zeros if w < w0), default=-math.inf)


def _nearest(c: float, s: float, w0: float, weights: tuple[float, float, float]) -> float:
    return min((w for w, _ in scalar_fixed_points(c, s, weights)), key=lambda w: abs(w - w0))


def _nearest_stable(c: float, s: float, w0: float, weights: tuple[float, float, float]) -> float:
    zeros = [w for w, slope in scalar_fixed_points(c, s, weights) if slope < 0]
    return min(zeros, key=lambda w: abs(w - w0))


def _threshold(c: float, s: float, w0: float, weights: tuple[float, float, float]) -> float:
    if c > weights[2] / weights[0] * s:
        return 1.0
    return _limit(c, s, w0, weights)


def _no_infinity(c: float, s: float, w0: float, weights: tuple[float, float, float]) -> float:
    end = _limit(c, s, w0, weights)
    return end if math.isfinite(end) else weights[1] / (weights[1] - weights[2])


# --- idempotent and useless


def _second_moments(rng: np.random.Generator) -> Inputs:
    for d, r in ((2, 1), (4, 2), (5, 2), (6, 1)):
        basis = rng.normal(size=(d, r))
        yield (basis @ basis.T,)


def _ranges(C: Array) -> tuple[Array, Array]:
    """Orthonormal bases of C's range and of its kernel."""
    values, vectors = np.linalg.eigh(C)
    large = values > 1e-9 * values.max()
    return vectors[:, large], vectors[:, ~large]


def _useless(C: Array) -> Array:
    inside, outside = _ranges(C)
    chosen = outside[:, : inside.shape[1]]
    return np.asarray(chosen @ chosen.T)


def _judge_useless(got: Any, C: Array) -> str | None:
    W = np.asarray(got, dtype=float)
    if W.shape != C.shape:
        return f"a matrix of shape {C.shape} is asked for, and this has {W.shape}."
    if np.abs(W @ W - W).max() > 1e-8 * (1 + np.abs(W).max()) ** 2:
        return "W² is not W: apply it twice to some vector and see."
    rank = _ranges(C)[0].shape[1]
    if round(float(np.trace(W))) != rank:  # a projector's trace is its rank
        return "the rank is not that of the data: how many directions does this W keep?"
    M = W - np.eye(len(C))
    if np.trace(M @ C @ M.T) < (1 - 1e-9) * np.trace(C):
        return "this reconstructs the data better than W = 0 does: what does it do to a data point?"
    return None


# --- along a slant


def _planes(rng: np.random.Generator) -> Inputs:
    yield np.diag([1.0, 0.6, 0.0]), np.array([1.0, 0.5, 2.0])
    for _ in range(3):
        basis = rng.normal(size=(3, 2))
        normal = np.cross(basis[:, 0], basis[:, 1])
        slant = normal / np.linalg.norm(normal) + basis @ rng.uniform(0.2, 0.6, size=2)
        yield basis @ basis.T, 1.7 * slant


def _normal(C: Array) -> Array:
    return _ranges(C)[1][:, 0]


def _slide(C: Array, k: Array) -> Array:
    n = _normal(C)
    return np.asarray(np.eye(3) - np.outer(k, n) / (n @ k))


EXERCISES = (
    Exercise(
        "one loss with other shares",
        solution=lambda kappa, rho: (-(rho + kappa), kappa),
        inputs=_shares,
        mistakes=(
            Mistake(
                "the critic's share alone",
                lambda kappa, rho: (-rho, kappa),
                "the critic sees both terms with G(z): what is left for it is their sum.",
            ),
            Mistake(
                "always 2",
                lambda kappa, rho: (-2.0, 1.0),
                "that is the case kappa = rho = 1.",
                variants=(lambda kappa, rho: (-2.0, kappa), lambda kappa, rho: (-2 * rho, kappa)),
            ),
            Mistake(
                "the sign of the generator",
                lambda kappa, rho: (kappa - rho, -kappa),
                "the generator minimises D of its fakes: large means fake.",
            ),
            Mistake(
                "the difference",
                lambda kappa, rho: (kappa - rho, kappa),
                "check it for the critic: alpha + beta must be −rho.",
            ),
            Mistake(
                "the other order",
                lambda kappa, rho: (kappa, -(rho + kappa)),
                "first the factor of the stopped term, then that of the free one.",
            ),
        ),
    ),
    Exercise(
        "the right twin frozen",
        solution=_tight("f", "frozen", "frozen"),
        inputs=_twins,
        observe=_loss_and_gradient,
        mistakes=(
            Mistake(
                "the outer network frozen",
                _tight("frozen", "f", "f"),
                "so the maker of the fake learns to enlarge its own drift. Tight trains the judge.",
            ),
            Mistake(
                "nothing frozen",
                _tight("f", "f", "f"),
                "then the maker of the fake learns from tight as well.",
            ),
            Mistake(
                "two fakes",
                _tight("f", "frozen", "f"),
                "the point that is judged and the point it is compared with must be the same one.",
            ),
            Mistake(
                "both frozen",
                _tight("frozen", "frozen", "frozen"),
                "then nobody learns.",
            ),
            Mistake(
                "the sign",
                lambda f, frozen, z: -_tight("f", "frozen", "frozen")(f, frozen, z),
                "a critic wants the drift of fakes to be large, and a loss is made small.",
            ),
        ),
    ),
    Exercise(
        "where the gain ends",
        solution=_limit,
        inputs=_starts,
        rtol=1e-4,
        atol=1e-5,
        mistakes=(
            Mistake(
                "always 1",
                lambda c, s, w0, weights: 1.0,
                "without data a start at 0.3 falls to 0.",
            ),
            Mistake(
                "the nearest zero",
                _nearest,
                "a zero with rising slope is left, however near the start is.",
            ),
            Mistake(
                "the nearest stable zero",
                _nearest_stable,
                "between two stable zeros lies an unstable one, and that is the watershed; which "
                "way does the gain move at the start?",
            ),
            Mistake(
                "the threshold alone",
                _threshold,
                "above c* the gain 1 is stable, but a start far below it may meet another zero.",
            ),
            Mistake(
                "w* whatever the weights",
                _no_infinity,
                "for λ_t at least λ_i there is no w* above 1 to stop at.",
            ),
        ),
    ),
    Exercise(
        "idempotent and useless",
        solution=_useless,
        inputs=_second_moments,
        judge=_judge_useless,
        mistakes=(
            Mistake(
                "nothing at all",
                lambda C: np.zeros_like(C),
                "W = 0 has rank 0: as many directions as the data have must be kept.",
            ),
            Mistake(
                "the right projector",
                lambda C: _ranges(C)[0] @ _ranges(C)[0].T,
                "this keeps every data point: rec is 0. Keep directions without data.",
            ),
            Mistake(
                "the identity",
                lambda C: np.eye(len(C)),
                "the identity has the full rank, and reconstructs everything.",
            ),
            Mistake(
                "all other directions",
                lambda C: np.eye(len(C)) - _ranges(C)[0] @ _ranges(C)[0].T,
                "right idea; but keep only as many of the empty directions as the data have.",
            ),
            Mistake(
                "not a projector",
                lambda C: 2 * _useless(C),
                "doubled twice is not doubled once: W² must be W.",
            ),
        ),
    ),
    Exercise(
        "onto a plane along a slant",
        solution=_slide,
        inputs=_planes,
        rtol=1e-6,
        atol=1e-9,
        mistakes=(
            Mistake(
                "at right angles",
                lambda C, k: np.eye(3) - np.outer(_normal(C), _normal(C)),
                "that is the shortest way. Noise shall travel along k: W k must be 0.",
            ),
            Mistake(
                "the plane across k",
                lambda C, k: np.eye(3) - np.outer(k, k) / (k @ k),
                "this does send k to 0, but it moves data: W x = x must hold in the data's plane.",
            ),
            Mistake(
                "transposed",
                lambda C, k: _slide(C, k).T,
                "this is the transposed matrix: W k must be 0, not kᵀ W.",
            ),
            Mistake(
                "k not divided by its share",
                lambda C, k: np.eye(3) - np.outer(k, _normal(C)),
                "twice is not once here: how much of k must be taken off, so that none is left?",
            ),
        ),
    ),
)
