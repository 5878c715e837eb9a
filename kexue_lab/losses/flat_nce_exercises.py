"""What the exercises of losses/flat_nce check."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit, logsumexp

from kexue_lab.exercises import Exercise, Mistake

Inputs = Iterator[tuple[Any, ...]]
Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


# --- several positives


def _sets(rng: np.random.Generator) -> Inputs:
    one = np.array([[True, False, False, False, False]])
    yield rng.standard_normal((1, 5)), one
    mixed = np.array(
        [
            [True, True, False, False, False],
            [False, True, False, True, True],
            [True, False, False, False, True],
            [False, False, True, True, False],
        ]
    )
    for size in (1.0, 3.0, 400.0):
        scores = size * rng.standard_normal((4, 5))
        # A positive on top in each row: who leaves it inside the sum is found out.
        scores[np.arange(4), mixed.argmax(1)] = scores.max(1) + 0.7 * size
        yield scores, mixed.copy()


def _over_negatives(s: Array, positive: Mask) -> Array:
    below: Array = logsumexp(np.where(positive, -np.inf, s), axis=1)
    return below


def _mean_of_positives(s: Array, positive: Mask) -> Array:
    mean: Array = np.where(positive, s, 0).sum(1) / positive.sum(1)
    return mean


def _several(s: Array, positive: Mask) -> Array:
    return _over_negatives(s, positive) - _mean_of_positives(s, positive)


def _others_inside(s: Array, positive: Mask) -> Array:
    """Each positive against all others, positives too."""
    rows = []
    for row, mask in zip(s, positive, strict=True):
        terms = [logsumexp(np.delete(row, i)) - row[i] for i in np.flatnonzero(mask)]
        rows.append(np.mean(terms))
    return np.array(rows)


def _logs_of_a_sum(s: Array, positive: Mask) -> Array:
    above: Array = logsumexp(np.where(positive, s, -np.inf), axis=1)
    return _over_negatives(s, positive) - above


# --- where p rounds to 1

_BITS = {"float32": 24, "float16": 11, "bfloat16": 8}


def _formats(rng: np.random.Generator) -> Inputs:
    yield "float32", 2
    yield "float16", 8
    yield "bfloat16", 64
    yield "float32", int(rng.integers(3, 50))
    yield "bfloat16", int(rng.integers(3, 50))


def _cliff(dtype: str, K: int) -> float:
    """Tried, not calculated: bisection on torch's own rounding."""
    low, high = 0.0, 60.0
    kind = getattr(torch, dtype)
    while high - low > 1e-9:
        gap = (low + high) / 2
        p = torch.tensor(1 / (1 + (K - 1) * math.exp(-gap)), dtype=torch.float64).to(kind)
        low, high = (low, gap) if p.item() == 1 else (gap, high)
    return high


# --- a loss with a squared weight


def _values(rng: np.random.Generator) -> Inputs:
    yield (np.array([-2.0, 0.0, 1.5]),)
    yield (rng.uniform(-6, 6, 5),)
    yield (rng.uniform(-1, 1, 4),)


def _softplus(v: Array) -> Array:
    value: Array = np.logaddexp(0, v)
    return value


# --- as far apart as can be


def _counts(rng: np.random.Generator) -> Inputs:
    yield 2, 2
    yield 5, 3
    yield int(rng.integers(10, 20)), int(rng.integers(3, 6))


def _gradients(s: Array) -> tuple[Array, Array]:
    """Of InfoNCE and FlatNCE by the scores, positive in column 0."""
    v = logsumexp(s[:, 1:], axis=1) - s[:, 0]
    flat = np.c_[-np.ones(len(s)), np.exp(s[:, 1:] - logsumexp(s[:, 1:], axis=1, keepdims=True))]
    return expit(v)[:, None] * flat, flat


