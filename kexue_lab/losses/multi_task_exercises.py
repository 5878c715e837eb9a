"""What the exercises of losses/multi_task check."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kexue_lab.exercises import Exercise, Mistake

Inputs = Iterator[tuple[Any, ...]]
Array = NDArray[np.float64]


# --- blind guesses


def _blind(rng: np.random.Generator) -> Inputs:
    yield np.array([0.5, 0.1, 0.05]), np.array([1.0, 2.0, 4.0, 9.0, 30.0])
    for labels, size in ((2, 7), (4, 9), (6, 15)):
        yield rng.uniform(0.02, 0.4, labels), rng.exponential(3, size) ** 1.5


def _coins(f: Array) -> Array:
    return np.asarray(-f * np.log(f) - (1 - f) * np.log1p(-f))


def _spread(y: Array) -> float:
    return float(np.abs(y - np.median(y)).mean())


def _guessed(f: Array, y: Array) -> Array:
    return np.array([_coins(f).sum(), _spread(y)])


# --- the loss of the moment


def _leaves(rng: np.random.Generator) -> Inputs:
    yield (torch.tensor([0.5, 2.0], dtype=torch.float64, requires_grad=True),)
    for size in (2, 3, 4):
        drawn = torch.from_numpy(rng.uniform(0.2, 5, size))
        yield (drawn.requires_grad_(),)


def _slope(result: Any, losses: Tensor) -> Array:
    if not isinstance(result, Tensor) or result.ndim:
        raise TypeError(f"the result must be a scalar tensor, got {type(result).__name__}")
    if not result.requires_grad:
        return np.zeros(len(losses))
    (slope,) = torch.autograd.grad(result, losses, allow_unused=True)
    return np.zeros(len(losses)) if slope is None else slope.numpy()


# --- the table


def _table(*rows: tuple[int, int]) -> Callable[[], Array]:
    return lambda: np.array(rows)


_ANSWER = ((0, 1), (1, 0), (1, 0), (1, 1), (1, 0), (0, 0))


def _but(row: int, values: tuple[int, int]) -> Callable[[], Array]:
    return lambda: np.array([*_ANSWER[:row], values, *_ANSWER[row + 1 :]])


# --- the floor


def _far(rng: np.random.Generator) -> Inputs:
    yield 3.0, 10.0
    yield from ((float(d), float(c)) for d, c in rng.uniform((1.5, 2), (6, 40), (4, 2)))


# --- normalised gradients


def _gradients(rng: np.random.Generator) -> Inputs:
    yield np.array([3.0, 4.0]), np.array([12.0]), np.array([0.0, -0.1]), np.array([0.2, 0.3])
    for trunk, first, second in ((3, 2, 4), (5, 1, 3), (2, 4, 4)):
        sizes = (trunk, first, trunk, second)
        scales = 10 ** rng.uniform(-2, 2, 4)
        yield tuple(s * rng.normal(size=n) for s, n in zip(scales, sizes, strict=True))


def _norm(*parts: Array) -> float:
    return float(np.linalg.norm(np.concatenate(parts)))


def _steps(t1: Array, h1: Array, t2: Array, h2: Array, one: float, two: float) -> list[Array]:
    return [t1 / one + t2 / two, h1 / one, h2 / two]


def _normalised(t1: Array, h1: Array, t2: Array, h2: Array) -> list[Array]:
    return _steps(t1, h1, t2, h2, _norm(t1), _norm(t2))


def _with_heads(t1: Array, h1: Array, t2: Array, h2: Array) -> list[Array]:
    return _steps(t1, h1, t2, h2, _norm(t1, h1), _norm(t2, h2))


def _squares(t1: Array, h1: Array, t2: Array, h2: Array) -> list[Array]:
    return _steps(t1, h1, t2, h2, _norm(t1) ** 2, _norm(t2) ** 2)


def _squares_with_heads(t1: Array, h1: Array, t2: Array, h2: Array) -> list[Array]:
    return _steps(t1, h1, t2, h2, _norm(t1, h1) ** 2, _norm(t2, h2) ** 2)


def _heads_left(t1: Array, h1: Array, t2: Array, h2: Array) -> list[Array]:
    return [_normalised(t1, h1, t2, h2)[0], h1, h2]


def _heads_alone(t1: Array, h1: Array, t2: Array, h2: Array) -> list[Array]:
    return [_normalised(t1, h1, t2, h2)[0], h1 / _norm(h1), h2 / _norm(h2)]


# --- the mean behind it


def _exponents(rng: np.random.Generator) -> Inputs:
    yield (2.0,)
    yield from ((float(k),) for k in rng.uniform(1.2, 6, 4))


EXERCISES = (
    Exercise(
        "two more blind guesses",
        solution=_guessed,
        inputs=_blind,
        mistakes=(
            Mistake(
                "one of several classes",
                lambda f, y: np.array([-(f * np.log(f)).sum(), _spread(y)]),
                "the labels are independent coins: a label that is absent costs something, too.",
                variants=(
                    lambda f, y: np.array([-(f / f.sum() * np.log(f / f.sum())).sum(), _spread(y)]),
                ),
            ),
            Mistake(
                "the start's loss",
                lambda f, y: np.array([len(f) * np.log(2), _spread(y)]),
                "log 2 for each label is the loss of outputs 0; a blind guess knows the rates.",
            ),
            Mistake(
                "away from the mean",
                lambda f, y: np.array([_coins(f).sum(), np.abs(y - y.mean()).mean()]),
                "is the mean the best guess for absolute errors? Move the guess a little and count "
                "on how many sides the error grows.",
            ),
            Mistake(
                "the variance",
                lambda f, y: np.array([_coins(f).sum(), y.var()]),
                "this is for squared errors; here they are absolute.",
            ),
            Mistake(
                "the mean over the labels",
                lambda f, y: np.array([_coins(f).mean(), _spread(y)]),
                "the loss is summed over the labels.",
            ),
        ),
        rtol=1e-6,
    ),
    Exercise(
        "the loss of the moment, mended",
        solution=lambda losses: losses.log().sum(),
        inputs=_leaves,
        observe=_slope,
        mistakes=(
            Mistake(
                "as it stands",
                lambda losses: (losses / losses).sum(),
                "this is the constant n: its gradient is 0. What is to be held fixed?",
                variants=(
                    lambda losses: (losses / losses).detach().sum(),
                    lambda losses: (losses.detach() / losses.detach()).sum(),
                ),
            ),
            Mistake(
                "the numerator held fixed",
                lambda losses: (losses.detach() / losses).sum(),
                "the gradient has the right size and the wrong sign: hold the weight fixed, not "
                "the loss.",
            ),
            Mistake(
                "the plain sum",
                lambda losses: losses.sum(),
                "each gradient should be divided by its loss.",
            ),
            Mistake(
                "the product",
                lambda losses: losses.prod(),
                "its direction is right, its length is not: the product is multiplied by its "
                "logarithm's gradient. (2) asks for the latter.",
            ),
        ),
        rtol=1e-6,
        atol=1e-9,
    ),
    Exercise(
        "what stays when losses change",
        solution=_table(*_ANSWER),
        mistakes=(
            Mistake(
                "the geometric mean and a constant",
                _but(2, (1, 1)),
                "1/L becomes 1/(L + b): the weights of the geometric mean see the constant.",
            ),
            Mistake(
                "the maximum and a unit",
                _but(5, (1, 0)),
                "which loss is the largest depends on the units.",
                variants=(_but(5, (0, 1)), _but(5, (1, 1))),
            ),
            Mistake(
                "the start and a constant",
                _but(1, (1, 1)),
                "the reference becomes L + b: its inverse changes.",
                variants=(_but(1, (0, 1)),),
            ),
            Mistake(
                "uncertainty at its optimum",
                _but(4, (0, 0)),
                "at its inner optimum its weights are 1/(2 L): which method has these?",
                variants=(_but(4, (1, 1)), _but(4, (0, 1))),
            ),
        ),
    ),
    Exercise(
        "the floor below which one is sacrificed",
        solution=lambda D, c: D**2 / 4,
        inputs=_far,
        mistakes=(
            Mistake(
                "a quarter",
                lambda D, c: 0.25,
                "this is for D = 1; a floor is measured in squared degrees, as D² is.",
            ),
            Mistake(
                "a quarter of the distance",
                lambda D, c: D / 4,
                "set x = D u: each loss becomes D² times one with another floor.",
            ),
            Mistake(
                "the unit counts",
                lambda D, c: c * D**2 / 4,
                "a factor of a loss adds a constant to the logarithm: no minimum moves.",
                variants=(lambda D, c: D**2 / (4 * c), lambda D, c: np.sqrt(c) * D**2 / 4),
            ),
        ),
        rtol=1e-6,
    ),
    Exercise(
        "gradient normalisation, mended",
        solution=_normalised,
        inputs=_gradients,
        mistakes=(
            Mistake(
                "as it stands",
                _squares_with_heads,
                "two faults: whose parameters is the norm to be taken over, and is this a norm?",
            ),
            Mistake(
                "the heads in the norm",
                _with_heads,
                "a task with a steep head would be silenced in the trunk, where both meet.",
            ),
            Mistake(
                "a squared norm",
                _squares,
                "dividing by the square makes c to 1/c: the fainter a task, the louder it gets.",
            ),
            Mistake(
                "heads without a weight",
                _heads_left,
                "the heads keep their task's weight, as the text of the exercise says.",
                variants=(_heads_alone,),
            ),
        ),
        rtol=1e-6,
        atol=1e-9,
    ),
    Exercise(
        "the mean behind normalised gradients",
        solution=lambda k: 1 / k,
        inputs=_exponents,
        mistakes=(
            Mistake(
                "the exponent itself",
                lambda k: k,
                "L to the power γ should have a gradient of length 1 everywhere.",
            ),
            Mistake(
                "the geometric mean",
                lambda k: 0.0,
                "1/L is not 1/‖∇L‖: write both as powers of the distance.",
            ),
            Mistake(
                "the weight's exponent",
                lambda k: (k - 1) / k,
                "this is the power of the loss that ‖∇L‖ is; the mean's weights are L^(γ - 1).",
                variants=(lambda k: -(k - 1) / k, lambda k: k - 1, lambda k: 1 - k),
            ),
        ),
        rtol=1e-6,
    ),
)
