"""CoSENT: a loss that sees of the labels only their order.

Pairs (or any other things) have scores f and labels y. With a scale λ > 0,
L = log(1 + Σ_{y_i > y_j} e^{λ (f_j − f_i)}). It is written here twice, over all pairs and after
sorting, beside RankNet's loss over the same pairs and what a ranking score needs afterwards: a
threshold.
Sources: kexue.fm/archives/9341; github.com/bojone/CoSENT; Sun et al., "Circle Loss", 2020,
arXiv:2002.10857, equation 1.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from kexue_lab.precision import holds, narrowed, widened
from kexue_lab.validation import (
    TensorLike,
    as_floating,
    check_choice,
    check_distribution,
    check_finite,
    check_floating,
    check_positive,
)

Reduction = Literal["mean", "sum"]

# A scale between these and its products stay far within float32.
_SMALL, _LARGE = 1e-20, 1e20


class Cut(NamedTuple):
    """A threshold on scores, and the accuracy of "positive where the score is above it"."""

    threshold: float
    accuracy: float


def cosent_loss(scores: Tensor, labels: Tensor, scale: float = 20.0) -> Tensor:
    """Return log(1 + Σ_{y_i > y_j} e^{λ (f_j − f_i)}), over all pairs at once.

    Time and memory grow as B². Tiny losses keep their digits, and a batch without two different
    labels has the loss 0 and the gradient 0. There is no `reduction`: a batch has one loss, and
    those of batches of different sizes are not comparable.

    Args:
        scores: f, (B,), B ≥ 1.
        labels: y, (B,), real; only their order counts.
        scale: λ; 20 is usual for cosines, 1 for a score without bounds.

    Returns:
        A scalar ≥ 0.

    Raises:
        TypeError: if scores are not floating, or labels not real.
        ValueError: if shapes disagree or are empty, a score is not finite, a label is nan, or the
            loss is beyond the dtype.

    Source: kexue.fm/archives/9341, equation 1; github.com/bojone/CoSENT.

    Example:
        >>> cosent_loss(torch.tensor([0.9, 0.2, 0.6, 0.4]), torch.tensor([1, 0, 1, 0]), 1.0)
        tensor(1.2788)
    """
    labels = _checked(scores, labels, scale)
    exponents = _exponents(scores, labels, scale)
    return narrowed(_log_one_plus(exponents.flatten()), scores.dtype, "loss")


def cosent_loss_sorted(scores: Tensor, labels: Tensor, scale: float = 20.0) -> Tensor:
    """Return `cosent_loss` in time B log B and memory B: labels sorted, sums running along.

    Each score meets the sum of e^{λ f} over all strictly lower labels. Computed in float64.

    Args:
        scores: f, (B,), B ≥ 1.
        labels: y, (B,), real.
        scale: λ.

    Returns:
        A scalar ≥ 0.

    Raises:
        TypeError: as `cosent_loss`.
        ValueError: as `cosent_loss`, or if λ times the spread of the scores is beyond float64.

    Source: the factorisation of kexue.fm/archives/9341's sum for two labels, for any number.

    Example:
        >>> cosent_loss_sorted(torch.tensor([0.9, 0.2, 0.6, 0.4]), torch.tensor([3, 1, 2, 1]), 1.0)
        tensor(1.4663)
    """
    labels = _checked(scores, labels, scale)
    ordered, order = torch.sort(labels.detach())
    f = scores.double()[order]
    # Only differences count: from the middle, scores far from 0 keep their digits.
    f = scale * (f - f.detach().quantile(0.5))
    if not holds((f.max() - f.min()).isfinite()):
        raise ValueError(f"scale times the spread of scores must fit float64, got scale {scale}")
    below = torch.searchsorted(ordered, ordered)  # how many labels are strictly lower
    lower = f.logcumsumexp(0)[(below - 1).clamp_min(0)]
    exponents = (lower - f).masked_fill(below == 0, torch.finfo(f.dtype).min)
    return narrowed(_log_one_plus(exponents), scores.dtype, "loss")


def ranknet_loss(scores: Tensor, labels: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Return RankNet's loss log(1 + e^{f_j − f_i}) over the pairs with y_i > y_j.

    Args:
        scores: f, (B,), B ≥ 1.
        labels: y, (B,), real; only their order counts.
        reduction: "mean" or "sum" over the ordered pairs; both 0 where there are none.

    Returns:
        A scalar ≥ 0.

    Raises:
        TypeError: as `cosent_loss`.
        ValueError: as `cosent_loss`, or for an unknown reduction.

    Source: Burges et al., "Learning to Rank using Gradient Descent", 2005, section 3.

    Example:
        >>> ranknet_loss(torch.tensor([0.9, 0.2, 0.6, 0.4]), torch.tensor([1, 0, 1, 0]))
        tensor(0.4971)
    """
    check_choice(Reduction, reduction=reduction)
    labels = _checked(scores, labels, 1.0)
    ordered = labels[:, None] > labels
    exponents = _exponents(scores, labels, 1.0)
    each = torch.logaddexp(exponents, exponents.new_zeros(())).where(ordered, 0)
    if reduction == "mean":  # divided first: a sum of huge losses may be beyond the dtype
        each = each / ordered.sum().clamp_min(1)
    return narrowed(each.sum(), scores.dtype, "loss")


