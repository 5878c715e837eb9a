"""What the exercises of attention/linear_attention check."""

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kexue_lab.attention.linear_attention import (
    attention_matrix,
    efficient_attention,
    linear_attention,
)
from kexue_lab.exercises import Exercise, Mistake

Inputs = Iterator[tuple[Any, ...]]

_OWN_SHARE = 0.99


def _randn(rng: np.random.Generator, *shape: int) -> Tensor:
    return torch.from_numpy(rng.standard_normal(shape))


# ---------------------------------------------------------------------------- 1: votes


def _lists(rng: np.random.Generator) -> Inputs:
    yield ([0, 1, 1],)
    yield ([0, 1, 1, 1],)
    yield ([2, 0, 0, 0, 1],)
    yield ([0, 0, 1, 1, 1, 1, 2],)
    yield ([1, 0, 0, 1, 0, 0, 3, 0],)
    for _ in range(5):
        yield (rng.integers(0, 3, int(rng.integers(5, 12))).tolist(),)


def _lot(tied: int) -> Fraction:
    return Fraction(1, tied)


def _chance(
    values: Sequence[int],
    asked: Sequence[int],
    other: Fraction | int,
    tie: Callable[[int], Fraction] = _lot,
    besides: bool = False,
) -> Fraction:
    """How often the asked value has most weight; its own pair weighs 2, each other one `other`.

    With `besides` the own pair weighs 2 and once more `other`.
    """
    won = Fraction(0)
    for value in asked:
        weight = {name: other * values.count(name) for name in set(values)}
        weight[value] += 2 if besides else 2 - other
        most = max(weight.values())
        if weight[value] == most:
            won += tie(list(weight.values()).count(most))
    return won / len(asked)


def _simplex_other(values: Sequence[int]) -> Fraction:
    return Fraction(len(values) - 2, len(values) - 1)


def _simplex(values: Sequence[int]) -> Fraction:
    return _chance(values, values, _simplex_other(values))


# ---------------------------------------------------------------------------- 2: chunks with decay


class Watched(Tensor):
    """A tensor that refuses matrices of n by n weights, and a loop over n tokens."""

    limit = 2_000_000
    operations = 1_500
    done = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> "Watched":
        Watched.done = 0
        return self.clone().as_subclass(Watched)

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result: Any = super().__torch_function__(func, types, args, kwargs)  # type: ignore[no-untyped-call]
        Watched.done += 1
        if isinstance(result, Tensor) and Tensor.numel(result) > cls.limit:
            raise MemoryError(
                f"a tensor of shape {tuple(result.shape)} was made; "
                "find an order of multiplication that needs no n by n matrix"
            )
        if Watched.done > cls.operations:
            raise TimeoutError(
                f"more than {cls.operations} operations on tensors: "
                "a loop over single tokens is slow; treat whole blocks of them at once"
            )
        return result


def _chunk_inputs(rng: np.random.Generator) -> Inputs:
    for n, chunk_size, gamma in ((12, 4, 0.5), (13, 5, 0.8), (7, 3, 0.9), (5, 8, 0.7)):
        D, dv = (int(size) for size in rng.integers(2, 6, 2))
        yield _randn(rng, n, D), _randn(rng, n, D), _randn(rng, n, dv), gamma, chunk_size
    for gamma in (0.97, 0.8):  # 0.8 to the power −4000 overflows, to the power −250 it does not
        long = [_randn(rng, 4_000, size).as_subclass(Watched) for size in (4, 4, 3)]
        yield *long, gamma, 250


