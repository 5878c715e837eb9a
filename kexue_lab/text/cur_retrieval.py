"""Retrieval with a slow scorer: all scores of a query from a few, by CUR decomposition.

A scorer s(q, k) that reads query and item together has to be called for every pair. `AnnCur` calls
it offline for all items and a few anchor queries, and then for a new query only on a few anchor
items; the query's other scores are a linear combination of these. In matrices: S ≈ C W⁺ R, with
anchor columns C, anchor rows R, and W where they cross (`cur_decomposition`).

Everything is computed in float64, whatever dtype comes in and goes out.

References:
    N. Yadav, N. Monath, R. Angell, M. Zaheer, A. McCallum, "Efficient Nearest Neighbor Search for
    Cross-Encoder Models using Matrix Factorization", EMNLP 2022, arXiv:2210.12579.
    M. W. Mahoney, P. Drineas, "CUR matrix decompositions for improved data analysis", PNAS 2009.
    S. Goreinov, E. Tyrtyshnikov, "The maximal-volume concept in approximation by low-rank
    matrices", 2001.
    J. Su, "利用CUR分解加速交互式相似度模型的检索", 2022, https://kexue.fm/archives/9336.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from scipy.linalg import qr
from torch import Tensor

from kexue_lab.precision import narrowed, power_of_two
from kexue_lab.validation import (
    check_choice,
    check_count,
    check_finite,
    check_floating,
    check_non_negative,
)

Middle = Literal["intersection", "optimal"]
"""The middle factor: from the intersection of rows and columns, or the best one there is."""

Selection = Literal["random", "qr", "kmeans"]
"""How anchor items are chosen."""

Indices = Sequence[int] | Tensor

_KMEANS_ROUNDS = 20


def cur_decomposition(
    scores: Tensor,
    rows: Indices,
    cols: Indices,
    *,
    middle: Middle = "intersection",
    rcond: float = 1e-10,
    ridge: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Approximate a matrix by some of its columns, a small middle factor, and some of its rows.

    "intersection": U = W⁺ for W = scores[rows][:, cols], or (WᵀW + ridge)⁻¹Wᵀ with a ridge; of all
    scores only C and R are used. "optimal": U = C⁺ S R⁺, the least Frobenius error that C and R
    allow; it needs all of them.

    Args:
        scores: the matrix S, shape (m, n).
        rows: r distinct row numbers from 0.
        cols: c distinct column numbers from 0.
        middle: how the middle factor is found.
        rcond: singular values below this share of the largest count as 0; ignored with a ridge.
        ridge: regularisation, at least 0; it must be 0 for "optimal".

    Returns:
        (C, U, R), shapes (m, c), (c, r) and (r, n), in the dtype of `scores`; S ≈ C U R.

    Raises:
        ValueError: for repeated or missing rows and columns, or a middle factor beyond the dtype.

    Source: Mahoney and Drineas, PNAS 2009; the intersection as in Yadav et al., arXiv:2210.12579.

    Example:
        >>> S = torch.tensor([[2.0, 1.0, 3.0], [1.0, 1.0, 2.0], [3.0, 1.0, 4.0]])
        >>> C, U, R = cur_decomposition(S, [0, 1], [0, 1])
        >>> U
        tensor([[ 1., -1.],
                [-1.,  2.]])
        >>> torch.dist(C @ U @ R, S) < 1e-5
        tensor(True)
    """
    _check_scores(scores=scores)
    check_choice(Middle, middle=middle)
    rows = _check_indices("rows", rows, scores.shape[0]).to(scores.device)
    cols = _check_indices("cols", cols, scores.shape[1]).to(scores.device)
    _check_cuts(rcond, ridge)
    if ridge and middle == "optimal":
        raise ValueError(f'ridge must be 0 for the middle factor "optimal", got {ridge}')
    C, R = scores[:, cols], scores[rows]
    unit = _unit(scores)
    whole, wide_C, wide_R = (x.double() / unit for x in (scores, C, R))
    if middle == "optimal":
        inner = _inverse(wide_C, rcond, 0.0) @ whole @ _inverse(wide_R, rcond, 0.0)
    else:
        inner = _inverse(wide_R[:, cols], rcond, ridge / unit / unit)
    return C, narrowed(inner / unit, scores.dtype, "the middle factor"), R


