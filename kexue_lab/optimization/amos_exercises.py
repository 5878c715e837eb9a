"""What the exercises of optimization/amos check."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import sympy as sp

from kexue_lab.exercises import Exercise, Mistake

Inputs = Iterator[tuple[Any, ...]]
Array = np.ndarray


def _settings(rng: np.random.Generator) -> Inputs:
    for _ in range(6):
        lr, sigma, q = rng.uniform(1e-4, 1e-2), rng.uniform(0.02, 0.3), rng.uniform(0.2, 0.9)
        yield float(lr), float(sigma), float(q)


def _exponents(rng: np.random.Generator) -> Inputs:
    for _ in range(6):
        yield (float(rng.uniform(0.3, 1.9)),)


def _ratios(rng: np.random.Generator) -> Inputs:
    for _ in range(6):
        yield (float(rng.uniform(1.2, 3) ** rng.choice([-1, 1])),)


def _symbols(_rng: np.random.Generator) -> Inputs:
    yield (sp.Symbol("r", positive=True),)
    yield (sp.Symbol("a", positive=True),)


def _steps(rng: np.random.Generator) -> Inputs:
    for shape in ((3, 4), (7,), (2, 5)):
        theta, g = rng.standard_normal(shape), 3 * rng.standard_normal(shape)
        numbers = rng.uniform(0.02, 0.3), rng.uniform(0.2, 0.6), rng.uniform(0.2, 0.8)
        yield theta, g, *(float(v) for v in numbers)


def _step(theta: Array, g: Array, sigma: float, alpha0: float, factor: float) -> Array:
    """The scaled step along the gradient with q = 1."""
    u = g / np.linalg.norm(g)
    stride = alpha0 * math.sqrt(theta.size) * sigma
    moved: Array = theta - factor * (stride * u + alpha0**2 / 2 * theta)
    return moved


def _decay_of_scale(theta: Array, g: Array, sigma: float, alpha0: float, factor: float) -> Array:
    pull = (1 - sigma) * factor * alpha0**2 / 2 * theta
    return _step(theta, g, sigma, alpha0, factor) + pull


def _not_normalised(theta: Array, g: Array, sigma: float, alpha0: float, factor: float) -> Array:
    stride = alpha0 * math.sqrt(theta.size) * sigma
    moved: Array = theta - factor * (stride * g + alpha0**2 / 2 * theta)
    return moved


def _no_root(theta: Array, g: Array, sigma: float, alpha0: float, factor: float) -> Array:
    u = g / np.linalg.norm(g)
    moved: Array = theta - factor * (alpha0 * sigma * u + alpha0**2 / 2 * theta)
    return moved


def _decay_stays(theta: Array, g: Array, sigma: float, alpha0: float, factor: float) -> Array:
    return _step(theta, g, sigma, alpha0, factor) - (1 - factor) * alpha0**2 / 2 * theta


def _first_order(theta: Array, g: Array, sigma: float, alpha0: float, factor: float) -> Array:
    return _step(theta, g, sigma, alpha0, factor) - factor * (alpha0 - alpha0**2) / 2 * theta


def _no_half(theta: Array, g: Array, sigma: float, alpha0: float, factor: float) -> Array:
    return _step(theta, g, sigma, alpha0, factor) - factor * alpha0**2 / 2 * theta


EXERCISES = (
    Exercise(
        "the weight decay that the theory asks of AdamW",
        solution=lambda lr, sigma, q: lr / (2 * q * sigma**2),
        inputs=_settings,
        mistakes=(
            Mistake(
                "the rate for the relative step",
                lambda lr, sigma, q: lr**2 / (2 * q),
                "lr is a step in units of the weights; α0 is one in units of σ. And AdamW "
                "multiplies its decay by lr once more.",
            ),
            Mistake(
                "the scale forgotten",
                lambda lr, sigma, q: lr / (2 * q),
                "lr is a step in units of the weights; what is it in units of σ?",
            ),
            Mistake(
                "the scale once",
                lambda lr, sigma, q: lr / (2 * q * sigma),
                "ρ is proportional to the square of the relative step: the scale comes in twice.",
            ),
            Mistake(
                "rho itself",
                lambda lr, sigma, q: (lr / sigma) ** 2 / (2 * q),
                "that is what a step takes away of θ; AdamW takes away lr times its weight_decay.",
            ),
            Mistake(
                "q = 1",
                lambda lr, sigma, q: lr / (2 * sigma**2),
                "the answer depends on q.",
            ),
            Mistake(
                "no half",
                lambda lr, sigma, q: lr / (q * sigma**2),
                "mind the 2 in the rule for ρ.",
            ),
        ),
    ),
    Exercise(
        "the progress that makes the rate fall as a given power",
        solution=lambda n: 2 / n - 1,
        inputs=_exponents,
        mistakes=(
            Mistake(
                "the one forgotten",
                lambda n: 2 / n,
                "that is 1 + β: S' has a factor e^(-S) of its own, besides that of the progress.",
            ),
            Mistake(
                "the distance instead of the rate",
                lambda n: 1 / n - 1,
                "that makes the distance fall as t^(-n); the learning rate falls as its square.",
            ),
            Mistake(
                "the inverse",
                lambda n: 1 / n,
                "the learning rate is the square of e^(-S), and S' has a factor e^(-S) besides "
                "that of the progress.",
            ),
            Mistake(
                "upside down",
                lambda n: n / 2 - 1,
                "faster slowing down must give a slower schedule: β falls with n.",
            ),
        ),
    ),
    Exercise(
        "q at the start for an end point of another length",
        solution=lambda r: 1 / (1 + r**2),
        inputs=_ratios,
        mistakes=(
            Mistake(
                "the article's assumption",
                lambda r: 1.0,
                "q = 1 needs θ* at a right angle to the *error* θ0 - θ*, not to θ0.",
            ),
            Mistake(
                "equal lengths",
                lambda r: 0.5,
                "that is so for r = 1. Write ε0 = θ0 - θ* and compute θ0·ε0 and |ε0|² with "
                "|θ*| = r|θ0|.",
            ),
            Mistake(
                "the part of θ*",
                lambda r: r**2 / (1 + r**2),
                "this is the share of |θ*|² in |ε0|²; θ0·ε0 is the other share.",
            ),
            Mistake(
                "not squared",
                lambda r: 1 / (1 + r),
                "at a right angle the *squares* of the lengths add up.",
            ),
        ),
    ),
    Exercise(
        "a scaled step, mended",
        solution=_step,
        inputs=_steps,
        keeps_inputs=True,
        mistakes=(
            Mistake(
                "decay in units of σ",
                _decay_of_scale,
                "α0² is a pure number and θ already has the unit of θ: stored as θ/c, this decay "
                "would shrink c times too little.",
            ),
            Mistake(
                "not normalised",
                _not_normalised,
                "a gradient that is c times as long must give the same step.",
            ),
            Mistake(
                "no root of k",
                _no_root,
                "a unit vector has entries of size 1/√k; the length of the step shall be α0 "
                "times that of a tensor of k entries of size σ.",
            ),
            Mistake(
                "the decay does not decay",
                _decay_stays,
                "learning rate and weight decay fall by the same factor.",
            ),
            Mistake(
                "decay of first order",
                _first_order,
                "the weight decay must be of second order in α0.",
            ),
            Mistake("no half", _no_half, "with q = 1 the weight decay is half of α0²."),
        ),
    ),
    Exercise(
        "where on the way the weight decay begins to push away",
        solution=lambda r: r**2 / (1 + r**2),
        inputs=_symbols,
        mistakes=(
            Mistake(
                "equal lengths",
                lambda r: sp.Rational(1, 2),
                "that is so for r = 1 only. Where is θ·ε = 0 for another length of θ*?",
            ),
            Mistake(
                "never",
                lambda r: sp.Integer(0),
                "near θ* the weight decay pulls to the origin, and so away from θ*; where does "
                "θ·ε change its sign?",
            ),
            Mistake(
                "the share of the start",
                lambda r: 1 / (1 + r**2),
                "look at r → 0, where θ* is the origin: the weight decay pulls towards it all the "
                "way.",
            ),
            Mistake(
                "not squared",
                lambda r: r / (1 + r),
                "at a right angle the *squares* of the lengths add up.",
            ),
        ),
    ),
)
