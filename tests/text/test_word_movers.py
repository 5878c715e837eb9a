"""Word mover's and rotator's distance, their bounds, Sinkhorn and the pruned search."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from scipy.stats import special_ortho_group, wasserstein_distance
from small_texts import (
    F64,
    UNIFORM_Y,
    X,
    Y,
    Z,
    by_linprog,
    central_difference,
    random_text,
    seeds,
    sizes,
    tensor,
)
from torch import Tensor

from kexue_lab.text import word_movers as wm

KINDS = ("wmd", "wrd")
DISTANCES = {"wmd": wm.word_movers_distance, "wrd": wm.word_rotators_distance}

kinds = st.sampled_from(KINDS)


def texts_with_shared_words(rng: np.random.Generator, count: int, d: int = 5) -> list[Tensor]:
    words = random_text(rng, 12, d)
    return [words[rng.integers(0, len(words), rng.integers(1, 9))] for _ in range(count)]


def by_ot(x: Tensor, y: Tensor, kind: str) -> float:
    """The distance by POT, from numpy and SciPy alone."""
    if kind == "wmd":
        return ot.emd2(ot.unif(len(x)), ot.unif(len(y)), cdist(x, y))
    p, q = np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1)
    return ot.emd2(p / p.sum(), q / q.sum(), cdist(x, y, "cosine"))


# Exact distances


@pytest.mark.parametrize(
    ("x", "y", "wmd", "wrd"),
    [
        (X, Y, 0.4536173218, 0.0794277368),
        (X, Z, 0.8634724830, 0.2431489957),
        (Y, Z, 1.0294598923, 0.3036423619),
    ],
)
def test_known_distances(x: Tensor, y: Tensor, wmd: float, wrd: float) -> None:
    assert wm.word_movers_distance(x, y).item() == pytest.approx(wmd, abs=6e-11)
    assert wm.word_rotators_distance(x, y).item() == pytest.approx(wrd, abs=6e-11)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("x", "y"), [(X, Y), (X, Z), (Y, Z)])
def test_against_pot_and_linprog(x: Tensor, y: Tensor, kind: str) -> None:
    ours = DISTANCES[kind](x, y).item()
    assert ours == pytest.approx(by_ot(x, y, kind), abs=1e-12)
    p, q = np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1)
    if kind == "wmd":
        p, q = np.ones(len(x)), np.ones(len(y))
    cost = cdist(x, y, "euclidean" if kind == "wmd" else "cosine")
    assert ours == pytest.approx(by_linprog(p / p.sum(), q / q.sum(), cost), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_one_dimension(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal(7), rng.standard_normal(4)
    p, q = rng.uniform(size=7), rng.uniform(size=4)
    ours = wm.word_movers_distance(x[:, None], y[:, None], x_weights=p, y_weights=q)
    assert ours.item() == pytest.approx(wasserstein_distance(x, y, p, q), abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_sizes_are_an_assignment(kind: str) -> None:
    rng = np.random.default_rng(1)
    x, y = random_text(rng, 9), random_text(rng, 9)
    if kind == "wrd":  # with equal norms the masses are uniform too
        x, y = x / x.norm(dim=1, keepdim=True), y / y.norm(dim=1, keepdim=True)
    cost = cdist(x, y, "euclidean" if kind == "wmd" else "cosine")
    expected = cost[linear_sum_assignment(cost)].mean()
    assert DISTANCES[kind](x, y).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("scale", [1e-100, 1e-9, 1.0, 1e9])
def test_small_and_large_costs_keep_their_digits(scale: float) -> None:
    rng = np.random.default_rng(7)
    for _ in range(25):
        m, n = rng.integers(2, 20, 2)
        x, y, p, q = random_text(rng, m), random_text(rng, n), ot.unif(m), ot.unif(n)
        expected = pytest.approx(by_linprog(p, q, cdist(x, y)) * scale, rel=1e-12, abs=0)
        assert wm.word_movers_distance(scale * x, scale * y).item() == expected
        assert wm.pairwise_distances([scale * x], [scale * y], kind="wmd").item() == expected
        assert wm.nearest_texts(scale * x, [scale * y], 1)[0].item() == expected


def test_words_without_mass_do_not_count() -> None:
    weights = tensor([1, 0, 2, 1])
    ours = wm.word_movers_distance(X, Y, x_weights=weights)
    kept = wm.word_movers_distance(X[[0, 2, 3]], Y, x_weights=weights[[0, 2, 3]])
    assert ours.item() == pytest.approx(kept.item(), abs=1e-12)
    # Counting a word twice is repeating it.
    repeated = wm.word_movers_distance(X[[0, 2, 2, 3]], Y)
    assert ours.item() == pytest.approx(repeated.item(), abs=1e-12)


# Laws


@given(seeds, kinds, sizes, sizes)
@settings(deadline=None, max_examples=50)
def test_symmetry_order_and_rotation(seed: int, kind: str, m: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = random_text(rng, m), random_text(rng, n)
    distance = DISTANCES[kind]
    reference = pytest.approx(distance(x, y).item(), abs=1e-11)
    rotation = tensor(special_ortho_group.rvs(3, random_state=rng))
    assert distance(y, x).item() == reference
    assert distance(x.flip(0), y).item() == reference
    assert distance(x @ rotation, y @ rotation).item() == reference
    assert distance(torch.cat([x, x]), y).item() == reference


@given(seeds, sizes, sizes)
@settings(deadline=None, max_examples=30)
def test_wmd_is_translation_invariant_and_wrd_is_not(seed: int, m: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = random_text(rng, m), random_text(rng, n)
    shift = tensor(rng.standard_normal(3))
    moved = wm.word_movers_distance(x + shift, y + shift).item()
    assert moved == pytest.approx(wm.word_movers_distance(x, y).item(), abs=1e-11)
    far = wm.word_rotators_distance(x + 1e6, y + 1e6).item()
    assert far < 1e-6
    assert wm.word_rotators_distance(X, Y) > 0.07


@given(seeds, st.floats(0.1, 0.9), st.floats(0.1, 10))
@settings(deadline=None, max_examples=30)
def test_wrd_scaling_and_splitting(seed: int, alpha: float, scale: float) -> None:
    rng = np.random.default_rng(seed)
    x, y = random_text(rng, 4), random_text(rng, 5)
    reference = pytest.approx(wm.word_rotators_distance(x, y).item(), abs=1e-12)
    assert wm.word_rotators_distance(scale * x, y).item() == reference
    split = torch.cat([x[:1] * alpha, x[:1] * (1 - alpha), x[1:]])
    assert wm.word_rotators_distance(split, y).item() == reference
    assert 0 <= wm.word_rotators_distance(x, scale * x).item() <= 1e-14
    assert 0 <= wm.word_rotators_distance(x, y).item() <= 2


def test_wrd_is_half_a_squared_distance() -> None:
    (u, p), (v, q) = ((t / t.norm(dim=1)[:, None], t.norm(dim=1)) for t in (X, Y))
    squared = ot.emd2(p / p.sum(), q / q.sum(), tensor(cdist(u, v, "sqeuclidean")))
    assert wm.word_rotators_distance(X, Y).item() == pytest.approx(squared.item() / 2, abs=1e-12)
    known = tensor([0.28003663, 0.24332095, 0.24158273, 0.23505969])
    torch.testing.assert_close(p / p.sum(), known, rtol=0, atol=6e-9)


def test_wrd_breaks_the_triangle_inequality() -> None:
    a, b, c = tensor([[1, 0]]), tensor([[1, 1]]), tensor([[0, 1]])
    side = pytest.approx(1 - math.sqrt(0.5), abs=1e-14)
    assert wm.word_rotators_distance(a, b).item() == side
    assert wm.word_rotators_distance(b, c).item() == side
    assert wm.word_rotators_distance(a, c).item() == pytest.approx(1, abs=1e-14)


def test_triangle_inequality_on_random_triples() -> None:
    rng = np.random.default_rng(0)
    failures = 0
    for _ in range(100):
        texts = [random_text(rng, rng.integers(1, 5), 2) for _ in range(3)]
        for kind in KINDS:
            full = wm.pairwise_distances(texts, texts, kind=kind)
            root = full if kind == "wmd" else (2 * full).sqrt()
            for a, b, c in itertools.permutations(range(3)):
                assert root[a, c] <= root[a, b] + root[b, c] + 1e-7
                failures += kind == "wrd" and bool(full[a, c] > full[a, b] + full[b, c] + 1e-7)
    assert failures > 0


@pytest.mark.parametrize("kind", KINDS)
def test_equal_texts_are_at_distance_zero(kind: str) -> None:
    assert DISTANCES[kind](X, torch.cat([X, X])).item() == pytest.approx(0, abs=1e-15)
    assert DISTANCES[kind](X, X.flip(0)).item() == pytest.approx(0, abs=1e-15)


# Bounds


@pytest.mark.parametrize(
    ("kind", "centroid", "one_sided"),
    [
        ("wmd", 0.1338656664, (0.2801096914, 0.3692941648)),
        ("wrd", 0.0049734789, (0.0303791511, 0.0466398123)),
    ],
)
def test_known_bounds(kind: str, centroid: float, one_sided: tuple[float, float]) -> None:
    assert wm.centroid_lower_bound(X, Y, kind=kind).item() == pytest.approx(centroid, abs=6e-11)
    relaxed = wm.relaxed_lower_bound(X, Y, kind=kind).item()
    assert relaxed == pytest.approx(max(one_sided), abs=6e-11)
    # With the roles exchanged the other side is the larger one.
    assert wm.relaxed_lower_bound(Y, X, kind=kind).item() == pytest.approx(relaxed, abs=1e-14)


@given(seeds, kinds, sizes, sizes)
@settings(deadline=None, max_examples=60)
def test_bounds_hold(seed: int, kind: str, m: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = random_text(rng, m, 4), random_text(rng, n, 4)
    exact = by_ot(x, y, kind)
    assert 0 <= wm.centroid_lower_bound(x, y, kind=kind).item() <= exact + 1e-12
    assert 0 <= wm.relaxed_lower_bound(x, y, kind=kind).item() <= exact + 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_relaxed_bound_is_exact_for_one_word(kind: str) -> None:
    exact = by_ot(X[:1], Y, kind)
    assert wm.relaxed_lower_bound(X[:1], Y, kind=kind).item() == pytest.approx(exact, abs=1e-14)


# Gradients


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_against_central_differences(kind: str) -> None:
    x, y = X.clone().requires_grad_(), Y.clone().requires_grad_()
    ours = torch.autograd.grad(DISTANCES[kind](x, y), (x, y))
    by_x = central_difference(lambda x: DISTANCES[kind](x, Y), X)
    by_y = central_difference(lambda y: DISTANCES[kind](X, y), Y)
    torch.testing.assert_close(ours, (by_x, by_y), rtol=0, atol=1e-8)


def test_known_gradient_of_wmd() -> None:
    x = X.clone().requires_grad_()
    (ours,) = torch.autograd.grad(wm.word_movers_distance(x, Y), x)
    known = tensor([-0.1473263, -0.0925948, -0.0304989])
    torch.testing.assert_close(ours[0], known, rtol=0, atol=6e-8)


def test_gradient_of_weights() -> None:
    weights = tensor([1.0, 0.3, 2.1, 0.7])

    def distance(w: Tensor) -> Tensor:
        return wm.word_movers_distance(X, Y, x_weights=w)

    w = weights.clone().requires_grad_()
    (ours,) = torch.autograd.grad(distance(w), w)
    expected = central_difference(distance, weights)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-8)


def test_shared_words_have_the_zero_subgradient() -> None:
    x = torch.cat([X[:1], X + 1]).requires_grad_()
    y = torch.cat([X[:1], X - 1])
    (ours,) = torch.autograd.grad(wm.word_movers_distance(x, y), x)
    assert ours.isfinite().all()
    assert (ours[0] == 0).all()
    assert (ours[1:].norm(dim=1) > 0).all()


# Entropic transport


# Many texts


@given(seeds, kinds)
@settings(deadline=None, max_examples=25)
def test_pairwise_against_pot(seed: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    texts = texts_with_shared_words(rng, 7)
    ours = wm.pairwise_distances(texts[:3], texts[3:], kind=kind)
    expected = [[by_ot(x, y, kind) for y in texts[3:]] for x in texts[:3]]
    np.testing.assert_allclose(ours.numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shift", [0.0, 1e5])
@pytest.mark.parametrize("step", [1e-3, 1e-7, 0.0])
def test_nearly_equal_words_keep_their_digits(step: float, shift: float) -> None:
    """Where the Gram formula for distances would leave no digit."""
    rng = np.random.default_rng(5)
    x = random_text(rng, 6, 8)
    x[0] += shift
    y = torch.cat([x[:3] + step * torch.eye(8, dtype=F64)[:3], random_text(rng, 20, 8)])
    ours = wm.pairwise_distances([x[:3]], [y[:3], y], kind="wmd")[0]
    assert ours[0].item() == pytest.approx(by_ot(x[:3], y[:3], "wmd"), rel=1e-9, abs=1e-15)
    assert ours[1].item() == pytest.approx(by_ot(x[:3], y, "wmd"), rel=1e-12)


def test_all_words_near_each_other() -> None:
    rng = np.random.default_rng(6)
    x, y = (random_text(rng, n, 8) + 1e6 for n in (5, 7))
    ours = wm.pairwise_distances([x], [y], kind="wmd").item()
    assert ours == pytest.approx(by_ot(x, y, "wmd"), rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_permuted_and_repeated_texts_tie_exactly(kind: str) -> None:
    rng = np.random.default_rng(3)
    x, y = random_text(rng, 7), random_text(rng, 6)
    row = wm.pairwise_distances([x], [y, y.flip(0), torch.cat([y, y])], kind=kind)[0]
    assert len(row.unique()) == 1


@given(seeds, kinds, st.integers(1, 29))
@settings(deadline=None, max_examples=40)
def test_search_equals_sorting_all_distances(seed: int, kind: str, k: int) -> None:
    rng = np.random.default_rng(seed)
    query, *corpus = texts_with_shared_words(rng, 25)
    corpus += [corpus[i].flip(0) for i in (3, 1, 0, 2, 1)]  # ties
    row = wm.pairwise_distances([query], corpus, kind=kind)[0]
    order = row.argsort(stable=True)[:k]
    distances, indices, n_solved = wm.nearest_texts(query, corpus, k, kind=kind)
    assert indices.tolist() == order.tolist()
    assert distances.tolist() == row[order].tolist()
    assert k <= n_solved <= len(corpus)


@pytest.mark.parametrize("kind", KINDS)
def test_a_prepared_corpus_gives_the_same_neighbours(kind: str) -> None:
    query, *corpus = texts_with_shared_words(np.random.default_rng(2), 30)
    prepared = wm.prepare_texts(corpus, kind=kind)
    for ours, direct in zip(
        wm.nearest_texts(query, prepared, 4, kind=kind),
        wm.nearest_texts(query, corpus, 4, kind=kind),
        strict=True,
    ):
        assert torch.equal(torch.as_tensor(ours), torch.as_tensor(direct))


@pytest.mark.parametrize("d", [1, 2, 5])
def test_words_that_agree_at_both_ends_are_told_apart(d: int) -> None:
    words = torch.zeros(6, d, dtype=F64)
    words[:, d // 2] = torch.arange(1.0, 7)
    texts = [words[[0, 3, 3]], words[[5]], words[[1, 2, 0]]]
    corpus = wm.prepare_texts(texts, kind="wmd")
    assert len(corpus.vectors) == 5
    assert [len(own) for own in corpus.words] == [2, 1, 3]
    for text, own, masses in zip(texts, corpus.words, corpus.masses, strict=True):
        torch.testing.assert_close(masses @ corpus.vectors[own], text.mean(0))
    torch.testing.assert_close(corpus.centroids, torch.stack([text.mean(0) for text in texts]))


def test_ties_beyond_the_bound_of_an_earlier_text() -> None:
    """The second text is visited first, and the bound of the first equals its distance."""
    query, corpus = tensor([[0, 0]]), [tensor([[1, 0]]), tensor([[0, 1], [0, -1]])]
    distances, indices, n_solved = wm.nearest_texts(query, corpus, 1)
    assert (distances.tolist(), indices.tolist(), n_solved) == ([1.0], [0], 2)


@pytest.mark.parametrize("kind", KINDS)
def test_search_prunes(kind: str) -> None:
    rng = np.random.default_rng(4)
    topics = 3 * rng.standard_normal((10, 20))
    corpus = [
        tensor(topics[i % 10] + rng.standard_normal((rng.integers(6, 16), 20))) for i in range(100)
    ]
    _, indices, n_solved = wm.nearest_texts(corpus[17], corpus, 5, kind=kind)
    assert indices[0] == 17
    assert {int(i) % 10 for i in indices} == {7}
    assert n_solved < 20


# Inputs


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept(dtype: torch.dtype) -> None:
    x, y = X.to(dtype), Y.to(dtype)
    values = [
        wm.word_movers_distance(x, y),
        wm.word_rotators_distance(x, y),
        *(wm.centroid_lower_bound(x, y, kind=kind) for kind in KINDS),
        *(wm.relaxed_lower_bound(x, y, kind=kind) for kind in KINDS),
        wm.pairwise_distances([x], [y], kind="wrd"),
        wm.nearest_texts(x, [y], 1)[0],
    ]
    assert {value.dtype for value in values} == {dtype}
    assert values[0].item() == pytest.approx(0.4536173218, abs=1e-6)


def test_memory_layout_and_gradients_do_not_matter() -> None:
    x = X.mT.contiguous().mT.requires_grad_()
    assert not x.is_contiguous()
    row = wm.pairwise_distances([x], [Y, x], kind="wmd")[0]
    assert row.tolist() == pytest.approx([by_ot(X, Y, "wmd"), 0], abs=1e-14)
    assert not row.requires_grad


def test_arrays_and_lists_are_texts() -> None:
    expected = pytest.approx(wm.word_movers_distance(X, Y).item(), abs=1e-6)
    assert wm.word_movers_distance(X.numpy(), Y.numpy()).item() == expected
    assert wm.word_movers_distance(X.tolist(), Y.tolist()).item() == expected


BAD_TEXTS = [
    (torch.zeros(0, 3, dtype=F64), ValueError, "must have shape"),
    (torch.zeros(3, dtype=F64), ValueError, "must have shape"),
    (torch.full((2, 3), math.nan, dtype=F64), ValueError, "must be finite"),
    (torch.full((2, 3), math.inf, dtype=F64), ValueError, "must be finite"),
    (torch.ones(2, 4, dtype=F64), ValueError, "dimension"),
    (torch.ones(2, 3), ValueError, "dtype and device"),
    (torch.ones(2, 3, dtype=torch.int64), TypeError, "floating point"),
    ([["a", "b", "c"]], TypeError, "floats"),
]
TWO_TEXTS: dict[str, Callable[..., object]] = {
    "wmd": wm.word_movers_distance,
    "wrd": wm.word_rotators_distance,
    "centroid": lambda x, y: wm.centroid_lower_bound(x, y, kind="wmd"),
    "relaxed": lambda x, y: wm.relaxed_lower_bound(x, y, kind="wmd"),
}
ZERO = torch.zeros(2, 3, dtype=F64)


@pytest.mark.parametrize("name", TWO_TEXTS)
@pytest.mark.parametrize(("text", "error", "match"), BAD_TEXTS)
def test_bad_texts(name: str, text: object, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=f"^y .*{match}"):
        TWO_TEXTS[name](X, text)


@pytest.mark.parametrize(("text", "error", "match"), BAD_TEXTS)
def test_bad_texts_in_lists(text: object, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=rf"^texts_b\[1\] .*{match}"):
        wm.pairwise_distances([X], [Y, text], kind="wmd")
    with pytest.raises(error, match=rf"^corpus\[1\] .*{match}"):
        wm.nearest_texts(X, [Y, text], 1)
    with pytest.raises(error, match=f"^query .*{match}"):
        wm.nearest_texts(text, [X, Y], 1)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: wm.word_movers_distance(X, Y, x_weights=[-1.0, 1, 1, 1]), ValueError, "x_weights"),
        (
            lambda: wm.word_movers_distance(X, Y, x_weights=UNIFORM_Y),
            ValueError,
            "x_weights .*shape",
        ),
        (
            lambda: wm.word_movers_distance(X, Y, x_weights=tensor([-1, 1, 1, 1])),
            ValueError,
            "x_weights must be non-negative, got -1",
        ),
        (
            lambda: wm.word_movers_distance(X, Y, y_weights=torch.zeros(6, dtype=F64)),
            ValueError,
            "y_weights must not be all zero",
        ),
        (
            lambda: wm.word_movers_distance(X, Y, y_weights=tensor([math.nan] * 6)),
            ValueError,
            "y_weights must be finite",
        ),
        (lambda: wm.word_movers_distance(X, Y, y_weights=["a"] * 6), TypeError, "y_weights"),
        (lambda: wm.word_rotators_distance(X, ZERO), ValueError, "y must have no zero vector"),
        (
            lambda: wm.centroid_lower_bound(ZERO, Y, kind="wrd"),
            ValueError,
            "x must have no zero vector",
        ),
        (lambda: wm.relaxed_lower_bound(X, ZERO, kind="wrd"), ValueError, "y must have no zero"),
        (
            lambda: wm.pairwise_distances([X], [ZERO], kind="wrd"),
            ValueError,
            "texts_b must have no zero",
        ),
        (
            lambda: wm.nearest_texts(X, [ZERO], 1, kind="wrd"),
            ValueError,
            "corpus must have no zero",
        ),
        (lambda: wm.centroid_lower_bound(X, Y, kind="emd"), ValueError, "kind .*'emd'"),
        (lambda: wm.relaxed_lower_bound(X, Y, kind="emd"), ValueError, "kind .*'emd'"),
        (lambda: wm.pairwise_distances([X], [Y], kind="emd"), ValueError, "kind .*'emd'"),
        (lambda: wm.nearest_texts(X, [Y], 1, kind="emd"), ValueError, "kind .*'emd'"),
        (lambda: wm.pairwise_distances([], [Y], kind="wmd"), ValueError, "texts_a"),
        (
            lambda: wm.pairwise_distances([X], [Y[:, :2]], kind="wmd"),
            ValueError,
            r"texts_b\[0\] .*dimension 3",
        ),
        (lambda: wm.nearest_texts(X, [], 1), ValueError, "corpus"),
        (
            lambda: wm.nearest_texts(X, wm.prepare_texts([Y], kind="wrd"), 1),
            ValueError,
            "kind must be that of the corpus, 'wrd', got 'wmd'",
        ),
        (lambda: wm.prepare_texts([X, Y[:, :2]], kind="wmd"), ValueError, r"texts\[1\]"),
        (lambda: wm.nearest_texts(X, [Y], 0), ValueError, "k must be at least 1, got 0"),
        (lambda: wm.nearest_texts(X, [Y], 2), ValueError, "k must be at most .*1, got 2"),
        (lambda: wm.nearest_texts(X, [Y], 1.0), TypeError, "k must be an integer"),
    ],
)
def test_bad_options(call: Callable[[], object], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()


# ---------------------------------------------------------------- costs and texts of any size


def test_a_far_word_does_not_drown_the_others() -> None:
    rng = np.random.default_rng(0)
    x, y = random_text(rng, 5, 3), random_text(rng, 5, 3)
    near = wm.word_movers_distance(x, y)
    far = torch.full((1, 3), 1e15, dtype=F64)
    both = wm.pairwise_distances([torch.cat([x, far])], [torch.cat([y, far])], kind="wmd")
    assert both.item() == pytest.approx(near.item() * 5 / 6, rel=1e-10)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_distances_scale_with_the_vectors(scale: float) -> None:
    assert wm.word_movers_distance(X * scale, Y * scale).item() / scale == pytest.approx(
        wm.word_movers_distance(X, Y).item()
    )
    assert wm.word_rotators_distance(X * scale, Y * scale).item() == pytest.approx(
        wm.word_rotators_distance(X, Y).item()
    )
    bound = wm.centroid_lower_bound(X * scale, Y * scale, kind="wmd").item()
    assert bound / scale == pytest.approx(wm.centroid_lower_bound(X, Y, kind="wmd").item())


def test_directions_that_nearly_agree_keep_their_distance() -> None:
    x, y = tensor([[1, 0]]), tensor([[1, 1e-9]])
    assert wm.word_rotators_distance(x, y).item() == pytest.approx(5e-19, rel=1e-6)
    assert wm.pairwise_distances([x], [y], kind="wrd").item() == pytest.approx(5e-19, rel=1e-6)


def test_weights_may_be_lists_and_counts() -> None:
    counts = [3, 1, 2, 2]
    expected = wm.word_movers_distance(X, Y, x_weights=tensor(counts))
    for weights in (counts, [3.0, 1.0, 2.0, 2.0], torch.tensor(counts), np.array(counts)):
        assert wm.word_movers_distance(X, Y, x_weights=weights) == expected
        single = wm.word_movers_distance(X.float(), Y.float(), x_weights=weights)
        assert single.item() == pytest.approx(expected.item(), rel=1e-6)
    assert wm.emd([1, 0], [0, 1], tensor([[0, 7], [7, 0]])).item() == 7
