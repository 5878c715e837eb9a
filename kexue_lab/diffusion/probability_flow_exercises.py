"""What the exercises of diffusion/probability_flow check."""

import math
from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kexue_lab.exercises import Exercise, Mistake

Array = NDArray[np.float64]
Inputs = Iterator[tuple[Any, ...]]


# ---------------------------------------------------------------------------- 1: the memory


def _still_clouds(rng: np.random.Generator) -> Inputs:
    yield 0.5, 0.7, 1.3
    for _ in range(4):
        yield float(rng.uniform(0.3, 1.5)), float(rng.uniform(0.3, 0.9)), float(rng.uniform(0.4, 2))
    yield 0.8, 1.3, 0.6


def _memory(theta: float, eta: float, t: float) -> float:
    return math.exp(-(eta**2) * theta * t)


# ---------------------------------------------------------------------------- 2: the straight line


def _times(rng: np.random.Generator) -> Inputs:
    yield (0.3,)
    yield from ((float(t),) for t in rng.uniform(0.05, 0.95, 5))


# ---------------------------------------------------------------------------- 3: no shrinking


class _BellNoise:
    """The mean noise of data N(m, s²) in x_t = x_0 + tε."""

    def __init__(self, m: float, s: float) -> None:
        self.m, self.s = m, s

    def __call__(self, x: Array, t: float) -> Array:
        guess: Array = t * (x - self.m) / (self.s**2 + t**2)
        return guess

    def __repr__(self) -> str:
        return f"the mean noise of the data N({self.m:.2f}, {self.s:.2f}²)"


def _growing(rng: np.random.Generator) -> Inputs:
    for eta in (0.7, 1.3, 0.0):
        noise = _BellNoise(float(rng.uniform(0.5, 1.5)), float(rng.uniform(0.4, 0.8)))
        times = [2.0, 1.5, 0.9, 0.4, 0.1]
        x = (2 * rng.normal(size=3)).round(2) + 1
        yield x, noise, times, eta, rng.normal(size=(4, 3)).round(2)


def _without_shrinking(
    x: Array,
    noise: Callable[[Array, float], Array],
    times: list[float],
    eta: float,
    z: Array,
    *,
    faults: tuple[str, ...] = (),
) -> Array:
    for k in range(len(times) - 1):
        t, u = times[k], times[k + 1]
        rate = t**2 if "rate" in faults else 2 * t
        guess = noise(x, t)
        score = -t * guess if "score" in faults else -guess / t
        sign = -1 if "forwards" in faults else 1
        drift = -0.5 * (1 + sign * eta**2) * rate * score
        x = x + (u - t) * drift + eta * np.sqrt(rate * (t - u)) * z[k]
    return x


_FAULTS = {
    "rate": "the noise rate is the derivative of the variance t² (nothing is shrunk, so nothing "
    "is lost).",
    "score": "by (7) the mean noise must be divided by the size of the noise.",
    "forwards": "backwards the score must also make up for the fresh noise: 1 + η².",
}


def _left(faults: tuple[str, ...]) -> Mistake:
    """The answer in which these faults are left."""
    return Mistake(
        f"left as it was: {', '.join(faults)}",
        lambda *a: _without_shrinking(*a, faults=faults),
        " And: ".join(_FAULTS[fault] for fault in faults),
    )


# ---------------------------------------------------------------------------- 4: another velocity

_WIDTH = 1e-4


def _stencils(rng: np.random.Generator) -> Inputs:
    """Points of the plane, each in the middle of four neighbours at the distance `_WIDTH`."""
    for _ in range(3):
        centre = rng.uniform(-1.5, 1.5, size=(2, 6, 1))
        shift = _WIDTH * np.array([[0, 1, -1, 0, 0], [0, 0, 0, 1, -1]])[:, None, :]
        x, y = centre + shift
        yield x.ravel(), y.ravel(), round(float(rng.uniform(0.2, 2)), 2)


def _radial(x: Array, y: Array, t: float) -> tuple[Array, Array]:
    return x / (2 * (1 + t)), y / (2 * (1 + t))


