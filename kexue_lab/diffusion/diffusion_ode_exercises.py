"""What the exercises of diffusion/diffusion_ode check."""

import math
from collections.abc import Callable, Iterator
from itertools import combinations, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import quad

from kexue_lab.exercises import Exercise, Mistake

Array = NDArray[np.float64]
Inputs = Iterator[tuple[Any, ...]]
_TURN = np.array([[0.0, -1.0], [1.0, 0.0]])


# ---------------------------------------------------------------------------- 1: the straight line


def _places(rng: np.random.Generator) -> Inputs:
    yield 1.3, 0.7, 0.6, 0.4
    for _ in range(5):
        x, m = rng.normal(0.8, 1.0, size=2)
        yield float(x), float(rng.uniform(0.1, 0.9)), float(m), float(rng.uniform(0.3, 0.8))


def _guesses(x: float, t: float, m: float, s: float) -> tuple[float, float]:
    """The mean noise and the mean datum."""
    pull = (x - (1 - t) * m) / ((1 - t) ** 2 * s**2 + t**2)
    return t * pull, m + (1 - t) * s**2 * pull


def _straight(x: float, t: float, m: float, s: float) -> float:
    noise, datum = _guesses(x, t, m, s)
    return noise - datum


# ---------------------------------------------------------------------------- 2: the floor


def _sizes(rng: np.random.Generator) -> Inputs:
    yield 0.6, 0.8
    yield from ((float(a), float(b)) for a, b in rng.uniform(0.4, 1.6, size=(5, 2)))


def _datum_variance(alpha_bar: float, beta_bar: float) -> float:
    """The mean of Var(x_0 | x) = 1 - tanh²(ᾱx/β̄²); by symmetry with x around +ᾱ."""
    ratio = alpha_bar / beta_bar

    def integrand(z: float) -> float:
        bell = math.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
        return bell * (1 - math.tanh(ratio**2 + ratio * z) ** 2)

    return float(quad(integrand, -12, 12, points=(-ratio, 0.0), epsabs=1e-12, limit=200)[0])


def _floor(alpha_bar: float, beta_bar: float) -> float:
    return (alpha_bar / beta_bar) ** 2 * _datum_variance(alpha_bar, beta_bar)


def _gaussian_floor(alpha_bar: float, beta_bar: float) -> float:
    return alpha_bar**2 / (alpha_bar**2 + beta_bar**2)


def _typical_floor(alpha_bar: float, beta_bar: float) -> float:
    ratio = alpha_bar / beta_bar
    return ratio**2 * (1 - math.tanh(ratio**2) ** 2)


# ---------------------------------------------------------------------------- 3: the midpoint


class _BellNoise:
    """The mean noise of data N(m, s²) in x = ᾱx_0 + β̄ε."""

    def __init__(self, m: float, s: float) -> None:
        self.m, self.s = m, s

    def __call__(self, x: Array, alpha_bar: float, beta_bar: float) -> Array:
        spread = alpha_bar**2 * self.s**2 + beta_bar**2
        guess: Array = beta_bar * (x - alpha_bar * self.m) / spread
        return guess

    def __repr__(self) -> str:
        return f"the mean noise of the data N({self.m:.2f}, {self.s:.2f}²)"


def _levels(rng: np.random.Generator) -> Inputs:
    for levels in ([3.0, 1.2, 0.4], [2.0, 1.5, 0.6, 0.1], [4.0, 0.9]):
        noise = _BellNoise(float(rng.uniform(0.5, 1.5)), float(rng.uniform(0.4, 0.8)))
        yield (2 * rng.normal(size=3)).round(2) + 1, noise, levels


def _midpoint(
    y: Array,
    noise: Callable[[Array, float, float], Array],
    levels: list[float],
    *,
    faults: tuple[str, ...] = (),
) -> Array:
    for s, u in pairwise(levels):
        half = (s + u) / 2 if "half" in faults else math.sqrt(s * u)
        shrunk = 1 / math.sqrt(1 + s**2)
        slope = noise(y if "unshrunk" in faults else shrunk * y, shrunk, s * shrunk)
        trial = y + ((u if "whole" in faults else half) - s) * slope
        shrunk = 1 / math.sqrt(1 + half**2)
        slope = noise(shrunk * trial, shrunk, half * shrunk)
        y = (trial if "start" in faults else y) + (u - s) * slope
    return y


