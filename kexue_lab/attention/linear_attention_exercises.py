"""What the exercises of attention/linear_attention check."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kexue_lab.attention.linear_attention import (
    efficient_attention,
    elu_feature_map,
    linear_attention,
    normalized_taylor_feature_map,
)
from kexue_lab.exercises import Exercise, Mistake

Inputs = Iterator[tuple[Any, ...]]


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


def _randn(rng: np.random.Generator, *shape: int) -> Tensor:
    return torch.from_numpy(rng.standard_normal(shape))


def _attention_inputs(rng: np.random.Generator) -> Inputs:
    for _ in range(4):
        n, d, dv = (int(size) for size in rng.integers(2, 9, 3))
        yield _randn(rng, n, d), _randn(rng, n, d), _randn(rng, n, dv)
    long = [_randn(rng, 8_000, size).as_subclass(Watched) for size in (4, 4, 3)]
    yield tuple(long)


def _taylor(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return linear_attention(q, k, v, feature_map=normalized_taylor_feature_map)


def _unit(x: Tensor) -> Tensor:
    return torch.nn.functional.normalize(x, dim=-1)


def _without_ones(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k = _unit(q), _unit(k)
    return q @ (k.mT @ v) / (len(k) + q @ k.sum(0)[:, None])


def _not_normalised(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (v.sum(0) + q @ (k.mT @ v)) / (len(k) + q @ k.sum(0)[:, None])


def _chunk_inputs(rng: np.random.Generator) -> Inputs:
    for n, chunk_size in ((12, 4), (13, 5), (7, 3), (5, 8)):
        D, dv = (int(size) for size in rng.integers(2, 6, 2))
        features = (elu_feature_map(_randn(rng, n, D)) for _ in range(2))
        yield *features, _randn(rng, n, dv), chunk_size
    long = [_randn(rng, 4_000, size).exp().as_subclass(Watched) for size in (4, 4, 3)]
    yield *long, 250


def _causal(phi_q: Tensor, phi_k: Tensor, v: Tensor, chunk_size: int) -> Tensor:
    return linear_attention(
        phi_q, phi_k, v, feature_map=None, is_causal=True, chunk_size=chunk_size
    )


def _chunks_with(
    phi_q: Tensor, phi_k: Tensor, v: Tensor, chunk_size: int, *, early: bool, mask: bool
) -> Tensor:
    """Chunked attention with one of two mistakes: an early update, or no mask in the chunk."""
    values = torch.cat([v, torch.ones_like(v[:, :1])], -1)
    state = phi_k.new_zeros(phi_k.shape[1], values.shape[1])
    outputs = []
    for start in range(0, len(v), chunk_size):
        rows = slice(start, start + chunk_size)
        q, k, w = phi_q[rows], phi_k[rows], values[rows]
        after = state + k.mT @ w
        weights = (q @ k.mT).tril() if mask else q @ k.mT
        outputs.append(weights @ w + q @ (after if early else state))
        state = after
    sums = torch.cat(outputs)
    return sums[:, :-1] / sums[:, -1:]


def _strict(phi_q: Tensor, phi_k: Tensor, v: Tensor) -> Tensor:
    """Each token sees the earlier ones only, so the first sees none: 0/0."""
    products = phi_k[:, :, None] * torch.cat([v, torch.ones_like(v[:, :1])], -1)[:, None]
    before = products.cumsum(0) - products
    sums = (phi_q[:, :, None] * before).sum(1)
    return sums[:, :-1] / sums[:, -1:]


def _feature_inputs(rng: np.random.Generator) -> Inputs:
    for _ in range(4):
        n, d = (int(size) for size in rng.integers(2, 7, 2))
        yield _randn(rng, n, d), _randn(rng, n, d)


def _judge_features(got: Any, q: Tensor, k: Tensor) -> str | None:
    phi_q, phi_k = (torch.as_tensor(part) for part in got)
    if phi_q.shape[:-1] != q.shape[:-1] or phi_k.shape[:-1] != k.shape[:-1]:
        return f"features need one row a token, got {tuple(phi_q.shape)}, {tuple(phi_k.shape)}"
    v = torch.eye(len(k), dtype=k.dtype)
    weights = linear_attention(phi_q, phi_k, v, feature_map=None)
    exact = efficient_attention(q, k, v)
    if torch.allclose(weights, exact, rtol=1e-9, atol=1e-12):
        return None
    worst = (weights - exact).abs().max()
    return f"the weights differ from those of double softmax by up to {worst:.2g}"


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


def _count_inputs(rng: np.random.Generator) -> Inputs:
    yield np.array([1.0, 0.0]), np.array([0.5, math.sqrt(0.75)]), 0.1
    for _ in range(4):
        q, k = rng.uniform(0.1, 0.8, (2, 3))
        yield q, k, float(rng.uniform(0.02, 0.2))


def _count(q: Any, k: Any, error: float) -> int:
    return math.ceil(math.expm1(float(np.sum((q + k) ** 2))) / error**2)


EXERCISES = (
    Exercise(
        "attention with 1 + q̂·k̂, without a matrix of n × n",
        solution=_taylor,
        inputs=_attention_inputs,
        mistakes=(
            Mistake(
                "no sum of the values",
                _without_ones,
                "the 1 of every weight is missing in the numerator: it adds the sum of all values.",
            ),
            Mistake(
                "vectors not normalised",
                _not_normalised,
                "q and k must have length 1 first; else 1 + q·k may be negative.",
            ),
            Mistake(
                "no division",
                lambda q, k, v: v.sum(0) + _unit(q) @ (_unit(k).mT @ v),
                "this is the numerator; divide by the sum of the weights.",
            ),
            Mistake(
                "divided by n",
                lambda q, k, v: (v.sum(0) + _unit(q) @ (_unit(k).mT @ v)) / len(k),
                "the weights of a query add up to n + q̂·Σk̂, not to n.",
            ),
        ),
    ),
    Exercise(
        "causal attention in chunks",
        solution=_causal,
        inputs=_chunk_inputs,
        mistakes=(
            Mistake(
                "the state updated too early",
                lambda *a: _chunks_with(*a, early=True, mask=True),
                "the state already holds this chunk when it is read, so the chunk counts twice.",
            ),
            Mistake(
                "no mask within the chunk",
                lambda *a: _chunks_with(*a, early=False, mask=False),
                "inside the chunk a token must not see later ones: take the lower triangle.",
            ),
            Mistake(
                "the last, short chunk is missing",
                lambda q, k, v, c: _causal(q, k, v, c)[: len(v) // c * c],
                "n need not be a multiple of chunk_size: the last chunk may be shorter.",
            ),
            Mistake(
                "a strict triangle",
                lambda q, k, v, c: _strict(q, k, v),
                "a token sees itself, too: the triangle includes its diagonal. The first token "
                "has no other.",
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
                "this divides once, after the channels were mixed; each channel needs its own Z_c.",
            ),
            Mistake(
                "two softmaxes over the channels",
                lambda q, k: (q.softmax(-1), k.softmax(-1)),
                "the softmax of K runs over the sequence, not over the channels.",
            ),
            Mistake(
                "multiplied by Z",
                lambda q, k: (q.softmax(-1) * k.exp().sum(0), k.exp()),
                "divide by Z_c: the weights of channel c must add up to 1.",
            ),
            Mistake(
                "softmax of Q over the sequence",
                lambda q, k: (q.softmax(0) / k.exp().sum(0), k.exp()),
                "the softmax of Q runs over the channels of each query.",
                variants=(lambda q, k: (q.softmax(0), k.softmax(0)),),
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
                "the mask is no product of thin matrices: a triangle without zeros on its "
                "diagonal has full rank.",
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
                "the block has n − m rows: its rank is no more than that.",
            ),
            Mistake(
                "the block taken for D",
                lambda n, D, m: (min(n, D), n, D),
                "the block is n − m by m: it may be smaller than D.",
            ),
        ),
    ),
    Exercise(
        "how many random features",
        solution=_count,
        inputs=_count_inputs,
        mistakes=(
            Mistake(
                "the distance",
                lambda q, k, error: _count(q, -k, error),
                "it is |q + k|² that counts, not |q − k|²: similar vectors are the hard ones.",
            ),
            Mistake(
                "no square",
                lambda q, k, error: math.ceil(math.expm1(float(np.sum((q + k) ** 2))) / error),
                "the standard error falls like 1/√m: set the variance / m equal to error².",
            ),
            Mistake(
                "the exponential alone",
                lambda q, k, error: math.ceil(math.exp(float(np.sum((q + k) ** 2))) / error**2),
                "a variance is the mean square minus the square of the mean: e^{|q+k|²} − 1.",
            ),
        ),
        rtol=0,
        atol=0,
    ),
)
