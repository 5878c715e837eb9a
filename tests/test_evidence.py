"""The checks behind the claims, asked without a ledger: what they find and how they word it."""

import math
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import sympy as sp
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t as student
from scipy.stats import ttest_ind, ttest_rel

from kexue_lab import evidence

x = sp.Symbol("x", real=True)


# --- numbers against an oracle ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "theirs", "tolerances", "shown"),
    [
        (math.exp(-1), math.exp(-1) + 1e-12, (1e-9, 0.0), "0.3679 against 0.3679 by scipy"),
        ([1.97, 0.004], [2, 0.0], (0.0, 0.05), "1.97, 0 against 2.00, 0 by scipy"),
        (Fraction(26, 27), Fraction(26, 27), (0.0, 0.0), "26/27 against 26/27 by scipy"),
        (2**70, 2**70, (0.0, 0.0), "1.181e+21 against 1.181e+21 by scipy"),
        ([3e-17], [0.0], (0.0, 1e-12), "0 against 0 by scipy"),
        (-1234567.0, -1234567.0, (1e-9, 0.0), "−1.235e+06 against −1.235e+06 by scipy"),
        ([1 + 2j], [1 + 2j], (1e-9, 0.0), "1.000 + (2.000)i against 1.000 + (2.000)i by scipy"),
        (
            [1.0, 2.5, -3.0, 4.0],
            [1.0, 2.5, -3.0, 4.0],
            (1e-9, 0.0),
            "4 values, −3.000 to 4.000 against",
        ),
        ([2.0] * 9, torch.full((9,), 2.0), (1e-9, 0.0), "9 values, 2.000 against 2.000 by scipy"),
        ([3j] * 9, [3j] * 9, (1e-9, 0.0), "9 numbers of size 3.000 against 3.000 by scipy"),
    ],
)
def test_agreement_shows_the_numbers(ours, theirs, tolerances, shown):
    found = evidence.agreement(ours, theirs, "scipy", *tolerances)
    assert found.holds
    assert found.shown.startswith(shown)
    assert ("; exactly" if tolerances == (0, 0) else "; tolerance") in found.shown


@given(st.floats(-1e6, 1e6), st.floats(1e-12, 1e-3), st.floats(-3, 3))
def test_agreement_is_the_inequality_it_states(value, tolerance, offset):
    ours, allowed = value + offset * tolerance, tolerance
    found = evidence.agreement(ours, value, "hand", 0.0, allowed)
    assert found.holds == (abs(ours - value) <= allowed)


@given(st.floats(0.1, 1.0), st.integers(6, 12))
def test_noise_below_the_tolerance_is_not_shown(value, places):
    tolerance = 10.0**-places
    texts = {
        evidence.agreement(round(value, 2) + noise, round(value, 2), "hand", 0, tolerance).shown
        for noise in (0.0, tolerance / 7, -tolerance / 9)
    }
    assert len(texts) == 1


# --- numbers between bounds ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "above", "below", "shown"),
    [
        (0.35, 0, 1, "0 < 0.35 < 1"),
        (0.0123, None, 0.05, "0.0123 < 0.05"),
        (3.3e-16, None, 1e-12, "< 1e-12"),
        (0.9996, None, 1, "0.9996 < 1"),
        (0.99999951, None, 1, "0.9999995 < 1"),
        (-1.5, None, -0.4, "−1.500 < −0.4"),
        (7e4, 0.5, None, "70000 > 0.5"),
        ([0.2, 0.3, 0.25], 0, None, "3 values, 0.2000 to 0.3000, each > 0"),
        ([0.0, 1e-15], None, 1e-9, "2 values, each < 1e-09"),
        (0.0, None, 1e-9, "< 1e-09"),
        (0.0, None, 2, "0 < 2"),
        ([0.2, 0.3], -1, 1, "2 values, 0.20 to 0.30, each > −1 and < 1"),
        ([1e-15, 3e-15], None, 1e-9, "2 values, each < 1e-09"),
    ],
)
def test_bounds_show_the_values(values, above, below, shown):
    found = evidence.bounds(values, above, below)
    assert (found.holds, found.shown) == (True, shown)


