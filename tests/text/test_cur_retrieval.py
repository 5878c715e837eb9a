"""CUR against numpy's pseudo-inverse and least squares, the index's laws, and bad input."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.linalg import hilbert, qr
from sklearn.linear_model import Ridge
from tensors import seeded

from kexue_lab.exercises import exercise
from kexue_lab.text.cur_retrieval import AnnCur, cur_decomposition, recall_at_k, select_anchors
from kexue_lab.text.scorers import DualScorer, JointScorer

HILBERT = torch.tensor(hilbert(8)[:6])
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def low_rank(m, n, rank, seed=0, noise=0.0):
    g = seeded(seed)
    A = torch.randn(m, rank, generator=g, dtype=torch.float64)
    B = torch.randn(rank, n, generator=g, dtype=torch.float64)
    return A @ B / math.sqrt(rank) + noise * torch.randn(m, n, generator=g, dtype=torch.float64)


def product(*factors):
    C, U, R = factors
    return C @ U @ R


# --- the decomposition


@pytest.mark.parametrize(
    ("rows", "cols", "ours", "best", "bound", "entry"),
    [
        ((0, 3), (1, 5), 0.0727076366, 0.0672182352, 0.0205788105, 0.0904761905),
        ((0, 2, 5), (0, 3, 7), 0.0035020489, 0.0025745669, 0.0009425991, 0.0908730159),
        ((0, 1, 2, 5), (0, 3), 0.0228111448, 0.0213895918, 0.0205788105, 0.0867313302),
        ((0, 2), (0, 2, 4, 7), 0.0246247001, 0.0239583611, 0.0205788105, 0.0864700903),
    ],
)
def test_hilbert_matrix(rows, cols, ours, best, bound, entry):
    """Figures that were computed with numpy beforehand."""
    got = product(*cur_decomposition(HILBERT, rows, cols))
    optimal = product(*cur_decomposition(HILBERT, rows, cols, middle="optimal"))
    beyond = torch.linalg.svdvals(HILBERT)[min(len(rows), len(cols)) :].norm()
    assert torch.dist(got, HILBERT).item() == pytest.approx(ours, abs=1e-9)
    assert torch.dist(optimal, HILBERT).item() == pytest.approx(best, abs=1e-9)
    assert beyond.item() == pytest.approx(bound, abs=1e-9)
    assert got[4, 6].item() == pytest.approx(entry, abs=1e-9)


@pytest.mark.parametrize(("rows", "cols"), [(5, 5), (8, 10), (12, 6)])
def test_exact_where_the_intersection_has_the_rank(rows, cols):
    S = low_rank(40, 60, 5)
    g = seeded(1)
    chosen = torch.randperm(40, generator=g)[:rows], torch.randperm(60, generator=g)[:cols]
    assert_allclose(product(*cur_decomposition(S, *chosen)), S, rtol=0, atol=1e-11)
    too_few = product(*cur_decomposition(S, chosen[0][:4], chosen[1]))
    assert (too_few - S).abs().max() > 0.1


@pytest.mark.parametrize("rcond", [1e-10, 0.1])
def test_the_middle_factors_are_those_of_numpy(rcond):
    S = low_rank(9, 12, 6, noise=0.1)
    rows, cols = [0, 3, 4, 8], [1, 2, 7, 10, 11]
    x = S.numpy()
    C, U, R = cur_decomposition(S, rows, cols, rcond=rcond)
    assert_allclose(C, x[:, cols])
    assert_allclose(R, x[rows])
    assert_allclose(U, np.linalg.pinv(x[np.ix_(rows, cols)], rcond=rcond), atol=1e-10)
    U = cur_decomposition(S, rows, cols, middle="optimal", rcond=rcond)[1]
    expected = np.linalg.pinv(C.numpy(), rcond=rcond) @ x @ np.linalg.pinv(R.numpy(), rcond=rcond)
    assert_allclose(U, expected, atol=1e-10)


def test_the_ridge_is_that_of_scikit_learn():
    S = low_rank(20, 15, 4, noise=0.2)
    rows, cols, ridge = list(range(8)), [0, 3, 4, 9, 12], 0.7
    C, U, R = cur_decomposition(S, rows, cols, ridge=ridge)
    model = Ridge(alpha=ridge, fit_intercept=False, solver="cholesky")
    model.fit(S[rows][:, cols].numpy(), R.numpy())
    assert_allclose(product(C, U, R), model.predict(C.numpy()), atol=1e-10)
    assert_allclose(AnnCur(R, cols, ridge=ridge).weights, model.coef_.T, atol=1e-10)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 99))
def test_the_best_middle_factor_lies_between(r, c, seed):
    S = low_rank(8, 9, 5, seed, noise=0.1)
    rows, cols = torch.randperm(8, generator=seeded(seed))[:r], torch.arange(c)
    own, best = (
        torch.dist(product(*cur_decomposition(S, rows, cols, middle=kind)), S)
        for kind in ("intersection", "optimal")
    )
    bound = torch.linalg.svdvals(S)[min(r, c) :].norm()
    assert own >= best - 1e-9
    assert best >= bound - 1e-9


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 6), st.integers(0, 99))
def test_square_intersections_leave_a_schur_complement(k, seed):
    S = low_rank(8, 9, 8, seed, noise=0.1)
    error = S - product(*cur_decomposition(S, range(k), range(k)))
    W, X, Y, Z = S[:k, :k], S[:k, k:], S[k:, :k], S[k:, k:]
    scale = 1e-12 * np.linalg.cond(W) * S.abs().max().item()
    assert_allclose(error[:k], 0, atol=scale)
    assert_allclose(error[:, :k], 0, atol=scale)
    expected = Z.numpy() - Y.numpy() @ np.linalg.solve(W.numpy(), X.numpy())
    assert_allclose(error[k:, k:], expected, rtol=1e-6, atol=10 * scale)


def test_maximal_volume_keeps_its_bound():
    """Goreinov and Tyrtyshnikov: ‖S − CW⁻¹R‖max ≤ (k + 1) σ_{k+1}."""
    from itertools import combinations

    for seed in range(10):
        S = torch.randn(5, 6, generator=seeded(seed), dtype=torch.float64)
        pairs = [(i, j) for i in combinations(range(5), 2) for j in combinations(range(6), 2)]
        volumes = [float(torch.linalg.det(S[list(i)][:, list(j)]).abs()) for i, j in pairs]
        rows, cols = pairs[int(np.argmax(volumes))]
        error = (S - product(*cur_decomposition(S, rows, cols))).abs().max()
        assert error <= 3 * torch.linalg.svdvals(S)[2]


# --- the index


def test_predictions_are_numpys_least_squares():
    R = low_rank(12, 30, 9, noise=0.1)
    anchors = [3, 8, 11, 20, 29]
    queries = low_rank(4, 30, 9, seed=5)[:, anchors]
    found = np.linalg.lstsq(R[:, anchors].numpy(), R.numpy(), rcond=None)[0]
    assert_allclose(AnnCur(R, anchors).scores(queries), queries.numpy() @ found, atol=1e-11)
    # Fewer anchor queries than items: the least norm.
    found = np.linalg.lstsq(R[:3, anchors].numpy(), R[:3].numpy(), rcond=None)[0]
    rest = [i for i in range(30) if i not in anchors]
    ours = AnnCur(R[:3], anchors).scores(queries)
    assert_allclose(ours[:, rest], (queries.numpy() @ found)[:, rest], atol=1e-11)
    assert_allclose(ours[:, anchors], queries)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 99))
def test_anchor_columns_or_anchor_rows_are_reproduced(r, c, seed):
    R = low_rank(r, 20, 8, seed, noise=0.1)
    anchors = torch.randperm(20, generator=seeded(seed))[:c]
    index = AnnCur(R, anchors)
    W = R[:, anchors]
    if r >= c:
        assert_allclose(index.weights[:, anchors], np.eye(c), atol=1e-8)
    if r <= c:
        assert_allclose(W @ index.weights, R, atol=1e-8)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 12), st.integers(0, 20), st.integers(1, 20), st.integers(0, 99))
def test_search_keeps_its_budget(c, more, k, seed):
    R = low_rank(15, 20, 4, seed, noise=0.3)
    truth = low_rank(1, 20, 4, seed + 1)[0]
    calls = []

    def score(items):
        calls.extend(items.tolist())
        return truth[items]

    index = AnnCur(R, range(c), ridge=0.1)
    items, scores, n_calls = index.search(score, k, c + more)
    assert n_calls == len(calls) == len(set(calls)) <= min(c + more, 20)
    assert items.shape == scores.shape == (k,)
    assert len(set(items.tolist())) == k
    assert bool((scores.diff() <= 0).all())
    predicted = index.scores(truth[None, :c])[0]
    for item, value in zip(items.tolist(), scores.tolist(), strict=True):
        assert value == (truth if item in calls else predicted)[item]
    if more >= k:
        assert set(items.tolist()) <= set(calls)
    best = sorted((i for i in range(c, 20)), key=lambda i: (-predicted[i].item(), i))
    assert set(calls) == {*range(c), *best[: min(more, 20 - c)]}


def test_all_calls_find_the_truth():
    R, truth = low_rank(10, 30, 8), low_rank(1, 30, 8, 3)[0]
    items, scores, n_calls = AnnCur(R, [4, 7]).search(lambda i: truth[i], 5, 100)
    assert n_calls == 30
    assert items.tolist() == truth.topk(5).indices.tolist()
    assert scores.tolist() == truth.topk(5).values.tolist()


def test_the_peak_at_equal_numbers_and_its_cures():
    S = low_rank(140, 100, 10, 3, noise=0.1)
    R, T = S[:40], S[40:]
    anchors = torch.arange(40)

    def error(R, **options):
        return torch.dist(AnnCur(R, anchors, **options).scores(T[:, :40]), T).item()

    peak = error(R)
    assert peak > 2 * error(R[:30])
    assert peak > 4 * error(R, ridge=0.3)
    assert peak > 4 * error(R, rcond=0.1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e3])
def test_every_dtype_agrees_with_float64(dtype, scale):
    S = (low_rank(20, 15, 4, noise=0.3) * scale).to(dtype)
    cols = [0, 3, 4]
    index = AnnCur(S[:10], cols, ridge=0.1 * scale**2)
    exact = AnnCur(S[:10].double(), cols, ridge=0.1 * scale**2)
    found = index.scores(S[10:, cols])
    assert found.dtype == dtype
    expected = exact.scores(S[10:, cols].double())
    tolerance = 2 * torch.finfo(dtype).eps
    assert_allclose(found.double(), expected, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e200, 1e300])
def test_any_size_of_scores(scale):
    S = low_rank(9, 12, 3)
    rows, cols = [0, 1, 2, 5], [0, 2, 3]
    for middle in ("intersection", "optimal"):
        U = cur_decomposition(S * scale, rows, cols, middle=middle)[1] * scale
        assert_allclose(U, cur_decomposition(S, rows, cols, middle=middle)[1], rtol=1e-6)
    big = AnnCur(S[rows] * scale, cols).scores(S[:, cols] * scale)
    assert_allclose(big / scale, S, rtol=0, atol=1e-9)


# --- anchors and recall


def test_pivots_are_scipys_and_greedy():
    R = low_rank(10, 25, 10)
    assert (
        select_anchors(R, 7, method="qr").tolist() == qr(R.numpy(), pivoting=True)[2][:7].tolist()
    )
    left, picked = R.clone(), []
    for _ in range(7):
        norms = left.norm(dim=0)
        picked.append(int(norms.argmax()))
        q = left[:, picked[-1]] / norms.max()
        left = left - torch.outer(q, q @ left)
    assert select_anchors(R, 7, method="qr").tolist() == picked


@pytest.mark.parametrize("method", ["random", "qr", "kmeans"])
def test_anchors_are_distinct_and_repeatable(method):
    R = low_rank(10, 25, 10)
    chosen = select_anchors(R, 9, method=method, generator=seeded(4))
    assert len(set(chosen.tolist())) == 9
    assert chosen.dtype == torch.int64
    assert chosen.tolist() == select_anchors(R, 9, method=method, generator=seeded(4)).tolist()
    everything = select_anchors(R, 10 if method == "qr" else 25, method=method)
    assert len(set(everything.tolist())) == len(everything)


def test_clusters_far_apart_get_one_anchor_each():
    centres = 100 * torch.eye(4)
    R = centres.repeat_interleave(6, 1) + torch.randn(4, 24, generator=seeded(0))
    for seed in range(20):
        start = torch.randperm(24, generator=seeded(seed))[:4] // 6
        if len(set(start.tolist())) == 4:
            chosen = select_anchors(R, 4, method="kmeans", generator=seeded(seed))
            assert sorted((chosen // 6).tolist()) == [0, 1, 2, 3]


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 20), st.integers(0, 99))
def test_recall_counts_common_items(k, seed):
    approx, exact = torch.randn(2, 3, 20, generator=seeded(seed))
    found = recall_at_k(approx, exact, k)
    for row in range(3):
        sets = [set(np.argsort(-x[row].numpy())[:k].tolist()) for x in (approx, exact)]
        assert found[row].item() == pytest.approx(len(sets[0] & sets[1]) / k)
    assert bool((recall_at_k(exact * 3 + 1, exact, k) == 1).all())
    assert bool((recall_at_k(approx, exact, 20) == 1).all())


# --- an exercise


@pytest.mark.parametrize("cut_off", [None, 1e-10])
def test_centred_anchors_are_solved_with_any_cut_off(cut_off):
    """Exercise 5: by least squares, with the anchors' mean or one anchor taken away."""

    def by_mean(R, anchors, x):
        own = R[:, anchors].mean(1, keepdims=True)
        weights = np.linalg.lstsq((R - own)[:, anchors], R - own, rcond=cut_off)[0]
        return (x - x.mean()) @ weights + x.mean()

    def by_first(R, anchors, x):
        apart = R - R[:, anchors[:1]]
        weights = np.linalg.lstsq(apart[:, anchors[1:]], apart, rcond=cut_off)[0]
        return (x[1:] - x[0]) @ weights + x[0]

    for _ in range(10):
        for answer in (by_mean, by_first):
            assert exercise("text/cur_retrieval", 5).check(answer).passed


