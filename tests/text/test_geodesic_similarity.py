import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import cophenet, linkage
from scipy.sparse.csgraph import connected_components, shortest_path
from scipy.spatial.distance import cdist, pdist, squareform
from sklearn.manifold import Isomap

from kexue_lab.exercises import exercise
from kexue_lab.text.geodesic_similarity import (
    attach,
    geodesic_distances,
    geodesic_scores,
    knn_graph,
    shortcut_edges,
    smallest_connecting_k,
)

ARTICLE = "text/geodesic_similarity"
VILLAGES = np.array([[0, 0], [0, 12], [6, 20], [14, 20], [14, 13], [14, 9]], dtype=float)
LINE = np.array([[0], [1], [1.9], [2.7], [6]])


def cloud(seed, n=40, d=3):
    return np.random.default_rng(seed).normal(size=(n, d))


def helix():
    i = np.arange(12)
    return np.column_stack([np.cos(i / 2), np.sin(i / 2), i / 10])


def by_definition(x, k, mode="union", metric="euclidean"):
    """Neighbours by sorting, paths by `shortest` over an explicit infinity."""
    apart = cdist(x, x)
    if metric == "angular":
        unit = x / np.linalg.norm(x, axis=1, keepdims=True)
        apart = np.arccos(np.clip(unit @ unit.T, -1, 1))
    n = len(x)
    near = [
        set(sorted((j for j in range(n) if j != i), key=lambda j, i=i: apart[i, j])[:k])
        for i in range(n)
    ]
    result = np.full((n, n), np.inf)
    np.fill_diagonal(result, 0)
    for i, j in itertools.permutations(range(n), 2):
        each = (j in near[i], i in near[j])
        if any(each) if mode == "union" else all(each):
            result[i, j] = apart[i, j]
    return shortest(result)


def shortest(lengths):
    """Floyd and Warshall's three loops."""
    for m in range(len(lengths)):
        lengths = np.minimum(lengths, lengths[:, m, None] + lengths[m])
    return lengths


@pytest.mark.parametrize("mode", ["union", "mutual"])
@pytest.mark.parametrize("metric", ["euclidean", "angular"])
@pytest.mark.parametrize("k", [1, 3, 7, 39])
def test_distances_are_those_of_the_definition(mode, metric, k):
    x = cloud(k)
    ours = geodesic_distances(x, k, metric=metric, mode=mode)
    np.testing.assert_allclose(ours, by_definition(x, k, mode, metric), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("k", [4, 6, 10])
def test_distances_are_isomaps(k):
    x = cloud(1, n=120)
    oracle = Isomap(n_neighbors=k).fit(x).dist_matrix_
    np.testing.assert_allclose(geodesic_distances(x, k), oracle, rtol=1e-12)


@pytest.mark.parametrize(("k", "ends"), [(2, 5.4926566825), (3, 1.3389027042)])
def test_one_more_neighbour_joins_the_ends_of_a_helix(k, ends):
    x = helix()
    apart = cdist(x, x)
    # With two neighbours the first and the last point reach one further.
    exact = 2 * apart[0, 2] + 7 * apart[0, 1] if k == 2 else apart[0, 11]
    found = geodesic_distances(x, k)[0, -1]
    assert found == pytest.approx(ends, abs=1e-10)
    assert found == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("k", [2, 4])
def test_a_helix_as_isomap_sees_it(k):
    oracle = Isomap(n_neighbors=k).fit(helix()).dist_matrix_
    np.testing.assert_allclose(geodesic_distances(helix(), k), oracle, rtol=1e-12, atol=1e-12)


def test_a_directed_graph_is_another_one():
    x = helix()
    directed = np.full((12, 12), 0.0)
    apart = cdist(x, x)
    for i, row in enumerate(np.argsort(apart, axis=1)[:, 1:3]):
        directed[i, row] = apart[i, row]
    difference = abs(shortest_path(directed) - geodesic_distances(x, 2)).max()
    assert difference == pytest.approx(0.0301361382, abs=1e-9)


def test_around_a_polygon_one_goes_the_shorter_way():
    angle = 2 * np.pi * np.arange(40) / 40
    x = np.column_stack([np.cos(angle), np.sin(angle)])
    steps = np.minimum(np.arange(40), 40 - np.arange(40))
    chord = 2 * np.sin(np.pi / 40)
    np.testing.assert_allclose(geodesic_distances(x, 2)[0], steps * chord, atol=1e-12)
    arcs = geodesic_distances(x, 2, metric="angular")[0]
    np.testing.assert_allclose(arcs, steps * np.pi / 20, atol=1e-12)


def test_on_a_line_the_union_graph_gives_back_the_line():
    np.testing.assert_allclose(geodesic_distances(LINE, 1), abs(LINE - LINE.T), atol=1e-15)
    mutual = knn_graph(LINE, 1, mode="mutual").tocoo()
    assert {tuple(sorted(e)) for e in zip(mutual.row, mutual.col, strict=True)} == {(2, 3)}


def test_six_villages():
    roads = geodesic_distances(VILLAGES, 1)[0]
    assert roads == pytest.approx([0, 12, 22, 30, 37, 41])
    assert geodesic_distances(VILLAGES, 2)[0, 5] == pytest.approx(277**0.5)


# --- laws


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 19), st.integers(1, 5))
def test_laws_of_the_graph_distance(seed, k, d):
    x = cloud(seed, 20, d)
    apart, graph = cdist(x, x), geodesic_distances(x, k)
    assert (graph >= apart - 1e-12).all()
    np.testing.assert_allclose(graph, graph.T, rtol=1e-14)
    assert (np.diag(graph) == 0).all()
    with np.errstate(invalid="ignore"):
        assert (graph[:, :, None] + graph[None] >= graph[:, None] - 1e-12).all()
    # The first k neighbours and their order.
    assert (np.argsort(apart, 1)[:, : k + 1] == np.argsort(graph, 1)[:, : k + 1]).all()
    if k < 19:
        assert (geodesic_distances(x, k + 1) <= graph + 1e-12).all()
    else:
        np.testing.assert_allclose(graph, apart, atol=1e-12)
    assert (geodesic_distances(x, k, mode="mutual") >= graph - 1e-12).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 8), st.sampled_from([1e-200, 1e-3, 1e5, 1e150]))