_FAULTS = {
    "half": "half a step in ln σ ends at √(σu), not at the mean of σ and u.",
    "unshrunk": "the noise model wants x = ᾱy, at both looks.",
    "whole": "the trial goes to the middle only.",
    "start": "the whole step starts where the trial started, not where it ended.",
}


def _left(faults: tuple[str, ...]) -> Mistake:
    """The answer in which these faults are left."""
    return Mistake(
        f"left as it was: {', '.join(faults)}",
        lambda *a: _midpoint(*a, faults=faults),
        " And: ".join(_FAULTS[fault] for fault in faults),
    )


# ---------------------------------------------------------------------------- 4: stirring


def _covariances(rng: np.random.Generator) -> Inputs:
    yield (np.diag([1.0, 0.25]),)
    for _ in range(4):
        shape = rng.normal(size=(2, 2))
        yield (shape @ shape.T + np.diag([0.8, 0.3]),)


def _judge_gauge(G: Any, C: Array) -> str | None:
    """What is wrong with the field Gx for the density N(0, C); None if it keeps the density."""
    field = np.asarray(G, dtype=np.float64)
    if field.shape != (2, 2) or not np.isfinite(field).all():
        return f"G must be a finite (2, 2) array, got shape {field.shape}"
    size = np.abs(field).max()
    if size < 0.01:
        return "no entry of G is larger than 0.01 in size; find a field that turns the paths"
    field = field / size
    points = np.random.default_rng().normal(size=(20, 2)) @ np.linalg.cholesky(C).T
    # ∇·(r p)/p = ∇·r + r·∇ ln p
    pull = -np.einsum("bi,bi->b", points @ field.T, np.linalg.solve(C, points.T).T)
    worst = np.abs(np.trace(field) + pull).max()
    if worst > 1e-8:
        return f"∇·(r p)/p is not 0: at some point it is {worst:.4g}"
    return None


# ---------------------------------------------------------------------------- 5: three looks


def _four_levels(rng: np.random.Generator) -> Inputs:
    yield ([5.0, 3.0, 2.0, 0.5],)
    for _ in range(4):
        yield (np.cumsum(rng.uniform(0.2, 1.5, size=4))[::-1].tolist(),)


def _area_weights(nodes: Array, start: float, end: float) -> Array:
    """Weights of the slopes at the nodes for the area of their polynomial from start to end."""
    shifted, power = nodes - start, np.arange(len(nodes))
    moments = (end - start) ** (power + 1.0) / (power + 1)
    return np.asarray(np.linalg.solve(shifted[None] ** power[:, None], moments))


def _three(levels: list[float]) -> Array:
    *nodes, end = levels
    return _area_weights(np.array(nodes), nodes[-1], end)


def _two(levels: list[float]) -> Array:
    return np.concatenate([[0.0], _area_weights(np.array(levels[1:3]), levels[2], levels[3])])


def _middle_height(levels: list[float]) -> Array:
    *nodes, end = levels
    middle, weights = (nodes[-1] + end) / 2, []
    for k, node in enumerate(nodes):
        others = [other for i, other in enumerate(nodes) if i != k]
        weights.append(np.prod([(middle - other) / (node - other) for other in others]))
    return (end - nodes[-1]) * np.array(weights)


def _equal_widths(levels: list[float]) -> Array:
    return (levels[3] - levels[2]) * np.array([5.0, -16.0, 23.0]) / 12


