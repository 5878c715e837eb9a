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

import math
from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from kexue_lab.precision import distances, length, narrowed
from kexue_lab.text.transport import emd, least_cost, sinkhorn_distance, solver_unit
from kexue_lab.validation import (
    TensorLike,
    as_floating,
    as_masses,
    check_choice,
    check_count,
    check_same_place,
)

__all__ = [
    "Kind",
    "centroid_lower_bound",
    "emd",
    "nearest_texts",
    "pairwise_distances",
    "relaxed_lower_bound",
    "sinkhorn_distance",
    "word_movers_distance",
    "word_rotators_distance",
]

Kind = Literal["wmd", "wrd"]

# Bounds and distances that are equal on paper differ by rounding: prune only beyond it.
_PRUNING_SLACK = 1e-12
# Squared distances below this share of ‖x‖² + ‖y‖² are computed from differences; all of them are
# where more than this share would need it.
_CLOSE, _MANY = 1e-4, 0.1


@dataclass(frozen=True)
class _Corpus:
    """Texts over one vocabulary of distinct vectors, repeated words merged.

    Texts of the same words in any order get the same words and masses, bit by bit, so that they
    tie exactly.

    Attributes:
        vectors: distinct word vectors on the CPU in float64, of unit length for WRD, (V, d).
        words: for each text the increasing rows of `vectors` that it uses, (n,).
        masses: for each text the masses of these words, (n,), summing to 1.
    """

    vectors: Tensor
    words: tuple[Tensor, ...]
    masses: tuple[Tensor, ...]

    def centroids(self) -> Tensor:
        """Return the mass-weighted means of the texts' vectors, (B, d)."""
        pairs = zip(self.words, self.masses, strict=True)
        return torch.stack([mass @ self.vectors[words] for words, mass in pairs])


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
    query: TensorLike, corpus: Sequence[TensorLike], k: int, *, kind: Kind = "wmd"
) -> tuple[Tensor, Tensor, int]:
    """Find the k texts nearest to a query, exactly, solving as few transport problems as it can.

    Texts are visited in the order of their centroid bound until it exceeds the k-th best distance
    so far; a text whose relaxed bound exceeds that distance is skipped ("prefetch and prune").

    Args:
        query: word vectors, shape (m, d).
        corpus: texts, each of shape (n_b, d).
        k: number of neighbours, from 1 to the size of the corpus.
        kind: "wmd" (uniform weights) or "wrd".

    Returns:
        (distances of shape (k,), ascending, of the dtype of `query`; their indices in `corpus`,
        int64 of shape (k,), the smaller index first where distances are equal; number of exact
        problems solved). No gradient is kept.

    Raises:
        TypeError: if a text is not floating point, or `k` is not an integer.
        ValueError: if `corpus` or a text is empty, dimensions, dtypes or devices disagree, an entry
            is not finite, `k` or `kind` is out of range, or a vector is zero where `kind` is "wrd".

    Source: Kusner, Sun, Kolkin and Weinberger, 2015, section 4.
    """
    check_choice(Kind, kind=kind)
    texts = _checked_text_list("corpus", corpus)
    query = _as_text("query", query)
    _check_alike("query", query, "corpus[0]", texts[0])
    check_count(k=k)
    if k > len(texts):
        raise ValueError(f"k must be at most the number of texts {len(texts)}, got {k}")

    source, target = _corpus("query", [query], kind), _corpus("corpus", texts, kind)
    p = source.masses[0]
    costs = _vocabulary_cost(target.vectors, source.vectors[source.words[0]], kind)
    unit = solver_unit(costs)
    bounds = _centroid_bound(target.centroids() - source.centroids(), kind)
    size = max(length(source.vectors).max().item(), length(target.vectors).max().item())
    best: list[tuple[float, int]] = []
    n_solved = 0
    for j in bounds.argsort(stable=True).tolist():
        limit = best[-1][0] + _PRUNING_SLACK * size if len(best) == k else math.inf
        if bounds[j].item() > limit:
            break
        q, cost = target.masses[j], costs[target.words[j]]
        if _relaxed_bound(q, p, cost).item() > limit:
            continue
        insort(best, (least_cost(q, p, cost / unit) * unit, j))
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
    first, second = _checked_text_list("texts_a", texts_a), _checked_text_list("texts_b", texts_b)
    _check_alike("texts_b[0]", second[0], "texts_a[0]", first[0])
    source, target = _corpus("texts_a", first, kind), _corpus("texts_b", second, kind)
    rows = []
    for words, p in zip(source.words, source.masses, strict=True):
        costs = _vocabulary_cost(target.vectors, source.vectors[words], kind)
        unit = solver_unit(costs)
        costs /= unit
        pairs = zip(target.words, target.masses, strict=True)
        # Texts of `texts_b` are rows here: their costs are then gathered as contiguous memory.
        rows.append([least_cost(q, p, costs[other]) * unit for other, q in pairs])
    table = torch.tensor(rows, dtype=torch.float64, device=first[0].device)
    return narrowed(table, first[0].dtype, "a distance")