def _judge_apart(answer: Any, n: int, K: int) -> str | None:
    try:
        s = np.asarray(answer, dtype=float)
    except (TypeError, ValueError):
        return "an array of scores is wanted"
    if s.shape != (n, K):
        return f"scores of shape ({n}, {K}) are wanted"
    if np.abs(s).max() > 300:
        return "the scores are to lie between -300 and 300"
    a, b = _gradients(s)
    cosine = float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))
    # One anchor has all the weight, and its gradient is as short as it can be.
    least = math.sqrt((1 + 1 / (K - 1)) / (1 + 1 / (K - 1) + 2 * (n - 1)))
    if cosine > 1.02 * least:
        return f"the cosine is {cosine:.4f}; it can be smaller"
    return None


def _one_hard(n: int, K: int, *, equal: bool = True, alone: bool = True) -> Array:
    s = np.zeros((n, K))
    s[1:, 1] = 60  # in the others one negative has all the softmax
    s[1:, 0] = 90
    if not equal:
        s[0, 1] = 60
    if not alone:
        s[1, 0], s[1, 1] = -60, 60
    return s


# --- Jeffreys


def _correlations(rng: np.random.Generator) -> Inputs:
    yield 1, 0.5
    yield 3, 0.8
    yield int(rng.integers(2, 6)), float(rng.uniform(0.2, 0.95))
    yield int(rng.integers(2, 6)), float(-rng.uniform(0.2, 0.95))


def _information(d: int, rho: float) -> float:
    return -d / 2 * math.log(1 - rho**2)


