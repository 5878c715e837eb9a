"""What the exercises of losses/cosent check."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kexue_lab.exercises import Exercise, Mistake

Inputs = Iterator[tuple[Any, ...]]
Array = NDArray[np.float64]


# --- groups


def _groups(rng: np.random.Generator) -> Inputs:
    for size, scale in ((1.0, 1.0), (2.0, 3.0), (1e4, 20.0), (1e15, 1.0)):
        f = torch.from_numpy(size * rng.standard_normal((3, 6)))
        y = torch.tensor([[0, 1, 1, 2, 0, 2], [3, 3, 1, 0, 0, 1], [1, 0, 0, 1, 0, 0]])
        if size > 1000:  # something out of order in each group, whatever was drawn
            f[:, 0], f[:, 1] = 2 * size * (1 - 2 * y[:, 0]), 2 * size * (2 * y[:, 0] - 1.25)
        yield f, y, scale


def _grouped(
    f: Tensor,
    y: Tensor,
    scale: float,
    allowed: Callable[[Tensor, Tensor], Tensor] = lambda own, other: own > other,
    constant: float = 0,
) -> Tensor:
    exponents = scale * (f[:, None, :] - f[:, :, None])
    kept = allowed(y[:, :, None], y[:, None, :])
    if constant:
        exponents = exponents - constant * (~kept)
    else:
        exponents = exponents.masked_fill(~kept, -torch.inf)
    zero = torch.zeros(len(f), 1, dtype=f.dtype)
    return torch.logsumexp(torch.cat([zero, exponents.flatten(1)], 1), 1)


# --- near ties


def _graded(rng: np.random.Generator) -> Inputs:
    y = np.array([1, 5, 3, 3, 2, 4, 1, 5, 2, 4])
    for size, gap in ((1.0, 2), (1.0, 1), (3.0, 3), (1e4, 2)):
        f = size * rng.standard_normal(10)
        if size > 1000:
            f[:2] = 3 * size, -3 * size
        yield f, y.copy(), gap


def _near_ties(
    f: Array, y: NDArray[np.int_], gap: int, side: str = "right", first: bool = True
) -> float:
    order = np.argsort(y, kind="stable")
    f, y = f[order], y[order]
    sums = np.logaddexp.accumulate(f)
    met = np.searchsorted(y, y - gap, side="right" if side == "right" else "left")
    exponents = (sums[met - 1] - f)[met > 0]
    return float(np.logaddexp.reduce([0.0, *exponents] if first else exponents))


def _running_over_items(f: Array, y: NDArray[np.int_], gap: int) -> float:
    """Every earlier item counts, whatever its label."""
    f = f[np.argsort(y, kind="stable")]
    sums = np.logaddexp.accumulate(f)
    return float(np.logaddexp.reduce([0.0, *(sums[:-1] - f[1:])]))


# --- the limit of the gradient


def _batches(rng: np.random.Generator) -> Inputs:
    yield np.array([0.9, 0.2, 0.5, 0.3, 0.1]), np.array([2, 3, 1, 1, 3])
    yield np.array([3.0, 1.0, 0.5, 2.2]), np.array([4, 2, 1, 3])  # in order
    for _ in range(3):
        y = rng.permutation([1, 1, 2, 2, 3, 4])
        f = rng.standard_normal(6)
        i, j = int(np.argmax(y)), int(np.argmin(y))
        f[i], f[j] = -4, 4 + rng.random()
        yield f, y


def _violations(f: Array, y: NDArray[np.int_]) -> Array:
    gaps: Array = np.where(y[:, None] > y, f - f[:, None], -np.inf)
    return gaps


def _worst(f: Array, y: NDArray[np.int_], sign: float = 1, always: bool = False) -> Array:
    gaps = _violations(f, y)
    gradient = np.zeros(len(f))
    if gaps.max() > 0 or always:
        i, j = np.unravel_index(int(gaps.argmax()), gaps.shape)
        gradient[i], gradient[j] = -sign, sign
    return gradient


def _all_violations(f: Array, y: NDArray[np.int_]) -> Array:
    wrong = (_violations(f, y) > 0).astype(float)
    return np.asarray(wrong.sum(0) - wrong.sum(1), dtype=np.float64)


# --- thresholds


def _uses(rng: np.random.Generator) -> Inputs:
    yield 0.1, 1.0
    yield 0.3, 5.0
    for _ in range(3):
        yield float(rng.uniform(0.02, 0.4)), float(rng.uniform(2, 9))


# --- a certificate


def _numbers(rng: np.random.Generator) -> Inputs:
    yield 2, 3
    yield 5, 4
    yield int(rng.integers(6, 9)), int(rng.integers(10, 14))


def _judge_certificate(answer: Any, n_pos: int, n_neg: int) -> str | None:
    try:
        c, pos, neg = answer
        bound, above, below = float(c), np.ravel(pos).astype(float), np.ravel(neg).astype(float)
    except (TypeError, ValueError):
        return "three things are wanted: the bound, scores of label 1, scores of label 0"
    if above.shape != (n_pos,) or below.shape != (n_neg,):
        return f"{n_pos} scores of label 1 and {n_neg} of label 0 are wanted"
    loss = float(np.logaddexp.reduce([0.0, *(below[:, None] - above).ravel()]))
    if above.min() <= below.max():
        return "in the example a comparison is tied or out of order: its AUC is not 1"
    if bound > math.log(2) + 1e-9:
        return "below that bound there are scores that are not in order"
    if bound < math.log(2) - 1e-9:
        return "that bound is safe, but it is not the largest"
    if loss <= bound + 1e-6:
        return f"the example's loss, {loss:.4f}, is not above the bound"
    return None


def _close(n_pos: int, n_neg: int) -> tuple[Any, Any]:
    """In order, but only just."""
    return 0.01 + 0.001 * np.arange(n_pos), -0.001 * np.arange(n_neg)


EXERCISES = (
    Exercise(
        "comparisons within groups",
        solution=_grouped,
        inputs=_groups,
        mistakes=(
            Mistake(
                "as it stands",
                lambda f, y, scale: _grouped(f, y, scale, lambda a, b: a >= b, 1e12),
                "equal labels are no comparison, and above all a pair is not compared with itself: "
                "each of these adds its e to the power of something to the sum. Look at <.",
                variants=(lambda f, y, scale: _grouped(f, y, scale, lambda a, b: a >= b),),
            ),
            Mistake(
                "a constant for the mask",
                lambda f, y, scale: _grouped(f, y, scale, constant=1e12),
                "for small scores that is right. With scores of the size of 10¹⁵ a masked exponent "
                "is still larger than all others: what is smaller than every number?",
                variants=(lambda f, y, scale: _grouped(f, y, scale, constant=1e9),),
            ),
            Mistake(
                "the wrong way round",
                lambda f, y, scale: _grouped(f, y, scale, lambda a, b: a < b),
                "row i is the one whose label must be the higher, and its score is subtracted.",
            ),
            Mistake(
                "groups mixed",
                lambda f, y, scale: _grouped(f.reshape(1, -1), y.reshape(1, -1), scale).expand(
                    len(f)
                ),
                "a score is to be compared within its own group only, and each group has a loss of "
                "its own.",
            ),
            Mistake(
                "without the 1",
                lambda f, y, scale: torch.logsumexp(
                    (scale * (f[:, None, :] - f[:, :, None]))
                    .masked_fill(y[:, :, None] <= y[:, None, :], -torch.inf)
                    .flatten(1),
                    1,
                ),
                "the 1 in the logarithm is gone: the loss would become negative.",
            ),
        ),
    ),
    Exercise(
        "near ties left out",
        solution=_near_ties,
        inputs=_graded,
        rtol=1e-8,
        mistakes=(
            Mistake(
                "every strictly lower label",
                lambda f, y, gap: _near_ties(f, y, 1),
                "that is the loss of the lesson, with a gap of 1. Up to which place of the sorted "
                "labels does the running sum go now?",
            ),
            Mistake(
                "strictly more than the gap",
                lambda f, y, gap: _near_ties(f, y, gap, side="left"),
                "a difference of exactly the gap counts, too. On which side must the search stop?",
            ),
            Mistake(
                "equal labels counted",
                _running_over_items,
                "a running sum over all earlier items counts equal labels, and near ones.",
                variants=(lambda f, y, gap: _near_ties(f, y, 0),),
            ),
            Mistake(
                "without the 1",
                lambda f, y, gap: _near_ties(f, y, gap, first=False),
                "the 1 in the logarithm is an exponent 0.",
            ),
            Mistake(
                "exponentials as they are",
                lambda f, y, gap: float(
                    np.log1p(
                        np.where(
                            y[:, None] - y >= gap, np.exp(np.clip(f - f[:, None], -700, 700)), 0
                        ).sum()
                    )
                ),
                "right while the scores are small. With large ones the exponentials overflow: stay "
                "with logarithms, as logaddexp does.",
            ),
        ),
    ),
    Exercise(
        "the gradient at a huge scale",
        solution=_worst,
        inputs=_batches,
        mistakes=(
            Mistake(
                "the direction of descent",
                lambda f, y: _worst(f, y, -1),
                "the gradient points uphill: raising the upper one's score lowers the loss.",
            ),
            Mistake(
                "a gradient in the ordered case, too",
                lambda f, y: _worst(f, y, always=True),
                "where all is in order the largest exponent is negative, and the 1 outweighs it.",
            ),
            Mistake(
                "all that are out of order",
                _all_violations,
                "they compete: as the scale grows, what is left of the second worst one's weight?",
                variants=(
                    lambda f, y: _all_violations(f, y) / max((_violations(f, y) > 0).sum(), 1),
                ),
            ),
            Mistake(
                "nobody",
                lambda f, y: np.zeros(len(f)),
                "that is right where all is in order.",
            ),
        ),
    ),
    Exercise(
        "the best threshold in use",
        solution=lambda share, cost: 0.5 * math.log(cost * (1 - share) / share),
        inputs=_uses,
        mistakes=(
            Mistake(
                "the middle",
                lambda share, cost: 0.0,
                "0 is right where both labels are equally frequent and both errors equally dear.",
            ),
            Mistake(
                "cross entropy's scores",
                lambda share, cost: math.log(cost * (1 - share) / share),
                "these scores are half of the log ratio.",
            ),
            Mistake(
                "the frequency alone",
                lambda share, cost: 0.5 * math.log((1 - share) / share),
                "a false alarm costs more than a miss: when is it still worth saying yes?",
            ),
            Mistake(
                "the wrong way round",
                lambda share, cost: 0.5 * math.log(share / (cost * (1 - share))),
                "the rarer label 1 is, the more evidence it takes to say so.",
                variants=(lambda share, cost: 0.5 * math.log(cost * share / (1 - share)),),
            ),
            Mistake(
                "the cost on the other side",
                lambda share, cost: 0.5 * math.log((1 - share) / (cost * share)),
                "dear false alarms raise the threshold.",
            ),
        ),
    ),
    Exercise(
        "a certificate",
        solution=lambda n_pos, n_neg: (math.log(2), *_close(n_pos, n_neg)),
        inputs=_numbers,
        judge=_judge_certificate,
        mistakes=(
            Mistake(
                "equal scores",
                lambda n_pos, n_neg: (math.log(1 + n_pos * n_neg), *_close(n_pos, n_neg)),
                "that is the loss of equal scores. But one comparison can be out of order while "
                "all others cost nothing: what is the loss then, at least?",
                variants=(lambda n_pos, n_neg: (1.0, *_close(n_pos, n_neg)),),
            ),
            Mistake(
                "no loss at all",
                lambda n_pos, n_neg: (0.0, *_close(n_pos, n_neg)),
                "no batch has a loss below 0. How little can one comparison out of order cost?",
                variants=(lambda n_pos, n_neg: (0.5, *_close(n_pos, n_neg)),),
            ),
            Mistake(
                "an example far in order",
                lambda n_pos, n_neg: (math.log(2), 50.0 + np.arange(n_pos), -np.arange(n_neg)),
                "AUC is 1, but the loss is tiny. In order, and yet a large loss: how far apart may "
                "the scores be?",
            ),
            Mistake(
                "an example out of order",
                lambda n_pos, n_neg: (math.log(2), np.zeros(n_pos), np.arange(n_neg)),
                "its loss is large because it is not in order. It shall be in order.",
                variants=(lambda n_pos, n_neg: (math.log(2), np.zeros(n_pos), np.zeros(n_neg)),),
            ),
        ),
    ),
)
