"""What the exercises of mathematics/linear_ode check."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import expm
from scipy.special import erfi

from kexue_lab.exercises import Exercise, Mistake
from kexue_lab.mathematics.linear_ode import wedge

Array = NDArray[np.float64]
Inputs = Iterator[tuple[Any, ...]]

_LARGEST = 20  # entries of a counter-example
_CLEARLY = 0.1  # from here on A is not antisymmetric, and the columns are not dependent


# --- 1: the distance from the plane ------------------------------------------------------------


def _planes(rng: np.random.Generator) -> Inputs:
    for n in (3, 3, 4, 5):
        yield rng.normal(size=(n, n - 1)), float(rng.uniform(0.4, 1.5) * rng.choice([-1, 1]))


def _distance(volume: Callable[[float], float], power: int) -> Callable[[Array, float], float]:
    """volume(trace integral) divided by a power of ‖w‖."""

    def distance(X: Array, integral: float) -> float:
        return volume(integral) / float(wedge(torch.tensor(X)).norm()) ** power

    return distance


# --- 2: a wind that also blows outwards --------------------------------------------------------


def _winds(rng: np.random.Generator) -> Inputs:
    for sign in (1, -1, 1, -1):
        yield sign * float(rng.uniform(0.3, 1.2)), float(rng.uniform(0.6, 3.0))


def _leaf(
    along: Callable[[float, float], float], across: Callable[[float, float], float]
) -> Callable[[float, float], Array]:
    """The leaf at c x_1 + φ w, from c(β, t) and φ(β, t)."""

    def leaf(beta: float, t: float) -> Array:
        hand = np.array([math.cos(t), math.sin(t)])
        w = np.array([-math.sin(t), math.cos(t)])
        place: Array = along(beta, t) * hand + across(beta, t) * w
        return place

    return leaf


def _grown(beta: float, t: float) -> float:
    return math.exp(beta * t)


def _summed(beta: float, t: float) -> float:
    return math.expm1(beta * t) / beta


# --- 3: a cross product that is a solution -----------------------------------------------------


def _judge_pair(answer: Any) -> str | None:
    try:
        A, X = (np.array(part, dtype=float) for part in answer)
    except (TypeError, ValueError):
        return "return a pair: A with three rows of three numbers, X with three rows of two"
    if A.shape != (3, 3) or X.shape != (3, 2):
        return f"A must have shape (3, 3) and X (3, 2); got {A.shape} and {X.shape}"
    if max(abs(A).max(), abs(X).max()) > _LARGEST:
        return f"no entry may be larger than {_LARGEST}"
    w = np.cross(X[:, 0], X[:, 1])
    if np.linalg.norm(w) < _CLEARLY:
        return "the two columns of X are dependent, or nearly: their cross product must not vanish"
    if abs(A + A.T).max() < _CLEARLY:
        return "this A is antisymmetric, or nearly; find one that is not"
    velocities = np.trace(A) * w - A.T @ w, A @ w  # of the area w, and of a solution at w
    area, along = (float(w @ velocity / (w @ w)) for velocity in velocities)
    astray = max(
        np.linalg.norm(velocities[0] - area * w), np.linalg.norm(velocities[1] - along * w)
    )
    if astray < 1e-9 and abs(area - along) > 1e-8:
        return (
            f"here w, an area, grows at the rate {area:.10g}, and a solution along w at the rate "
            f"{along:.10g}: they must be equal"
        )
    gap = A + A.T - np.trace(A) * np.eye(3)
    for t in (0.0, 0.5, 1.0):
        moved = expm(t * (np.trace(A) * np.eye(3) - A.T)) @ w
        miss = np.linalg.norm(gap @ moved) / np.linalg.norm(moved)
        if miss > 1e-8:
            return f"at t = {t:g} the derivative of w and A w differ, by {miss:.3g} of w's length"
    return None


_PLANE = [[1, 0], [0, 1], [0, 0]]


# --- 4: the formula on a grid ------------------------------------------------------------------


def _grids(rng: np.random.Generator) -> Inputs:
    for _ in range(3):
        B0, B1 = rng.normal(size=(2, 3, 3)) / 2
        B1 += np.copysign(np.eye(3) / 2, np.trace(B1))  # so that the trace changes on the way
        h, count = 0.0025, 401
        times = h * np.arange(count)
        A = B0 + B1 * np.sin(1.5 * times)[:, None, None]
        X = np.empty((count, 3, 2))
        X[0] = np.eye(3)[:, :2] + 0.3 * rng.normal(size=(3, 2))
        for i in range(count - 1):
            middle = B0 + B1 * math.sin(1.5 * (times[i] + h / 2))
            X[i + 1] = expm(h * middle) @ X[i]
        yield A, X, h


def _by_the_formula(
    *,
    integrated: bool = True,
    both: bool = True,
    inverse: bool = True,
    rectangles: str = "",
    power: int = 2,
) -> Callable[[Array, Array, float], Array]:
    """The mended code; with a flag off, one fault is left.

    Args:
        integrated: whether ln D is an integral.
        both: whether A + Aᵀ stands under the integral.
        inverse: whether X⁺ reads the coefficients.
        rectangles: "right" or "left", if ln D is a sum of rectangles.
        power: of ‖w‖ in φ.
    """

    def last(A: Array, X: Array, h: float) -> Array:
        w = np.cross(X[..., 0], X[..., 1])
        trace = np.trace(A, axis1=1, axis2=2)
        steps = h * (trace[1:] + trace[:-1]) / 2
        log_D = np.concatenate([[0], np.cumsum(steps)])
        if rectangles == "right":
            log_D = np.cumsum(trace) * h
        if rectangles == "left":
            log_D = np.concatenate([[0], np.cumsum(trace[:-1])]) * h
        if not integrated:
            log_D = trace * h * np.arange(len(A))
        phi = np.exp(log_D) / np.linalg.norm(w, axis=1) ** power
        push = np.einsum("tij,tj->ti", A + A.mT if both else A, w)
        reader = np.linalg.pinv(X) if inverse else X.mT
        c = np.trapezoid(phi[:, None] * np.einsum("tij,tj->ti", reader, push), dx=h, axis=0)
        end: Array = X[-1] @ c + phi[-1] * w[-1]
        return end

    return last


# --- 5: through a zero of the known solution ---------------------------------------------------


def _through_zero(rng: np.random.Generator) -> Inputs:
    yield 2.0, 0.0
    for sign in (1, -1, 1, -1):
        yield float(rng.uniform(1.2, 2.5)), sign * float(rng.uniform(0.3, 0.9))


def _legendre(k: float, t: float) -> float:
    return 1 - t / k * math.atanh(t / k)


EXERCISES = (
    Exercise(
        "how far from the plane",
        solution=_distance(math.exp, 1),
        inputs=_planes,
        mistakes=(
            Mistake(
                "the coefficient φ",
                _distance(math.exp, 2),
                "this is φ, in units of w; w need not have length 1.",
            ),
            Mistake(
                "the volume",
                _distance(math.exp, 0),
                "this is the volume det[X | x_n]: volume is base times height.",
            ),
            Mistake(
                "volume times base",
                _distance(math.exp, -1),
                "volume is base times height, and ‖w‖ is the base.",
            ),
            Mistake(
                "the base",
                _distance(lambda _: 1.0, -1),
                "this is the base; the height is the volume divided by it.",
            ),
            Mistake(
                "one component of w",
                lambda X, integral: math.exp(integral) / abs(np.linalg.det(X[:-1])),
                "a determinant of some rows is one component of w; the base is its whole length.",
                variants=(lambda X, integral: math.exp(integral) / np.linalg.det(X[:-1]),),
            ),
            Mistake(
                "the volume of the start",
                _distance(lambda _: 1.0, 1),
                "the volume was 1 at the start; it has grown or shrunk since.",
                variants=(_distance(lambda _: 1.0, 2),),
            ),
            Mistake(
                "the growth upside down",
                _distance(lambda integral: math.exp(-integral), 1),
                "where the trace is positive volumes grow.",
            ),
            Mistake(
                "without an exponential",
                _distance(lambda integral: 1 + integral, 1),
                "the volume grows at the rate tr A times itself: an exponential.",
                variants=(_distance(lambda integral: integral, 1),),
            ),
        ),
    ),
    Exercise(
        "a wind that also blows away from the hand",
        solution=_leaf(_summed, _grown),
        inputs=_winds,
        mistakes=(
            Mistake(
                "the leaf of the lesson",
                _leaf(lambda b, t: t, lambda b, t: 1.0),
                "this is the leaf without the additional wind: now the trace of A is not 0.",
            ),
            Mistake(
                "A in place of A + Aᵀ",
                _leaf(lambda b, t: 0.0, _grown),
                "w itself turns: under the integral stands A + Aᵀ.",
            ),
            Mistake(
                "D upside down",
                _leaf(lambda b, t: -math.expm1(-b * t) / b, lambda b, t: math.exp(-b * t)),
                "the trace of A is β, so D = exp(βt).",
            ),
            Mistake(
                "D outside the integral only",
                _leaf(lambda b, t: t, _grown),
                "D stands under the integral as well.",
            ),
            Mistake(
                "D inside the integral only",
                _leaf(_summed, lambda b, t: 1.0),
                "φ = D/‖w‖² is also the coefficient of w.",
            ),
            Mistake(
                "D before the integral",
                _leaf(lambda b, t: t * math.exp(b * t), _grown),
                "D stands under the integral, at all times up to t; it cannot be taken out.",
            ),
            Mistake(
                "the factor 1/β",
                _leaf(lambda b, t: math.expm1(b * t), _grown),
                "differentiate your c: does it give exp(βt)?",
            ),
            Mistake(
                "the integral without its lower end",
                _leaf(lambda b, t: math.exp(b * t) / b, _grown),
                "the integral begins at 0, and so does c: the leaf starts at (0, 1).",
            ),
            Mistake(
                "the integrand",
                _leaf(_grown, _grown),
                "this is the derivative of c; integrate it from 0.",
            ),
        ),
    ),
    Exercise(
        "not a rotation, and yet w is a solution",
        solution=lambda: ([[1, 0, 0], [0, 2, 0], [0, 0, 3]], _PLANE),
        forms=(lambda: ([[1, 0, 0], [0, -1, 0], [0, 0, 0]], _PLANE),),
        judge=_judge_pair,
        mistakes=(
            Mistake(
                "a rotation",
                lambda: ([[0, -1, 0], [1, 0, 0], [0, 0, 0]], _PLANE),
                "for rotations the sentence is true; from (2), which condition must A and w fulfil "
                "when A is no rotation?",
            ),
            Mistake(
                "the same growth everywhere",
                lambda: ([[1, 0, 0], [0, 1, 0], [0, 0, 1]], _PLANE),
                "here w, an area, grows at the rate 1 + 1, and a solution at the rate 1.",
            ),
            Mistake(
                "no growth across",
                lambda: ([[1, 0, 0], [0, 1, 0], [0, 0, 0]], _PLANE),
                "here w grows at the rate 1 + 1, and a solution along w at the rate 0; make the "
                "two equal.",
                variants=(lambda: ([[1, 0, 0], [0, 2, 0], [0, 0, 0]], _PLANE),),
            ),
            Mistake(
                "trace 0, and growth across",
                lambda: ([[1, 0, 0], [0, 1, 0], [0, 0, -2]], _PLANE),
                "trace 0 keeps volumes, but w is an area: it grows at the rate of the plane, and a "
                "solution along it at the opposite one.",
                variants=(
                    lambda: ([[2, 0, 0], [0, -1, 0], [0, 0, -1]], _PLANE),
                    lambda: ([[-1, 0, 0], [0, 2, 0], [0, 0, -1]], _PLANE),
                ),
            ),
            Mistake(
                "trace 0 alone",
                lambda: ([[0, 1, 0], [0, 0, 1], [1, 0, 0]], _PLANE),
                "trace 0 keeps volumes; w must also be an eigenvector of A + Aᵀ.",
            ),
            Mistake(
                "the right matrix, the wrong plane",
                lambda: ([[1, 0, 0], [0, 2, 0], [0, 0, 3]], [[1, 0], [0, 0], [0, 1]]),
                "this A does it for another plane: which rate must be the sum of the two others?",
            ),
            Mistake(
                "a rotation that grows",
                lambda: ([[1, -1, 0], [1, 1, 0], [0, 0, 1]], _PLANE),
                "growth in the plane makes w grow at the rate 1 + 1; a solution across it must "
                "grow as fast.",
            ),
        ),
    ),
    Exercise(
        "the box on a grid, mended",
        solution=_by_the_formula(),
        inputs=_grids,
        rtol=2e-4,
        atol=2e-4,
        mistakes=(
            Mistake(
                "the trace is not integrated",
                _by_the_formula(integrated=False),
                "ln D is the integral of the trace, not the trace times the time.",
                variants=(
                    _by_the_formula(integrated=False, both=False),
                    _by_the_formula(integrated=False, inverse=False),
                    _by_the_formula(integrated=False, both=False, inverse=False),
                ),
            ),
            Mistake(
                "a sum of rectangles",
                _by_the_formula(rectangles="right"),
                "ln D must be 0 at the first time: this sum of rectangles has one too many. Use "
                "the trapezoidal rule here as well.",
                variants=(
                    _by_the_formula(rectangles="right", both=False),
                    _by_the_formula(rectangles="right", inverse=False),
                ),
            ),
            Mistake(
                "rectangles from the left",
                _by_the_formula(rectangles="left"),
                "nearly: ln D is a sum of rectangles; use the trapezoidal rule here as well.",
            ),
            Mistake(
                "divided by ‖w‖ once",
                _by_the_formula(power=1),
                "w·x = φ‖w‖², so φ is D divided by the square of w's length.",
            ),
            Mistake(
                "A alone",
                _by_the_formula(both=False),
                "w itself moves: A + Aᵀ.",
                variants=(_by_the_formula(both=False, inverse=False),),
            ),
            Mistake(
                "the transpose of X",
                _by_the_formula(inverse=False),
                "the columns of X are not orthonormal: X⁺ is not Xᵀ.",
            ),
        ),
    ),
    Exercise(
        "through a zero of the known solution",
        solution=_legendre,
        inputs=_through_zero,
        mistakes=(
            Mistake(
                "the other sign",
                lambda k, t: -_legendre(k, t),
                "this is a solution, but at 0 it is -1.",
            ),
            Mistake(
                "D upside down",
                lambda k, t: 1 + (t / k) ** 2,
                "D = exp(-∫p) and p = -2t/(k² - t²), so D is k²/(k² - t²).",
            ),
            Mistake(
                "not divided by k² - t²",
                lambda k, t: math.exp(t * t) - math.sqrt(math.pi) * t * float(erfi(t)),
                "first divide the equation by k² - t²: p is the coefficient of y's derivative "
                "when that of its second derivative is 1.",
            ),
            Mistake(
                "k = 1",
                lambda k, t: 1 - t * math.atanh(t),
                "this solves the equation for k = 1.",
            ),
            Mistake(
                "the factor 1/k",
                lambda k, t: 1 - t * math.atanh(t / k),
                "does it solve the equation? The antiderivative of 1/(k² - t²) is atanh(t/k)/k.",
                variants=(lambda k, t: 1 - t / k**2 * math.atanh(t / k),),
            ),
            Mistake(
                "twice atanh",
                lambda k, t: 1 - t / k * math.log((k + t) / (k - t)),
                "atanh(u) is half of ln((1 + u)/(1 - u)).",
            ),
            Mistake(
                "an arc tangent",
                lambda k, t: 1 - t / k * math.atan(t / k),
                "the arc tangent belongs to 1/(k² + t²); here it is 1/(k² - t²).",
            ),
            Mistake(
                "the sign of the second term",
                lambda k, t: 1 + t / k * math.atanh(t / k),
                "value and slope at 0 are right, but does it solve the equation? At t = 0 it says "
                "that the second derivative is -2/k².",
                variants=(lambda k, t: 1 + t * math.atanh(t / k),),
            ),
            Mistake(
                "without D",
                lambda k, t: 1.0,
                "the integrand is D/y², not 1/y².",
            ),
            Mistake(
                "a multiple of t is left",
                lambda k, t: t + _legendre(k, t),
                "the slope at 0 must be 0: take away the right multiple of t.",
            ),
        ),
    ),
)
