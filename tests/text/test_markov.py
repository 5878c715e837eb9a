"""When texts of a chain end: exact numbers, absorbing chains by other roads, limits."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_chain import CHAIN

from kexue_lab.text.markov import expected_length, nontermination_probability, truncate_rows


def chains(zeros=True):
    """Chains of up to five tokens, with entries that are exactly 0 where allowed."""
    entry = st.integers(0 if zeros else 1, 6)
    return st.integers(1, 5).flatmap(
        lambda s: st.lists(
            st.lists(entry, min_size=s + 1, max_size=s + 1).filter(any),
            min_size=s + 1,
            max_size=s + 1,
        ).map(lambda rows: np.array(rows) / np.sum(rows, 1, keepdims=True))
    )


def ended_within(chain, steps):
    """The probability that <eos> comes within 1, 2, … tokens, by running the chain."""
    tokens, ends = chain[:-1, :-1], chain[:-1, -1]
    here, done = chain[-1, :-1], [chain[-1, -1]]
    for _ in range(steps - 1):
        done.append(done[-1] + here @ ends)
        here = here @ tokens
    return np.array(done)


def test_by_hand():
    """Two of three tokens are kept: a and b never end, c does."""
    rational = [[Fraction(round(100 * x), 100) for x in row] for row in CHAIN.tolist()]
    c, bos = rational[2], rational[3]
    after_c = [c[0] / (c[0] + c[3]), c[3] / (c[0] + c[3])]
    never = 1 - bos[2] / (bos[0] + bos[2]) * after_c[1]
    assert never == Fraction(19, 34)
    cut = truncate_rows(CHAIN, top_k=2)
    assert nontermination_probability(cut) == pytest.approx(19 / 34, abs=1e-12)


@pytest.mark.parametrize(
    ("rule", "never", "length"),
    [
        ({"top_k": 1}, 0, 1.0),
        ({"top_k": 3}, 0, 8.734550562),
        ({"top_k": 4}, 0, 6.115487914),
        ({"top_p": 0.45}, 0, None),
        ({"top_p": 0.58}, 3 / 8, math.inf),
        ({"top_p": 0.9}, 0, None),
        ({"top_k": 2, "keep_eos": True}, 0, 7.074971165),
        ({"top_p": 0.58, "keep_eos": True}, 0, 4.941176471),
    ],
)
def test_a_chain_under_each_rule(rule, never, length):
    cut = truncate_rows(CHAIN, **rule)
    assert nontermination_probability(cut) == pytest.approx(never, abs=1e-12)
    if length is not None:
        assert expected_length(cut) == pytest.approx(length, abs=1e-8)


def test_the_plain_system_is_singular():
    """Without leaving out what never ends, I − T has no inverse."""
    cut = truncate_rows(CHAIN, top_k=2)
    assert np.linalg.matrix_rank(np.eye(3) - cut[:3, :3]) == 2


def ended_at_last(chain):
    """The probability that a text has ended after 2^60 steps, by squaring the table 60 times."""
    table = np.zeros((len(chain) + 1,) * 2)  # tokens, <bos>, <eos>
    table[:-1, :-2], table[:-1, -1], table[-1, -1] = chain[:, :-1], chain[:, -1], 1
    for _ in range(60):
        table = table @ table
        table /= table.sum(1, keepdims=True)
    return table[-2, -1]


@settings(max_examples=150, deadline=None)
@given(chain=chains())
def test_against_running_the_chain(chain):
    never = nontermination_probability(chain)
    assert 0 <= never <= 1
    assert 1 - never == pytest.approx(ended_at_last(chain), abs=1e-9)
    assert (expected_length(chain) == math.inf) == (never > 0)


@settings(deadline=None)
@given(chain=chains(zeros=False))
def test_mean_length_is_the_sum_of_survivals(chain):
    survivals = 1 - ended_within(chain, 1000)
    assert expected_length(chain) == pytest.approx(survivals.sum(), rel=1e-6)


@settings(deadline=None)
@given(chain=chains(), start=st.integers(0, 5))
def test_every_row_may_be_the_start(chain, start):
    start %= len(chain)
    moved = chain.copy()
    moved[-1] = chain[start]
    lost = nontermination_probability(chain, start)
    assert lost == pytest.approx(nontermination_probability(moved), abs=1e-12)
    assert expected_length(chain, start) == pytest.approx(expected_length(moved))


def test_extreme_probabilities():
    rare = [[1 - 1e-12, 1e-12], [1.0, 0.0]]
    assert nontermination_probability(rare) == 0
    assert expected_length(rare) == pytest.approx(1e12, rel=1e-3)
    assert nontermination_probability([[1.0, 0.0], [1.0, 0.0]]) == 1
    assert nontermination_probability([[1.0]]) == 0
    assert expected_length([[1.0]]) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: truncate_rows([[0.5, 0.4]], top_k=1), "rows of sum 1, got 0.9"),
        (lambda: truncate_rows([[1.5, -0.5]], top_k=1), "a negative or infinite number"),
        (lambda: truncate_rows([[math.nan, 1.0]], top_k=1), "a negative or infinite number"),
        (lambda: truncate_rows([1.0], top_k=1), r"shape \(n, V\), not empty, got \(1,\)"),
        (lambda: truncate_rows([[1.0]]), "one of top_k and top_p must be given"),
        (lambda: nontermination_probability([[0.5, 0.5]]), r"must be square, got \(1, 2\)"),
        (lambda: nontermination_probability(CHAIN, 4), "start must be a row of 4, got 4"),
        (lambda: expected_length([[0.5, 0.4], [1, 0]]), "rows of sum 1"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