@given(st.floats(-2, 2), st.floats(-2, 2))
def test_what_is_shown_lies_on_the_side_on_which_the_value_lies(value, bound):
    above, below = (bound, None) if value > bound else (None, bound)
    found = evidence.bounds(value, above, below)
    assert found.holds == (value != bound)
    if found.holds and abs(value - bound) > 1e-9:
        *number, sign, _ = found.shown.replace("−", "-").split()
        assert (sign == ">") is (value > bound)
        if number:
            assert (float(number[0]) > bound) == (sign == ">")
        else:
            assert abs(bound) < 1e-4, "only an error of rounding is not shown"


# --- seeds --------------------------------------------------------------------------------------

SAMPLES = st.lists(st.floats(-10, 10), min_size=4, max_size=8)


def by_hand(differences, margin):
    """One-sided p of the mean difference being above the margin."""
    d = np.array(differences) - margin
    statistic = d.mean() / (d.std(ddof=1) / math.sqrt(d.size))
    return float(student.sf(statistic, d.size - 1))


@given(SAMPLES, SAMPLES, st.sampled_from(["higher", "lower"]), st.booleans(), st.floats(0, 2))
def test_p_is_that_of_scipys_t_tests(ours, baseline, expect, paired, margin):
    if paired:
        ours, baseline = ours[:4], baseline[:4]
    try:
        found = evidence.difference(ours, baseline, expect, paired, margin)
    except ValueError:
        return  # no spread
    shift = margin if expect == "higher" else -margin
    side = "greater" if expect == "higher" else "less"
    test = ttest_rel if paired else partial(ttest_ind, equal_var=False)
    p = test(np.array(ours) - shift, baseline, alternative=side).pvalue
    assert found.holds == (p < evidence.SIGNIFICANCE) or abs(p - evidence.SIGNIFICANCE) < 1e-9


@given(SAMPLES, st.floats(0, 2))
def test_a_paired_difference_is_students_t_test(differences, margin):
    if np.std(differences) < 1e-3:
        return
    zeros = np.zeros(len(differences))
    higher = evidence.difference(differences, zeros, "higher", True, margin)
    lower = evidence.difference(np.negative(differences), zeros, "lower", True, margin)
    p = by_hand(differences, margin)
    assert higher.holds == (p < evidence.SIGNIFICANCE)
    assert lower.holds == higher.holds
    if p < 0.001:
        assert "p < 0.001" in higher.shown
    else:
        assert float(higher.shown.split("p = ")[1].split(";")[0]) == pytest.approx(p, rel=0.06)


@given(SAMPLES, st.floats(0.1, 5))
def test_equal_is_two_one_sided_tests(differences, margin):
    if np.std(differences) < 1e-3:
        return
    found = evidence.difference(differences, np.zeros(len(differences)), "equal", True, margin)
    p = max(by_hand(differences, -margin), by_hand(np.negative(differences), -margin))
    assert found.holds == (p < evidence.SIGNIFICANCE)


def test_three_seeds_must_agree_closely():
    base = np.zeros(3)
    assert evidence.difference([1.0, 1.1, 0.9], base, "higher", True, 0.0).holds
    wide = evidence.difference([1.0, 1.4, 0.6], base, "higher", True, 0.0)
    assert not wide.holds
    assert wide.shown == "difference +1.0 ± 0.2 over 3 paired seeds, p = 0.025"
    assert wide.lines[1] == "asserted: higher, margin 0, p < 0.01"


def test_false_alarms_of_equal_figures_are_one_in_a_hundred():
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(4000, 2, 5))
    for paired in (True, False):
        alarms = sum(evidence.difference(a, b, "higher", paired, 0.0).holds for a, b in draws)
        assert alarms / len(draws) < 0.016


def test_unpaired_figures_are_compared_by_welch():
    found = evidence.difference([5.0, 5.1, 4.9], [1.0, 1.2, 0.8, 1.0], "higher", False, 0.0)
    assert found.shown == "difference +4.0 ± 0.1 over 3 and 4 seeds, p < 0.001"


# --- symbolic -----------------------------------------------------------------------------------


def test_compared_keeps_the_sides_unevaluated():
    found = evidence.compared(sp.Derivative(x**2, x), 2 * x, None, 5)
    assert found.left == sp.Derivative(x**2, x)
    assert found.verdict.outcome == "equal"


def test_compared_takes_0_for_a_matrix():
    found = evidence.compared(sp.Matrix([[(x + 1) ** 2 - x**2 - 2 * x - 1]]), 0, None, 5)
    assert found.right == sp.zeros(1, 1)
    assert found.verdict.outcome == "equal"
