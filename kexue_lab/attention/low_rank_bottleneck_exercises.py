"""What the exercises of attention/low_rank_bottleneck check."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import ConvexHull
from torch import Tensor

from kexue_lab.exercises import Exercise, Mistake

Inputs = Iterator[tuple[Any, ...]]

_CLOSE = 1e-10
_GAIN = 0.2


# --- windows and groups


def _windows(rng: np.random.Generator) -> Inputs:
    yield 2, 9
    yield 6, 5
    yield 4, 4
    for _ in range(5):
        yield 2 * int(rng.integers(1, 6)), int(rng.integers(3, 15))


def _window_key_size(p: int, n: int) -> int:
    return min(p, n - 1)


def _groups(rng: np.random.Generator) -> Inputs:
    yield [3, 2, 4], False
    yield [3, 2, 4], True
    yield [1, 5, 2, 2], True
    yield [6], True
    for _ in range(4):
        sizes = [int(size) for size in rng.integers(1, 6, int(rng.integers(2, 7)))]
        yield sizes, bool(rng.random() < 0.6)


def _groups_key_size(sizes: list[int], sink: bool) -> int:
    return len(sizes) - 1 + (sink and sizes[0] > 1)


# --- who can win


def _key_points(rng: np.random.Generator) -> Inputs:
    yield (np.array([[0.0, 3.0], [1.0, 0.5], [4.0, 1.0], [1.5, 2.5], [-1.0, -1.0], [0.5, 1.0]]),)
    # A key in the middle of a side ties with its ends, and is never alone.
    yield (np.array([[4.0, 0.0], [0.0, 0.0], [2.0, 2.0], [1.0, 1.0], [0.0, 4.0], [0.0, 1.0]]),)
    for shift in (0.0, 3.0, -5.0, 2.0, 0.0):
        n = int(rng.integers(7, 12))
        yield (rng.standard_normal((n, 2)) + shift,)


def _winners(keys: NDArray[np.float64]) -> list[int]:
    return sorted(int(token) for token in ConvexHull(keys).vertices)


def _longer_than_the_mean(keys: NDArray[np.float64]) -> list[int]:
    lengths = np.linalg.norm(keys, axis=1)
    return [int(token) for token in np.flatnonzero(lengths > lengths.mean())]


def _far_from_the_mean(keys: NDArray[np.float64]) -> list[int]:
    return _longer_than_the_mean(keys - keys.mean(0))


def _extremes_of_the_axes(keys: NDArray[np.float64]) -> list[int]:
    return sorted({int(token) for token in (*keys.argmin(0), *keys.argmax(0))})


def _winners_of_their_own_query(keys: NDArray[np.float64]) -> list[int]:
    return sorted({int(token) for token in (keys @ keys.T).argmax(1)})


# --- a window in the plane


def _places(rng: np.random.Generator) -> Inputs:
    for _ in range(4):
        n = int(rng.integers(4, 9))
        yield rng.normal(size=(n, 2)), float(rng.uniform(0.6, 1.8))


def _window_features(
    x: NDArray[np.float64], w: float, *, lift: float = 0.5, root: float = math.sqrt(3)
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    ones = np.ones((len(x), 1))
    squares = (x**2).sum(1, keepdims=True)
    return root / w**2 * np.hstack([x, ones]), np.hstack([x, -lift * squares])


def _judge_features(got: Any, x: NDArray[np.float64], w: float) -> str | None:
    Q, K = (np.asarray(part, dtype=float) for part in got)
    if Q.shape != (len(x), 3) or K.shape != (len(x), 3):
        return f"Q and K need the shape ({len(x)}, 3), got {Q.shape} and {K.shape}"
    logits = torch.as_tensor(Q @ K.T / math.sqrt(3))
    squares = ((x[:, None] - x) ** 2).sum(-1)
    wanted = torch.as_tensor(-squares / (2 * w**2)).softmax(-1)
    worst = float((logits.softmax(-1) - wanted).abs().max())
    return None if worst < _CLOSE else f"the weights differ from the window by up to {worst:.2g}"


def _symmetric(x: NDArray[np.float64], w: float) -> tuple[NDArray[np.float64], ...]:
    features = 3**0.25 / w * np.hstack([x, np.ones((len(x), 1))])
    return features, features


# --- two heads


def _judge_heads(got: Any) -> str | None:
    first, second, mix = (np.asarray(part, dtype=float) for part in got)
    if first.ndim != 1 or first.shape != second.shape or mix.shape != (2,):
        return "return two rows of weights, equally long, and two mixing weights"
    for row in (first, second):
        if (row <= 0).any() or abs(row.sum() - 1) > 1e-9:
            return f"a row of weights is positive and sums to 1, got {row.tolist()}"
    if (mix < 0).any() or abs(mix.sum() - 1) > 1e-9:
        return f"mixing weights are at least 0 here, and sum to 1, got {mix.tolist()}"
    product = first ** mix[0] * second ** mix[1]
    gain = (product / product.sum() - np.maximum(first, second)).max()
    if gain > _GAIN:
        return None
    than = "more" if gain > 0 else "no more"
    return (
        f"at best a token gets {than} than from both heads by {max(gain, 0):.3f}; over {_GAIN} "
        "is asked for"
    )


# --- talking heads with a mask


def _heads(rng: np.random.Generator) -> Inputs:
    for h, n, size in ((2, 3, 2), (3, 5, 4), (4, 6, 3)):
        q, k, v = (torch.from_numpy(rng.standard_normal((h, n, size))) for _ in range(3))
        mask = torch.from_numpy(rng.random((n, n)) < 0.5) | torch.eye(n, dtype=torch.bool)
        mix = torch.from_numpy(rng.standard_normal((h, h)))
        yield q, k, v, mix, mask.tril()
    # Of positive weights a mask before the mixing does no harm, and the other faults show alone.
    yield q, k, v, mix.abs(), mask.tril()


def _talking_heads(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mix: Tensor,
    mask: Tensor,
    *,
    size: int | None = None,
    hidden: float | None = None,
) -> Tensor:
    """The repaired code; with the two faults of a wrong size, and of a mask before the mixing."""
    logits = q @ k.mT / math.sqrt(size or q.shape[-1])
    if hidden is not None:
        logits = logits.masked_fill(~mask, hidden)
    logits = torch.einsum("ab,bij->aij", mix, logits)
    if hidden is None:
        logits = logits.masked_fill(~mask, -math.inf)
    return logits.softmax(-1) @ v


def _masked_weights(q: Tensor, k: Tensor, v: Tensor, mix: Tensor, mask: Tensor) -> Tensor:
    logits = torch.einsum("ab,bij->aij", mix, q @ k.mT / math.sqrt(q.shape[-1]))
    return logits.softmax(-1) * mask @ v


def _as_given(q: Tensor, k: Tensor, v: Tensor, mix: Tensor, mask: Tensor) -> Tensor:
    return _talking_heads(q, k, v, mix.T, mask, size=q.shape[1], hidden=-math.inf)


EXERCISES = (
    Exercise(
        "the key size of a window",
        solution=_window_key_size,
        inputs=_windows,
        exact=True,
        mistakes=(
            Mistake(
                "the row's own term kept",
                lambda p, n: min(p + 1, n),
                "the term with i alone is a constant of its row: softmax ignores it.",
            ),
            Mistake(
                "all powers of j, the row's own term too",
                lambda p, n: p + 1,
                "of the terms in the expansion the one without j is a constant of its row; and no "
                "pattern of n tokens needs more than n - 1.",
            ),
            Mistake(
                "all powers of j, at most n - 1",
                lambda p, n: min(p + 1, n - 1),
                "the term without j is a constant of its row: softmax ignores it.",
            ),
            Mistake(
                "the degree alone",
                lambda p, n: p,
                "no pattern of n tokens needs more than n - 1.",
            ),
            Mistake(
                "always the most",
                lambda p, n: n - 1,
                "the exponent is a polynomial of degree p: expand it, and count what is left of "
                "its terms in j.",
            ),
            Mistake(
                "as the Gaussian window",
                lambda p, n: 2,
                "that is p = 2; for larger p the expansion has more terms.",
            ),
            Mistake(
                "the degree, at most n",
                lambda p, n: min(p, n),
                "no pattern of n tokens needs more than n - 1.",
            ),
            Mistake(
                "every other term",
                lambda p, n: min(p // 2, n - 1),
                "the odd powers of i and j do not cancel: (i - j)^p has all of them.",
            ),
        ),
    ),
    Exercise(
        "who can win",
        solution=_winners,
        inputs=_key_points,
        exact=True,
        mistakes=(
            Mistake(
                "everyone",
                lambda keys: list(range(len(keys))),
                "that was so on the circle. On a line only the two ends can win: what are the "
                "ends of a cloud of points?",
            ),
            Mistake(
                "the long ones",
                _longer_than_the_mean,
                "the same vector added to all keys changes no weight, but it changes their "
                "lengths.",
            ),
            Mistake(
                "the far ones",
                _far_from_the_mean,
                "a key may be far from the middle and still lie between two others.",
            ),
            Mistake(
                "along the axes",
                _extremes_of_the_axes,
                "a query may point in any direction, not only along the axes.",
            ),
            Mistake(
                "with their own key as the query",
                _winners_of_their_own_query,
                "a token's query need not be its key.",
            ),
            Mistake(
                "counted from 1",
                lambda keys: [token + 1 for token in _winners(keys)],
                "number the tokens from 0.",
            ),
        ),
    ),
    Exercise(
        "a window in the plane, with key size 3",
        solution=_window_features,
        inputs=_places,
        judge=_judge_features,
        mistakes=(
            Mistake(
                "without the head's own factor",
                lambda x, w: _window_features(x, w, root=1),
                "the head divides the products by √3.",
            ),
            Mistake(
                "the width left out",
                lambda x, w: _window_features(x, 1.0),
                "this is the window of width 1.",
            ),
            Mistake(
                "the width not squared",
                lambda x, w: _window_features(x, math.sqrt(w)),
                "the exponent has w², not w.",
            ),
            Mistake(
                "products only",
                lambda x, w: _window_features(x, w, lift=0),
                "|x_j|² depends on the key's token: it is no constant of the row.",
            ),
            Mistake(
                "the whole square",
                lambda x, w: _window_features(x, w, lift=1),
                "-|x_i - x_j|²/2 holds x_i·x_j once and |x_j|² half.",
            ),
            Mistake(
                "queries equal to keys",
                _symmetric,
                "with Q = K the products are symmetric; softmax drops |x_i|² of the query's "
                "token but not |x_j|² of the key's, so they are not.",
            ),
            Mistake(
                "with the query's square",
                lambda x, w: tuple(reversed(_window_features(x, w))),
                "it is the key's square that matters; the query's is a constant of the row.",
            ),
        ),
    ),
    Exercise(
        "a product of two heads above both",
        solution=lambda: ([0.49, 0.5, 0.01], [0.49, 0.01, 0.5], [0.5, 0.5]),
        judge=_judge_heads,
        mistakes=(
            Mistake(
                "equal heads",
                lambda: ([0.5, 0.3, 0.2], [0.5, 0.3, 0.2], [0.5, 0.5]),
                "if both heads agree, their product to the powers ½ and ½ is what they agree on.",
            ),
            Mistake(
                "the four words of the text",
                lambda: ([0.4, 0.1, 0.4, 0.1], [0.4, 0.4, 0.1, 0.1], [0.5, 0.5]),
                "the right idea: both like the first word and disagree on the others. Let them "
                "disagree more.",
            ),
            Mistake(
                "two words",
                lambda: ([0.9, 0.1], [0.6, 0.4], [0.5, 0.5]),
                "with two words the product lies between the heads: its odds are the geometric "
                "mean of theirs. Take three.",
            ),
            Mistake(
                "powers that sum to 2",
                lambda: ([0.49, 0.5, 0.01], [0.49, 0.01, 0.5], [1.0, 1.0]),
                "the mixing weights must sum to 1 here.",
            ),
            Mistake(
                "one head alone",
                lambda: ([0.49, 0.5, 0.01], [0.49, 0.01, 0.5], [1.0, 0.0]),
                "with one head alone the product is that head.",
            ),
            Mistake(
                "heads that want different words",
                lambda: ([0.98, 0.01, 0.01], [0.01, 0.98, 0.01], [0.5, 0.5]),
                "each head forbids what the other wants; let both like one word, each beside one "
                "that the other forbids.",
            ),
            Mistake(
                "a little disagreement",
                lambda: ([0.45, 0.5, 0.05], [0.45, 0.05, 0.5], [0.5, 0.5]),
                "the right idea: let the heads disagree more on the other words.",
            ),
        ),
    ),
    Exercise(
        "groups, and a sink",
        solution=_groups_key_size,
        inputs=_groups,
        exact=True,
        mistakes=(
            Mistake(
                "one for each group",
                lambda sizes, sink: len(sizes),
                "the marks of the groups add up to 1 in every column, and softmax ignores a "
                "constant.",
            ),
            Mistake(
                "the sink for free",
                lambda sizes, sink: len(sizes) - 1,
                "what all tokens add to one column is no constant of a row; yet sometimes the "
                "groups can already express it. When?",
            ),
            Mistake(
                "the sink always one more",
                lambda sizes, sink: len(sizes) - 1 + sink,
                "the right idea, but think of a first token that has no one else in its group.",
            ),
            Mistake(
                "as many as tokens",
                lambda sizes, sink: sum(sizes) - 1,
                "tokens of one group have equal rows: how many different rows are there?",
            ),
            Mistake(
                "one for each group, and one for the sink",
                lambda sizes, sink: len(sizes) + sink,
                "softmax ignores a constant of each row: one less.",
            ),
        ),
    ),
    Exercise(
        "talking heads with a mask, mended",
        solution=_talking_heads,
        inputs=_heads,
        keeps_inputs=True,
        mistakes=(
            Mistake(
                "as it was",
                _as_given,
                "0 · (-∞) is nan, and a negative mixing weight makes +∞ of -∞: mask what is "
                "mixed already. There are two more faults.",
            ),
            Mistake(
                "masked before the mixing",
                lambda *a: _talking_heads(*a, hidden=-math.inf),
                "0 · (-∞) is nan, and a negative mixing weight makes +∞ of -∞: mask what is "
                "mixed already.",
            ),
            Mistake(
                "masked before the mixing with a large number",
                lambda *a: _talking_heads(*a, hidden=-1e9),
                "a negative mixing weight turns -1e9 into +1e9: mask what is mixed already.",
            ),
            Mistake(
                "mixed the other way round",
                lambda q, k, v, mix, mask: _talking_heads(q, k, v, mix.T, mask),
                "new head a is the sum over b of mix[a, b] times old head b.",
            ),
            Mistake(
                "scaled by the length",
                lambda q, k, v, mix, mask: _talking_heads(q, k, v, mix, mask, size=q.shape[1]),
                "q has the shape (h, n, d_k): the key size is its last axis.",
            ),
            Mistake(
                "scaled by the length, and mixed the other way round",
                lambda q, k, v, mix, mask: _talking_heads(q, k, v, mix.T, mask, size=q.shape[1]),
                "the mask is right now. There are two more faults: look at the axes.",
            ),
            Mistake(
                "weights hidden after the softmax",
                _masked_weights,
                "weights must sum to 1 over what may be seen: hide the logits, not the weights.",
            ),
        ),
    ),
)
