"""What the exercises of text/p_tuning check."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import logsumexp
from scipy.stats import norm
from torch import Tensor
from torch.nn.functional import cross_entropy

from kexue_lab.exercises import Exercise, Mistake

Inputs = Iterator[tuple[Any, ...]]
Array = NDArray[np.float64]
MOST_TEXTS = 20


def _tables(rng: np.random.Generator) -> Inputs:
    for size in (4, 5, 6, 7):
        table = torch.from_numpy(rng.normal(size=(size, 3)))
        order = rng.permutation(size)
        rows = sorted(int(row) for row in order[:2])
        # Each trained row, and frozen ones, among the words.
        text = torch.from_numpy(np.concatenate([order, rng.integers(size, size=3)]))
        yield table, rows, text, torch.from_numpy(rng.normal(size=(3, 4))), torch.tensor(1)


def _trained(
    table: Tensor,
    rows: list[int],
    text: Tensor,
    readout: Tensor,
    target: Tensor,
    *,
    decay: float = 0.3,
    whole: bool = False,
    put_back: bool = False,
    mask: bool = True,
) -> Tensor:
    """Twenty steps; `whole`: of all rows, with the mask of (5) or without."""
    kept = torch.zeros(len(table), 1, dtype=table.dtype)
    kept[rows] = 1
    free = (table if whole else table[rows]).clone().requires_grad_()
    optimizer = torch.optim.AdamW([free], lr=0.1, weight_decay=decay)
    for _ in range(20):
        if not whole:
            used = table.index_copy(0, torch.tensor(rows), free)
        else:
            used = kept * free + (1 - kept) * free.detach() if mask else free
        loss = cross_entropy(used[text].mean(0) @ readout, target)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    found = free.detach() if whole else table.index_copy(0, torch.tensor(rows), free.detach())
    return torch.where(kept == 1, found, table) if put_back else found


def _with(**options: Any) -> Callable[..., Tensor]:
    return lambda *arguments: _trained(*arguments, **options)


def _unlabelled(rng: np.random.Generator) -> Inputs:
    # On both sides of 0 in turn: no constant is right for all of them.
    for share, side in ((0.8, 1), (0.3, -1), (0.7, 1), (0.15, -1)):
        labels = rng.random(600) < share
        centre = side * rng.uniform(2, 4)
        yield centre + 3 * labels + rng.normal(size=600), float(share)


def _judge_threshold(answer: Any, leads: Array, share: float) -> str | None:
    try:
        threshold = float(answer)
    except (TypeError, ValueError, OverflowError):
        return "return one number"
    above = float((leads > threshold).mean())
    if abs(above - share) > 0.02:
        return f"{above:.3f} of the reviews lie above it, where {share:g} are positive"
    return None


def _scores(rng: np.random.Generator) -> Inputs:
    yield np.array([0.0, np.log(2), 0.0]), 0.5
    for size in (3, 4, 6):
        yield rng.normal(0, 2, size), float(rng.uniform(0.05, 0.95))
    yield 900 + rng.normal(0, 2, 5), 0.3


def _score(scores: Array, share: float) -> float:
    return float(logsumexp(scores) + np.log(share / (1 - share)))


def _overflowing(scores: Array, share: float) -> float:
    with np.errstate(all="ignore"):
        return float(np.log(np.exp(scores).sum()) + np.log(share / (1 - share)))


def _offsets(rng: np.random.Generator) -> Inputs:
    for _ in range(5):
        yield float(rng.uniform(0.7, 0.98)), float(rng.choice((-1, 1)) * rng.uniform(0.3, 2))


def _accuracy(auc: float, c: float, factor: float = 0.5**0.5) -> float:
    a = factor * norm.ppf(auc)
    return float((norm.cdf(a + c) + norm.cdf(a - c)) / 2)


def _judge_median(answer: Any) -> str | None:
    try:
        leads, labels = (np.array(part, dtype=float) for part in answer)
    except (TypeError, ValueError, OverflowError):
        return "return two lists of numbers: leads and labels"
    if leads.ndim != 1 or leads.shape != labels.shape:
        return f"return two lists of equal length; got shapes {leads.shape} and {labels.shape}"
    if not 2 <= len(leads) <= MOST_TEXTS:
        return f"use 2 to {MOST_TEXTS} reviews; got {len(leads)}"
    if not np.isin(labels, (0, 1)).all() or len(set(labels)) < 2:
        return "labels are 0 and 1, and both occur"
    if not np.isfinite(leads).all():
        return "leads are finite"
    if leads[labels == 1].min() <= leads[labels == 0].max():
        return "the AUC is not 1: each positive review should lead each negative one"
    right = float(((leads > np.median(leads)) == (labels == 1)).mean())
    if right >= 0.6:
        return f"at the median the accuracy is still {right:.2f}, not below 0.6"
    return None


def _ordered(negative: int, positive: int, shift: float = 0.0) -> tuple[list[float], list[int]]:
    """A row of leads, the negative reviews first."""
    leads = [shift + place for place in range(negative + positive)]
    return leads, [0] * negative + [1] * positive


def _interleaved() -> tuple[list[float], list[int]]:
    return [float(place) for place in range(20)], [1, 0] + [1] * 18


def _word_lists(rng: np.random.Generator) -> Inputs:
    for positive, negative, scale in ((2, 2, 1.0), (3, 2, 3.0), (1, 4, 2.0), (4, 3, 3.0)):
        chosen = [int(word) for word in rng.permutation(12)]
        yield (
            rng.normal(0, scale, 12),
            chosen[:positive],
            chosen[positive : positive + negative],
        )


def _lead(logits: Array, positive: list[int], negative: list[int]) -> float:
    return float(logsumexp(logits[positive]) - logsumexp(logits[negative]))


EXERCISES = (
    Exercise(
        "frozen rows that drift",
        solution=_with(),
        inputs=_tables,
        keeps_inputs=True,
        rtol=1e-7,
        mistakes=(
            Mistake(
                "as given",
                _with(whole=True),
                "the gradient of a frozen row is 0, but AdamW decays every row that it is given.",
            ),
            Mistake(
                "no decay at all",
                _with(decay=0.0),
                "the trained rows should still decay: only the frozen ones must not.",
                variants=(_with(whole=True, decay=0.0),),
            ),
            Mistake(
                "put back at the end",
                _with(whole=True, put_back=True),
                "meanwhile the loss saw drifting rows, and so the trained ones differ.",
            ),
            Mistake(
                "all rows trained",
                _with(whole=True, mask=False),
                "without the mask all words of the text are trained.",
            ),
        ),
    ),
    Exercise(
        "a threshold without labels, for unequal classes",
        solution=lambda leads, share: float(np.quantile(leads, 1 - share)),
        inputs=_unlabelled,
        judge=_judge_threshold,
        keeps_inputs=True,
        mistakes=(
            Mistake(
                "zero",
                lambda leads, share: 0.0,
                "the template has moved its zero point: look at where the leads lie.",
            ),
            Mistake(
                "the median",
                lambda leads, share: float(np.median(leads)),
                "the median is for classes of equal size.",
            ),
            Mistake(
                "the mean",
                lambda leads, share: float(np.mean(leads)),
                "the mean knows nothing of the share; which part of the leads should lie above?",
            ),
            Mistake(
                "the other end",
                lambda leads, share: float(np.quantile(leads, share)),
                "positive reviews are those above the threshold: below it lies 1 − share.",
            ),
        ),
    ),
    Exercise(
        "a prompt token with a given share",
        solution=_score,
        inputs=_scores,
        keeps_inputs=True,
        mistakes=(
            Mistake(
                "the largest score",
                lambda scores, share: float(np.max(scores) + np.log(share / (1 - share))),
                "the prompt competes with the sum of all powers, not with the largest one.",
            ),
            Mistake(
                "all scores alike",
                lambda scores, share: float(np.log(share * len(scores) / (1 - share))),
                "this is right where all scores are 0.",
            ),
            Mistake(
                "the share of the text alone",
                lambda scores, share: float(logsumexp(scores) + np.log(share)),
                "the prompt's own power stands in the denominator as well.",
            ),
            Mistake(
                "powers that overflow",
                _overflowing,
                "the power of a score of 900 is beyond float64: subtract the largest score first.",
            ),
        ),
    ),
    Exercise(
        "what a moved zero costs",
        solution=_accuracy,
        inputs=_offsets,
        mistakes=(
            Mistake(
                "the threshold moved as well",
                lambda auc, c: float(norm.cdf(norm.ppf(auc) / np.sqrt(2))),
                "this is the accuracy at c; the threshold stands at 0.",
            ),
            Mistake(
                "the AUC itself",
                lambda auc, c: auc,
                "the AUC compares two reviews; here one review is compared with 0.",
            ),
            Mistake(
                "one class only",
                lambda auc, c: float(norm.cdf(norm.ppf(auc) / np.sqrt(2) + c)),
                "this is the share of positive reviews above 0; half of the reviews are negative.",
                variants=(lambda auc, c: float(norm.cdf(norm.ppf(auc) / np.sqrt(2) - c)),),
            ),
            Mistake(
                "the variance of one lead",
                lambda auc, c: _accuracy(auc, c, 1),
                "the difference of two leads has variance 2.",
            ),
            Mistake(
                "the mean difference taken for a, or the deviation upside down",
                lambda auc, c: _accuracy(auc, c, 0.5),
                "the difference of two leads has the mean 2a and the standard deviation √2.",
                variants=(lambda auc, c: _accuracy(auc, c, 2**0.5),),
            ),
        ),
    ),
    Exercise(
        "where the median fails",
        solution=lambda: _ordered(1, 19),
        judge=_judge_median,
        mistakes=(
            Mistake(
                "equal classes",
                lambda: _ordered(10, 10),
                "with classes of equal size the median separates them.",
            ),
            Mistake(
                "only shifted",
                lambda: _ordered(10, 10, shift=100.0),
                "a shift moves the median as well; what else did (4) suppose?",
            ),
            Mistake(
                "a little unequal",
                lambda: _ordered(5, 15),
                "a quarter lies on the wrong side now: make the classes still less equal.",
            ),
            Mistake(
                "one class",
                lambda: _ordered(0, 20),
                "there must be reviews of both classes.",
            ),
            Mistake(
                "not in order",
                _interleaved,
                "the AUC is to be 1: no negative review may lead a positive one.",
            ),
            Mistake(
                "too many",
                lambda: _ordered(1, 39),
                "twenty reviews are enough.",
            ),
        ),
    ),
    Exercise(
        "several label words for a class",
        solution=_lead,
        inputs=_word_lists,
        keeps_inputs=True,
        mistakes=(
            Mistake(
                "logits added",
                lambda logits, positive, negative: float(
                    logits[positive].sum() - logits[negative].sum()
                ),
                "probabilities of different words add up, their logarithms do not.",
            ),
            Mistake(
                "logits averaged",
                lambda logits, positive, negative: float(
                    logits[positive].mean() - logits[negative].mean()
                ),
                "a class is as likely as its words together: add probabilities.",
            ),
            Mistake(
                "the largest",
                lambda logits, positive, negative: float(
                    logits[positive].max() - logits[negative].max()
                ),
                "the other words of a class count as well.",
            ),
            Mistake(
                "mean probabilities",
                lambda logits, positive, negative: (
                    _lead(logits, positive, negative) - float(np.log(len(positive) / len(negative)))
                ),
                "add the probabilities of a class, do not average them.",
            ),
            Mistake(
                "turned",
                lambda logits, positive, negative: -_lead(logits, positive, negative),
                "the positive class leads where the result is positive.",
            ),
        ),
    ),
)