# --- bad input

S = low_rank(5, 6, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cur_decomposition(S, [0, 0], [1]), "rows must be distinct"),
        (lambda: cur_decomposition(S, [0, 5], [1]), "rows must lie from 0 to 4"),
        (lambda: cur_decomposition(S, [0], [-1]), "cols must lie from 0 to 5"),
        (lambda: cur_decomposition(S, [], [1]), "rows must be at least one"),
        (lambda: cur_decomposition(S * math.nan, [0], [1]), "scores must be finite"),
        (lambda: cur_decomposition(S[0], [0], [1]), "scores must be a matrix"),
        (lambda: cur_decomposition(S, [0], [1], middle="best"), "middle must be one of"),
        (lambda: cur_decomposition(S, [0], [1], ridge=-1), "ridge must be non-negative"),
        (lambda: cur_decomposition(S, [0], [1], rcond=1.0), "rcond must be below 1"),
        (lambda: cur_decomposition(S, [0], [1], middle="optimal", ridge=1), "ridge must be 0"),
        (lambda: cur_decomposition(S * 1e-310, [0], [1]), "middle factor must fit"),
        (lambda: AnnCur(S, [0, 0]), "anchor_items must be distinct"),
        (lambda: AnnCur(S, [6]), "anchor_items must lie"),
        (lambda: AnnCur(S, [0]).scores(S[:, :2]), r"must have shape \(B, 1\)"),
        (lambda: AnnCur(S, [0, 1]).search(lambda i: S[0, i], 2, 1), "budget must be at least 2"),
        (lambda: AnnCur(S, [0]).search(lambda i: S[0, i], 7, 9), "k must be at most"),
        (lambda: AnnCur(S, [0]).search(lambda i: S[0, i], 0, 9), "k must be at least 1"),
        (lambda: AnnCur(S, [0]).search(lambda i: S[0], 1, 2), "score_items must return shape"),
        (lambda: select_anchors(S, 7), "n_anchors must be at most 6"),
        (lambda: select_anchors(S, 6, method="qr"), "n_anchors must be at most 5"),
        (lambda: select_anchors(S, 2, method="greedy"), "method must be one of"),
        (lambda: recall_at_k(S, S[:, :5], 1), "approx must have the shape"),
        (lambda: recall_at_k(S, S, 7), "k must be at most"),
        (
            lambda: DualScorer(5).matrix(torch.tensor([[5]]), torch.tensor([[0]])),
            "q_tokens must lie",
        ),
        (lambda: DualScorer(5)(torch.tensor([[0]]), torch.zeros(1, 0).long()), "k_tokens must be"),
        (lambda: JointScorer(0), "vocab_size must be at least 1"),
    ],
)
def test_bad_values_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: cur_decomposition(S.long(), [0], [1]),
        lambda: cur_decomposition(S, [0.5], [1]),
        lambda: cur_decomposition(S, [True], [1]),
        lambda: AnnCur(S.tolist(), [0]),
        lambda: AnnCur(S, [0]).search(lambda i: S[0, i], 1.5, 2),
        lambda: AnnCur(S, [0]).search(lambda i: i, 1, 2),
        lambda: select_anchors(S, 2.0),
        lambda: recall_at_k(S, S.float(), 1),
        lambda: DualScorer(5)(torch.rand(1, 2), torch.tensor([[0]])),
    ],
)
def test_bad_types_are_refused(call):
    with pytest.raises(TypeError):
        call()


# --- the scorers


@pytest.mark.parametrize("kind", [DualScorer, JointScorer])
def test_a_matrix_holds_the_scores_of_all_pairs(kind):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        scorer = kind(12, 8).double()
    queries, items = (
        torch.randint(12, (5, 3), generator=seeded(0)),
        torch.arange(24).view(4, 6) % 12,
    )
    whole = scorer.matrix(queries, items, chunk=2)
    assert whole.shape == (5, 4)
    for q in range(5):
        for k in range(4):
            assert whole[q, k].item() == pytest.approx(scorer(queries[q], items[k]).item())
    assert_allclose(scorer(queries[:, None], items).detach(), whole)
    assert_allclose(scorer.matrix(queries.flip(1), items), whole)  # words have no order


def test_only_the_dual_scorer_is_an_inner_product():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        dual, joint = (kind(40, 4).double() for kind in (DualScorer, JointScorer))
    queries = torch.randint(40, (30, 3), generator=seeded(1))
    items = torch.randint(40, (30, 3), generator=seeded(2))
    assert torch.linalg.matrix_rank(dual.matrix(queries, items)) == 4
    assert torch.linalg.matrix_rank(joint.matrix(queries, items)) > 8