EXERCISES = (
    Exercise(
        "several positives",
        solution=_several,
        inputs=_sets,
        rtol=1e-8,
        mistakes=(
            Mistake(
                "the other positives inside",
                _others_inside,
                "with one positive that is right. With more, a positive is pushed away from its "
                "anchor by the terms of the others: only negatives belong into the logsumexp.",
            ),
            Mistake(
                "the own positive inside",
                lambda s, positive: logsumexp(s, axis=1) - _mean_of_positives(s, positive),
                "with the positive inside the sum its logarithm is that of 1 + ξ: InfoNCE.",
            ),
            Mistake(
                "the logarithm of a sum",
                _logs_of_a_sum,
                "the mean is over losses, so over scores; a logsumexp over the positives is "
                "content with the nearest one of them.",
                variants=(
                    lambda s, positive: _logs_of_a_sum(s, positive) + np.log(positive.sum(1)),
                ),
            ),
            Mistake(
                "a sum instead of the mean",
                lambda s, positive: _several(s, positive) * positive.sum(1),
                "rows with many positives would count more.",
            ),
        ),
    ),
    Exercise(
        "where the positive's gradient vanishes",
        solution=lambda dtype, K: math.log((K - 1) * (2.0 ** (_BITS[dtype] + 1) - 1)),
        inputs=_formats,
        forms=(_cliff,),
        rtol=0,
        atol=0.02,
        mistakes=(
            Mistake(
                "the sum's cliff",
                lambda dtype, K: _BITS[dtype] * math.log(2) + math.log(K - 1),
                "that is where 1 + ξ rounds to 1. Here a number just below 1 is rounded, and there "
                "floating-point numbers lie twice as close.",
            ),
            Mistake(
                "no rounding to the nearest",
                lambda dtype, K: (_BITS[dtype] - 1) * math.log(2) + math.log(K - 1),
                "half a step suffices to be rounded away; and look at the step below 1.",
            ),
            Mistake(
                "one negative",
                lambda dtype, K: (_BITS[dtype] + 1) * math.log(2),
                "there are K − 1 of them, and their e^{−Δ} add up.",
                variants=(lambda dtype, K: _BITS[dtype] * math.log(2),),
            ),
            Mistake(
                "all candidates",
                lambda dtype, K: (_BITS[dtype] + 1) * math.log(2) + math.log(K),
                "the positive is no negative.",
            ),
            Mistake(
                "the wrong side",
                lambda dtype, K: (_BITS[dtype] + 1) * math.log(2) - math.log(K - 1),
                "the more negatives, the larger ξ: the gap must make up for it.",
            ),
        ),
    ),
    Exercise(
        "a loss with a squared weight",
        solution=lambda v: _softplus(v) - expit(v),
        inputs=_values,
        rtol=1e-7,
        mistakes=(
            Mistake(
                "InfoNCE squared",
                lambda v: _softplus(v) ** 2,
                "the chain rule makes its derivative 2 softplus(v) σ(v). What must be squared is "
                "the derivative, not the loss.",
                variants=(lambda v: _softplus(v) ** 2 / 2,),
            ),
            Mistake(
                "a steeper InfoNCE",
                lambda v: _softplus(2 * v) / 2,
                "its derivative is σ(2v), which is not σ(v)².",
            ),
            Mistake(
                "another constant",
                lambda v: _softplus(v) - expit(v) + 0.5 - math.log(2),
                "the gradient is right. Which constant makes the loss 0 where ξ vanishes?",
                variants=(lambda v: _softplus(v) + expit(-v),),
            ),
            Mistake(
                "the weight itself",
                lambda v: expit(v) ** 2,
                "that is the wanted derivative by v. Integrate it.",
            ),
            Mistake(
                "the sign of the correction",
                lambda v: _softplus(v) + expit(v),
                "σ² = σ − σ(1 − σ), and σ(1 − σ) is the derivative of σ.",
            ),
        ),
    ),
    Exercise(
        "as far apart as can be",
        solution=_one_hard,
        inputs=_counts,
        judge=_judge_apart,
        mistakes=(
            Mistake(
                "all anchors alike",
                lambda n, K: np.tile(np.r_[0.0, np.ones(K - 1)], (n, 1)),
                "with equal weights the two gradients are parallel. Whom should InfoNCE forget?",
                variants=(lambda n, K: np.zeros((n, K)),),
            ),
            Mistake(
                "two hard anchors",
                lambda n, K: _one_hard(n, K, alone=False),
                "the fewer anchors carry InfoNCE's gradient, the more of FlatNCE's it misses.",
            ),
            Mistake(
                "a mild difference",
                lambda n, K: np.c_[np.r_[0.0, 2 * np.ones(n - 1)], np.zeros((n, K - 1))],
                "the easy ones are not easy enough: each still has a part of the weight.",
            ),
            Mistake(
                "nothing hard",
                lambda n, K: np.c_[np.full(n, 30.0), np.zeros((n, K - 1))],
                "all weights are tiny, but equal: only their ratios turn a gradient.",
            ),
            Mistake(
                "all easy ones with spread negatives",
                lambda n, K: np.c_[np.r_[0.0, 30 * np.ones(n - 1)], np.zeros((n, K - 1))],
                "nearly. The weights are as uneven as can be; how long is the gradient of an "
                "anchor whose negatives share the softmax, how long if one has it all?",
                variants=(lambda n, K: _one_hard(n, K, equal=False),),
            ),
        ),
    ),
    Exercise(
        "the flat estimate between two candidates",
        solution=lambda d, rho: d * rho**2 / (1 - rho**2),
        inputs=_correlations,
        mistakes=(
            Mistake(
                "the information",
                _information,
                "that is what it should estimate. On the average over true pairs log r gives it; "
                "what does −log r give over shuffled ones?",
            ),
            Mistake(
                "twice the information",
                lambda d, rho: 2 * _information(d, rho),
                "the two divergences are not equal: a Kullback–Leibler divergence has a direction.",
            ),
            Mistake(
                "one dimension",
                lambda d, rho: rho**2 / (1 - rho**2),
                "right for d = 1. Independent pairs add up.",
            ),
            Mistake(
                "half of it",
                lambda d, rho: d / 2 * rho**2 / (1 - rho**2),
                "log r has two squares, and each changes its mean.",
            ),
            Mistake(
                "the other divergence alone",
                lambda d, rho: d * rho**2 / (1 - rho**2) - _information(d, rho),
                "that is KL(Q ‖ P); KL(P ‖ Q) is to be added.",
            ),
            Mistake(
                "InfoNCE's ceiling",
                lambda d, rho: math.log(2),
                "that is the ceiling of InfoNCE at K = 2. The flat estimate has none.",
            ),
        ),
    ),
)