def pair_weights(scores: Tensor, labels: Tensor, scale: float = 20.0) -> Tensor:
    """Return π_ij = e^{λ (f_j − f_i)} / (1 + Σ), the share of each pair in CoSENT's gradient.

    ∂L/∂f_k = λ (Σ_i π_ik − Σ_j π_kj).

    Args:
        scores: f, (B,), B ≥ 1.
        labels: y, (B,), real.
        scale: λ.

    Returns:
        (B, B), row i and column j; 0 where y_i ≤ y_j; of sum below 1.

    Raises:
        TypeError: as `cosent_loss`.
        ValueError: as `cosent_loss`, apart from the last.

    Source: the derivative of kexue.fm/archives/9341, equation 1.

    Example:
        >>> pair_weights(torch.tensor([0.1, 0.5]), torch.tensor([1, 0]), 1.0)
        tensor([[0.0000, 0.5987],
                [0.0000, 0.0000]])
    """
    labels = _checked(scores, labels, scale)
    exponents = _exponents(scores, labels, scale)
    # A difference beyond the dtype is as good as its largest number.
    exponents = exponents.clamp_max(torch.finfo(exponents.dtype).max)
    flat = torch.cat([exponents.flatten(), exponents.new_zeros(1)])
    weights = flat.softmax(0)[:-1].reshape(exponents.shape)
    return weights.where(labels[:, None] > labels, 0).to(scores.dtype)


def best_threshold(scores: TensorLike, labels: TensorLike) -> Cut:
    """Return the threshold of best accuracy, found by trying every cut between two scores.

    A pair counts as positive if its score is above the threshold. Tried are the midpoints of
    neighbouring different scores, −∞ and ∞; of several best ones the lowest is returned.

    Args:
        scores: floating, (B,), B ≥ 1.
        labels: 0 and 1, or booleans, (B,).

    Returns:
        `threshold` and `accuracy`.

    Raises:
        TypeError: if scores are not floating.
        ValueError: if shapes disagree or are empty, a score is not finite, or a label is neither 0
            nor 1.

    Source: github.com/bojone/CoSENT searches a threshold with Powell's method, which may stop on a
        step of this piecewise constant objective.

    Example:
        >>> best_threshold([0.0, 0.5, 0.75, 1.0], [0, 1, 0, 1])
        Cut(threshold=0.25, accuracy=0.75)
    """
    f = as_floating("scores", scores).detach().double().cpu().numpy()
    y = torch.as_tensor(labels).detach().double().cpu().numpy()
    if f.ndim != 1 or f.shape != y.shape or not len(f):
        raise ValueError(
            f"scores and labels must have one shape (B,), B >= 1, got {f.shape} and {y.shape}"
        )
    if not np.isin(y, (0, 1)).all():
        raise ValueError(f"labels must be 0 or 1, got {y[~np.isin(y, (0, 1))][0]}")
    order = np.argsort(f, kind="stable")
    f, y = f[order], y[order]
    # With the first k below the threshold: right are their zeros and the ones of the others.
    right = np.concatenate([[0], np.cumsum(1 - y)]) + y.sum() - np.concatenate([[0], np.cumsum(y)])
    allowed = np.concatenate([[True], f[1:] > f[:-1], [True]])
    k = int(np.where(allowed, right, -1).argmax())
    if k in (0, len(f)):
        return Cut(-np.inf if k == 0 else np.inf, float(right[k] / len(f)))
    middle = f[k - 1] / 2 + f[k] / 2
    threshold = middle if f[k - 1] <= middle < f[k] else f[k - 1]
    return Cut(float(threshold), float(right[k] / len(f)))


