"""Decoding of Markov chains, exactly: when text ends, and how long it is.

A chain over S tokens is an array of shape (S + 1, S + 1): row i is the law of the token after token
i, the last row that of the first token (row of <bos>); the last column is the probability to end
(column of <eos>).
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.csgraph import breadth_first_order

from kexue_lab.validation import check_count

Array = NDArray[np.float64]

_ROUNDING = 1e-6


def truncate_rows(
    transition: ArrayLike,
    top_k: int | None = None,
    top_p: float | None = None,
    keep_eos: bool = False,
) -> Array:
    """Keep the most probable entries of each row and give them the whole mass.

    Args:
        transition: laws, shape (n, V), the last column that of <eos>.
        top_k: how many are kept; all where V is smaller.
        top_p: the smallest number of most probable ones of this mass is kept, in (0, 1].
        keep_eos: whether <eos> is kept in any case.

    Returns:
        Laws of the same shape; of equally probable entries the first are kept.

    Raises:
        ValueError: if a row is no law, both or neither of `top_k` and `top_p` are given, or one is
            out of range.

    Source: Fan et al., arXiv:1805.04833 (top-k); Holtzman et al., arXiv:1904.09751 (nucleus);
    Welleck et al., arXiv:2002.02492, section 4.1 (keeping <eos>).

    Example:
        >>> truncate_rows([[0.5, 0.3, 0.2]], top_k=1, keep_eos=True).round(3).tolist()
        [[0.714, 0.0, 0.286]]
    """
    laws = _checked_laws(transition)
    check_truncation(top_k, top_p)
    order = np.argsort(-laws, axis=-1, kind="stable")
    ranked = np.take_along_axis(laws, order, -1)
    if top_k is not None:
        kept = np.broadcast_to(np.arange(laws.shape[-1]) < top_k, laws.shape)
    else:
        assert top_p is not None
        kept = ranked.cumsum(-1) - ranked < nucleus_bound(top_p)
    chosen = np.zeros(laws.shape, dtype=bool)
    np.put_along_axis(chosen, order, kept, -1)
    chosen[:, -1] |= keep_eos
    masses = np.where(chosen, laws, 0.0)
    result: Array = masses / masses.sum(-1, keepdims=True)
    return result


def nontermination_probability(transition: ArrayLike, start: int = -1) -> float:
    """Return the probability that text never ends.

    Args:
        transition: a chain, shape (S + 1, S + 1), of rows that are truncated already.
        start: the row to begin from; that of <bos> by default.

    Returns:
        A number from 0 to 1; 0 exactly where an end can be reached from all that can be reached.

    Raises:
        ValueError: if a row is no law, the array is not square, or there is no row `start`.

    Source: Kemeny and Snell, "Finite Markov Chains", 1960, chapter 3: the least solution of
    a = T a + e, which is 0 where no end can be reached and solves a linear system elsewhere.

    Example:
        >>> nontermination_probability([[1.0, 0.0], [0.25, 0.75]])
        0.25
    """
    chain, start = _checked_chain(transition, start)
    ends = _can_end(chain)
    if ends[_reached(chain, start)].all():
        return 0.0
    if not ends[start]:
        return 1.0
    living = chain[np.ix_(ends, ends)] * _columns(chain, ends)
    ending = np.linalg.solve(np.eye(len(living)) - living, chain[ends, -1])
    return float(np.clip(1 - ending[np.flatnonzero(ends) == start][0], 0, 1))


def expected_length(transition: ArrayLike, start: int = -1) -> float:
    """Return the mean number of tokens before <eos>; inf where text may never end.

    Args:
        transition: as `nontermination_probability`.
        start: as there.

    Raises:
        ValueError: as `nontermination_probability`.

    Example:
        >>> expected_length([[0.75, 0.25], [0.75, 0.25]])
        3.0
    """
    chain, start = _checked_chain(transition, start)
    reached = _reached(chain, start)
    if not _can_end(chain)[reached].all():
        return math.inf
    living = chain[np.ix_(reached, reached)] * _columns(chain, reached)
    steps = np.linalg.solve(np.eye(len(living)) - living, np.ones(len(living)))
    return float(steps[np.flatnonzero(reached) == start][0] - 1)


def check_truncation(top_k: int | None, top_p: float | None) -> None:
    """Check that one rule of truncation is given, and in its range.

    Raises:
        TypeError: if `top_k` is not an integer.
        ValueError: if both or neither are given, k < 1, or p is outside (0, 1].
    """
    if (top_k is None) == (top_p is None):
        raise ValueError(f"one of top_k and top_p must be given, got {top_k} and {top_p}")
    if top_k is not None:
        check_count(top_k=top_k)
    elif not 0 < top_p <= 1:  # type: ignore[operator]
        raise ValueError(f"top_p must be in (0, 1], got {top_p}")


def nucleus_bound(top_p: float) -> float:
    """Return the mass before which a token still belongs to the nucleus.

    It lies 1e-6 below p, so that in floats 0.1 + 0.2 reaches 0.3; p = 1 keeps all.
    """
    return math.inf if top_p == 1 else max(top_p - _ROUNDING, math.ulp(0))


def _columns(chain: Array, states: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which columns of the states are tokens: the row of <bos> and the column of <eos> differ."""
    return np.flatnonzero(states) < len(chain) - 1


def _tokens(chain: Array) -> NDArray[np.bool_]:
    """Which token may follow which row: as the chain, but without its ends."""
    follows: NDArray[np.bool_] = chain > 0
    follows[:, -1] = False
    return follows


def _reached(chain: Array, start: int) -> NDArray[np.bool_]:
    """The rows that can be reached from a row, itself included."""
    reached = np.zeros(len(chain), dtype=bool)
    reached[breadth_first_order(_tokens(chain), start, return_predecessors=False)] = True
    return reached


def _can_end(chain: Array) -> NDArray[np.bool_]:
    """The rows from which <eos> can be reached."""
    backwards = np.zeros((len(chain) + 1, len(chain) + 1), dtype=bool)
    backwards[:-1, :-1] = _tokens(chain).T
    backwards[-1, :-1] = chain[:, -1] > 0
    can_end = np.zeros(len(chain) + 1, dtype=bool)
    can_end[breadth_first_order(backwards, len(chain), return_predecessors=False)] = True
    return can_end[:-1]


def _checked_laws(transition: ArrayLike) -> Array:
    laws = np.asarray(transition, dtype=np.float64)
    if laws.ndim != 2 or not laws.size:
        raise ValueError(f"transition must have shape (n, V), not empty, got {laws.shape}")
    if not np.isfinite(laws).all() or laws.min() < 0:
        raise ValueError("transition must hold probabilities, got a negative or infinite number")
    worst = laws.sum(-1)[np.abs(laws.sum(-1) - 1).argmax()]
    if abs(worst - 1) > _ROUNDING:
        raise ValueError(f"transition must have rows of sum 1, got {worst:.7g}")
    return laws


def _checked_chain(transition: ArrayLike, start: int) -> tuple[Array, int]:
    chain = _checked_laws(transition)
    if chain.shape[0] != chain.shape[1]:
        raise ValueError(f"transition must be square, got {chain.shape}")
    if not -len(chain) <= start < len(chain):
        raise ValueError(f"start must be a row of {len(chain)}, got {start}")
    return chain, start % len(chain)
