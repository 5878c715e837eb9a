"""Graph distances: shortest paths over near neighbours, for a metric that is only right nearby.

    d_G(i, j) = the least sum of d over the edges of a path from i to j,

where two points are joined if one is among the k nearest of the other. Points are tensors or
anything that `torch.as_tensor` takes, of shape (n, D) and any floating dtype; everything is
computed in float64, from all n² distances. Points that no path reaches are at infinity.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components, shortest_path
from torch import Tensor

from kexue_lab.precision import distances as euclidean_distances
from kexue_lab.precision import length
from kexue_lab.validation import TensorLike, as_floating, check_choice, check_count, check_positive

Metric = Literal["euclidean", "angular"]
Mode = Literal["union", "mutual"]


def knn_graph(
    x: TensorLike, k: int, *, metric: Metric = "euclidean", mode: Mode = "union"
) -> sparse.csr_array:
    """Join each point to its k nearest others by edges that are as long as they are apart.

    Among equally near points those with the lower index are taken. A point is no neighbour of
    itself, but one at the same place is: its edge has the explicit length 0.

    Args:
        x: points (n, D).
        k: number of neighbours, 1 … n − 1.
        metric: "euclidean", or "angular" for the angle between vectors, in radians.
        mode: "union" joins i and j if one is among the k nearest of the other, "mutual" if each is.

    Returns:
        The symmetric matrix (n, n) of lengths; what is not stored is no edge.

    Raises:
        ValueError: if x is not (n, D), k is out of range, a vector is 0 where angles are asked for,
            or a distance is beyond float64.

    Source: Tenenbaum, de Silva and Langford, Science 290:2319, 2000.

    Example:
        >>> knn_graph([[0.0], [1.0], [3.0]], 1).toarray()
        array([[0., 1., 0.],
               [1., 0., 2.],
               [0., 2., 0.]])
    """
    points = _checked("x", x, metric)
    check_choice(Mode, mode=mode)
    _check_neighbours(k, len(points))
    apart = _between(points, points, metric)
    return _graph(apart, _neighbours(apart)[:, :k], mode)


def geodesic_distances(
    x: TensorLike,
    k: int,
    *,
    metric: Metric = "euclidean",
    mode: Mode = "union",
    sources: Sequence[int] | None = None,
) -> NDArray[np.float64]:
    """Return the lengths of the shortest paths in `knn_graph`, by Dijkstra's algorithm.

    They estimate the geodesic distances along the surface from which the points come.

    Args:
        x: points (n, D).
        k: number of neighbours, 1 … n − 1.
        metric: as for `knn_graph`.
        mode: as for `knn_graph`.
        sources: from which s points; all of them when None.

    Returns:
        Distances (s, n); infinite between points that no path joins.

    Raises:
        ValueError: as `knn_graph`; if a source is no point; or if all edges together are longer
            than float64 holds.

    Source: Tenenbaum, de Silva and Langford, Science 290:2319, 2000.

    Example:
        >>> geodesic_distances([[0.0], [1.0], [3.0]], 1, sources=[0])
        array([[0., 1., 3.]])
    """
    graph = knn_graph(x, k, metric=metric, mode=mode)
    indices = None if sources is None else _checked_sources(sources, graph.shape[0])
    with np.errstate(over="ignore"):
        total = graph.data.sum()
    if not np.isfinite(total):
        raise ValueError("the lengths of all edges must sum to a number within float64")
    paths: NDArray[np.float64] = shortest_path(graph, method="D", directed=False, indices=indices)
    return paths


def attach(
    center: TensorLike,
    x: TensorLike,
    k: int,
    distances: ArrayLike | None = None,
    *,
    metric: Metric = "euclidean",
    mode: Mode = "union",
) -> NDArray[np.float64]:
    """Return the distances from a place that is no data point, by way of its k nearest points.

        d_G(c, j) = min over the k nearest m of c of d(c, x_m) + d_G(m, j)

    The graph among the points stays as it is.

    Args:
        center: the place c, (D,).
        x: points (n, D).
        k: number of neighbours, of c and in the graph, 1 … n − 1.
        distances: `geodesic_distances(x, k)`, (n, n), where it is known already.
        metric: as for `knn_graph`.
        mode: as for `knn_graph`.

    Returns:
        Distances (n,).

    Raises:
        ValueError: as `geodesic_distances`, or if a shape does not fit.

    Source: Basu Roy Chowdhury et al., arXiv:2209.07496.

    Example:
        >>> attach([-0.5], [[0.0], [1.0], [3.0]], 1)
        array([0.5, 1.5, 3.5])
    """
    points = _checked("x", x, metric)
    _check_neighbours(k, len(points))
    place = torch.as_tensor(center)
    if place.ndim != 1 or len(place) != points.shape[1]:
        raise ValueError(f"center must have shape ({points.shape[1]},), got {tuple(place.shape)}")
    to_points = _between(_checked("center", place[None], metric), points, metric)
    nearest = _neighbours(to_points, itself=False)[0, :k]
    if distances is None:
        onward = geodesic_distances(x, k, metric=metric, mode=mode, sources=nearest.tolist())
    else:
        known = np.asarray(distances, dtype=np.float64)
        if known.shape != (len(points), len(points)) or not (known >= 0).all():
            raise ValueError(
                f"distances must be non-negative, of shape {(len(points),) * 2}, got {known.shape}"
            )
        onward = known[nearest]
    reached: NDArray[np.float64] = (to_points[0, nearest, None] + onward).min(0)
    return reached


def geodesic_scores(
    x: TensorLike, center: TensorLike, k: int, *, eps: float = 1e-9
) -> NDArray[np.float64]:
    """Score points by their nearness 1 / (d_G + ε) to a theme; 0 for those out of reach.

    Args:
        x: points (n, D), the vectors of sentences.
        center: the theme (D,), such as their mean.
        k: number of neighbours, 1 … n − 1.
        eps: ε, which keeps the score of the theme itself finite.

    Returns:
        Scores (n,).

    Raises:
        ValueError: as `attach`, or if `eps` is so small that a score is beyond float64.

    Source: Basu Roy Chowdhury et al., arXiv:2209.07496.

    Example:
        >>> geodesic_scores([[0.0], [1.0], [3.0]], [-1.0], 1)
        array([1.  , 0.5 , 0.25])
    """
    check_positive(eps=eps)
    with np.errstate(over="ignore"):
        scores: NDArray[np.float64] = 1 / (attach(center, x, k) + eps)
    if not np.isfinite(scores).all():
        raise ValueError(f"eps must be larger, got {eps}: a score is beyond float64")
    return scores


def smallest_connecting_k(x: TensorLike, *, metric: Metric = "euclidean") -> int:
    """Return the smallest k for which the union graph joins all points.

    Args:
        x: points (n, D), n ≥ 2.
        metric: as for `knn_graph`.

    Returns:
        A number of neighbours, 1 … n − 1.

    Raises:
        ValueError: as `knn_graph`.

    Source: the union graph gains edges with k, so that bisection finds it.

    Example:
        >>> smallest_connecting_k([[0.0], [1.0], [5.0], [7.0]])
        2
    """
    points = _checked("x", x, metric)
    _check_neighbours(1, len(points))
    apart = _between(points, points, metric)
    order = _neighbours(apart)
    low, high = 1, len(points) - 1
    while low < high:
        middle = (low + high) // 2
        parts = connected_components(_graph(apart, order[:, :middle], "union"), directed=False)[0]
        low, high = (low, middle) if parts == 1 else (middle + 1, high)
    return low


def shortcut_edges(x: TensorLike, k: int, factor: float = 3.0) -> list[tuple[int, int]]:
    """List edges of the union graph that are suspiciously long: they may cut across a gap.

    Args:
        x: points (n, D).
        k: number of neighbours, 1 … n − 1.
        factor: how many times the median length of all edges an edge must exceed.

    Returns:
        Pairs (i, j), i < j, the longest edge first.

    Raises:
        ValueError: as `knn_graph`, or if `factor` is not positive.

    Source: after Balasubramanian and Schwartz, Science 295:7, 2002, who show what one edge can do.

    Example:
        >>> shortcut_edges([[0.0], [1.0], [2.0], [3.0], [9.0]], 1)
        [(3, 4)]
    """
    check_positive(factor=factor)
    edges = sparse.triu(knn_graph(x, k)).tocoo()
    limit = np.median(edges.data)
    longest_first = np.argsort(-edges.data, kind="stable")
    return [
        (int(edges.row[e]), int(edges.col[e]))
        for e in longest_first
        if edges.data[e] / factor > limit
    ]


def _checked(name: str, x: TensorLike, metric: Metric) -> Tensor:
    check_choice(Metric, metric=metric)
    points = as_floating(name, x).detach().cpu().double()
    if points.ndim != 2 or points.numel() == 0:
        raise ValueError(f"{name} must have shape (n, D), got {tuple(points.shape)}")
    if metric == "euclidean":
        return points
    unit = points.abs().amax(1, keepdim=True)
    if bool((unit == 0).any()):
        raise ValueError(f"{name} must hold no zero vector where angles are asked for")
    points = points / unit
    return points / length(points, keepdim=True)


def _check_neighbours(k: int, n: int) -> None:
    check_count(k=k)
    if k >= n:
        raise ValueError(f"k must be below the number of points, {n}, got {k}")


def _checked_sources(sources: Sequence[int], n: int) -> NDArray[np.int64]:
    indices = np.asarray(sources)
    if indices.ndim != 1 or not np.issubdtype(indices.dtype, np.integer) or not len(indices):
        raise ValueError(f"sources must be a sequence of whole numbers, got {sources!r}")
    if not ((indices >= 0) & (indices < n)).all():
        raise ValueError(f"sources must lie in 0 … {n - 1}, got {indices.tolist()}")
    return indices.astype(np.int64)


def _between(x: Tensor, y: Tensor, metric: Metric) -> NDArray[np.float64]:
    apart = euclidean_distances(x, y)
    if metric == "angular":
        # Kahan's formula keeps its digits for small angles and for angles near π.
        apart = 2 * torch.atan2(apart, euclidean_distances(x, -y))
    if not bool(apart.isfinite().all()):
        raise ValueError("the distances of points must lie within float64, got one beyond it")
    return apart.numpy()


def _neighbours(apart: NDArray[np.float64], *, itself: bool = True) -> NDArray[np.int64]:
    """For each row the others from near to far, the point itself left out."""
    if not itself:
        return np.argsort(apart, axis=1, kind="stable")
    away = apart.copy()
    np.fill_diagonal(away, np.inf)
    return np.argsort(away, axis=1, kind="stable")[:, :-1]


def _graph(apart: NDArray[np.float64], nearest: NDArray[np.int64], mode: Mode) -> sparse.csr_array:
    near = np.zeros(apart.shape, dtype=bool)
    np.put_along_axis(near, nearest, True, axis=1)
    joined = near | near.T if mode == "union" else near & near.T
    i, j = np.nonzero(joined)
    # Two roundings of one distance must not make two lengths of one edge.
    lengths = np.minimum(apart[i, j], apart[j, i])
    return sparse.csr_array((lengths, (i, j)), shape=apart.shape)