def _decayed(
    phi_q: Tensor,
    phi_k: Tensor,
    v: Tensor,
    gamma: float,
    chunk_size: int,
    *,
    read: int = 1,
    inside: bool = True,
    into: bool = True,
    fade: bool = True,
) -> Tensor:
    """Chunks with decay; the options leave one of its four powers out, or shift it."""
    state = v.new_zeros(phi_k.shape[1], v.shape[1])
    outputs = []
    for start in range(0, len(v), chunk_size):
        rows = slice(start, start + chunk_size)
        q, k, w = phi_q[rows], phi_k[rows], v[rows]
        place = torch.arange(len(w), dtype=v.dtype)
        age = (place[:, None] - place).clamp(min=0)
        weights = (q @ k.mT).tril()
        weights = weights * gamma**age if inside else weights
        outputs.append(weights @ w + gamma ** (place + read)[:, None] * (q @ state))
        late = gamma ** (len(w) - 1 - place)[:, None] if into else 1.0
        state = (gamma ** len(w) if fade else 1.0) * state + (late * k).mT @ w
    return torch.cat(outputs)


def _once_per_chunk(
    phi_q: Tensor, phi_k: Tensor, v: Tensor, gamma: float, chunk_size: int, read: int = 0
) -> Tensor:
    """The state fades by γ from chunk to chunk; within a chunk nothing does."""
    state = v.new_zeros(phi_k.shape[1], v.shape[1])
    outputs = []
    for start in range(0, len(v), chunk_size):
        q, k, w = (part[start : start + chunk_size] for part in (phi_q, phi_k, v))
        outputs.append((q @ k.mT).tril() @ w + gamma**read * q @ state)
        state = gamma * state + k.mT @ w
    return torch.cat(outputs)


def _powers_from_the_start(
    phi_q: Tensor, phi_k: Tensor, v: Tensor, gamma: float, chunk_size: int, first: int = 0
) -> Tensor:
    """γ^i in the queries and γ^−j in the keys: right until one of them leaves the range."""
    power = gamma ** torch.arange(first, first + len(v), dtype=v.dtype)[:, None]
    return _decayed(phi_q * power, phi_k / power, v, 1.0, chunk_size)


# ---------------------------------------------------------------------------- 3: softmax, exactly


def _menus(rng: np.random.Generator) -> Inputs:
    for size in (2, 3, 4, 3):
        n, d = (int(count) for count in rng.integers((6, 2), (10, 5)))
        # Short keys: weights near 0 or 1 would make a wrong answer look like a rounding error.
        menu, chosen = 0.6 * _randn(rng, size, d), rng.integers(0, size, n)
        chosen[:size] = np.arange(size)
        yield _randn(rng, n, d), menu[torch.from_numpy(chosen)], menu


def _which(k: Tensor, menu: Tensor) -> Tensor:
    return (k[:, None] == menu).all(-1).to(k.dtype)


def _judge_exact(got: Any, q: Tensor, k: Tensor, menu: Tensor) -> str | None:
    phi_q, phi_k = (torch.as_tensor(part) for part in got)
    wanted = (len(q), len(menu)), (len(k), len(menu))
    if (tuple(phi_q.shape), tuple(phi_k.shape)) != wanted:
        return (
            f"the features must have the shapes {wanted[0]} and {wanted[1]}, "
            f"got {tuple(phi_q.shape)} and {tuple(phi_k.shape)}"
        )
    return _compared(phi_q, phi_k, attention_matrix(q, k, kind="softmax"), "softmax")


def _compared(phi_q: Tensor, phi_k: Tensor, exact: Tensor, name: str) -> str | None:
    """What is wrong with the weights of these features, if anything."""
    weights = linear_attention(phi_q, phi_k, torch.eye(len(phi_k)).to(phi_k), feature_map=None)
    if torch.allclose(weights, exact, rtol=1e-9, atol=1e-12):
        return None
    if not bool(weights.isfinite().all()):
        return "some weights are nan: a query has the similarity 0 with all keys, and 0/0 is left"
    worst = float((weights - exact).abs().max())
    return f"the weights differ from those of {name} by up to {worst:.2g}"


# ---------------------------------------------------------------------------- 4: ranks


def _rank_inputs(rng: np.random.Generator) -> Inputs:
    yield 6, 1, 3
    yield 8, 3, 2
    yield 9, 5, 6
    for _ in range(5):
        n = int(rng.integers(5, 15))
        yield n, int(rng.integers(1, n - 1)), int(rng.integers(2, n - 1))