class AnnCur:
    """An index of items: their scores for a new query, from those of a few anchor items.

    It stores M = W⁺ R, which predicts all items' scores from the anchor items' by least squares,
    with the anchor queries as examples. Take more anchor queries than anchor items, or a ridge:
    where the numbers are equal, and little is cut off, W is nearly singular, and errors explode.

    Args:
        anchor_query_scores: R, the scores of r anchor queries with all n items, shape (r, n).
        anchor_items: c distinct numbers of items.
        rcond: singular values below this share of the largest count as 0; ignored with a ridge.
        ridge: regularisation of the least squares, at least 0.

    Attributes:
        anchor_items: shape (c,).
        weights: M in float64, shape (c, n).

    Raises:
        ValueError: for repeated or missing items, scores that are not finite, or weights beyond
            float64.

    Source: ANNCUR in Yadav et al., arXiv:2210.12579, section 2.2.

    Example:
        >>> R = torch.tensor([[2.0, 1.0, 3.0, 0.0], [1.0, 1.0, 2.0, 1.0]])
        >>> index = AnnCur(R, [0, 1])
        >>> index.scores(torch.tensor([[3.0, 1.0]]))
        tensor([[ 3.,  1.,  4., -1.]])
    """

    def __init__(
        self,
        anchor_query_scores: Tensor,
        anchor_items: Indices,
        *,
        rcond: float = 1e-10,
        ridge: float = 0.0,
    ) -> None:
        _check_scores(anchor_query_scores=anchor_query_scores)
        n = anchor_query_scores.shape[1]
        _check_cuts(rcond, ridge)
        device = anchor_query_scores.device
        self.anchor_items = _check_indices("anchor_items", anchor_items, n).to(device)
        unit = _unit(anchor_query_scores)
        R = anchor_query_scores.double() / unit
        inverse = _inverse(R[:, self.anchor_items], rcond, ridge / unit / unit)
        self.weights = narrowed(inverse @ R, torch.float64, "the weights")

    def scores(self, anchor_item_scores: Tensor) -> Tensor:
        """Predict the scores of all items.

        Args:
            anchor_item_scores: scores of B queries with the anchor items, shape (B, c).

        Returns:
            Shape (B, n), in the dtype of the scores; the anchor items' are those that were given.

        Raises:
            ValueError: for another number of anchor items, or predictions beyond the dtype.
        """
        _check_scores(anchor_item_scores=anchor_item_scores)
        if anchor_item_scores.shape[1] != len(self.anchor_items):
            raise ValueError(
                f"anchor_item_scores must have shape (B, {len(self.anchor_items)}), "
                f"got {tuple(anchor_item_scores.shape)}"
            )
        unit = _unit(anchor_item_scores)
        wide = anchor_item_scores.double() / unit @ self.weights * unit
        found = narrowed(wide, anchor_item_scores.dtype, "the predicted scores")
        found[:, self.anchor_items] = anchor_item_scores
        return found

    def search(
        self, score_items: Callable[[Tensor], Tensor], k: int, budget: int
    ) -> tuple[Tensor, Tensor, int]:
        """Find the best items for one query, with a limited number of calls of the scorer.

        The anchor items are scored, then the items with the best predictions, as far as the budget
        goes. If at least k of these were scored, the k best of all scored items are returned; with
        fewer, those that were not scored compete by their predictions.

        Args:
            score_items: gives the true scores, shape (len,), of the items with these numbers.
            k: number of items wanted, at most n.
            budget: number of items that may be scored, at least the number of anchor items.

        Returns:
            (indices, scores, n_calls): the items and their scores, shape (k,), best first, and how
            many items were scored.

        Raises:
            ValueError: if `k` or `budget` is out of range, or the scorer returns no finite floats
                of the right shape.
        """
        n, anchors = self.weights.shape[1], len(self.anchor_items)
        check_count(k=k, budget=budget)
        if k > n:
            raise ValueError(f"k must be at most the number of items {n}, got {k}")
        if budget < anchors:
            raise ValueError(f"budget must be at least {anchors}, the anchor items, got {budget}")
        found = self.scores(self._scored(score_items, self.anchor_items)[None])[0]
        known = torch.zeros(n, dtype=torch.bool, device=found.device)
        known[self.anchor_items] = True
        rest = found.masked_fill(known, -torch.inf)
        chosen = rest.topk(min(budget, n) - anchors).indices
        if len(chosen):
            found[chosen] = self._scored(score_items, chosen).to(found.dtype)
            known[chosen] = True
        if len(chosen) >= k or bool(known.all()):
            found = found.masked_fill(~known, -torch.inf)
        best = found.topk(k)
        return best.indices, best.values, anchors + len(chosen)

    def _scored(self, score_items: Callable[[Tensor], Tensor], items: Tensor) -> Tensor:
        scores = score_items(items)
        check_floating(scores=scores)
        check_finite(scores=scores)
        if scores.shape != items.shape:
            raise ValueError(
                f"score_items must return shape {tuple(items.shape)}, got {tuple(scores.shape)}"
            )
        return scores


