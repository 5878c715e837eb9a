"""What the exercises of diffusion/unified check."""

import math
from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kexue_lab.diffusion.tokens import mask_sampler_distribution
from kexue_lab.exercises import Exercise, Mistake

Inputs = Iterator[tuple[Any, ...]]
Array = NDArray[np.float64]
Tokens = tuple[int, ...]


# ---------------------------------------------------------------------------- 1: equal coins


def _coins(rng: np.random.Generator) -> Inputs:
    for n in (3, 4, 5, 7):
        yield round(float(rng.uniform(0.55, 0.9)), 3), n


def _at_once(q: float, n: int) -> float:
    return float(1 - q**n - (1 - q) ** n)


# ---------------------------------------------------------------------------- 2: a share of fresh


def _shares(rng: np.random.Generator) -> Inputs:
    for _ in range(5):
        yield float(rng.uniform(0.3, 0.95)), float(rng.uniform(0.1, 0.9))


def _level(rho: float, eta: float, kept: float | None = None, fresh: float | None = None) -> float:
    """The share of the variance at which x ↦ (ρ + kept (1 − ρ)) x + fresh noise comes to rest."""
    kept = math.sqrt(1 - eta**2) if kept is None else kept
    fresh = eta**2 if fresh is None else fresh
    return fresh * (1 - rho) / (1 - (rho + kept * (1 - rho)) ** 2)


# ---------------------------------------------------------------------------- 3: edits


def _texts(rng: np.random.Generator) -> Inputs:
    yield (0, 1, 2, 0), (0, 2, 2, 1)
    for length in (3, 5, 6):
        x = tuple(int(v) for v in rng.integers(0, 4, length))
        guess = [int(v) for v in rng.integers(0, 4, length)]
        guess[0] = (x[0] + 1) % 4  # at least one difference
        yield x, tuple(guess)
    yield (2, 0, 1), (1, 0, 0)  # from the left the states are sorted, above from the right
    yield (2, 0, 1), (2, 0, 1)


def _restored(x: Tokens, x0_hat: Tokens) -> list[Tokens]:
    places = [i for i in range(len(x)) if x[i] != x0_hat[i]]
    return sorted((*x[:i], x0_hat[i], *x[i + 1 :]) for i in places)


def _restored_anywhere(x: Tokens, x0_hat: Tokens) -> list[Tokens]:
    return sorted({(*x[:i], x0_hat[i], *x[i + 1 :]) for i in range(len(x))})


# ---------------------------------------------------------------------------- 4: the repair


class _Damping:
    """A blur of three modes: x_0 exp(−rate t)."""

    def __init__(self, rates: Array) -> None:
        self.rates = rates

    def __call__(self, x0: Array, t: float) -> Array:
        damped: Array = x0 * np.exp(-self.rates * t)
        return damped

    def __repr__(self) -> str:
        return f"the blur x0 * exp(-{self.rates.tolist()} t)"


class _Guess:
    """Some guess of the datum, not a good one."""

    def __call__(self, x: Array, t: float) -> Array:
        guess: Array = np.tanh((1 + 2 * t) * x)
        return guess

    def __repr__(self) -> str:
        return "the guess tanh((1 + 2 t) x)"


def _chains(rng: np.random.Generator) -> Inputs:
    for n in (2, 3, 5):
        times = np.sort(rng.uniform(0.05, 1, n + 1)).round(2)[::-1].tolist()
        sizes = np.sort(rng.uniform(0.1, 1, n + 1)).round(2)[::-1].tolist()
        yield (
            rng.normal(size=3).round(2),
            _Guess(),
            _Damping(rng.uniform(0.5, 3, 3).round(2)),
            sizes,
            times,
        )


def _run_back(
    x: Array,
    guess: Callable[[Array, float], Array],
    blur: Callable[[Array, float], Array],
    sizes: list[float],
    times: list[float],
    *,
    faults: tuple[str, ...] = (),
) -> Array:
    x0 = guess(x, times[0])
    for i in range(len(times) - 1):
        t, u = times[i], times[i + 1]
        if "once" not in faults:
            x0 = guess(x, t)
        noise = x - blur(x0, u if "time" in faults else t)
        if "size" not in faults:
            noise = noise / sizes[i] * sizes[i + 1]
        x = blur(x0, u) + noise
    return x


_REPAIRS = {
    "once": "every state deserves a guess of its own: the later ones know more.",
    "time": "the noise that you see is in x at time t: take the guess at t off it, not at u.",
    "size": "what is left is the noise times its size at t; at u it has another size.",
}


def _repair_mistake(faults: tuple[str, ...]) -> Mistake:
    hint = " And: ".join(_REPAIRS[fault] for fault in faults)
    return Mistake(
        f"left as it was: {', '.join(faults)}", lambda *a: _run_back(*a, faults=faults), hint
    )


# ---------------------------------------------------------------------------- 5: fresh masks


