"""Distances between texts as optimal transport of word vectors: WMD, WRD, their bounds, search.

A text is a sequence of word vectors, shape (m, d), without order. Word Mover's Distance (WMD)
moves equal masses at Euclidean cost; Word Rotator's Distance (WRD) moves masses proportional to
the vectors' norms at the cost 1 - cos. Both are exact solutions of

    W_D(p, q) = min ⟨γ, D⟩ over γ ≥ 0 with γ1 = p and γᵀ1 = q,

found by the network simplex of POT. Transport is solved in float64 whatever the input's dtype;
texts are tensors or anything that `torch.as_tensor` takes, all of one dtype and on one device.

References:
    Y. Rubner, C. Tomasi, L. Guibas, "The Earth Mover's Distance as a Metric for Image Retrieval",
    IJCV 2000.
    M. Kusner, Y. Sun, N. Kolkin, K. Weinberger, "From Word Embeddings To Document Distances",
    ICML 2015.
    S. Yokoi, R. Takahashi, R. Akama, J. Suzuki, K. Inui, "Word Rotator's Distance", EMNLP 2020,
    arXiv:2004.15003.
    R. Flamary et al., "POT: Python Optimal Transport", JMLR 2021.
    J. Su, "从EMD、WMD到WRD:文本向量序列的相似度计算", 2020, https://kexue.fm/archives/7388.
"""

import math
import warnings
from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, overload

import numpy as np
import ot
import torch
from numpy.typing import ArrayLike, NDArray

# `ot.emd2` spends two thirds of its time around this call when texts have ten to thirty words.
from ot.lp.emd_wrap import emd_c
from torch import Tensor

from kexue_lab.precision import distances, length, narrowed
from kexue_lab.validation import check_choice, check_count, check_positive

Kind = Literal["wmd", "wrd"]
TensorLike = Tensor | ArrayLike

_MASS_TOLERANCE = 1e-6
_MAX_PIVOTS = 10**7
_OPTIMAL = 1
# Bounds and distances that are equal on paper differ by rounding: prune only beyond it.
_PRUNING_SLACK = 1e-12
# Squared distances below this share of ‖x‖² + ‖y‖² are computed from differences; all of them are
# where more than this share would need it.
_CLOSE, _MANY = 1e-4, 0.1
# Costs up to so many times the distance leave it its digits in the solver.
_CAPPED = 2.0**20
# A sum of row errors that makes a plan of Sinkhorn's none.
_NO_PLAN = 0.01
# The rounding error of a row of Sinkhorn's plan beyond which it is refused.
_LARGEST_ROUNDING = 1e-6


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
        """Compute the mass-weighted means of the texts' vectors, (B, d)."""
        pairs = zip(self.words, self.masses, strict=True)
        return torch.stack([mass @ self.vectors[words] for words, mass in pairs])