def select_anchors(
    anchor_query_scores: Tensor,
    n_anchors: int,
    *,
    method: Selection = "random",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Choose anchor items.

    "random": all choices are equally likely. "qr": QR with column pivoting takes one column after
    the other, each time that with the most left of it once the earlier ones are projected out; the
    first ones of a longer list are the shorter list. "kmeans": the items nearest to the centres of
    k-means on the columns.

    Args:
        anchor_query_scores: R, the scores of r anchor queries with all n items, shape (r, n).
        n_anchors: at most n, and for "qr" at most min(r, n).
        method: see above.
        generator: source of randomness on the CPU, for "random" and "kmeans".

    Returns:
        Distinct numbers of items, int64, shape (n_anchors,).

    Raises:
        ValueError: for too many anchors or an unknown method.

    Source: Yadav et al., arXiv:2210.12579 (random); Businger and Golub, 1965 (pivoting); the
    article, kexue.fm/archives/9336 (clusters).

    Example:
        >>> R = torch.tensor([[1.0, 0.0, 9.0, 9.0], [0.0, 2.0, 1.0, 1.0]])
        >>> select_anchors(R, 2, method="qr")
        tensor([2, 1])
    """
    _check_scores(anchor_query_scores=anchor_query_scores)
    check_choice(Selection, method=method)
    check_count(n_anchors=n_anchors)
    r, n = anchor_query_scores.shape
    limit = min(r, n) if method == "qr" else n
    if n_anchors > limit:
        raise ValueError(f"n_anchors must be at most {limit}, got {n_anchors}")
    device = anchor_query_scores.device
    if method == "random":
        return torch.randperm(n, generator=generator)[:n_anchors].to(device)
    scaled = anchor_query_scores.detach().cpu().double() / _unit(anchor_query_scores)
    if method == "qr":
        pivots = qr(scaled.numpy(), mode="economic", pivoting=True)[2]
        return torch.from_numpy(pivots[:n_anchors].astype(np.int64)).to(device)
    return _central(scaled.T, n_anchors, generator).to(device)


def recall_at_k(approx: Tensor, exact: Tensor, k: int) -> Tensor:
    """Return for each query the share of the k best items by exact scores that approx also has.

    Equal scores are ranked by the number of the item.

    Args:
        approx: scores by which items are retrieved, shape (B, n).
        exact: scores that are right, shape (B, n).
        k: length of the lists, at most n.

    Returns:
        Multiples of 1/k, shape (B,), in the dtype of `exact`.

    Raises:
        ValueError: if shapes differ, a score is not finite, or `k` is out of range.

    Source: recall@k, as in Yadav et al., arXiv:2210.12579, section 3.

    Example:
        >>> recall_at_k(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([[3.0, 2.0, 1.0]]), 2)
        tensor([0.5000])
    """
    _check_scores(approx=approx, exact=exact)
    check_count(k=k)
    if approx.shape != exact.shape:
        raise ValueError(
            f"approx must have the shape {tuple(exact.shape)} of exact, got {tuple(approx.shape)}"
        )
    n = exact.shape[1]
    if k > n:
        raise ValueError(f"k must be at most the number of items {n}, got {k}")
    wanted, found = (
        torch.zeros(exact.shape, dtype=torch.bool, device=exact.device).scatter(
            1, _best(scores, k), True
        )
        for scores in (exact, approx)
    )
    return ((wanted & found).sum(1).double() / k).to(exact.dtype)


def _best(scores: Tensor, k: int) -> Tensor:
    """The numbers of the k largest of each row, best first; of equal ones the first."""
    return scores.sort(dim=1, descending=True, stable=True).indices[:, :k]


def _inverse(W: Tensor, rcond: float, ridge: float) -> Tensor:
    """(WᵀW + ridge)⁻¹Wᵀ, or the pseudo-inverse of W."""
    U, sizes, Vh = torch.linalg.svd(W, full_matrices=False)
    if ridge > 0:
        factors = torch.where(sizes > 0, 1 / (sizes + ridge / sizes), 0)
    else:
        kept = (sizes > rcond * sizes.max()) & (sizes > 0)
        factors = torch.where(kept, 1 / sizes, 0)
    inverse: Tensor = Vh.mT * factors @ U.mT
    return inverse


def _unit(x: Tensor) -> float:
    """The power of two below the largest entry: scaled by it, nothing overflows on the way."""
    return float(power_of_two(x.detach().double().abs().max()))


def _central(points: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """For each centre of k-means the nearest of the points (n, d) that is not taken yet."""
    centres = points[torch.randperm(len(points), generator=generator)[:count]]
    for _ in range(_KMEANS_ROUNDS):
        nearest = torch.cdist(points, centres).argmin(1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        sizes = torch.bincount(nearest, minlength=count)[:, None]
        centres = torch.where(sizes > 0, sums / sizes.clamp_min(1), centres)
    apart = torch.cdist(centres, points)
    chosen = []
    for row in apart:
        chosen.append(int(row.argmin()))
        apart[:, chosen[-1]] = torch.inf
    return torch.tensor(chosen)


def _check_scores(**matrices: Tensor) -> None:
    check_floating(**matrices)
    for name, value in matrices.items():
        if value.ndim != 2 or 0 in value.shape:
            raise ValueError(
                f"{name} must be a matrix that is not empty, got shape {tuple(value.shape)}"
            )
    check_finite(**matrices)


def _check_indices(name: str, indices: Any, size: int) -> Tensor:
    found = torch.as_tensor(indices)
    if found.numel() and (found.is_floating_point() or found.dtype == torch.bool):
        raise TypeError(f"{name} must be whole numbers, got {found.dtype}")
    if found.ndim != 1 or not len(found):
        raise ValueError(f"{name} must be at least one number, got shape {tuple(found.shape)}")
    least, largest = int(found.min()), int(found.max())
    if least < 0 or largest >= size:
        raise ValueError(f"{name} must lie from 0 to {size - 1}, got {least} to {largest}")
    if len(set(found.tolist())) < len(found):
        raise ValueError(f"{name} must be distinct, got {found.tolist()}")
    return found.long()


def _check_cuts(rcond: float, ridge: float) -> None:
    check_non_negative(rcond=rcond, ridge=ridge)
    if rcond >= 1:
        raise ValueError(f"rcond must be below 1, got {rcond}")