def _not_a_law(answer: Any) -> str | None:
    try:
        law = np.asarray(answer, dtype=np.float64)
    except (TypeError, ValueError):
        return "return an array of probabilities"
    if law.shape != (2, 2, 2):
        return f"the array must have the shape (2, 2, 2), got {law.shape}"
    if not (np.isfinite(law).all() and (law >= 0).all() and abs(law.sum() - 1) < 1e-9):
        return "the entries must be non-negative with sum 1"
    error = 0.5 * np.abs(mask_sampler_distribution(law, improved=False) - law).sum()
    if not error > 0.05:
        return f"with fresh masks this law comes out with an error of {error:.4f}: not over 0.05"
    return None


def _two_equal() -> Array:
    """The first coin is fair and alone, the other two always agree."""
    law = np.zeros((2, 2, 2))
    law[:, [0, 1], [0, 1]] = 0.25
    return law


def _all_equal() -> Array:
    law = np.zeros((2, 2, 2))
    law[0, 0, 0] = law[1, 1, 1] = 0.5
    return law


def _even() -> Array:
    law = np.zeros((2, 2, 2))
    for a, b in np.ndindex(2, 2):
        law[a, b, (a + b) % 2] = 0.25
    return law


EXERCISES = (
    Exercise(
        "coins that always agree",
        solution=lambda q, n: (_at_once(q, n), 0.0),
        inputs=_coins,
        mistakes=(
            Mistake(
                "the second step wrong too",
                lambda q, n: (_at_once(q, n), _at_once(q, n - 1)),
                "the second number: once a coin lies open, do the others still depend on each "
                "other?",
                variants=(
                    lambda q, n: (_at_once(q, n), _at_once(q, n) / 2),
                    lambda q, n: (_at_once(q, n), _at_once(q, n)),
                ),
            ),
            Mistake(
                "no halves",
                lambda q, n: (2 * _at_once(q, n), 0.0),
                "the first number: total variation is half the sum of absolute differences.",
            ),
            Mistake(
                "as for two coins",
                lambda q, n: (2 * q * (1 - q), 0.0),
                "the first number: 2q(1 − q) is for two coins; with more of them more words are "
                "mixed.",
            ),
            Mistake(
                "the right words counted",
                lambda q, n: (q**n + (1 - q) ** n, 0.0),
                "the first number: this is the share of words that are right.",
            ),
            Mistake(
                "only the heads",
                lambda q, n: (q - q**n, 0.0),
                "the first number: the word of tails has lost probability as well.",
            ),
        ),
    ),
    Exercise(
        "a share of fresh noise",
        solution=_level,
        inputs=_shares,
        mistakes=(
            Mistake(
                "all noise fresh",
                lambda rho, eta: 1 / (1 + rho),
                "this is the level of the naive sampler, η = 1.",
            ),
            Mistake(
                "1 − η kept",
                lambda rho, eta: _level(rho, eta, kept=1 - eta),
                "the kept noise and the fresh one must add up to a variance of 1: √(1 − η²) is "
                "kept.",
            ),
            Mistake(
                "fresh noise of full size",
                lambda rho, eta: _level(rho, eta, fresh=1.0),
                "the fresh noise has the size η, so its variance is η² times that of all noise.",
            ),
            Mistake(
                "η for its square",
                lambda rho, eta: _level(rho, eta, fresh=eta),
                "variances add up: the fresh noise brings η², not η.",
            ),
            Mistake(
                "the share in front of ρ",
                lambda rho, eta: 1 / (1 + eta * rho),
                "right at η = 1; for η < 1 x_t stands twice in the step: put both together first.",
                variants=(lambda rho, eta: 1 / (1 + eta**2 * rho),),
            ),
            Mistake(
                "in units of the noise",
                lambda rho, eta: _level(rho, eta) / (1 - rho),
                "this is the variance over σ²; the share is over that of x, and σ² is (1 − ρ) "
                "of it.",
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
        "the sampler of a noisy blur, mended",
        solution=_run_back,
        inputs=_chains,
        mistakes=tuple(
            _repair_mistake(faults)
            for count in (1, 2)  # with all three left x is returned, as with the last two
            for faults in combinations(_REPAIRS, count)
        ),
    ),
    Exercise(
        "a law that fresh masks spoil",
        solution=_two_equal,
        judge=_not_a_law,
        mistakes=(
            Mistake(
                "three equal coins",
                _all_equal,
                "here one open coin tells the others: no pair is drawn apart that belongs "
                "together. Let one coin say nothing about the two others.",
            ),
            Mistake(
                "an even number of tails",
                _even,
                "here any two coins are independent, so drawing two apart does no harm: let two of "
                "them agree.",
            ),
            Mistake(
                "independent coins",
                lambda: np.full((2, 2, 2), 0.125),
                "independent coins may be drawn apart: let two of them agree.",
            ),
            Mistake(
                "a table of two coins",
                lambda: np.diag([0.5, 0.5]),
                "the array must have the shape (2, 2, 2), got (2, 2)",
            ),
            Mistake(
                "counts for probabilities",
                lambda: 4 * _two_equal(),
                "the entries must be non-negative with sum 1",
            ),
        ),
    ),
)
