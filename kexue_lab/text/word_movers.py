"""Distances between texts as optimal transport of word vectors: WMD, WRD, their bounds, search.

A text is a sequence of word vectors, shape (m, d), without order. Word Mover's Distance (WMD)
moves equal masses at Euclidean cost; Word Rotator's Distance (WRD) moves masses proportional to
the vectors' norms at the cost 1 - cos. Both are exact solutions of

    W_D(p, q) = min ⟨γ, D⟩ over γ ≥ 0 with γ1 = p and γᵀ1 = q,

as `kexue_lab.text.transport` finds them. Texts are tensors or anything that `torch.as_tensor`
takes, all of one dtype and on one device.

References:
    Y. Rubner, C. Tomasi, L. Guibas, "The Earth Mover's Distance as a Metric for Image Retrieval",
    IJCV 2000.
    M. Kusner, Y. Sun, N. Kolkin, K. Weinberger, "From Word Embeddings To Document Distances",
    ICML 2015.
    S. Yokoi, R. Takahashi, R. Akama, J. Suzuki, K. Inui, "Word Rotator's Distance", EMNLP 2020,
    arXiv:2004.15003.
    J. Su, "从EMD、WMD到WRD:文本向量序列的相似度计算", 2020, https://kexue.fm/archives/7388.
"""

from bisect import insort
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from kexue_lab.precision import distances, length, narrowed
from kexue_lab.text.corpus import (
    Corpus,
    Kind,
    as_text,
    check_alike,
    checked_norms,
    prepare_texts,
)
from kexue_lab.text.transport import emd, least_cost, sinkhorn_distance, solver_unit
from kexue_lab.validation import (
    TensorLike,
    as_masses,
    check_choice,
    check_count,
)

__all__ = [
    "Kind",
    "centroid_lower_bound",
    "emd",
    "nearest_texts",
    "pairwise_distances",
    "prepare_texts",
    "relaxed_lower_bound",
    "sinkhorn_distance",
    "word_movers_distance",
    "word_rotators_distance",
]

# Bounds and distances that are equal on paper differ by rounding: prune only beyond it.
_PRUNING_SLACK = 1e-12
# Squared distances below this share of ‖x‖² + ‖y‖² are computed from differences; all of them are
# where more than this share would need it.
_CLOSE, _MANY = 1e-4, 0.1


def word_movers_distance(
    x: TensorLike,
    y: TensorLike,
    *,
    x_weights: TensorLike | None = None,
    y_weights: TensorLike | None = None,
) -> Tensor:
    """Return the Word Mover's Distance: transport of words at Euclidean cost ‖x_i - y_j‖.

    A metric on weighted sets of vectors. Differentiable through the optimal plan:
    ∂WMD/∂x_i = Σ_j γ_ij (x_i - y_j)/‖x_i - y_j‖, where a word that stays in place (x_i = y_j)
    contributes the subgradient 0.

    Args:
        x: word vectors of one text, shape (m, d).
        y: word vectors of the other, shape (n, d).
        x_weights: non-negative weights of the words, shape (m,), normalised here; uniform if None.
        y_weights: likewise, shape (n,).

    Returns:
        The distance in the units of the vectors, a scalar of the dtype of `x`.

    Raises:
        TypeError: if an argument is not floating point.
        ValueError: if a text is empty, shapes, dtypes or devices disagree, an entry is not finite,
            or weights are negative or all zero.

    Source: Kusner, Sun, Kolkin and Weinberger, 2015.

    Example:
        >>> words = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
        >>> word_movers_distance(words, words + torch.tensor([0.0, 2.0]))
        tensor(2.)
    """
    x, y = _checked_texts(x, y)
    p = _checked_weights("x_weights", x_weights, x)
    q = _checked_weights("y_weights", y_weights, y)
    distance = emd(p, q, _cost(x.double(), y.double(), "wmd"))
    return narrowed(distance, x.dtype, "the distance")


