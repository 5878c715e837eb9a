"""CUR retrieval at equal recall against scoring all pairs and against a dual encoder's first ones.

Run with `OMP_NUM_THREADS=1 pytest tests/benchmarks/test_cur_retrieval_bench.py --benchmark-only
-s`. The scorer is a `JointScorer` of hidden width 64 or 512, so that a call is cheap or dearer,
trained briefly on made-up texts about topics, as in the lesson; float32, one thread, one query
after another, the items' texts encoded beforehand for all. Every method finds the ten best items,
as the scorer ranks them, with a mean recall over the test queries of at least the goal: CUR and the
dual encoder (trained as long on the same texts) with the fewest calls of a grid that reach it (CUR
re-ranks as many items as it has anchors). Reported are calls and milliseconds per query, the ratio
of the time of scoring all items to ours, the calls made offline, and the time of a call from which
on CUR is faster: its time beside the scorer over the calls that it saves. No speed is asserted.
"""

from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from timing import fastest
from torch import Tensor
from torch.nn.functional import cross_entropy

from kexue_lab.text.cur_retrieval import AnnCur, recall_at_k
from kexue_lab.text.scorers import DualScorer, JointScorer
from kexue_lab.training import fit

WORDS, TOPICS, BATCH, STEPS, K, ROUNDS = 300, 8, 32, 300, 10, 3
ANCHOR_QUERIES, TESTED, TIMED = 200, 50, 10
GRID = (20, 30, 40, 50, 60, 80, 100, 140, 200, 300, 400, 600, 1000, 2000, 4000, 8000)

Search = Callable[[int], Tensor]


