"""What the exercises of text/endless_decoding check."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from kexue_lab.exercises import Exercise, Mistake
from kexue_lab.text.endless_decoding import greedy_stop_probability, max_expected_length
from kexue_lab.text.markov import nontermination_probability, truncate_rows

Inputs = Iterator[tuple[Any, ...]]
Array = NDArray[np.float64]
MOST_TOKENS = 6


def _mean_lengths(rng: np.random.Generator) -> Inputs:
    yield (8.0,)
    for _ in range(5):
        yield (float(rng.uniform(8, 60)),)


def _largest_eps(mean_length: float) -> float:
    return float(brentq(lambda e: max_expected_length(e) - mean_length, 1e-7, 0.5, xtol=1e-15))


def _hazards(rng: np.random.Generator) -> Inputs:
    yield 0.05, 0.75
    for _ in range(5):
        hazard = float(rng.uniform(0.005, 0.1))
        yield hazard, float(rng.uniform(0.2, 0.95 - hazard))


def _chains_that_may_loop(rng: np.random.Generator) -> Inputs:
    """Rows 0 and 1 lead to each other only; the others may end."""
    for size in (4, 4, 5, 6, 7):
        laws = rng.dirichlet(np.ones(size + 1), size)
        laws[:2, 2:] = 0
        laws[:2] /= laws[:2].sum(1, keepdims=True)
        order = rng.permutation(size)
        go_on = np.zeros((size, size))
        go_on[np.ix_(order, order)] = laws[:, :-1]
        stop = np.zeros(size)
        stop[order] = laws[:, -1]
        yield go_on, stop, int(order[2 + rng.integers(size - 2)])


def _living(go_on: Array, stop: Array) -> NDArray[np.bool_]:
    can = stop > 0
    for _ in stop:
        can = can | (go_on @ can > 0)
    return can


def _ends_and_tokens(go_on: Array, stop: Array) -> tuple[Array, Array, Array]:
    """Of each row: whether it ends, the mean of its tokens where it does, and without asking."""
    alive = _living(go_on, stop)
    inner = go_on[np.ix_(alive, alive)]
    system = np.eye(len(inner)) - inner
    ends, tokens, all_steps = np.zeros((3, len(stop)))
    ends[alive] = np.linalg.solve(system, stop[alive])
    tokens[alive] = np.linalg.solve(system, inner @ ends[alive])
    all_steps[alive] = np.linalg.solve(system, np.ones(len(inner))) - 1
    return ends, tokens, all_steps


def _mean_if_it_ends(Q: Array, s: Array, start: int) -> float:
    ends, tokens, _ = _ends_and_tokens(Q, s)
    return float(tokens[start] / ends[start])


def _logits(rng: np.random.Generator) -> Inputs:
    yield np.array([2.0, -1.0, 0.0, 1.0, 3.0]), 0.05
    yield np.full(5000, 60.0), 1e-3
    yield np.full(5000, -60.0), 1e-3
    yield np.array([60.0, 50.0, 40.0]), 1e-12
    for _ in range(2):
        yield rng.normal(0, 20, 40), float(10 ** rng.uniform(-9, -1))
    yield np.array([-800.0, 800.0, -800.0]), 0.01


def _log_sigmoid(u: Array) -> Array:
    return np.asarray(np.minimum(u, 0) - np.log1p(np.exp(-np.abs(u))))


def _log_go_on(u: Array, eps: float) -> Array:
    return np.asarray(np.cumsum(np.log1p(-eps) + _log_sigmoid(u)))


def _both(u: Array, eps: float) -> tuple[Array, Array]:
    go_on = _log_go_on(u, eps)
    with np.errstate(divide="ignore"):
        near, far = np.log(-np.expm1(go_on)), np.log1p(-np.exp(go_on))
    return np.where(go_on > -math.log(2), near, far), go_on


def _as_given(u: Array, eps: float) -> tuple[Array, Array]:
    with np.errstate(all="ignore"):
        go_on = np.cumprod((1 - eps) / (1 + np.exp(-u)))
        return np.log(1 - go_on), np.log(go_on)


def _clamped(u: Array, eps: float) -> tuple[Array, Array]:
    with np.errstate(all="ignore"):
        go_on = np.cumprod((1 - eps) / (1 + np.exp(-u)))
        return np.log(np.maximum(1 - go_on, 1e-12)), np.log(np.maximum(go_on, 1e-12))


def _cancelled(u: Array, eps: float) -> tuple[Array, Array]:
    go_on = _log_go_on(u, eps)
    with np.errstate(divide="ignore"):
        return np.log(1 - np.exp(go_on)), go_on


def _cancelled_later(u: Array, eps: float) -> tuple[Array, Array]:
    go_on = _log_go_on(u, eps)
    with np.errstate(divide="ignore"):
        return np.log1p(-np.exp(go_on)), go_on


def _not_summed(u: Array, eps: float) -> tuple[Array, Array]:
    go_on = np.log1p(-eps) + _log_sigmoid(u)
    return np.log(-np.expm1(go_on)), go_on


def _small_eps_lost(u: Array, eps: float) -> tuple[Array, Array]:
    go_on = np.cumsum(np.log(1 - eps) + _log_sigmoid(u))
    with np.errstate(divide="ignore"):
        near, far = np.log(-np.expm1(go_on)), np.log1p(-np.exp(go_on))
    return np.where(go_on > -math.log(2), near, far), go_on


def _near_everywhere(u: Array, eps: float) -> tuple[Array, Array]:
    go_on = _log_go_on(u, eps)
    return np.log(-np.expm1(go_on)), go_on


def _turned(u: Array, eps: float) -> tuple[Array, Array]:
    ends, go_on = _both(u, eps)
    return go_on, ends


def _tables(rng: np.random.Generator) -> Inputs:
    yield 1, 0.5
    yield 3, 0.1
    for _ in range(5):
        yield int(rng.integers(4, 60)), float(rng.uniform(0.01, 0.4))


def _greedy_stops(V: int, h: float) -> float:
    total, fresh = 0.0, 1.0
    for visited in range(V + 1):
        total += h * fresh
        fresh *= (1 - h) * (1 - visited / V)
    return total


def _denominators_of_4(V: int, h: float) -> float:
    total, fresh = 0.0, 1.0
    for visited in range(V + 1):
        total += h * fresh
        fresh *= (1 - h) * (V - visited) / (V + 1)
    return total


def _start_is_a_token(tokens: int, hazard: float) -> float:
    total, fresh = 0.0, 1.0
    for visited in range(1, tokens + 1):
        total += hazard * fresh
        fresh *= (1 - hazard) * (1 - visited / tokens)
    return total


def _ladder(
    rungs: int, *, climb: float = 0.53, least: float = 0.01, release: float = 0.01
) -> list[list[float]]:
    """From <bos> up all rungs to <eos>, with a fall at each step into a token that repeats itself.

    Args:
        rungs: their number.
        climb: share of the way up of what a row has for its two main entries.
        least: all other entries.
        release: probability of <eos> after the token that repeats itself.
    """
    tokens = rungs + 1
    chain = np.full((tokens + 1, tokens + 1), least)
    for row, up in zip([tokens, *range(rungs)], [*range(rungs), tokens], strict=True):
        rest = 1 - least * (tokens - 1)
        chain[row, up], chain[row, rungs] = climb * rest, (1 - climb) * rest
    chain[rungs, rungs] = 1 - release - least * (tokens - 1)
    chain[rungs, -1] = release
    return [[float(entry) for entry in row] for row in chain]


_SMALL_CHAIN = [
    [0.3, 0.55, 0.05, 0.1],
    [0.5, 0.35, 0.1, 0.05],
    [0.25, 0.1, 0.05, 0.6],
    [0.3, 0.15, 0.5, 0.05],
]


def _judge_larger_nucleus(answer: Any) -> str | None:
    try:
        chain = np.array(answer, dtype=float)
    except (TypeError, ValueError, OverflowError):
        return "return a list of rows of numbers"
    if chain.ndim != 2 or chain.shape[0] != chain.shape[1]:
        return f"return a square table, of shape (S + 1, S + 1); got {chain.shape}"
    if not 2 <= len(chain) <= MOST_TOKENS + 1:
        return f"use one to {MOST_TOKENS} tokens; got {len(chain) - 1}"
    if not np.isfinite(chain).all() or (chain < 0).any():
        return "probabilities are not negative"
    if np.abs(chain.sum(1) - 1).max() > 1e-9:
        return "each row should sum to 1"
    if chain[:, -1].min() < 0.01 - 1e-9:
        return f"<eos> should have at least 0.01 in each row; got {chain[:, -1].min():.4f}"
    small = nontermination_probability(truncate_rows(chain, top_p=0.5))
    if small > 1e-9:
        return f"with p = 0.5 it does not always end: {1 - small:.3f}"
    large = 1 - nontermination_probability(truncate_rows(chain, top_p=0.9))
    if large >= 0.1:
        return f"with p = 0.9 it still ends with probability {large:.3f}, not below 0.1"
    return None


EXERCISES = (
    Exercise(
        "the largest ε for a mean length",
        solution=_largest_eps,
        inputs=_mean_lengths,
        rtol=0.02,
        atol=0,
        mistakes=(
            Mistake(
                "the bound of greedy decoding",
                lambda mean_length: math.log(2) / mean_length,
                "with this ε greedy decoding may go on for so long; drawn texts end far earlier.",
                variants=(lambda mean_length: 1 - 0.5 ** (1 / mean_length),),
            ),
            Mistake(
                "one over the length",
                lambda mean_length: 1 / mean_length,
                "the floor of <eos> is not ε at every step: it grows from step to step.",
            ),
            Mistake(
                "the 1 forgotten",
                lambda mean_length: math.pi / (2 * mean_length**2),
                "the cap is about √(π/2ε) minus 1.",
            ),
        ),
    ),
    Exercise(
        "<eos> kept, whatever its rank",
        solution=lambda h, m: m / h,
        inputs=_hazards,
        mistakes=(
            Mistake(
                "as if nothing had been cut",
                lambda h, m: (1 - h) / h,
                "after the cut what is kept gets the whole mass: <eos> is more probable than h.",
            ),
            Mistake(
                "<eos> not made larger",
                lambda h, m: 1 / h,
                "divide h by the mass of all that is kept.",
            ),
            Mistake(
                "<eos> counted",
                lambda h, m: (m + h) / h,
                "<eos> itself is no token of the text.",
            ),
            Mistake(
                "<eos> added without sharing out again",
                lambda h, m: 1 / (h / m) - 1,
                "the mass of all that is kept is m + h, not m.",
            ),
        ),
    ),
    Exercise(
        "the length of what ends",
        solution=_mean_if_it_ends,
        inputs=_chains_that_may_loop,
        mistakes=(
            Mistake(
                "not divided",
                lambda Q, s, start: float(_ends_and_tokens(Q, s)[1][start]),
                "this counts texts that never end as texts of 0 tokens: divide by the probability"
                " to end.",
            ),
            Mistake(
                "lost texts end as well",
                lambda Q, s, start: float(_ends_and_tokens(Q, s)[2][start]),
                "with the loop left out its texts are cut where they enter it; they should not"
                " count at all.",
            ),
            Mistake(
                "<eos> counted",
                lambda Q, s, start: _mean_if_it_ends(Q, s, start) + 1,
                "<eos> itself is no token of the text.",
            ),
        ),
    ),
    Exercise(
        "logarithms that last",
        solution=_both,
        inputs=_logits,
        keeps_inputs=True,
        atol=0,
        mistakes=(
            Mistake(
                "as given",
                _as_given,
                "after some steps the product is 0, and so small an ε is lost in 1 − …: add"
                " logarithms instead of multiplying.",
            ),
            Mistake(
                "clamped",
                _clamped,
                "a clamp only hides where the digits end: add logarithms instead of multiplying.",
            ),
            Mistake(
                "1 minus an exponential",
                _cancelled,
                "1 − e^c has no digits left where c is tiny: NumPy has a function for e^c − 1.",
                variants=(_cancelled_later,),
            ),
            Mistake(
                "so small an ε lost",
                _small_eps_lost,
                "1 − ε has no digits left of so small an ε: NumPy has a function for log(1 + x).",
            ),
            Mistake(
                "one form everywhere",
                _near_everywhere,
                "where 1 − q_t is tiny, log q_t is nearly −(1 − q_t), and not 0.",
            ),
            Mistake(
                "each step alone",
                _not_summed,
                "the probability to go on is a product over all steps so far.",
            ),
            Mistake(
                "exchanged",
                _turned,
                "first the logarithm of q_t, then that of 1 − q_t.",
            ),
        ),
    ),
    Exercise(
        "arrows that prefer to end",
        solution=_greedy_stops,
        inputs=_tables,
        mistakes=(
            Mistake(
                "as likely as any token",
                lambda V, h: greedy_stop_probability(V),
                "this takes h = 1/(V + 1).",
            ),
            Mistake(
                "the denominators of (4)",
                _denominators_of_4,
                "an arrow that does not end has V places to go to, not V + 1.",
            ),
            Mistake(
                "no loops",
                lambda V, h: 1.0,
                "the way may come back to a token before it meets <eos>.",
            ),
            Mistake(
                "tokens never come back",
                lambda V, h: 1 - (1 - h) ** (V + 1),
                "an arrow that does not end leads to a token seen already with a probability that"
                " grows with the way.",
            ),
            Mistake(
                "<bos> is a token",
                _start_is_a_token,
                "no arrow leads back to <bos>: the first one cannot close a loop.",
            ),
        ),
    ),
    Exercise(
        "a larger nucleus that ends less often",
        solution=lambda: _ladder(4),
        judge=_judge_larger_nucleus,
        mistakes=(
            Mistake(
                "one fork",
                lambda: _ladder(0),
                "a fork that the smaller nucleus decides for <eos> keeps over half of its mass"
                " there: put several in a row.",
                variants=(lambda: _ladder(1),),
            ),
            Mistake(
                "no <eos> in the loop",
                lambda: _ladder(4, least=0.0, release=0.0),
                "the nucleus must cut <eos> away, not the chain itself.",
            ),
            Mistake(
                "<eos> in the nucleus of the loop",
                lambda: _ladder(4, release=0.3),
                "after the token that repeats itself the nucleus still holds <eos>.",
            ),
            Mistake(
                "the fall is more likely",
                lambda: _ladder(4, climb=0.47),
                "at each fork the smaller nucleus keeps the likelier entry: it should lead to the"
                " end.",
            ),
            Mistake(
                "too many tokens",
                lambda: _ladder(7),
                "four forks are enough.",
            ),
            Mistake(
                "the small chain of the lesson",
                lambda: _SMALL_CHAIN,
                "with p = 0.9 all its rows keep enough to reach <eos>.",
            ),
        ),
    ),
)