def _swirl(x: Array, y: Array, t: float) -> tuple[Array, Array]:
    a, b = _radial(x, y, t)
    return a - y, b + x


def _not_another(answer: Any, x: Array, y: Array, t: float) -> str | None:
    try:
        first, second = (np.asarray(part, dtype=np.float64) for part in answer)
    except (TypeError, ValueError):
        return "return two arrays: the velocity along x, and along y"
    if first.shape != x.shape or second.shape != x.shape:
        return f"both arrays must have the shape {x.shape}, got {first.shape} and {second.shape}"
    u, v, at_x, at_y = (part.reshape(-1, 5) for part in (first, second, x, y))
    spread = (u[:, 1] - u[:, 2] + v[:, 3] - v[:, 4]) / (2 * _WIDTH)
    along = (u[:, 0] * at_x[:, 0] + v[:, 0] * at_y[:, 0]) / (1 + t)
    distance2 = at_x[:, 0] ** 2 + at_y[:, 0] ** 2
    # ∂_t ln p = −∇·v − v·∇ln p, for p = N(0, (1 + t) I).
    wanted = -1 / (1 + t) + distance2 / (2 * (1 + t) ** 2)
    worst = float(np.abs(-spread + along - wanted).max())
    if not worst < 1e-4:
        return f"the density would change otherwise: its logarithm's rate is off by {worst:.3g}"
    own = _radial(x, y, t)
    if not max(np.abs(first - own[0]).max(), np.abs(second - own[1]).max()) > 0.01:
        return "this is the velocity of the probability-flow ODE itself"
    return None


# ---------------------------------------------------------------------------- 5: hops


def _rows(rng: np.random.Generator) -> Inputs:
    # Flows in both directions, also where the larger rate belongs to the smaller flow.
    yield np.array([0.1, 0.4, 0.3, 0.2]), np.array([2.0, 1.0, 0.5]), np.array([1.0, 0.5, 2.0])
    for n in (3, 5, 6):
        p = rng.uniform(0.2, 1, n + 1)
        yield p / p.sum(), rng.uniform(0.2, 2, n), rng.uniform(0.2, 2, n)


def _one_way(flow: Array, rising: Array, falling: Array) -> tuple[Array, Array]:
    """The rates of a flow in one direction at each link, per particle at these shares."""
    return np.maximum(flow, 0) / rising, np.maximum(-flow, 0) / falling


def _fewest_hops(p: Array, up: Array, down: Array) -> tuple[Array, Array]:
    return _one_way(up * p[:-1] - down * p[1:], p[:-1], p[1:])


