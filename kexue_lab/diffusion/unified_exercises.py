"""What the exercises of diffusion/unified check."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kexue_lab.diffusion.unified import mask_sampler_distribution
from kexue_lab.exercises import Exercise, Mistake

Inputs = Iterator[tuple[Any, ...]]
Array = NDArray[np.float64]
Tokens = tuple[int, ...]


def _steps(rng: np.random.Generator) -> Inputs:
    for _ in range(5):
        late, early = rng.uniform(0.8, 1.4), rng.uniform(0.2, 0.7)
        levels = math.cos(late), math.sin(late), math.cos(early), math.sin(early)
        yield *rng.standard_normal((2, 6)), *levels


def _modes(rng: np.random.Generator) -> Inputs:
    for _ in range(6):
        a, c, s = rng.uniform(0.1, 0.6), rng.uniform(0.3, 3), rng.uniform(0.1, 1)
        yield float(a), float(rng.uniform(0.6, 1)), float(c), float(s), float(rng.uniform(0, 1))


def _texts(rng: np.random.Generator) -> Inputs:
    yield (0, 1, 2, 0), (0, 2, 2, 1)
    for length in (3, 5, 6):
        x = tuple(int(v) for v in rng.integers(0, 4, length))
        guess = [int(v) for v in rng.integers(0, 4, length)]
        guess[0] = (x[0] + 1) % 4  # at least one difference
        yield x, tuple(guess)
    yield (2, 0, 1), (1, 0, 0)  # from the left the states are sorted, above from the right
    yield (2, 0, 1), (2, 0, 1)


def _word_laws(rng: np.random.Generator) -> Inputs:
    for size in (2, 3, 7):
        yield (rng.dirichlet(np.ones(size)),)


def _pair_laws(rng: np.random.Generator) -> Inputs:
    yield (np.diag([0.5, 0.5]),)
    for size in (2, 3, 5):
        yield (rng.dirichlet(np.full(size * size, 0.3)).reshape(size, size),)


def _improved(x: Array, x0_hat: Array, ab_t: float, bb_t: float, ab_u: float, bb_u: float) -> Array:
    return ab_u * x0_hat + bb_u * (x - ab_t * x0_hat) / bb_t


def _lost(a: float, b: float, c: float, s: float, m: float) -> float:
    return (b - a * math.sqrt(1 - m**2)) ** 2 * c * s**2 / (a**2 * c + s**2)


def _restored(x: Tokens, x0_hat: Tokens) -> list[Tokens]:
    places = [i for i in range(len(x)) if x[i] != x0_hat[i]]
    return sorted((*x[:i], x0_hat[i], *x[i + 1 :]) for i in places)


def _restored_anywhere(x: Tokens, x0_hat: Tokens) -> list[Tokens]:
    return sorted({(*x[:i], x0_hat[i], *x[i + 1 :]) for i in range(len(x))})


def _distance(p: Array) -> float:
    return float(0.5 * np.abs(mask_sampler_distribution(p, k=2) - p).sum())


EXERCISES = (
    Exercise(
        "the improved step",
        solution=_improved,
        inputs=_steps,
        mistakes=(
            Mistake(
                "the old noise level",
                lambda x, x0_hat, ab_t, bb_t, ab_u, bb_u: ab_u * x0_hat + x - ab_t * x0_hat,
                "recover ε by dividing by β̄_t, then corrupt with β̄_u.",
            ),
            Mistake(
                "no noise",
                lambda x, x0_hat, ab_t, bb_t, ab_u, bb_u: ab_u * x0_hat,
                "this is the mean at u; the recovered noise is missing.",
            ),
            Mistake(
                "the picture for the noise",
                lambda x, x0_hat, ab_t, bb_t, ab_u, bb_u: ab_u * x0_hat + bb_u * x / bb_t,
                "x/β̄_t still holds the picture: subtract ᾱ_t x̂_0 first.",
            ),
            Mistake(
                "the times exchanged",
                lambda x, x0_hat, ab_t, bb_t, ab_u, bb_u: _improved(
                    x, x0_hat, ab_u, bb_u, ab_t, bb_t
                ),
                "the noise is recovered at t and put back at u: you have exchanged the two.",
            ),
        ),
    ),
    Exercise(
        "the variance that a posterior mean loses",
        solution=_lost,
        inputs=_modes,
        mistakes=(
            Mistake(
                "as if no noise were fresh",
                lambda a, b, c, s, m: (b - a) ** 2 * c * s**2 / (a**2 * c + s**2),
                "only the share √(1 − m²) of the noise is recovered.",
            ),
            Mistake(
                "the share of fresh noise",
                lambda a, b, c, s, m: (b - a * m) ** 2 * c * s**2 / (a**2 * c + s**2),
                "m is the share of the *fresh* noise; the recovered one has √(1 − m²).",
            ),
            Mistake(
                "prior variance",
                lambda a, b, c, s, m: (b - a * math.sqrt(1 - m**2)) ** 2 * c,
                "what the mean forgets is the posterior variance, not that of the data.",
            ),
            Mistake(
                "1 − m",
                lambda a, b, c, s, m: (b - a * (1 - m)) ** 2 * c * s**2 / (a**2 * c + s**2),
                "shares of noise are shares of a variance: what is not fresh has √(1 − m²), not "
                "1 − m.",
            ),
        ),
    ),
    Exercise(
        "restore one position",
        solution=_restored,
        inputs=_texts,
        mistakes=(
            Mistake(
                "any position",
                _restored_anywhere,
                "positions that agree already are not among the choices.",
            ),
            Mistake(
                "all at once",
                lambda x, x0_hat: [x0_hat],
                "only one position is restored in a step.",
            ),
            Mistake(
                "the text itself where nothing differs",
                lambda x, x0_hat: _restored(x, x0_hat) or [x],
                "where nothing differs nothing can be restored: the list is empty.",
            ),
            Mistake(
                "all positions, with repetitions",
                lambda x, x0_hat: sorted((*x[:i], x0_hat[i], *x[i + 1 :]) for i in range(len(x))),
                "where x and the guess agree there is nothing to restore: choose among the "
                "differing positions.",
                variants=(
                    lambda x, x0_hat: [(*x[:i], x0_hat[i], *x[i + 1 :]) for i in range(len(x))],
                ),
            ),
        ),
    ),
    Exercise(
        "the law of an edited token",
        solution=lambda p: (1 - p) / (len(p) - 1),
        inputs=_word_laws,
        mistakes=(
            Mistake(
                "uniform",
                lambda p: np.full(len(p), 1 / len(p)),
                "the new token differs from the old one: frequent words become rare.",
            ),
            Mistake(
                "not normalised",
                lambda p: 1 - p,
                "V − 1 tokens are possible for each old one.",
            ),
            Mistake(
                "divided by V",
                lambda p: (1 - p) / len(p),
                "V − 1 other tokens are possible, not V.",
            ),
            Mistake(
                "the words' own law",
                lambda p: np.array(p),
                "the new token differs from the old one: a frequent word is mostly replaced by "
                "others.",
            ),
        ),
    ),
    Exercise(
        "two tokens at once",
        solution=_distance,
        inputs=_pair_laws,
        mistakes=(
            Mistake(
                "no halves",
                lambda p: 2 * _distance(p),
                "total variation is half the sum of absolute differences.",
            ),
            Mistake(
                "uniform marginals",
                lambda p: float(0.5 * np.abs(p - 1 / p.size).sum()),
                "the tokens are drawn independently from their own marginals.",
            ),
        ),
    ),
)
