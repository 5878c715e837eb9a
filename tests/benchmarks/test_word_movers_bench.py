"""WMD and WRD over 1,000 sentence pairs against a loop of `ot.emd2`; search against solving all.

Run with `OMP_NUM_THREADS=1 pytest tests/benchmarks/test_word_movers_bench.py --benchmark-only -s`.
Both start from the same lists of word vectors and solve on one thread; words are drawn by Zipf's
law, so that sentences share and repeat them. The ratio is the loop's time over ours, from the
fastest round of each. The peer's second figure is that of `ot.emd2` alone, costs and masses given.
"""

import time
from collections.abc import Callable

import numpy as np
import ot
import pytest
import torch
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture
from scipy.spatial.distance import cdist
from torch import Tensor

from kexue_lab.text.word_movers import Kind, nearest_texts, pairwise_distances, prepare_texts

PAIRS, ROUNDS = 1000, 7
Array = NDArray[np.float64]
Measure = tuple[Array, Array]


def sentences(rng: np.random.Generator, vectors: Array, count: int) -> list[Array]:
    """Sentences of 8 to 32 words."""
    frequencies = 1 / np.arange(1, len(vectors) + 1)
    frequencies /= frequencies.sum()
    return [
        vectors[rng.choice(len(vectors), rng.integers(8, 33), p=frequencies)] for _ in range(count)
    ]


def measure(text: Array, kind: Kind) -> Measure:
    if kind == "wmd":
        return text, np.full(len(text), 1 / len(text))
    norms = np.linalg.norm(text, axis=1)
    return text / norms[:, None], norms / norms.sum()


def cost(x: Array, y: Array, kind: Kind) -> Array:
    return cdist(x, y) if kind == "wmd" else 1 - x @ y.T


def fastest_of_each(*runs: Callable[[], object]) -> list[float]:
    """Rounds alternate, so that a change of the machine's pace meets all."""
    times: list[list[float]] = []
    for _ in range(ROUNDS):
        times.append([])
        for run in runs:
            start = time.perf_counter()
            run()
            times[-1].append(time.perf_counter() - start)
    return np.min(times, axis=0).tolist()


@pytest.mark.parametrize("kind", ["wmd", "wrd"])
@pytest.mark.parametrize(
    ("first", "dim", "goal"),
    [
        pytest.param(25, 50, 2.0, id="25x40-dim50"),
        pytest.param(25, 300, 2.0, id="25x40-dim300"),
        pytest.param(1, 300, 2.0, id="1x1000-dim300"),
    ],
)
def test_time_per_pair(
    benchmark: BenchmarkFixture,
    first: int,
    dim: int,
    goal: float,
    kind: Kind,
    request: pytest.FixtureRequest,
) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((5000, dim)) * rng.uniform(0.5, 2, (5000, 1))
    texts_a, texts_b = (sentences(rng, vectors, n) for n in (first, PAIRS // first))

    def ours() -> Tensor:
        return pairwise_distances(texts_a, texts_b, kind=kind)

    def theirs() -> list[list[float]]:
        a, b = ([measure(text, kind) for text in texts] for texts in (texts_a, texts_b))
        return [[ot.emd2(p, q, cost(x, y, kind)) for y, q in b] for x, p in a]

    a, b = ([measure(text, kind) for text in texts] for texts in (texts_a, texts_b))
    problems = [(p, q, cost(x, y, kind)) for x, p in a for y, q in b]

    def solver_alone() -> list[float]:
        return [ot.emd2(*problem) for problem in problems]

    expected = torch.tensor(theirs(), dtype=torch.float64)
    torch.testing.assert_close(ours(), expected, rtol=0, atol=1e-9)
    own, peer, solver = fastest_of_each(ours, theirs, solver_alone)
    # The ratio is of alternating rounds; the fixture's own figures go to pytest-benchmark's table.
    benchmark.pedantic(ours, rounds=ROUNDS)
    ratio, per_pair = peer / own, 1e6 / PAIRS
    benchmark.extra_info.update(
        ratio=ratio, ours_us=own * per_pair, emd2_us=peer * per_pair, solver_us=solver * per_pair
    )
    print(
        f"\n{request.node.callspec.id}: us per pair {own * per_pair:.1f}, loop of ot.emd2 "
        f"{peer * per_pair:.1f} (ot.emd2 alone {solver * per_pair:.1f}), ratio {ratio:.2f}"
    )
    assert ratio >= goal


@pytest.mark.parametrize("kind", ["wmd", "wrd"])
def test_search_against_solving_everything(
    benchmark: BenchmarkFixture, kind: Kind, request: pytest.FixtureRequest
) -> None:
    """The 5 nearest of 1000 texts, half of whose words are those of one of 20 topics."""
    rng = np.random.default_rng(0)
    words = rng.standard_normal((20, 50))[np.arange(5000) % 20]
    words += 0.5 * rng.standard_normal(words.shape)

    def text() -> Array:
        n, topic = rng.integers(8, 33), rng.integers(20)
        of_topic, any_word = 20 * rng.integers(0, 250, n) + topic, rng.integers(0, 5000, n)
        return words[np.where(rng.random(n) < 0.5, of_topic, any_word)]

    query, corpus = text(), [text() for _ in range(1000)]
    prepared = prepare_texts(corpus, kind=kind)
    row = pairwise_distances([query], corpus, kind=kind)[0]
    _, found, n_solved = nearest_texts(query, prepared, 5, kind=kind)
    assert found.tolist() == row.argsort(stable=True)[:5].tolist()
    everything, afresh, again = fastest_of_each(
        lambda: pairwise_distances([query], corpus, kind=kind),
        lambda: nearest_texts(query, corpus, 5, kind=kind),
        lambda: nearest_texts(query, prepared, 5, kind=kind),
    )
    benchmark.pedantic(lambda: nearest_texts(query, prepared, 5, kind=kind), rounds=ROUNDS)
    benchmark.extra_info.update(everything=everything, afresh=afresh, again=again)
    print(
        f"\n{request.node.callspec.id}: ms a query, solving all 1000 {1e3 * everything:.0f}, "
        f"search {1e3 * afresh:.0f}, search in a prepared corpus {1e3 * again:.0f} "
        f"({n_solved} solved)"
    )
