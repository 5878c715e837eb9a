"""What the exercises of mathematics/linear_ode check."""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import quad, solve_ivp

from kexue_lab.exercises import Exercise, Mistake
from kexue_lab.mathematics.linear_ode import wedge

Array = NDArray[np.float64]
Inputs = Iterator[tuple[Any, ...]]


def _columns(rng: np.random.Generator) -> Inputs:
    for _ in range(5):
        yield (rng.normal(size=(4, 3)),)


def _linear_matrices(rng: np.random.Generator) -> Inputs:
    for _ in range(5):
        A0, A1 = rng.normal(size=(2, 3, 3))
        yield A0, A1, float(rng.uniform(0.5, 2))


def _two_slopes(rng: np.random.Generator) -> Inputs:
    yield 1.0, 1.0, 0.5
    for _ in range(5):
        alpha, beta = rng.uniform(0.4, 1.5, 2) * rng.choice([-1, 1], 2)
        yield float(alpha), float(beta), float(rng.uniform(0.1, 0.6))


def _powers(rng: np.random.Generator) -> Inputs:
    yield 2, 1.5
    for k in (1, 2, 3):
        yield k, float(rng.uniform(1.2, 2.5))


def _affine_problems(rng: np.random.Generator) -> Inputs:
    for _ in range(3):
        A0, A1 = rng.normal(size=(2, 3, 3)) / 2
        P0 = np.eye(3) + 0.3 * rng.normal(size=(3, 3))
        start, source = 1.5 * rng.normal(size=(2, 3))
        t = float(rng.uniform(0.5, 1.2))
        ends = _affine_flow(A0, A1, np.column_stack([P0, start]), source, t)
        # The end of the fourth solution is what is asked for.
        yield A0, A1, P0, ends[:, :3], start, t


def _affine_flow(A0: Array, A1: Array, starts: Array, source: Array, t: float) -> Array:
    def slope(s: float, x: Array) -> Array:
        forced: Array = (A0 + A1 * math.sin(s)) @ x.reshape(starts.shape) + source[:, None]
        return forced.ravel()

    end = solve_ivp(slope, (0, t), starts.ravel(), "DOP853", rtol=1e-12, atol=1e-13).y[:, -1]
    shaped: Array = end.reshape(starts.shape)
    return shaped


def _fourth_point(A0: Array, A1: Array, P0: Array, Pt: Array, start: Array, t: float) -> Array:
    """The first known solution, and its distance to the fourth, which obeys ẋ = A x."""
    away = _affine_flow(A0, A1, (start - P0[:, 0])[:, None], np.zeros(3), t)[:, 0]
    end: Array = Pt[:, 0] + away
    return end


def _difference_only(A0: Array, A1: Array, P0: Array, Pt: Array, start: Array, t: float) -> Array:
    return _affine_flow(A0, A1, (start - P0[:, 0])[:, None], np.zeros(3), t)[:, 0]


def _as_homogeneous(A0: Array, A1: Array, P0: Array, Pt: Array, start: Array, t: float) -> Array:
    end: Array = Pt @ np.linalg.solve(P0, start)
    return end


def _in_their_plane(A0: Array, A1: Array, P0: Array, Pt: Array, start: Array, t: float) -> Array:
    coefficients = np.linalg.lstsq(P0[:, 1:] - P0[:, :1], start - P0[:, 0])[0]
    end: Array = Pt[:, 0] + (Pt[:, 1:] - Pt[:, :1]) @ coefficients
    return end


def _without_source(A0: Array, A1: Array, P0: Array, Pt: Array, start: Array, t: float) -> Array:
    return _affine_flow(A0, A1, start[:, None], np.zeros(3), t)[:, 0]


def _begun_at(place: Callable[[Array, Array], Array], added: int | None) -> Callable[..., Array]:
    """A solution of ẋ = A x begun at place(P0, start), added to one of the known ones."""

    def end(A0: Array, A1: Array, P0: Array, Pt: Array, start: Array, t: float) -> Array:
        moved = _affine_flow(A0, A1, place(P0, start)[:, None], np.zeros(3), t)[:, 0]
        return moved if added is None else Pt[:, added] + moved

    return end


def _distance_to(i: int, sign: int = 1) -> Callable[[Array, Array], Array]:
    return lambda P0, start: sign * (start - P0[:, i])


def _with_coefficients_fitted(
    A0: Array, A1: Array, P0: Array, Pt: Array, start: Array, t: float
) -> Array:
    rows, right = np.vstack([P0, np.ones(3)]), np.append(start, 1)
    end: Array = Pt @ np.linalg.lstsq(rows, right)[0]
    return end


def _coefficient(slope: Callable[[float, float, float], float]) -> Callable[..., float]:
    """c(t) by numerical integration of a slope ċ(α, β, s)."""

    def integrated(alpha: float, beta: float, t: float) -> float:
        value: float = quad(lambda s: slope(alpha, beta, s), 0, t, epsabs=1e-13)[0]
        return value

    return integrated


def _reduced(kernel: Callable[[float, int], float]) -> Callable[[int, float], float]:
    """t^k times the integral of a kernel(s, k) from 1."""

    def solution(k: int, t: float) -> float:
        value: float = t**k * quad(lambda s: kernel(s, k), 1, t, epsabs=1e-13)[0]
        return value

    return solution