@overload
def emd(
    p: TensorLike, q: TensorLike, cost: TensorLike, *, return_plan: Literal[False] = False
) -> Tensor: ...
@overload
def emd(
    p: TensorLike, q: TensorLike, cost: TensorLike, *, return_plan: Literal[True]
) -> tuple[Tensor, Tensor]: ...
def emd(
    p: TensorLike, q: TensorLike, cost: TensorLike, *, return_plan: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """Compute the earth mover's distance min ⟨γ, D⟩ between two discrete distributions, exactly.

    Differentiable: the gradient is the optimal plan with respect to `cost` and the dual potentials,
    up to a constant, with respect to `p` and `q` (a subgradient where these are not unique).

    Args:
        p: source masses, shape (m,), non-negative, summing to 1 within 1e-6.
        q: target masses, shape (n,), likewise.
        cost: cost D_ij of moving a unit of mass from i to j, shape (m, n), of any sign.
        return_plan: whether to return the optimal plan too.

    Returns:
        The distance, a scalar, or (distance, plan of shape (m, n)), of the dtype of `cost`.

    Raises:
        TypeError: if an argument is not floating point.
        ValueError: if shapes, dtypes or devices disagree, an entry is not finite, or `p` or `q` is
            not a distribution.

    Reference: Rubner, Tomasi and Guibas, 2000; solver: Flamary et al., 2021.

    Example:
        >>> half = [0.5, 0.5]
        >>> emd(half, half, [[0.0, 3.0], [3.0, 1.0]])
        tensor(0.5000)
    """
    p, q, cost = _checked_problem(p, q, cost)
    for name, tensor, ndim in (("p", p, 1), ("q", q, 1), ("cost", cost, 2)):
        if tensor.ndim != ndim:
            raise ValueError(f"{name} must have {ndim} axes, got shape {tuple(tensor.shape)}")
    exact = cost.double()
    # POT 0.9.7 takes a problem with negative costs for infeasible.
    lowest = min(exact.min().item(), 0.0)
    raised = exact - lowest
    if not bool(raised.isfinite().all()):
        raise ValueError(f"cost must span a range within float64, got from {lowest:g} up")
    cap = _useful_cost(p.detach().double(), q.detach().double(), raised.detach())
    raised = raised.clamp(max=cap)
    unit = _solver_unit(raised)
    value, log = ot.emd2(
        p.double(), q.double(), raised / unit, numItermax=_MAX_PIVOTS, return_matrix=True
    )
    value = narrowed(value * unit + lowest * p.double().sum(), cost.dtype, "the distance")
    return (value, log["G"].to(cost.dtype)) if return_plan else value


def word_movers_distance(
    x: TensorLike,
    y: TensorLike,
    *,
    x_weights: TensorLike | None = None,
    y_weights: TensorLike | None = None,
) -> Tensor:
    """Compute the Word Mover's Distance: transport of words at Euclidean cost ‖x_i - y_j‖.

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

    Reference: Kusner, Sun, Kolkin and Weinberger, 2015.

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
    """Compute the Word Rotator's Distance: norms are masses, 1 - cos(x_i, y_j) is the cost.

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

    Reference: Yokoi et al., 2020, arXiv:2004.15003.
    """
    x, y = _checked_texts(x, y)
    (u, p), (v, q) = _measure("x", x, "wrd"), _measure("y", y, "wrd")
    return emd(p, q, _cost(u, v, "wrd")).to(x.dtype)


def centroid_lower_bound(x: TensorLike, y: TensorLike, *, kind: Kind) -> Tensor:
    """Compute the lower bound of WMD or WRD that the texts' centroids give.

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

    Reference: Kusner, Sun, Kolkin and Weinberger, 2015, section 4; Su, 2020, for WRD.
    """
    check_choice(Kind, kind=kind)
    x, y = _checked_texts(x, y)
    (u, p), (v, q) = _measure("x", x, kind), _measure("y", y, kind)
    # From a common point: centroids far from the origin would cancel.
    bound = _centroid_bound(p @ (u - u[0]) - q @ (v - u[0]), kind)
    return narrowed(bound, x.dtype, "the bound")


def relaxed_lower_bound(x: TensorLike, y: TensorLike, *, kind: Kind) -> Tensor:
    """Compute the lower bound of WMD or WRD that dropping either marginal gives.

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

    Reference: Kusner, Sun, Kolkin and Weinberger, 2015, section 4.
    """
    check_choice(Kind, kind=kind)
    x, y = _checked_texts(x, y)
    (u, p), (v, q) = _measure("x", x, kind), _measure("y", y, kind)
    return narrowed(_relaxed_bound(p, q, _cost(u, v, kind)), x.dtype, "the bound")


@overload
def sinkhorn_distance(
    p: TensorLike,
    q: TensorLike,
    cost: TensorLike,
    epsilon: float,
    *,
    max_iter: int = 1000,
    tol: float = 1e-9,
    return_plan: Literal[False] = False,
) -> Tensor: ...
@overload
def sinkhorn_distance(
    p: TensorLike,
    q: TensorLike,
    cost: TensorLike,
    epsilon: float,
    *,
    max_iter: int = 1000,
    tol: float = 1e-9,
    return_plan: Literal[True],
) -> tuple[Tensor, Tensor]: ...
def sinkhorn_distance(
    p: TensorLike,
    q: TensorLike,
    cost: TensorLike,
    epsilon: float,
    *,
    max_iter: int = 1000,
    tol: float = 1e-9,
    return_plan: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Compute the transport cost ⟨γ, D⟩ of the plan with entropic regularisation, in log domain.

    γ minimises ⟨γ, D⟩ + ε Σ γ (log γ - 1) and is γ_ij = exp((f_i + g_j - D_ij)/ε). Its cost, from
    which the entropy is left out, exceeds the exact distance by at most ε min(H(p), H(q)). It is
    not 0 for equal distributions. Differentiable by unrolling the iterations.

    A `RuntimeWarning` tells that `max_iter` iterations did not bring the row sums of every plan
    within `tol` of `p`; the cost of such an infeasible plan can be below the exact distance. One
    whose row errors sum to more than 1 % is no plan: it is mended to a near one that has the masses
    p and q, the cost of which is at least the exact distance.

    Args:
        p: source masses, shape (..., m), each summing to 1 within 1e-6. A word of mass 0 is
            padding: its costs have no effect.
        q: target masses, shape (..., n), likewise.
        cost: costs, shape (..., m, n); leading axes broadcast.
        epsilon: strength ε of the regularisation, in the units of `cost`.
        max_iter: largest number of iterations.
        tol: largest sum of the row errors |Σ_j γ_ij - p_i| at which to stop, or what rounding
            in float64 allows if that is larger.
        return_plan: whether to return the plans too.

    Returns:
        The costs, shape (...), or (costs, plans of shape (..., m, n)), of the dtype of `cost`.

    Raises:
        TypeError: if a tensor is not floating point, or `max_iter` is not an integer.
        ValueError: if shapes, dtypes or devices disagree, an entry is not finite, `p` or `q` is not
            a distribution, `epsilon` or `tol` is not positive and finite, `max_iter` < 1, or
            `epsilon` is so small beside the costs that rounding would decide the plan.

    Reference: Cuturi, Sinkhorn Distances, NeurIPS 2013, arXiv:1306.0895.

    Example:
        >>> half = [0.5, 0.5]
        >>> sinkhorn_distance(half, half, [[0.0, 1.0], [1.0, 0.0]], epsilon=0.1)
        tensor(4.5398e-05)
    """
    p, q, cost = _checked_problem(p, q, cost)
    check_positive(epsilon=epsilon, tol=tol)
    check_count(max_iter=max_iter)
    dtype = cost.dtype
    p, q, cost = p.double(), q.double(), cost.double()
    p, q = p / p.sum(-1, keepdim=True), q / q.sum(-1, keepdim=True)
    log_p, log_q, kernel = _log(p), _log(q), -cost / epsilon
    if not bool(kernel.isfinite().all()):
        raise ValueError(f"epsilon must be larger beside the costs, got {epsilon}")
    a = log_p - torch.logsumexp(kernel + log_q[..., None, :], -1)
    for _ in range(max_iter):
        b = log_q - torch.logsumexp(kernel + a[..., None], -2)
        # Columns now sum to q, and row i to p_i exp(a_i - next_a_i).
        next_a = log_p - torch.logsumexp(kernel + b[..., None, :], -1)
        ratio = torch.where(p > 0, a - next_a, 0).detach().expm1()
        error = (p.detach() * ratio.abs()).sum(-1).max().item()
        rounding = _rounding(next_a, b)
        if error <= max(tol, rounding):
            break
        a = next_a
    if not rounding <= _LARGEST_ROUNDING:
        raise ValueError(
            f"epsilon must be larger beside the costs, got {epsilon}: plans would be noise"
        )
    if not error <= max(tol, rounding):
        warnings.warn(
            f"sinkhorn_distance stopped after {max_iter} iterations with a row error of {error:.1e}"
            f" > {tol:.1e}",
            RuntimeWarning,
            stacklevel=2,
        )
    # After a break `a` is still the potential of which the error is known.
    plan = (kernel + a[..., None] + b[..., None, :]).exp()
    if error > _NO_PLAN:
        plan = _feasible(plan, p, q)
    value = narrowed((plan * cost).sum((-2, -1)), dtype, "the cost")
    return (value, plan.to(dtype)) if return_plan else value


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

    Reference: Kusner, Sun, Kolkin and Weinberger, 2015, section 4.
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
    unit = _solver_unit(costs)
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
        insort(best, (_solve(q, p, cost / unit) * unit, j))
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
    """Compute the exact WMD or WRD between every text of one list and every text of another.

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
        unit = _solver_unit(costs)
        costs /= unit
        pairs = zip(target.words, target.masses, strict=True)
        # Texts of `texts_b` are rows here: their costs are then gathered as contiguous memory.
        rows.append([_solve(q, p, costs[other]) * unit for other, q in pairs])
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


def _solver_unit(cost: Tensor) -> float:
    """The power of 2 in which costs are of the order of 1; 1 where they nearly are.

    The solver stops at an absolute tolerance of about 1e-14.
    """
    largest = cost.max().item()
    return (
        1.0
        if largest == 0 or 1 <= largest < 2**20
        else math.ldexp(1, min(math.frexp(largest)[1], 1023))
    )


def _useful_cost(p: Tensor, q: Tensor, cost: Tensor) -> float:
    """A bound of the costs that an optimal plan uses; larger ones may be lowered to it.

    A plan exists whose costs are at most b. Against it an optimal plan differs by cycles, each of
    which would replace one entry by at most min(m, n) of cost b: no entry above min(m, n) b is
    used. Costs far above would drown the others in the rounding of the solver's potentials.
    """
    cap = cost.max().item()
    while True:
        capped = cost.clamp(max=cap)
        unit = _solver_unit(capped)
        plan, value = _plan(p, q, capped / unit)
        if cap <= _CAPPED * value * unit:
            return cap
        used = cost[torch.from_numpy(plan) > 0].max().item()
        lower = 2 * min(cost.shape) * used
        if not lower < cap / 2:
            return cap
        cap = lower


def _plan(p: Tensor, q: Tensor, cost: Tensor) -> tuple[NDArray[np.float64], float]:
    """Solve one problem on the CPU in float64, without gradient."""
    arrays = (array.cpu().contiguous().numpy() for array in (p, q * (p.sum() / q.sum()), cost))
    plan, value, _, _, code = emd_c(*arrays, _MAX_PIVOTS, 1)
    if code != _OPTIMAL:
        raise RuntimeError(f"the transport solver failed with code {code} on shape {cost.shape}")
    return plan, float(value)


def _solve(p: Tensor, q: Tensor, cost: Tensor) -> float:
    """The least cost of one problem with positive masses."""
    _, value, _, _, code = emd_c(p.numpy(), q.numpy(), cost.numpy(), _MAX_PIVOTS, 1)
    if code != _OPTIMAL:
        raise RuntimeError(f"the transport solver failed with code {code} on shape {cost.shape}")
    largest = cost.max().item()
    if largest <= _CAPPED * value:
        return float(value)
    cap = _useful_cost(p, q, cost)
    if cap == largest:
        return float(value)
    capped = cost.clamp(max=cap)
    unit = _solver_unit(capped)
    return _plan(p, q, capped / unit)[1] * unit


def _feasible(plan: Tensor, p: Tensor, q: Tensor) -> Tensor:
    """A plan of masses p and q near one that has others.

    Source: Altschuler, Weed, Rigollet, arXiv:1705.09634, algorithm 2.
    """
    plan = plan * (p / plan.sum(-1).clamp_min(1e-300)).clamp(max=1)[..., None]
    plan = plan * (q / plan.sum(-2).clamp_min(1e-300)).clamp(max=1)[..., None, :]
    rows, columns = (p - plan.sum(-1)).clamp_min(0), (q - plan.sum(-2)).clamp_min(0)
    missing = rows.sum(-1)[..., None, None].clamp_min(1e-300)
    return plan + rows[..., None] * columns[..., None, :] / missing


def _rounding(a: Tensor, b: Tensor) -> float:
    """How far rounding of the potentials may move a row sum, relative to it."""
    largest = max(potential[potential.isfinite()].abs().max().item() for potential in (a, b))
    return 4 * torch.finfo(a.dtype).eps * (1 + largest)


def _log(p: Tensor) -> Tensor:
    """The logarithm with log 0 = -∞ and gradient 0 there."""
    return torch.where(p > 0, p, 1).log().masked_fill(p <= 0, -math.inf)


def _as_float(name: str, value: TensorLike) -> Tensor:
    try:
        tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be a tensor or an array of floats: {error}") from error
    if not tensor.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {tensor.dtype}")
    if not bool(tensor.isfinite().all()):
        raise ValueError(f"{name} must be finite, got nan or infinity")
    return tensor


def _as_masses(name: str, value: TensorLike, like: Tensor) -> Tensor:
    """Masses as a tensor; lists and whole numbers, such as counts, get the dtype of `like`."""
    listed = not isinstance(value, Tensor | np.ndarray)
    try:
        masses = torch.as_tensor(value, dtype=like.dtype if listed else None)
    except (TypeError, ValueError, RuntimeError):
        return _as_float(name, value)
    if listed or _is_whole(masses):
        masses = masses.to(like)
    return _as_float(name, masses)


def _is_whole(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)


def _as_text(name: str, value: TensorLike) -> Tensor:
    text = _as_float(name, value)
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
    _check_same_place(name, text, other, reference)


def _check_same_place(name: str, tensor: Tensor, other: str, reference: Tensor) -> None:
    if tensor.dtype != reference.dtype or tensor.device != reference.device:
        raise ValueError(
            f"{name} must have the dtype and device of {other}, {reference.dtype} on"
            f" {reference.device}, got {tensor.dtype} on {tensor.device}"
        )


def _checked_weights(name: str, weights: TensorLike | None, text: Tensor) -> Tensor:
    if weights is None:
        return text.new_full((len(text),), 1 / len(text), dtype=torch.float64)
    values = _as_masses(name, weights, text.to(torch.float64))
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


def _checked_problem(
    p: TensorLike, q: TensorLike, cost: TensorLike
) -> tuple[Tensor, Tensor, Tensor]:
    cost = _as_float("cost", cost)
    p, q = _as_masses("p", p, cost), _as_masses("q", q, cost)
    for name, masses in (("p", p), ("q", q)):
        _check_same_place(name, masses, "cost", cost)
        if masses.ndim < 1 or masses.numel() == 0:
            raise ValueError(f"{name} must have shape (..., m), m >= 1, got {tuple(masses.shape)}")
        if bool((masses < 0).any()):
            raise ValueError(f"{name} must be non-negative, got {masses.min().item():g}")
        sums = masses.double().sum(-1)
        if bool(((sums - 1).abs() > _MASS_TOLERANCE).any()):
            worst = sums.flatten()[(sums - 1).abs().argmax()].item()
            raise ValueError(f"{name} must sum to 1 within {_MASS_TOLERANCE:g}, got sum {worst:g}")
    if cost.ndim < 2 or cost.shape[-2:] != (p.shape[-1], q.shape[-1]):
        raise ValueError(
            f"cost must have shape (..., {p.shape[-1]}, {q.shape[-1]}), got {tuple(cost.shape)}"
        )
    try:
        np.broadcast_shapes(p.shape[:-1], q.shape[:-1], cost.shape[:-2])
    except ValueError as error:
        raise ValueError(
            f"p, q and cost must have leading axes that broadcast, got {tuple(p.shape)},"
            f" {tuple(q.shape)} and {tuple(cost.shape)}"
        ) from error
    return p, q, cost