def _ranks(n: int, D: int, m: int) -> tuple[int, int, int]:
    """Ranks measured on random positive features."""
    generator = torch.Generator().manual_seed(0)
    phi_q, phi_k = torch.rand(2, n, D, generator=generator, dtype=torch.float64) + 0.1
    full = phi_q @ phi_k.mT
    matrices = (full, full.tril(), full[m:, :m])
    full, causal, block = (int(torch.linalg.matrix_rank(a, rtol=1e-12)) for a in matrices)
    return full, causal, block


# ---------------------------------------------------------------------------- 5: sharp elu + 1


def _judge_sharp(got: Any) -> str | None:
    keys = torch.as_tensor(np.asarray(got, dtype=float))
    if tuple(keys.shape) != (4, 4):
        return f"four keys of four numbers are wanted, got the shape {tuple(keys.shape)}"
    if keys.abs().max() > 20:
        return f"no number may exceed 20 in size, got {float(keys.abs().max()):g}"
    share = float(attention_matrix(keys, keys, kind="elu").diagonal().min())
    if share > _OWN_SHARE:
        return None
    told = f"one key gives itself a share of only {share:.3f}; {_OWN_SHARE} must be exceeded"
    if keys.min() >= 0:
        told += ". No entry of yours is negative: what is the feature of 0?"
    elif keys.min() > -20:
        told += ". How near to 0 can a feature come, with entries of size 20?"
    return told


# ---------------------------------------------------------------------------- 6: double softmax


def _feature_inputs(rng: np.random.Generator) -> Inputs:
    for _ in range(4):
        n, d = (int(size) for size in rng.integers(2, 7, 2))
        yield _randn(rng, n, d), _randn(rng, n, d)


def _judge_features(got: Any, q: Tensor, k: Tensor) -> str | None:
    phi_q, phi_k = (torch.as_tensor(part) for part in got)
    if phi_q.shape != q.shape or phi_k.shape != k.shape:
        return (
            f"the features must have the shapes {tuple(q.shape)} and {tuple(k.shape)}, "
            f"got {tuple(phi_q.shape)} and {tuple(phi_k.shape)}"
        )
    exact = efficient_attention(q, k, torch.eye(len(k)).to(k))
    return _compared(phi_q, phi_k, exact, "double softmax")