EXERCISES = (
    Exercise(
        "the cross product in four dimensions",
        solution=lambda X: wedge(torch.tensor(X)).numpy(),
        inputs=_columns,
        mistakes=(
            Mistake(
                "the sign of three dimensions",
                lambda X: -wedge(torch.tensor(X)).numpy(),
                "every sign is wrong: (-1)^(i+n) with i from 1, so the first component has a minus "
                "for even n.",
            ),
            Mistake(
                "minors without signs",
                lambda X: np.array([np.linalg.det(np.delete(X, i, 0)) for i in range(4)]),
                "these are the minors; expanding a determinant, their signs alternate.",
            ),
        ),
    ),
    Exercise(
        "the volume of three solutions",
        solution=lambda A0, A1, t: math.exp(np.trace(A0) * t + np.trace(A1) * t**2 / 2),
        inputs=_linear_matrices,
        mistakes=(
            Mistake(
                "the trace at the end times t, or t² without ½",
                lambda A0, A1, t: math.exp(np.trace(A0 + t * A1) * t),
                "the trace changes on the way: integrate it from 0 to t.",
            ),
            Mistake(
                "no exponential",
                lambda A0, A1, t: np.trace(A0) * t + np.trace(A1) * t**2 / 2,
                "this is the logarithm of the volume.",
            ),
            Mistake(
                "the trace at the end",
                lambda A0, A1, t: math.exp(np.trace(A0 + t * A1)),
                "the trace is a rate: integrate it from 0 to t.",
            ),
        ),
    ),
    Exercise(
        "the coefficient in the box, by hand",
        solution=lambda alpha, beta, t: (alpha + beta) * t / (1 + alpha**2 * t**2),
        inputs=_two_slopes,
        mistakes=(
            Mistake(
                "A in place of A + Aᵀ",
                _coefficient(lambda a, b, s: (b - a**3 * s**2) / (1 + a**2 * s**2) ** 2),
                "under the integral stands A + Aᵀ, since w itself moves.",
            ),
            Mistake(
                "the integrand",
                lambda a, b, t: (a + b) * (1 - a**2 * t**2) / (1 + a**2 * t**2) ** 2,
                "this is the derivative of c; integrate it from 0.",
            ),
            Mistake(
                "d'Alembert's gauge",
                lambda a, b, t: b * t,
                "this is c for the fixed direction e₂; the box adds a multiple of w.",
            ),
        ),
    ),
    Exercise(
        "Euler's equation by quadrature",
        solution=lambda k, t: (t**k - t**-k) / (2 * k),
        inputs=_powers,
        mistakes=(
            Mistake(
                "a multiple of the known solution",
                lambda k, t: t**k / k,
                "this is a multiple of the known solution, and not 0 at t = 1.",
            ),
            Mistake(
                "D upside down",
                _reduced(lambda s, k: s / s ** (2 * k)),
                "divide the equation by t² first: the trace of A is -1/t, so D = 1/t.",
                variants=(
                    _reduced(lambda s, k: 1 / s ** (2 * k)),
                    _reduced(lambda s, k: s**-2 / s ** (2 * k)),
                    _reduced(lambda s, k: s**2 / s ** (2 * k)),
                ),
            ),
            Mistake(
                "y instead of y²",
                _reduced(lambda s, k: 1 / s / s**k),
                "the integrand is D divided by the square of the known solution.",
            ),
            Mistake(
                "the other power",
                lambda k, t: t**-k,
                "t^(−k) is a solution, but neither 0 at t = 1 nor of slope 1 there.",
            ),
            Mistake(
                "without 1/k",
                lambda k, t: (t**k - t**-k) / 2,
                "this vanishes at 1, but its slope there is k, not 1.",
            ),
        ),
    ),
    Exercise(
        "the solution through a fourth point",
        solution=_fourth_point,
        inputs=_affine_problems,
        mistakes=(
            Mistake(
                "treated as homogeneous",
                _as_homogeneous,
                "with a source, only combinations whose coefficients add up to 1 are solutions.",
            ),
            Mistake(
                "only their plane",
                _in_their_plane,
                "the start need not lie in the plane of the three: the direction across is "
                "missing, and complete_basis finds its solution.",
                variants=(_with_coefficients_fitted,),
            ),
            Mistake(
                "the source left out",
                _without_source,
                "this solves ẋ = A x; take the difference to a known solution instead.",
            ),
            Mistake(
                "the difference forgotten",
                _difference_only,
                "the difference of two solutions obeys ẋ = A x; add the known solution again.",
                variants=tuple(_begun_at(_distance_to(i), None) for i in (1, 2)),
            ),
            Mistake(
                "begun at the start",
                _begun_at(lambda P0, start: start, 0),
                "`start` itself does not obey ẋ = A x: begin at its difference to the known "
                "solution that you add.",
                variants=tuple(_begun_at(lambda P0, start: start, i) for i in (1, 2)),
            ),
            Mistake(
                "the difference with the other sign",
                _begun_at(_distance_to(0, -1), 0),
                "begin at start minus the known solution's start, not the other way round.",
                variants=tuple(_begun_at(_distance_to(i, -1), i) for i in (1, 2)),
            ),
            Mistake(
                "the difference to one, another added",
                _begun_at(_distance_to(1), 0),
                "add that known solution whose start you have subtracted.",
                variants=tuple(
                    _begun_at(_distance_to(i), j)
                    for i, j in itertools.permutations(range(3), 2)
                    if (i, j) != (1, 0)
                ),
            ),
        ),
        rtol=1e-6,
        atol=1e-6,
    ),
)
