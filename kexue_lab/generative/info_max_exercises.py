"""What the exercises of generative/info_max check."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scipy.stats import binom
from torch import Tensor
from torch.nn.functional import logsigmoid

from kexue_lab.exercises import Exercise, Mistake

Inputs = Iterator[tuple[Any, ...]]


# --- a conjugate


def _slopes(rng: np.random.Generator) -> Inputs:
    yield (0.5,)
    yield (-2.5,)
    for _ in range(4):
        yield (float(rng.uniform(-2.2, 0.9)),)


# --- a program to repair


def _score_matrices(rng: np.random.Generator) -> Inputs:
    for size, scale in ((3, 1.0), (5, 2.0), (4, 30.0)):
        scores = scale * torch.tensor(rng.normal(size=(size, size)))
        # At the last scale one true pair is far on the wrong side, where a clip shows.
        scores[0, 0] = -1.5 * scale
        yield (scores,)


def _parts(scores: Tensor, *, diagonal: bool = False) -> tuple[float, float]:
    """Mean log-likelihood on true pairs and on shuffled ones."""
    apart = torch.ones_like(scores, dtype=torch.bool)
    if not diagonal:
        apart.fill_diagonal_(False)
    return (
        float(logsigmoid(scores.diagonal()).mean()),
        float(logsigmoid(-scores[apart]).mean()),
    )


def _jsd(scores: Tensor) -> float:
    return math.log(2) + sum(_parts(scores)) / 2


def _clipped(scores: Tensor, *, diagonal: bool) -> float:
    apart = torch.ones_like(scores, dtype=torch.bool)
    if not diagonal:
        apart.fill_diagonal_(False)
    likely = scores.sigmoid()
    true = (likely.diagonal() + 1e-6).log().mean()
    shuffled = (1 - likely[apart] + 1e-6).log().mean()
    return math.log(2) + float(true + shuffled) / 2


# --- notes in a batch


def _notes(rng: np.random.Generator) -> Inputs:
    yield 10, 16
    yield 3, 2
    for _ in range(3):
        yield int(rng.integers(4, 30)), int(rng.integers(5, 60))


def _nce_of_notes(n: int, N: int) -> float:
    others = np.arange(N)
    return math.log(N) - float(binom.pmf(others, N - 1, 1 / n) @ np.log1p(others))


# --- a broken shuffle


def _ratios(rng: np.random.Generator) -> Inputs:
    yield 3.0, 4
    yield 1e6, 8
    for _ in range(4):
        yield float(np.exp(rng.uniform(-2, 6))), int(rng.integers(2, 200))


def _diluted(r: float, N: int) -> float:
    return math.log(r / (1 + (r - 1) / N))


# --- below every bound

_ROOM = 2
"""How far below the bound a loss may be: a constant answer is not right everywhere."""


def _demands(rng: np.random.Generator) -> Inputs:
    yield 0.5, 10.0
    for _ in range(4):
        yield float(rng.uniform(0.2, 0.9)), float(rng.uniform(2, 25))


def _encoder_loss(a: float, sigma: float, gamma: float) -> float:
    variance = a * a + sigma * sigma
    information = (math.log(variance) - 2 * math.log(sigma)) / 2
    return -information + gamma * (variance - 2 * math.log(sigma) - 1) / 2


def _far_down(gamma: float, M: float) -> tuple[float, float]:
    sigma = math.exp(-(M + 1) / (1 - gamma))
    return math.sqrt(1 - sigma**2), sigma


def _judge(answer: Any, gamma: float, M: float) -> str | None:
    a, sigma = (float(part) for part in answer)
    if not sigma > 0:
        return f"sigma must be positive, got {sigma:g}"
    loss = _encoder_loss(a, sigma, gamma)
    if not loss < -M:
        return f"at a = {a:.4g}, sigma = {sigma:.4g} the loss is {loss:.4g}, not below {-M:.4g}"
    if loss < -M - _ROOM:
        return f"the loss is {loss:.4g}, more than {_ROOM} below {-M:.4g}"
    return None


EXERCISES = (
    Exercise(
        "a conjugate",
        solution=lambda t: 4 - t - 4 * math.sqrt(1 - t),
        inputs=_slopes,
        rtol=1e-5,
        atol=1e-6,
        mistakes=(
            Mistake(
                "Pearson's",
                lambda t: t + t * t / 4,
                "that belongs to (u − 1)². Set the slope of u t − f(u) to 0 with this f: "
                "f' = 1 − 4/(u + 1)².",
            ),
            Mistake(
                "without the term t u",
                lambda t: -((2 / math.sqrt(1 - t) - 2) ** 2) * math.sqrt(1 - t) / 2,
                "that is −f(u) at the best u. The supremum is of u t − f(u).",
            ),
            Mistake(
                "u for u + 1",
                lambda t: 4 - 4 * math.sqrt(1 - t),
                "the slope gives u + 1, not u: subtract 1 before you multiply by t.",
            ),
            Mistake(
                "the best u",
                lambda t: 2 / math.sqrt(1 - t) - 1,
                "that is where the supremum is taken. Insert it into u t − f(u).",
            ),
            Mistake(
                "only the term t u",
                lambda t: t * (2 / math.sqrt(1 - t) - 1),
                "that is t u at the best u. f(u) has still to be taken off.",
            ),
            Mistake(
                "the other root",
                lambda t: 4 - t + 4 * math.sqrt(1 - t),
                "u must be positive: of the two roots take u + 1 = +2/√(1 − t).",
            ),
        ),
    ),
    Exercise(
        "a leaky game",
        solution=_jsd,
        inputs=_score_matrices,
        rtol=1e-7,
        mistakes=(
            Mistake(
                "as it was",
                lambda scores: _clipped(scores, diagonal=True),
                "which pairs are shuffled ones? Look at the second mean; then at what 1e-6 does to "
                "a logit of −45.",
            ),
            Mistake(
                "still clipped",
                lambda scores: _clipped(scores, diagonal=False),
                "the pairs are right. But log(p + 1e-6) is never below −13.8, whatever the logit: "
                "take the logarithm of the logistic function as one function.",
            ),
            Mistake(
                "true pairs among the shuffled",
                lambda scores: math.log(2) + sum(_parts(scores, diagonal=True)) / 2,
                "the logarithms are right. But the second mean still contains the diagonal.",
            ),
            Mistake(
                "𝒥 itself",
                lambda scores: sum(_parts(scores)),
                "that is 𝒥. The divergence is log 2 + 𝒥/2.",
                variants=(lambda scores: sum(_parts(scores)) / 2,),
            ),
            Mistake(
                "a mean over all N² places",
                lambda scores: (
                    math.log(2)
                    + (_parts(scores)[0] + _parts(scores)[1] * (1 - 1 / len(scores))) / 2
                ),
                "there are N(N − 1) shuffled pairs, not N².",
            ),
            Mistake(
                "zeros for the true pairs",
                lambda scores: (
                    math.log(2)
                    + (
                        _parts(scores)[0]
                        + float(logsigmoid(-scores.clone().fill_diagonal_(0)).mean())
                    )
                    / 2
                ),
                "a zero on the diagonal still counts as a pair of logit 0. Leave the entries out.",
            ),
        ),
    ),
    Exercise(
        "notes in a batch",
        solution=_nce_of_notes,
        inputs=_notes,
        rtol=1e-6,
        mistakes=(
            Mistake(
                "the information",
                lambda n, N: math.log(n),
                "InfoNCE stays below the information for a small batch.",
            ),
            Mistake(
                "all notes differ",
                lambda n, N: math.log(N),
                "that is right if no note is seen twice. But a batch may show one several times.",
            ),
            Mistake(
                "the lesser bound",
                lambda n, N: min(math.log(n), math.log(N)),
                "both are bounds, and neither is reached: how many others of the batch show the "
                "same note?",
            ),
            Mistake(
                "the mean inside the logarithm",
                lambda n, N: math.log(N) - math.log(1 + (N - 1) / n),
                "the mean of a logarithm is asked for; you have the logarithm of a mean.",
            ),
            Mistake(
                "itself forgotten",
                lambda n, N: (
                    math.log(N)
                    - float(
                        binom.pmf(np.arange(N + 1), N, 1 / n)
                        @ np.log(np.maximum(np.arange(N + 1), 1))
                    )
                ),
                "a sample's own code is always in its row; only the other N − 1 are random.",
            ),
            Mistake(
                "without log N",
                lambda n, N: _nce_of_notes(n, N) - math.log(N),
                "the sum in the denominator is divided by N.",
            ),
        ),
    ),
    Exercise(
        "a broken shuffle",
        solution=_diluted,
        inputs=_ratios,
        rtol=1e-7,
        mistakes=(
            Mistake(
                "as if nothing had happened",
                lambda r, N: math.log(r),
                "the false pairs are now drawn from a mixture: 1/N of them are true ones.",
            ),
            Mistake(
                "cut off",
                lambda r, N: min(math.log(r), math.log(N)),
                "log N is where it ends for large r; before that the mixture's density counts.",
            ),
            Mistake(
                "a share 1/N for both",
                lambda r, N: math.log((r * (1 - 1 / N) + 1 / N) / (1 + (r - 1) / N)),
                "the true pairs are as they were; only the false ones are a mixture.",
            ),
            Mistake(
                "one too many",
                lambda r, N: math.log(r / (1 + r / N)),
                "the mixture is (1 − 1/N) Q + (1/N) P: its weights sum to 1.",
            ),
            Mistake(
                "the odds",
                lambda r, N: r / (1 + (r - 1) / N),
                "these are the odds. A logit is their logarithm.",
            ),
        ),
    ),
    Exercise(
        "below every bound",
        solution=_far_down,
        inputs=_demands,
        judge=_judge,
        mistakes=(
            Mistake(
                "loud codes",
                lambda gamma, M: (math.exp(M), 1.0),
                "information grows with the logarithm of a, the price with its square. Is there a "
                "way to more information that does not cost so much?",
            ),
            Mistake(
                "the best scale at fixed noise",
                lambda gamma, M: (math.sqrt(max(1 / gamma - 1, 0)), 1.0),
                "that is the best a for sigma = 1. Which of the two numbers is free to go to an "
                "end?",
            ),
            Mistake(
                "too little",
                lambda gamma, M: (1.0, math.exp(-M)),
                "the right way, but of each nat of information only the share 1 − gamma is gained.",
                variants=(lambda gamma, M: (math.sqrt(1 - math.exp(-2 * M)), math.exp(-M)),),
            ),
            Mistake(
                "loud noise",
                lambda gamma, M: (1.0, math.exp(M / (1 - gamma))),
                "the other way: this code tells nothing.",
            ),
            Mistake(
                "no code",
                lambda gamma, M: (0.0, 1.0),
                "without a slope there is no information, and the loss is 0.",
            ),
        ),
    ),
)