def test_distances_scale_and_do_not_move(seed, k, unit):
    x = cloud(seed, 12, 2)
    np.testing.assert_allclose(geodesic_distances(x * unit, k), geodesic_distances(x, k) * unit)
    turned = x @ np.linalg.qr(cloud(seed + 1, 2, 2))[0] + 7
    np.testing.assert_allclose(geodesic_distances(turned, k), geodesic_distances(x, k), rtol=1e-9)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_a_twin_is_at_distance_0_and_not_lost(k):
    x = np.array([[0.0, 0], [0, 0], [1, 0], [1, 0], [3, 1]])
    np.testing.assert_allclose(geodesic_distances(x, k), by_definition(x, k))
    assert geodesic_distances(x, k)[0, 1] == 0
    assert (0, 1) in zip(*knn_graph(x, k).tocoo().coords, strict=True)


def test_equal_points_are_all_joined():
    assert (geodesic_distances(np.ones((5, 2)), 4) == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_dtype_is_computed_in_float64(dtype):
    x = torch.from_numpy(cloud(3)).to(dtype)
    found = geodesic_distances(x, 5)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, geodesic_distances(x.double(), 5))


def test_small_angles_keep_their_digits():
    x = np.array([[1.0, 0.0], [1.0, 1e-12], [1e-170, 1e-170], [-1e200, 0.0]])
    angles = geodesic_distances(x, 3, metric="angular")[0]
    assert angles == pytest.approx([0, 1e-12, np.pi / 4, np.pi], rel=1e-12)


def test_some_sources_are_rows():
    x = cloud(4)
    np.testing.assert_array_equal(geodesic_distances(x, 4, sources=[7, 2]), rows(x)[[7, 2]])


def rows(x):
    return geodesic_distances(x, 4)


# --- a theme that is no data point


@pytest.mark.parametrize("k", [1, 3, 8])
@pytest.mark.parametrize("metric", ["euclidean", "angular"])
def test_attaching_is_a_node_more(k, metric):
    x, center = cloud(5), cloud(6, 1)[0]
    apart = np.linalg.norm(x - center, axis=1)
    if metric == "angular":
        unit = x / np.linalg.norm(x, axis=1, keepdims=True)
        apart = np.arccos(unit @ center / np.linalg.norm(center))
    lengths = np.full((41, 41), np.inf)
    lengths[:40, :40] = by_definition(x, k, metric=metric)
    nearest = np.argsort(apart)[:k]
    lengths[40, nearest] = apart[nearest]
    expected = shortest(lengths)[40, :40]
    np.testing.assert_allclose(attach(center, x, k, metric=metric), expected, rtol=1e-9)
    known = geodesic_distances(x, k, metric=metric)
    np.testing.assert_allclose(attach(center, x, k, known, metric=metric), expected, rtol=1e-9)


def test_a_theme_on_a_data_point_is_that_point():
    x = cloud(7)
    np.testing.assert_allclose(attach(x[3], x, 5), geodesic_distances(x, 5)[3], atol=1e-12)


def test_scores_fall_with_distance_and_are_0_out_of_reach():
    x = np.array([[0.0], [1.0], [50.0], [51.0]])
    assert geodesic_scores(x, [0.0], 1) == pytest.approx([1e9, 1, 0, 0])


# --- how far k may go


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 25), st.integers(1, 3))
def test_the_smallest_k_joins_and_the_one_before_does_not(seed, n, d):
    x = cloud(seed, n, d)
    k = smallest_connecting_k(x)
    parts = [connected_components(knn_graph(x, j))[0] for j in (k, k - 1) if j]
    assert parts[0] == 1
    assert all(number > 1 for number in parts[1:])