def word_rotators_distance(x: TensorLike, y: TensorLike) -> Tensor:
    """Return the Word Rotator's Distance: norms are masses, 1 - cos(x_i, y_j) is the cost.

    It lies in [0, 2] and is half of the squared Wasserstein-2 distance between the directions, so
    that √(2 WRD) is a metric on norm-weighted directions; WRD itself breaks the triangle
    inequality. Differentiable through the plan and through the masses.

    Args:
        x: word vectors of one text, shape (m, d), none of them zero.
        y: word vectors of the other, shape (n, d), none of them zero.

    Returns:
        The distance, a scalar of the dtype of `x`.

    Raises:
        TypeError: if an argument is not floating point.
        ValueError: if a text is empty, shapes, dtypes or devices disagree, an entry is not finite,
            or a vector is zero.

    Source: Yokoi et al., 2020, arXiv:2004.15003.
    """
    x, y = _checked_texts(x, y)
    (u, p), (v, q) = _measure("x", x, "wrd"), _measure("y", y, "wrd")
    return emd(p, q, _cost(u, v, "wrd")).to(x.dtype)


def centroid_lower_bound(x: TensorLike, y: TensorLike, *, kind: Kind) -> Tensor:
    """Return the lower bound of WMD or WRD that the texts' centroids give.

    WMD ≥ ‖Σ_i p_i x_i - Σ_j q_j y_j‖ by the triangle inequality (Word Centroid Distance), and
    WRD ≥ ½ ‖Σ_i x_i / Σ_i ‖x_i‖ - Σ_j y_j / Σ_j ‖y_j‖‖² by convexity.

    Args:
        x: word vectors of one text, shape (m, d).
        y: word vectors of the other, shape (n, d).
        kind: "wmd" (uniform weights) or "wrd".

    Returns:
        The bound, a scalar of the dtype of `x`.

    Raises:
        TypeError: if an argument is not floating point.
        ValueError: if `kind` is unknown, or for the texts as in `word_rotators_distance`; zero
            vectors are allowed for WMD.

    Source: Kusner, Sun, Kolkin and Weinberger, 2015, section 4; Su, 2020, for WRD.
    """
    check_choice(Kind, kind=kind)
    x, y = _checked_texts(x, y)
    (u, p), (v, q) = _measure("x", x, kind), _measure("y", y, kind)
    # From a common point: centroids far from the origin would cancel.
    bound = _centroid_bound(p @ (u - u[0]) - q @ (v - u[0]), kind)
    return narrowed(bound, x.dtype, "the bound")


def relaxed_lower_bound(x: TensorLike, y: TensorLike, *, kind: Kind) -> Tensor:
    """Return the lower bound of WMD or WRD that dropping either marginal gives.

    max(Σ_i p_i min_j D_ij, Σ_j q_j min_i D_ij), the relaxed WMD (RWMD); it holds for every cost.

    Args:
        x: word vectors of one text, shape (m, d).
        y: word vectors of the other, shape (n, d).
        kind: "wmd" (uniform weights) or "wrd".

    Returns:
        The bound, a scalar of the dtype of `x`.

    Raises:
        TypeError: if an argument is not floating point.
        ValueError: as in `centroid_lower_bound`.

    Source: Kusner, Sun, Kolkin and Weinberger, 2015, section 4.
    """
    check_choice(Kind, kind=kind)
    x, y = _checked_texts(x, y)
    (u, p), (v, q) = _measure("x", x, kind), _measure("y", y, kind)
    return narrowed(_relaxed_bound(p, q, _cost(u, v, kind)), x.dtype, "the bound")