def _measure(name: str, text: Tensor, kind: Kind) -> tuple[Tensor, Tensor]:
    """The points and masses, in float64, between which the distance transports."""
    text = text.double()
    if kind == "wmd":
        return text, text.new_full((len(text),), 1 / len(text))
    norms = _checked_norms(name, text)
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


def _corpus(name: str, texts: Sequence[Tensor], kind: Kind) -> _Corpus:
    """Merge equal words, within texts and between them."""
    seen: dict[bytes, int] = {}
    tokens: list[int] = []
    for text in texts:
        rows = text.detach().double().cpu().contiguous().numpy()
        keys = rows.view(f"V{rows.itemsize * rows.shape[1]}").ravel().tolist()
        tokens += [seen.setdefault(key, len(seen)) for key in keys]
    vectors = torch.frombuffer(bytearray().join(seen), dtype=torch.float64).view(len(seen), -1)
    norms = _checked_norms(name, vectors) if kind == "wrd" else vectors.new_ones(len(vectors))

    owner = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
    entries, counts = np.unique(owner * len(seen) + np.array(tokens), return_counts=True)
    text, word = map(torch.from_numpy, np.divmod(entries, len(seen)))
    lengths = text.bincount()
    ends = lengths.cumsum(0)[:-1]
    masses = torch.from_numpy(counts) * norms[word]
    masses = masses / masses.new_zeros(len(lengths)).index_add(0, text, masses)[text]
    return _Corpus(vectors / norms[:, None], word.tensor_split(ends), masses.tensor_split(ends))


def _as_text(name: str, value: TensorLike) -> Tensor:
    text = as_floating(name, value)
    if text.ndim != 2 or text.numel() == 0:
        raise ValueError(f"{name} must have shape (m, d) with m, d >= 1, got {tuple(text.shape)}")
    return text


def _checked_texts(x: TensorLike, y: TensorLike) -> tuple[Tensor, Tensor]:
    x, y = _as_text("x", x), _as_text("y", y)
    _check_alike("y", y, "x", x)
    return x, y


def _checked_text_list(name: str, values: Sequence[TensorLike]) -> list[Tensor]:
    texts = [_as_text(f"{name}[{i}]", value) for i, value in enumerate(values)]
    if not texts:
        raise ValueError(f"{name} must hold at least one text, got none")
    for i, text in enumerate(texts):
        _check_alike(f"{name}[{i}]", text, f"{name}[0]", texts[0])
    return texts


def _check_alike(name: str, text: Tensor, other: str, reference: Tensor) -> None:
    if text.shape[1] != reference.shape[1]:
        raise ValueError(
            f"{name} must have vectors of the dimension {reference.shape[1]} of {other},"
            f" got {text.shape[1]}"
        )
    check_same_place(name, text, other, reference)


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


def _checked_norms(name: str, text: Tensor) -> Tensor:
    norms = length(text)
    if not bool((norms > 0).all()):
        raise ValueError(f"{name} must have no zero vector where kind is 'wrd': it has no cosine")
    return norms