EXERCISES = (
    Exercise(
        title="the velocity of Gaussian data on a straight line",
        solution=_straight,
        inputs=_places,
        mistakes=(
            Mistake(
                "the mean as the datum",
                lambda x, t, m, s: (x - (1 - t) * m) / t - m,
                "this is the velocity of one datum, m; take the mean of (3) over the data that may "
                "be at x: x̂_0 depends on x.",
            ),
            Mistake(
                "backwards",
                lambda x, t, m, s: -_straight(x, t, m, s),
                "the sign: t runs from data to noise, and the datum shrinks, dᾱ/dt = −1.",
            ),
            Mistake(
                "as if ᾱ² + β̄² were 1",
                lambda x, t, m, s: (-x + _guesses(x, t, m, s)[0] / t) / (1 - t),
                "g² = −2f needs ᾱ² + β̄² = 1, which does not hold here: use (4) itself.",
            ),
            Mistake(
                "the datum is not shrunk",
                lambda x, t, m, s: (t - (1 - t) * s**2) * (x - (1 - t) * m) / (s**2 + t**2) - m,
                "the variance of x_t is (1 − t)²s² + t²: the data's width shrinks too.",
            ),
            Mistake(
                "the deviation for the variance",
                lambda x, t, m, s: _straight(x, t, m, math.sqrt(s)),
                "the data's deviation s enters squared.",
            ),
            Mistake(
                "the noise alone",
                lambda x, t, m, s: _guesses(x, t, m, s)[0],
                "the centre moves too: add dᾱ/dt x̂_0.",
            ),
        ),
    ),
    Exercise(
        title="the loss of a perfect network",
        solution=_floor,
        inputs=_sizes,
        rtol=1e-5,
        atol=1e-7,
        mistakes=(
            Mistake(
                "nothing",
                lambda a, b: 0.0,
                "given x the noise is still uncertain: it depends on which datum it was.",
            ),
            Mistake(
                "the noise's variance",
                lambda a, b: 1.0,
                "this is the loss of the network that always answers 0; x tells something.",
            ),
            Mistake(
                "the datum's variance",
                _datum_variance,
                "this is the mean variance of the datum given x; by x = ᾱx_0 + β̄ε the noise's is "
                "(ᾱ/β̄)² times as large.",
            ),
            Mistake(
                "a bell for the coin",
                _gaussian_floor,
                "this is the loss for the data N(0, 1), whose mean noise is a straight line in x; "
                "the coin's is not.",
            ),
            Mistake(
                "at one place",
                _typical_floor,
                "this is the variance at x = ᾱ only; take its mean over all x.",
            ),
        ),
    ),
    Exercise(
        title="the midpoint method, mended",
        solution=_midpoint,
        inputs=_levels,
        mistakes=tuple(_left(faults) for n in (1, 2, 3, 4) for faults in combinations(_FAULTS, n)),
    ),
    Exercise(
        title="a velocity that stirs N(0, C)",
        solution=lambda C: C @ _TURN,
        inputs=_covariances,
        judge=_judge_gauge,
        mistakes=(
            Mistake(
                "outwards",
                lambda C: np.eye(2),
                "r = x spreads the density: ∇·(r p) is not 0.",
            ),
            Mistake(
                "a plain rotation",
                lambda C: _TURN,
                "a rotation runs along circles; the level lines of p are ellipses.",
            ),
            Mistake(
                "the axes of the diagonal",
                lambda C: np.diag(np.diag(C)) @ _TURN,
                "this looks at the diagonal of C only: the ellipses are tilted.",
            ),
            Mistake(
                "the factors in the wrong order",
                lambda C: np.linalg.solve(C, _TURN),
                "C⁻¹G must be antisymmetric; here it is C⁻²J.",
            ),
            Mistake(
                "C on the wrong side",
                lambda C: _TURN @ C,
                "C⁻¹G must be antisymmetric; with G = JC it is C⁻¹JC.",
            ),
        ),
    ),
    Exercise(
        title="weights of three looks",
        solution=_three,
        inputs=_four_levels,
        mistakes=(
            Mistake(
                "equal widths",
                _equal_widths,
                "23, −16 and 5 twelfths belong to steps of equal width; here the widths differ.",
            ),
            Mistake(
                "the other order",
                lambda levels: _three(levels)[::-1],
                "the order: first the weight of the oldest look, at σ''.",
            ),
            Mistake(
                "the height in the middle",
                _middle_height,
                "for a parabola the area is not width times height in the middle: integrate it.",
            ),
            Mistake(
                "without the width",
                lambda levels: _three(levels) / (levels[3] - levels[2]),
                "these are the weights of a mean height; the area is the width times that. The "
                "weights of an area add up to u − σ.",
            ),
            Mistake(
                "two looks",
                _two,
                "this is the straight line through two looks, (10); use the third as well.",
            ),
            Mistake(
                "the sign of the width",
                lambda levels: -_three(levels),
                "time runs backwards: the width u − σ is negative.",
            ),
        ),
    ),
)