def nearest_texts(
    query: TensorLike, corpus: Corpus | Sequence[TensorLike], k: int, *, kind: Kind = "wmd"
) -> tuple[Tensor, Tensor, int]:
    """Find the k texts nearest to a query, exactly, solving as few transport problems as it can.

    Texts are visited in the order of the larger of their two bounds, `centroid_lower_bound` and
    `relaxed_lower_bound`, until it exceeds the k-th best distance so far.

    Args:
        query: word vectors, shape (m, d).
        corpus: texts, each of shape (n_b, d), or what `prepare_texts` has made of them: for many
            queries that saves preparing them each time.
        k: number of neighbours, from 1 to the size of the corpus.
        kind: "wmd" (uniform weights) or "wrd".

    Returns:
        (distances of shape (k,), ascending, of the dtype of `query`; their indices in `corpus`,
        int64 of shape (k,), the smaller index first where distances are equal; number of exact
        problems solved). No gradient is kept.

    Raises:
        TypeError: if a text is not floating point, or `k` is not an integer.
        ValueError: if `corpus` or a text is empty, dimensions, dtypes or devices disagree, an entry
            is not finite, `k` or `kind` is out of range, the corpus was prepared for another kind,
            or a vector is zero where `kind` is "wrd".

    Source: Kusner, Sun, Kolkin and Weinberger, 2015, section 4.
    """
    check_choice(Kind, kind=kind)
    check_count(k=k)
    texts = (
        corpus if isinstance(corpus, Corpus) else prepare_texts(corpus, kind=kind, name="corpus")
    )
    if texts.kind != kind:
        raise ValueError(f"kind must be that of the corpus, {texts.kind!r}, got {kind!r}")
    query = as_text("query", query)
    check_alike("query", query, "corpus[0]", texts.like)
    if k > len(texts):
        raise ValueError(f"k must be at most the number of texts {len(texts)}, got {k}")

    source = prepare_texts([query], kind=kind, name="query")
    p = source.masses[0]
    costs = _vocabulary_cost(texts.vectors, source.vectors[source.words[0]], kind)
    unit = solver_unit(costs)
    bounds = torch.maximum(
        _centroid_bound(texts.centroids - source.centroids, kind), _relaxed_bounds(texts, p, costs)
    )
    size = max(length(source.vectors).max().item(), length(texts.vectors).max().item())
    best: list[tuple[float, int]] = []
    n_solved = 0
    for j in bounds.argsort(stable=True).tolist():
        if len(best) == k and bounds[j].item() > best[-1][0] + _PRUNING_SLACK * size:
            break
        cost = costs[texts.words[j]] / unit
        insort(best, (least_cost(texts.masses[j], p, cost) * unit, j))
        del best[k:]
        n_solved += 1
    distances, indices = zip(*best, strict=True)
    return (
        narrowed(query.new_tensor(distances, dtype=torch.float64), query.dtype, "a distance"),
        torch.tensor(indices, device=query.device),
        n_solved,
    )


def pairwise_distances(
    texts_a: Sequence[TensorLike], texts_b: Sequence[TensorLike], *, kind: Kind
) -> Tensor:
    """Return the exact WMD or WRD between every text of one list and every text of another.

    Repeated words of a text are merged into one of their total mass, and each text of `texts_a`
    meets every distinct word of `texts_b` once.

    Args:
        texts_a: texts, each of shape (m_a, d).
        texts_b: texts, each of shape (n_b, d).
        kind: "wmd" (uniform weights) or "wrd".

    Returns:
        Distances, shape (A, B), of the dtype of the texts. No gradient is kept.

    Raises:
        TypeError: if a text is not floating point.
        ValueError: if a list or a text is empty, dimensions, dtypes or devices disagree, an entry
            is not finite, `kind` is unknown, or a vector is zero where `kind` is "wrd".
    """
    check_choice(Kind, kind=kind)
    source, target = (
        prepare_texts(texts_a, kind=kind, name="texts_a"),
        prepare_texts(texts_b, kind=kind, name="texts_b"),
    )
    check_alike("texts_b[0]", target.like, "texts_a[0]", source.like)
    rows = []
    for words, p in zip(source.words, source.masses, strict=True):
        costs = _vocabulary_cost(target.vectors, source.vectors[words], kind)
        unit = solver_unit(costs)
        costs /= unit
        pairs = zip(target.words, target.masses, strict=True)
        # Texts of `texts_b` are rows here: their costs are then gathered as contiguous memory.
        rows.append([least_cost(q, p, costs[other]) * unit for other, q in pairs])
    table = torch.tensor(rows, dtype=torch.float64, device=source.like.device)
    return narrowed(table, source.like.dtype, "a distance")