EXERCISES = (
    Exercise(
        "how much of the start is left",
        solution=_memory,
        inputs=_still_clouds,
        mistakes=(
            Mistake(
                "the given process",
                lambda theta, eta, t: math.exp(-theta * t),
                "this is the given process, η = 1; without noise, η = 0, nothing must be "
                "forgotten.",
            ),
            Mistake(
                "η for its square",
                lambda theta, eta, t: math.exp(-eta * theta * t),
                "the share of the noise rate is η², not η.",
            ),
            Mistake(
                "the squared correlation",
                lambda theta, eta, t: math.exp(-2 * eta**2 * theta * t),
                "this is the square of the correlation: variances fall twice as fast as means.",
            ),
            Mistake(
                "the widening cloud",
                lambda theta, eta, t: (1 + t) ** (-(eta**2) / 2),
                "this is the widening cloud of step 6; find this cloud's drift by (3), with its "
                "own score −x.",
            ),
            Mistake(
                "the backward drift",
                lambda theta, eta, t: math.exp(-(2 + eta**2) * theta * t),
                "a sign in (3): the score −x is multiplied by −½(1 − η²)·2θ, which weakens the "
                "drift −θx.",
            ),
        ),
    ),
    Exercise(
        "drift and noise rate of the straight line",
        solution=lambda t: (-1 / (1 - t), 2 * t / (1 - t)),
        inputs=_times,
        mistakes=(
            Mistake(
                "as if ᾱ² + β̄² were 1",
                lambda t: (-1 / (1 - t), 2 / (1 - t)),
                "g² = −2f needs ᾱ² + β̄² = 1, which does not hold here: take (6).",
            ),
            Mistake(
                "no shrinking",
                lambda t: (-1 / (1 - t), 2 * t),
                "the drift shrinks the noise too, and g² must make up for it: (6) has a second "
                "term.",
            ),
            Mistake(
                "the sign of the drift",
                lambda t: (1 / (1 - t), 2 * t / (1 - t)),
                "the datum shrinks: ln(1 − t) falls.",
            ),
            Mistake(
                "both signs",
                lambda t: (1 / (1 - t), 2 * t - 2 * t**2 / (1 - t)),
                "the datum shrinks: ln(1 − t) falls; with its right sign the noise rate comes "
                "right.",
            ),
            Mistake(
                "g for its square",
                lambda t: (-1 / (1 - t), math.sqrt(2 * t / (1 - t))),
                "the second number is g; the noise rate is its square.",
            ),
            Mistake(
                "not logarithmic",
                lambda t: (-1.0, 2 * t + 2 * t**2),
                "f_t is the derivative of ln ᾱ_t, not of ᾱ_t: the drift is f_t times x.",
            ),
        ),
    ),
    Exercise(
        "a reverse sampler without shrinking, mended",
        solution=_without_shrinking,
        inputs=_growing,
        mistakes=tuple(_left(faults) for n in (1, 2, 3) for faults in combinations(_FAULTS, n)),
    ),
    Exercise(
        "another velocity with the same densities",
        solution=_swirl,
        inputs=_stencils,
        judge=_not_another,
        mistakes=(
            Mistake(
                "the flow itself",
                _radial,
                "add something to it that moves points without changing the density anywhere.",
            ),
            Mistake(
                "only the rotation",
                lambda x, y, t: (-y, x),
                "a rotation leaves the round cloud as it is; but this cloud must also widen.",
            ),
            Mistake(
                "a wind",
                lambda x, y, t: (_radial(x, y, t)[0] + 1, _radial(x, y, t)[1]),
                "a constant wind has no divergence, but carries the cloud away: it must run along "
                "the circles of equal density.",
            ),
            Mistake(
                "shear",
                lambda x, y, t: (_radial(x, y, t)[0] - y, _radial(x, y, t)[1]),
                "a shear has no divergence, but crosses the circles of equal density.",
            ),
            Mistake(
                "a saddle",
                lambda x, y, t: (_radial(x, y, t)[0] + x, _radial(x, y, t)[1] - y),
                "stretching one way and squeezing the other has no divergence, but makes the "
                "round cloud long.",
            ),
            Mistake(
                "twice the flow",
                lambda x, y, t: tuple(2 * part for part in _radial(x, y, t)),
                "then the cloud widens too fast: the radial part is settled, what can be added is "
                "motion along the circles.",
            ),
        ),
    ),
    Exercise(
        "as few hops as possible",
        solution=_fewest_hops,
        inputs=_rows,
        mistakes=(
            Mistake(
                "rates for flows",
                lambda p, up, down: _one_way(up - down, np.ones(len(up)), np.ones(len(up))),
                "rates are not flows: what passes a link upwards is up[i] times p[i].",
            ),
            Mistake(
                "flows for rates",
                lambda p, up, down: _one_way(
                    up * p[:-1] - down * p[1:], np.ones(len(up)), np.ones(len(up))
                ),
                "this is the flow; a rate is a flow per particle at the place that it leaves.",
            ),
            Mistake(
                "divided by the place of arrival",
                lambda p, up, down: _one_way(up * p[:-1] - down * p[1:], p[1:], p[:-1]),
                "the rate is per particle at the place that they *leave*.",
            ),
            Mistake(
                "one direction only",
                lambda p, up, down: (
                    (up * p[:-1] - down * p[1:]) / p[:-1],
                    np.zeros(len(up)),
                ),
                "a rate cannot be negative: where the flow goes down, let it be down's.",
            ),
            Mistake(
                "up and down exchanged",
                lambda p, up, down: _fewest_hops(p, up, down)[::-1],
                "return the new up first, then the new down.",
            ),
        ),
    ),
)