def test_a_long_edge_is_found():
    assert shortcut_edges(LINE, 1) == [(3, 4)]
    assert shortcut_edges(LINE, 1, 10.0) == []
    assert shortcut_edges(VILLAGES, 2, 1.15) == [(0, 5), (0, 1)]


# --- answers of the exercises, by other means


@pytest.mark.parametrize("inputs", exercise(ARTICLE, 5).draw(np.random.default_rng(0)))
def test_two_rows_are_joined_by_the_ends_first(inputs):
    g, h = inputs
    row = h * np.arange(3 * int(g / h) + 5)
    rows = np.concatenate([np.column_stack([row, 0 * row + y]) for y in (0, g)])
    across = [
        bool(knn_graph(rows, k).toarray()[: len(row), len(row) :].any())
        for k in range(1, int(g / h) + 3)
    ]
    assert across.index(True) == exercise(ARTICLE, 5).solution(g, h)


def test_the_longest_leg_is_single_linkage():
    z = cloud(8)
    oracle = squareform(cophenet(linkage(pdist(z), "single")))[0]
    np.testing.assert_allclose(exercise(ARTICLE, 1).solution(z), oracle)


@pytest.mark.parametrize("p", [0.5, 1.0, 1.7, 2.9])
def test_the_power_of_the_number_of_steps(p):
    lengths = [m * (2 * np.sin(1 / (2 * m))) ** p for m in (1e3, 1e4)]
    assert np.log10(lengths[1] / lengths[0]) == pytest.approx(
        exercise(ARTICLE, 2).solution(p), abs=1e-6
    )


# --- bad input


@pytest.mark.parametrize("k", [0, -1, 6])
def test_k_lies_between_1_and_the_number_of_others(k):
    for call in (
        lambda: knn_graph(VILLAGES, k),
        lambda: geodesic_distances(VILLAGES, k),
        lambda: attach([0.0, 0.0], VILLAGES, k),
        lambda: geodesic_scores(VILLAGES, [0.0, 0.0], k),
        lambda: shortcut_edges(VILLAGES, k),
    ):
        with pytest.raises(ValueError, match=f"k must be .* got {k}"):
            call()


@pytest.mark.parametrize(
    ("call", "error", "part"),
    [
        (lambda: knn_graph(VILLAGES, 1.0), TypeError, "k must be an integer"),
        (lambda: knn_graph([[1, 2], [3, 4]], 1), TypeError, "x must be floating point"),
        (lambda: knn_graph([[0.0, np.nan], [1, 1]], 1), ValueError, "x must be finite"),
        (lambda: knn_graph([0.0, 1.0], 1), ValueError, r"x must have shape \(n, D\), got \(2,\)"),
        (lambda: knn_graph(np.ones((0, 2)), 1), ValueError, "x must have shape"),
        (lambda: knn_graph(VILLAGES, 1, metric="cosine"), ValueError, "metric must be one of"),
        (lambda: knn_graph(VILLAGES, 1, mode="both"), ValueError, "mode must be one of"),
        (lambda: knn_graph(VILLAGES, 1, metric="angular"), ValueError, "no zero vector"),
        (
            lambda: knn_graph(np.array([[-1.7e308], [1.7e308]]), 1),
            ValueError,
            "distances of points",
        ),
        (lambda: geodesic_distances(VILLAGES, 1, sources=[6]), ValueError, r"got \[6\]"),
        (lambda: geodesic_distances(VILLAGES, 1, sources=[-1]), ValueError, "sources must lie"),
        (lambda: geodesic_distances(VILLAGES, 1, sources=[]), ValueError, "sources must be"),
        (lambda: geodesic_distances(VILLAGES, 1, sources=[0.5]), ValueError, "sources must be"),
        (lambda: geodesic_distances(1e307 * LINE, 4), ValueError, "lengths of all"),
        (lambda: attach([0.0], VILLAGES, 1), ValueError, r"center must have shape \(2,\)"),
        (lambda: attach([0.0, np.inf], VILLAGES, 1), ValueError, "center must be finite"),
        (lambda: attach([0.0, 1.0], VILLAGES, 1, np.ones((2, 2))), ValueError, "distances must be"),
        (lambda: attach([0.0, 1.0], VILLAGES, 1, -np.ones((6, 6))), ValueError, "distances must"),
        (lambda: geodesic_scores(VILLAGES, [0.0, 1.0], 1, eps=0), ValueError, "eps must be pos"),
        (lambda: geodesic_scores(VILLAGES, [0.0, 0], 1, eps=1e-320), ValueError, "eps must be lar"),
        (lambda: smallest_connecting_k([[0.0]]), ValueError, "k must be below"),
        (lambda: shortcut_edges(VILLAGES, 1, 0), ValueError, "factor must be positive"),
    ],
)
def test_bad_input_is_refused_by_name(call, error, part):
    with pytest.raises(error, match=part):
        call()