def half_log_ratio(p: TensorLike, n: TensorLike) -> Tensor:
    """Return ½ log(p/n) less its mean: the scores that minimise CoSENT on the full data (λ = 1).

    Positives have the law p and negatives the law n on the same S states. The minimum of
    Σ n e^f · Σ p e^{−f} is (Σ √(p n))², by Cauchy–Schwarz.

    Args:
        p: (S,), positive, of sum 1.
        n: (S,), likewise.

    Returns:
        (S,), of mean 0.

    Raises:
        TypeError: if one is not floating.
        ValueError: if shapes or dtypes disagree, or one is no strictly positive distribution.

    Source: derived in the lesson; the best ranking is by p/n: Neyman and Pearson, 1933.

    Example:
        >>> half_log_ratio(torch.tensor([0.8, 0.2]), torch.tensor([0.2, 0.8]))
        tensor([ 0.6931, -0.6931])
    """
    first, second = as_floating("p", p), as_floating("n", n)
    check_floating(p=first, n=second)
    if first.ndim != 1 or first.shape != second.shape or not len(first):
        raise ValueError(
            f"p and n must have one shape (S,), S >= 1, got {tuple(first.shape)} and "
            f"{tuple(second.shape)}"
        )
    check_distribution(p=first, n=second)
    for name, law in (("p", first), ("n", second)):
        if not holds(law > 0):
            raise ValueError(f"{name} must be positive everywhere, got a 0")
    ratio = (widened(first).log() - widened(second).log()) / 2
    return (ratio - ratio.mean()).to(first.dtype)


def _exponents(scores: Tensor, labels: Tensor, scale: float) -> Tensor:
    """λ (f_j − f_i) where y_i > y_j, row i and column j; elsewhere the dtype's lowest number."""
    f = widened(scores) if _SMALL < scale < _LARGE else scores.double()
    ordered = labels[:, None] > labels
    return (scale * (f - f[:, None])).masked_fill(~ordered, torch.finfo(f.dtype).min)


def _log_one_plus(exponents: Tensor) -> Tensor:
    """log(1 + Σ e^x), also for a tiny sum."""
    total = exponents.logsumexp(0)
    return torch.logaddexp(total, total.new_zeros(()))


def _checked(scores: Tensor, labels: Tensor, scale: float) -> Tensor:
    """The labels, in a dtype that can be sorted."""
    check_positive(scale=scale)
    check_floating(scores=scores)
    if not isinstance(labels, Tensor) or labels.is_complex():
        found = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"labels must be a real tensor, got {found}")
    if scores.ndim != 1 or scores.shape != labels.shape or not len(scores):
        raise ValueError(
            f"scores and labels must have one shape (B,), B >= 1, got {tuple(scores.shape)} and "
            f"{tuple(labels.shape)}"
        )
    check_finite(scores=scores)
    if not holds(~labels.isnan()):
        raise ValueError("labels must be numbers, got nan")
    return labels.to(torch.int8) if labels.dtype == torch.bool else labels