def _measure(name: str, text: Tensor, kind: Kind) -> tuple[Tensor, Tensor]:
    """The points and masses, in float64, between which the distance transports."""
    text = text.double()
    if kind == "wmd":
        return text, text.new_full((len(text),), 1 / len(text))
    norms = checked_norms(name, text)
    masses = norms / norms.max()
    return text / norms[:, None], masses / masses.sum()


def _cost(x: Tensor, y: Tensor, kind: Kind) -> Tensor:
    # From differences: exactly 0, and of gradient 0, for equal vectors.
    gaps = distances(x, y)
    if not bool(gaps.isfinite().all()):
        raise ValueError("texts must have distances within float64, got vectors too far apart")
    return gaps if kind == "wmd" else gaps.square() / 2


def _vocabulary_cost(x: Tensor, y: Tensor, kind: Kind) -> Tensor:
    """`_cost` without gradient, through a matrix product."""
    scale = torch.linalg.vecdot(x, x)[:, None] + torch.linalg.vecdot(y, y)
    if not 1e-280 < scale.min().item() <= scale.max().item() < 1e280:
        return _cost(x, y, kind)
    squares = torch.addmm(scale, x, y.mT, alpha=-2)
    # Elsewhere the cancellation costs no more than two digits of the distance.
    i, j = (squares < _CLOSE * scale).nonzero(as_tuple=True)
    if len(i) > _MANY * squares.numel():
        return _cost(x, y, kind)
    squares[i, j] = (x[i] - y[j]).square().sum(-1)
    return squares.sqrt_() if kind == "wmd" else squares / 2


def _centroid_bound(difference: Tensor, kind: Kind) -> Tensor:
    if kind == "wmd":
        return length(difference)
    return difference.square().sum(-1) / 2


def _relaxed_bound(p: Tensor, q: Tensor, cost: Tensor) -> Tensor:
    return torch.maximum(p @ cost.amin(1), q @ cost.amin(0))


def _relaxed_bounds(texts: Corpus, p: Tensor, costs: Tensor) -> Tensor:
    """`_relaxed_bound` of every text and a query of masses p, from costs (V, m) of all words."""
    words, masses = torch.cat(texts.words), torch.cat(texts.masses)
    starts = np.cumsum([0, *(len(own) for own in texts.words[:-1])])
    from_text = np.add.reduceat((masses * costs.amin(1)[words]).numpy(), starts)
    from_query = np.zeros(len(texts))
    for mass, column in zip(p.tolist(), costs.mT, strict=True):  # one word at a time: less memory
        from_query += mass * np.minimum.reduceat(column[words].numpy(), starts)
    return torch.from_numpy(np.maximum(from_text, from_query))


def _checked_texts(x: TensorLike, y: TensorLike) -> tuple[Tensor, Tensor]:
    x, y = as_text("x", x), as_text("y", y)
    check_alike("y", y, "x", x)
    return x, y


def _checked_weights(name: str, weights: TensorLike | None, text: Tensor) -> Tensor:
    if weights is None:
        return text.new_full((len(text),), 1 / len(text), dtype=torch.float64)
    values = as_masses(name, weights, text.to(torch.float64))
    if values.shape != (len(text),):
        raise ValueError(f"{name} must have shape ({len(text)},), got {tuple(values.shape)}")
    if bool((values < 0).any()):
        raise ValueError(f"{name} must be non-negative, got {values.min().item():g}")
    if not bool((values > 0).any()):
        raise ValueError(f"{name} must not be all zero")
    values = values / values.max()
    return values / values.sum()