class Texts:
    """Texts about topics, and two scorers that have learnt to tell them apart."""

    def __init__(self, hidden: int) -> None:
        self.vectors = torch.randn(WORDS, TOPICS, generator=torch.Generator().manual_seed(0))
        self.joint = self._trained(lambda: JointScorer(WORDS, hidden=hidden))
        self.dual = self._trained(lambda: DualScorer(WORDS))
        self._collections: dict[int, tuple[Tensor, ...]] = {}

    def collection(self, n_items: int) -> tuple[Tensor, ...]:
        """Items, test queries, anchor queries' scores, the test queries' scores, made once."""
        if n_items not in self._collections:
            random = torch.Generator().manual_seed(1)
            # Items of the same words would tie, and be told apart by rounding.
            items = self.pairs(2 * n_items, random)[1].sort(1).values.unique(dim=0)
            items = items[torch.randperm(len(items), generator=random)[:n_items]]
            queries = self.pairs(ANCHOR_QUERIES + TESTED, random)[0]
            known, tested = queries[:ANCHOR_QUERIES], queries[ANCHOR_QUERIES:]
            R, exact = (self.joint.matrix(some, items) for some in (known, tested))
            self._collections[n_items] = items, tested, R, exact
        return self._collections[n_items]

    def topics(self, count: int, random: torch.Generator) -> Tensor:
        return torch.randn(count, TOPICS, generator=random)

    def written(self, z: Tensor, count: int, random: torch.Generator) -> Tensor:
        laws = (z @ self.vectors.T).softmax(-1)
        return torch.multinomial(laws, count, replacement=True, generator=random)

    def pairs(self, count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        z = self.topics(count, random)
        noisy = z + 0.3 * torch.randn(z.shape, generator=random)
        return self.written(noisy, 4, random), self.written(z, 6, random)

    def _trained(self, make: Callable[[], DualScorer]) -> DualScorer:
        others = (torch.arange(BATCH)[:, None] + torch.arange(16)) % BATCH

        def loss(model: DualScorer, q: Tensor, k: Tensor) -> Tensor:
            a, b = model.encode(q, k)
            return cross_entropy(
                model.combine(a[:, None], b[others]), torch.zeros(BATCH, dtype=torch.long)
            )

        found = fit(
            lambda random: make(),
            lambda random: self.pairs(BATCH, random),
            loss,
            steps=STEPS,
            learning_rate=3e-3,
            device="cpu",
            progress=False,
        )
        (model,) = found.models
        assert isinstance(model, DualScorer)
        return model


@pytest.fixture(scope="module", params=[64, 512], ids=["hidden64", "hidden512"])
def texts(request: pytest.FixtureRequest) -> Texts:
    return Texts(request.param)


def recall(search: Search, exact: Tensor) -> float:
    """The mean share of the ten best that a search finds."""
    found = torch.stack([search(q) for q in range(len(exact))])
    return recall_at_k(torch.zeros_like(exact).scatter(1, found, 1.0), exact, K).mean().item()


@pytest.mark.parametrize(("n_items", "goal"), [(1000, 0.99), (10_000, 0.9), (10_000, 0.99)])
def test_time_at_equal_recall(
    benchmark: BenchmarkFixture,
    texts: Texts,
    n_items: int,
    goal: float,
    request: pytest.FixtureRequest,
) -> None:
    joint, dual = texts.joint, texts.dual
    items, tested, R, exact = texts.collection(n_items)
    random = torch.Generator().manual_seed(2)
    order = torch.randperm(n_items, generator=random)  # anchors: the first of it
    with torch.no_grad():
        b = joint.encode(tested, items)[1]
        dual_b = dual.encode(tested, items)[1]

        def scored(q: int) -> Callable[[Tensor], Tensor]:
            a = joint.query(joint.words(tested[q]).mean(0))
            return lambda chosen: joint.combine(a, b[chosen])

        def all_pairs(q: int) -> Tensor:
            a = joint.query(joint.words(tested[q]).mean(0))
            return joint.combine(a, b).topk(K).indices

        def by_cur(index: AnnCur, calls: int) -> Search:
            return lambda q: index.search(scored(q), K, calls)[0]

        def by_dual(calls: int) -> Search:
            def search(q: int) -> Tensor:
                a = dual.query(dual.words(tested[q]).mean(0))
                first = dual.combine(a, dual_b).topk(calls).indices
                return first[scored(q)(first).topk(K).indices]

            return search

        def fewest(make: Callable[[int], Search]) -> tuple[int, Search, float]:
            for calls in GRID:
                search = make(calls)
                share = recall(search, exact)
                if share >= goal:
                    return calls, search, share
            raise AssertionError(f"no number of calls in {GRID} reaches a recall of {goal}")

        calls, ours, share = fewest(
            lambda calls: by_cur(AnnCur(R, order[: calls // 2], ridge=1.0), calls)
        )
        dual_calls, dual_search, dual_share = fewest(by_dual)
        index = AnnCur(R, order[: calls // 2], ridge=1.0)

        def free(q: int) -> Tensor:  # the search with a scorer that takes no time
            return index.search(lambda chosen: exact[q, chosen], K, calls)[0]

        assert recall(all_pairs, exact[:TIMED]) > 0.999  # neighbours may swap by rounding

        def timed(search: Search) -> Callable[[], list[Tensor]]:
            return lambda: [search(q) for q in range(TIMED)]

        peer, other = (fastest(timed(search), ROUNDS) for search in (all_pairs, dual_search))
        # Measured as the peers are; the fixture's own figures go to pytest-benchmark's table.
        own = fastest(timed(ours), ROUNDS)
        benchmark.pedantic(timed(ours), rounds=ROUNDS)
        beside = fastest(timed(free), ROUNDS)
    ratio, per_query = peer / own, 1e3 / TIMED
    break_even = 1e6 * beside / TIMED / (n_items - calls)
    benchmark.extra_info.update(
        ratio=ratio,
        calls=calls,
        dual_calls=dual_calls,
        recall=share,
        ours_ms=own * per_query,
        all_ms=peer * per_query,
        dual_ms=other * per_query,
        offline_calls=R.numel(),
        break_even_us=break_even,
    )
    print(
        f"\n{request.node.callspec.id}: CUR {calls} calls, recall {share:.3f}, ms per query "
        f"{own * per_query:.2f}; all pairs {n_items} calls, {peer * per_query:.2f} ms, ratio "
        f"{ratio:.1f}; dual encoder {dual_calls} calls, recall {dual_share:.3f}, "
        f"{other * per_query:.2f} ms; offline {R.numel()} calls; faster from "
        f"{break_even:.1f} us a call"
    )