EXERCISES = (
    Exercise(
        "the vote with keys of a regular simplex",
        solution=_simplex,
        inputs=_lists,
        exact=True,
        mistakes=(
            Mistake(
                "orthogonal keys",
                lambda values: _chance(values, values, 1),
                "here the products of different keys are negative: another pair weighs less than "
                "1. How much, if the keys add up to 0?",
            ),
            Mistake(
                "the wrong sign",
                lambda values: _chance(values, values, Fraction(len(values), len(values) - 1)),
                "the product of two different keys is −1/(n − 1), so 1 + q·k is below 1.",
            ),
            Mistake(
                "a tie counted whole",
                lambda values: _chance(
                    values, values, _simplex_other(values), lambda tied: Fraction(1)
                ),
                "a tie among several values is decided by lot.",
                variants=(
                    lambda values: _chance(
                        values, values, _simplex_other(values), lambda tied: Fraction(tied == 1)
                    ),
                ),
            ),
            Mistake(
                "the own pair twice",
                lambda values: _chance(values, values, _simplex_other(values), besides=True),
                "the right pair is one of its value's pairs: it weighs 2 in place of the weight of "
                "any other, not besides it.",
            ),
            Mistake(
                "each value asked once",
                lambda values: _chance(values, sorted(set(values)), _simplex_other(values)),
                "each *pair* is asked for equally often, so a frequent value more often.",
            ),
        ),
    ),
    Exercise(
        "chunks that forget",
        solution=_decayed,
        inputs=_chunk_inputs,
        mistakes=(
            Mistake(
                "no decay within the chunk",
                lambda *a: _decayed(*a, inside=False),
                "inside a chunk, too, token j has been multiplied by γ once for each step up to i.",
            ),
            Mistake(
                "the state read one step too young",
                lambda *a: _decayed(*a, read=0),
                "the incoming state decays once before the chunk's first token is added and read.",
            ),
            Mistake(
                "tokens join the state undecayed",
                lambda *a: _decayed(*a, into=False),
                "at the end of the chunk its first token is older than its last.",
            ),
            Mistake(
                "the old state does not fade",
                lambda *a: _decayed(*a, fade=False),
                "over a chunk of m tokens the old state is multiplied by γ m times.",
            ),
            Mistake(
                "one decay for each chunk",
                _once_per_chunk,
                "γ acts at each token, not once for each chunk.",
                variants=(lambda q, k, v, gamma, c: _once_per_chunk(q, k, v, gamma, c, 1),),
            ),
            Mistake(
                "a mean",
                lambda q, k, v, gamma, c: (
                    _decayed(q, k, v, gamma, c) / _decayed(q, k, torch.ones_like(v), gamma, c)
                ),
                "here nothing is divided: the output is what the table gives, without a "
                "denominator.",
            ),
            Mistake(
                "the last, short chunk is missing",
                lambda q, k, v, gamma, c: _decayed(q, k, v, gamma, c)[: len(v) // c * c],
                "n need not be a multiple of chunk_size: the last chunk may be shorter.",
            ),
            Mistake(
                "powers counted from the first token",
                _powers_from_the_start,
                "γ^−j overflows in a long sequence: count the powers from the start of each chunk.",
                variants=(lambda q, k, v, gamma, c: _powers_from_the_start(q, k, v, gamma, c, 1),),
            ),
        ),
    ),
    Exercise(
        "softmax attention as linear attention",
        solution=lambda q, k, menu: ((q @ menu.mT).exp(), _which(k, menu)),
        inputs=_menus,
        judge=_judge_exact,
        mistakes=(
            Mistake(
                "no exponential",
                lambda q, k, menu: (q @ menu.mT, _which(k, menu)),
                "the product of the features must be e^{q·k}, not q·k.",
            ),
            Mistake(
                "divided by √d",
                lambda q, k, menu: ((q @ menu.mT / q.shape[1] ** 0.5).exp(), _which(k, menu)),
                "here nothing is divided: the sharpness τ is 1.",
            ),
            Mistake(
                "keys described by products",
                lambda q, k, menu: ((q @ menu.mT).exp(), k @ menu.mT),
                "φ(k) must pick the one feature of the query that belongs to this key.",
                variants=(
                    lambda q, k, menu: ((q @ menu.mT).exp(), (k @ menu.mT).exp()),
                    lambda q, k, menu: ((q @ menu.mT).exp(), (k @ menu.mT).softmax(-1)),
                    lambda q, k, menu: ((q @ menu.mT).softmax(-1), (k @ menu.mT).softmax(-1)),
                ),
            ),
            Mistake(
                "the roles exchanged",
                lambda q, k, menu: (_which(q, menu), (k @ menu.mT).exp()),
                "a query may be any vector, and is no row of the menu: which of the two, q or k, "
                "can be looked up there?",
            ),
            Mistake(
                "each key of the menu counted once",
                lambda q, k, menu: ((q @ menu.mT).exp(), _which(k, menu) / _which(k, menu).sum(0)),
                "a key that occurs twice in the sequence counts twice.",
            ),
            Mistake(
                "normalised over the queries",
                lambda q, k, menu: ((q @ menu.mT).softmax(0), _which(k, menu)),
                "the features of one query may have a common factor, but not each feature its own.",
            ),
        ),
    ),
    Exercise(
        "three ranks",
        solution=_ranks,
        inputs=_rank_inputs,
        mistakes=(
            Mistake(
                "rank ≤ D still",
                lambda n, D, m: (min(n, D), min(n, D), min(D, m, n - m)),
                "a mask changes the rank: the causal weights are a triangle with a positive "
                "diagonal.",
                variants=(
                    lambda n, D, m: (D, D, D),
                    lambda n, D, m: (D, D, min(D, m)),
                    lambda n, D, m: (D, D, min(D, n - m)),
                ),
            ),
            Mistake(
                "the mask everywhere",
                lambda n, D, m: (min(n, D), n, min(m, n - m)),
                "no mask cuts through the block below the diagonal: it is a product of thin "
                "matrices.",
            ),
            Mistake(
                "n - m forgotten",
                lambda n, D, m: (min(n, D), n, min(D, m)),
                "is your block's rank ever above its number of rows?",
            ),
            Mistake(
                "the block taken for D",
                lambda n, D, m: (min(n, D), n, D),
                "write the block down for n = 9, D = 5, m = 6: how large is it?",
                variants=(lambda n, D, m: (D, n, D),),
            ),
        ),
    ),
    Exercise(
        "a sharp elu + 1",
        solution=lambda: [[15.0 if i == j else -15.0 for j in range(4)] for i in range(4)],
        judge=_judge_sharp,
        mistakes=(
            Mistake(
                "orthogonal unit keys",
                lambda: np.eye(4),
                "elu(0) + 1 is 1, not 0: where must an entry lie for its feature to be small?",
                variants=(lambda: 15 * np.eye(4), lambda: 20 * np.eye(4)),
            ),
            Mistake(
                "short keys",
                lambda: 4 * np.eye(4) - 2,
                "the idea is right: every key has one feature of its own. Make it larger against "
                "the others.",
                variants=(lambda: 2 * np.eye(4) - 1,),
            ),
            Mistake(
                "keys of very different lengths",
                lambda: np.array([[18.0, 1, 1, 1], [1, 3, 1, 1], [1, 1, 2, 1], [1, 1, 1, 1]]),
                "a key with long features attracts every query: give all keys the same length.",
            ),
            Mistake(
                "all entries far below 0, but near one another",
                lambda: 2 * np.eye(4) - 15,
                "there the features are exponentials, and only differences of entries count: "
                "separate them further.",
            ),
            Mistake(
                "all entries alike",
                lambda: np.full((4, 4), -20.0),
                "all features are alike, and so are all weights: which entry of each key must be "
                "large?",
                variants=tuple(
                    lambda entry=entry: np.full((4, 4), entry)
                    for entry in (-15.0, -10.0, -5.0, -1.0, 0.0, 1.0, 5.0, 10.0, 15.0, 20.0)
                ),
            ),
        ),
    ),
    Exercise(
        "features for double softmax",
        solution=lambda q, k: (q.softmax(-1) / k.exp().sum(0), k.exp()),
        inputs=_feature_inputs,
        judge=_judge_features,
        mistakes=(
            Mistake(
                "softmax and exp",
                lambda q, k: (q.softmax(-1), k.exp()),
                "this divides once, after the D products were added up: each of them needs a "
                "denominator of its own.",
                variants=(lambda q, k: (q.exp(), k.exp()),),  # the same weights
            ),
            Mistake(
                "two softmaxes over the entries",
                lambda q, k: (q.softmax(-1), k.softmax(-1)),
                "the softmax of K runs over the tokens, not over the entries of one key.",
            ),
            Mistake(
                "multiplied by Z",
                lambda q, k: (q.softmax(-1) * k.exp().sum(0), k.exp()),
                "divide by the sums over the tokens: each column of κ must add up to 1.",
            ),
            Mistake(
                "softmax of Q over the sequence",
                lambda q, k: (q.softmax(0) / k.exp().sum(0), k.exp()),
                "the softmax of Q runs over the entries of each query.",
                variants=(lambda q, k: (q.softmax(0), k.softmax(0)),),
            ),
        ),
    ),
)
