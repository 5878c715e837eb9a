"""Every kind of claim, fed with what is true, false, nearly true, and no question at all."""

import contextlib
import itertools
import json
import math
import time
from fractions import Fraction

import matplotlib.pyplot as plt
import numpy as np
import pytest
import sympy as sp
import torch
from hypothesis import given
from hypothesis import strategies as st

from kexue_lab import claims as claims_module
from kexue_lab import evidence
from kexue_lab import explore as explore_module
from kexue_lab.claims import ClaimFailed, ClaimRefused, Claims, ClaimUndecided
from kexue_lab.formulas import READABLE, visible_length
from kexue_lab.ledger import MARKS, Claim, Ledger, MarksLine, read_claim
from kexue_lab.symbolic import Counterexample, Verdict

x, y = sp.symbols("x y", real=True)
a, b, s = sp.symbols("a b s", positive=True)
n = sp.Symbol("n", integer=True, positive=True)
k = sp.Symbol("k", integer=True)
f, g = sp.Function("f"), sp.Function("g")
half = sp.Rational(1, 2)
gauss = sp.exp(-(x**2) / (2 * s**2))


@pytest.fixture
def shown(monkeypatch):
    """The claims that are displayed, in order."""
    shown = []

    def keep(thing):
        if isinstance(thing, Claim):
            shown.append(thing)

    monkeypatch.setattr(claims_module, "display", keep)
    return shown


@pytest.fixture
def claims(shown):
    return Claims("mathematics/em")


# --- prove and refute -----------------------------------------------------------------------

TRUE = {
    "integral": (sp.Integral(gauss, (x, -sp.oo, sp.oo)), s * sp.sqrt(2 * sp.pi)),
    "sum": (sp.Sum(k**2, (k, 1, n)), n * (n + 1) * (2 * n + 1) / 6),
    "infinite sum": (sp.Sum(a**k / sp.factorial(k), (k, 0, sp.oo)), sp.exp(a)),
    "binomial sum": (sp.Sum(sp.binomial(n, k), (k, 0, n)), 2**n),
    "derivative": (sp.Derivative(x**3 * sp.sin(x), x), 3 * x**2 * sp.sin(x) + x**3 * sp.cos(x)),
    "limit": (sp.Limit((1 + a / x) ** x, x, sp.oo), sp.exp(a)),
    "product rule of generic functions": (
        sp.Derivative(f(x) * g(x), x),
        f(x).diff(x) * g(x) + f(x) * g(x).diff(x),
    ),
    "generic function of two arguments": (
        sp.Derivative(f(x, y) ** 2, y),
        2 * f(x, y) * sp.Derivative(f(x, y), y),
    ),
    "integral of a generic derivative": (
        sp.Integral(sp.Derivative(f(x), x), (x, a, b)),
        f(b) - f(a),
    ),
    "linearity of a generic integral": (
        sp.Integral(2 * f(x) + 3 * f(x), (x, 0, 1)),
        5 * sp.Integral(f(x), (x, 0, 1)),
    ),
    "matrix": (
        sp.Matrix([[sp.cos(x), -sp.sin(x)], [sp.sin(x), sp.cos(x)]]) ** 2,
        sp.Matrix([[sp.cos(2 * x), -sp.sin(2 * x)], [sp.sin(2 * x), sp.cos(2 * x)]]),
    ),
    "matrix against 0": (sp.Matrix([[(x + 1) ** 2 - x**2 - 2 * x - 1]]), 0),
    "nested lists": ([[sp.Integral(x, (x, 0, 1)), 0], [0, 1]], [[half, 0], [0, 1]]),
    "unevaluated inverse": (
        sp.Inverse(sp.ImmutableMatrix([[a, 1], [0, b]])),
        sp.Matrix([[1 / a, -1 / (a * b)], [0, 1 / b]]),
    ),
    "matrix symbols": (
        (sp.MatrixSymbol("A", 2, 2) + sp.Identity(2)) ** 2,
        sp.MatrixSymbol("A", 2, 2) ** 2 + 2 * sp.MatrixSymbol("A", 2, 2) + sp.Identity(2),
    ),
    "positive symbols": (sp.log(a * b), sp.log(a) + sp.log(b)),
    "trigonometry": (sp.sin(x) ** 2, (1 - sp.cos(2 * x)) / 2),
    "hyperbolic": (sp.tanh(x), (sp.exp(2 * x) - 1) / (sp.exp(2 * x) + 1)),
    "gamma": (sp.gamma(a + 1), a * sp.gamma(a)),
    "max and min": (sp.Max(x, y) + sp.Min(x, y), x + y),
    "delta": (sp.Integral(sp.DiracDelta(x - a) * f(x), (x, -sp.oo, sp.oo)), f(a)),
    "exact numbers": (Fraction(1, 3), sp.Sum(2 ** (-2 * n), (n, 1, sp.oo))),
    "complex numbers": ((x + sp.I * y) * (x - sp.I * y), x**2 + y**2),
    "non-commuting": (
        (sp.Symbol("P", commutative=False) + 1) ** 2,
        sp.Symbol("P", commutative=False) ** 2 + 2 * sp.Symbol("P", commutative=False) + 1,
    ),
}

FALSE = {
    "sign": (sp.Derivative(sp.cos(x), x), sp.sin(x)),
    "factor": (sp.Integral(gauss, (x, -sp.oo, sp.oo)), s * sp.sqrt(sp.pi)),
    "exponent": (sp.Sum(k**2, (k, 1, n)), n * (n + 1) * (2 * n + 1) ** 2 / 6),
    "index": (sp.Sum(k, (k, 0, n - 1)), n * (n + 1) / 2),
    "tiny": (sp.Integral(x**2, (x, 0, 1)), sp.Rational(1, 3) + sp.Rational(1, 10**9)),
    "product rule": (sp.Derivative(f(x) * g(x), x), f(x).diff(x) * g(x).diff(x)),
    "one entry of a matrix": (sp.Matrix([[1, x], [y, 2]]), sp.Matrix([[1, x], [y, 3]])),
    "missing assumption": (sp.sqrt(x**2), x),
    "logarithm": (sp.log(a + b), sp.log(a) + sp.log(b)),
    "swapped arguments": (f(x, y), f(y, x)),
    "numbers": (sp.Integer(2), 3),
}


@pytest.mark.parametrize("sides", TRUE.values(), ids=TRUE)
def test_prove_accepts_what_is_true(claims, shown, sides):
    claims.prove("D1", "it holds", *sides)
    assert [c.kind for c in claims.entries] == ["proved"]
    assert shown == claims.entries


@pytest.mark.parametrize("sides", FALSE.values(), ids=FALSE)
def test_prove_rejects_what_is_false_and_refute_accepts_it(claims, shown, sides):
    with pytest.raises(ClaimFailed, match=r"D1 does not hold: it holds") as caught:
        claims.prove("D1", "it holds", *sides)
    assert claims.entries == shown == []
    for part in ("left: ", "right: ", "simplified: ", "counter-example", "left = ", "right = "):
        assert part in str(caught.value)
    claims.refute("D1", "a near miss", *sides)
    assert [c.kind for c in claims.entries] == ["refuted"]


@pytest.mark.parametrize("name", ["integral", "matrix", "product rule of generic functions"])
def test_refute_rejects_what_is_true(claims, name):
    with pytest.raises(ClaimFailed, match=r"(?s)D1 does not hold.*the two sides are equal"):
        claims.refute("D1", "it differs", *TRUE[name])
    assert claims.entries == []


def test_the_message_shows_sides_difference_and_counter_example(claims):
    with pytest.raises(ClaimFailed) as caught:
        claims.prove("D3", "a square", sp.Derivative(a**2, a), 3 * a)
    assert str(caught.value).splitlines()[0] == "D3 does not hold: a square"
    message = str(caught.value)
    assert "left:  Derivative(a**2, a)" in message
    assert "right: 3*a" in message
    assert "left - right, simplified: -a" in message
    value = sp.Rational(message.split("at a = ")[1].split(":")[0])
    left, right = (
        float(message.split(f"{side} = ")[1].split(",")[0]) for side in ("left", "right")
    )
    assert (left, right) == (pytest.approx(float(2 * value)), pytest.approx(float(3 * value)))


@pytest.mark.parametrize("method", ["prove", "refute"])
@pytest.mark.parametrize(
    ("lhs", "rhs", "part"),
    [
        (x + 1, 1 + x, "same expression"),
        (sp.Matrix([1, x]), [1, x], "same expression"),
        (sp.Integral(x, (x, 0, 1)), sp.Integral(x, (x, 0, 1)), "same expression"),
        (sp.zeros(2, 2), 0, "same expression"),
        ([], [], "same expression"),
        (0.5 * x, x / 2, "floating-point"),
        ([0.5], [half], "floating-point"),
        (math.nan, x, "lhs"),
        (sp.nan, x, "not finite"),
        (x, sp.oo, "rhs is not finite"),
        (x, sp.zoo, "rhs is not finite"),
        ("x + 1", x + 1, "must be an expression"),
        (True, x, "must be an expression"),
        (None, x, "lhs"),
        (sp.Eq(x, 1), x, "expression or a matrix"),
        (object(), x, "lhs"),
        (sp.Matrix([[1, 2]]), sp.Matrix([[1], [2]]), "another shape"),
        (sp.Matrix([1, 2]), x, "another shape"),
        (sp.MatrixSymbol("A", n, n), sp.MatrixSymbol("B", n, n), "symbolic shape"),
        ([[1, 2], [3]], [[1, 2], [3, 4]], "lhs"),
    ],
)
def test_what_is_no_question_is_refused(claims, method, lhs, rhs, part):
    with pytest.raises(ClaimRefused, match=part):
        getattr(claims, method)("D1", "in words", lhs, rhs)
    assert claims.entries == []


@pytest.mark.parametrize("method", ["prove", "refute"])
@pytest.mark.parametrize("entry", ["x", True, sp.Eq(x, 1)], ids=["text", "bool", "relation"])
@pytest.mark.filterwarnings("ignore::sympy.utilities.exceptions.SymPyDeprecationWarning")
def test_entries_of_a_matrix_are_held_to_the_same(claims, method, entry):
    with pytest.raises(ClaimRefused, match="lhs"):
        getattr(claims, method)("D1", "in words", [entry, 1], [x + 1, 1])


@pytest.mark.parametrize("method", ["prove", "refute"])
@pytest.mark.parametrize(
    ("key", "statement"),
    [("", "a b"), ("d1", "a b"), ("D", "a b"), ("D1", "  "), ("D1", "word"), ("D1", "two\nlines")],
)
def test_key_and_statement_are_needed(claims, method, key, statement):
    with pytest.raises(ClaimRefused, match=r"the key must look like|must be a sentence"):
        getattr(claims, method)(key, statement, sp.Derivative(x**2, x), 2 * x)


def test_undecided_is_no_pass_either_way(claims):
    both = sp.Limit(sp.Abs(x) / x, x, 0)  # another one from each side
    for method in (claims.prove, claims.refute):
        with pytest.raises(ClaimUndecided, match="D1 could not be decided: in words") as caught:
            method("D1", "in words", both, 1)
        assert "the limits from both sides differ" in str(caught.value)
    assert claims.entries == []


def test_the_time_limit_gives_undecided(claims):
    hopeless = sp.Integral(sp.exp(-(sp.Abs(sp.sin(x)) ** 3)), (x, 0, 7))
    start = time.perf_counter()
    with pytest.raises(ClaimUndecided, match=r"no answer within 0.3 s"):
        claims.prove("D1", "too hard", hopeless, sp.Integer(4), seconds=0.3)
    assert time.perf_counter() - start < 3
    assert claims.entries == []


def test_a_counter_example_counts_although_the_difference_does_not_simplify(claims):
    lhs = sp.sin(x) ** 60 * sp.cos(y) ** 40 + sp.tan(x + y) ** 25
    with pytest.raises(ClaimFailed, match="counter-example"):
        claims.prove("D1", "false at every point", lhs, sp.cos(x), seconds=2)


def test_a_domain_says_what_the_symbols_do_not(claims):
    p = sp.Symbol("p", real=True)
    entropy = -p * sp.log(p) - (1 - p) * sp.log(1 - p)
    slope = sp.log(1 - p) - sp.log(p)
    claims.prove("D1", "on (0, 1)", sp.Derivative(entropy, p), slope, domain={p: (0, 1)})
    (claim,) = claims.entries
    assert claim.domain == ((sp.srepr(p), "0", "1"),)
    with pytest.raises(ClaimFailed) as caught:
        claims.prove("D1", "on the unit interval", sp.log(p), p - half, domain={p: (0, 1)})
    value = sp.Rational(str(caught.value).split("at p = ")[1].split(":")[0])
    assert 0 < value < 1


def test_a_domain_of_an_integer_gives_integers(claims):
    sides = sp.sin(sp.pi * n / 2) ** 2, (1 - (-1) ** n) / 2
    claims.prove("D1", "odd or even", *sides)
    claims.prove("D1", "odd or even, up to 9", *sides, domain={n: (1, 9)})


m = sp.Symbol("m", integer=True, negative=True)
nonneg, negative = sp.Function("u", nonnegative=True), sp.Function("v", negative=True)


@pytest.mark.parametrize(
    ("lhs", "rhs"),
    [
        (sp.sqrt(m**2 - 2 * m + 1), 1 - m),
        (sp.sqrt(nonneg(x) ** 2 + 2 * nonneg(x) + 1), nonneg(x) + 1),
        (sp.sqrt(negative(x) ** 2 - 2 * negative(x) + 1), 1 - negative(x)),
    ],
    ids=["negative integer", "nonnegative function", "negative function"],
)
def test_a_counter_example_keeps_to_the_assumptions(claims, lhs, rhs):
    """These hold under their assumptions: they may be left undecided, never called different."""
    with pytest.raises((ClaimFailed, ClaimUndecided)):
        claims.refute("D1", "true, so no near miss", lhs, rhs)
    with contextlib.suppress(ClaimUndecided):
        claims.prove("D1", "it is true", lhs, rhs)


def test_integers_of_both_signs_are_tried(claims):
    with pytest.raises(ClaimFailed, match="counter-example"):
        claims.prove("D1", "wrong below zero", sp.Abs(k), k)


A, B = sp.MatrixSymbol("A", 2, 2), sp.MatrixSymbol("B", 2, 2)
X = sp.IndexedBase("X")


@pytest.mark.parametrize(
    ("lhs", "rhs", "holds"),
    [
        (A * B, B * A, False),
        ((X[1] + X[2]) ** 2, X[1] ** 2 + 2 * X[1] * X[2] + X[2] ** 2, True),
        (X[1] + X[2], X[1] + 2 * X[2], False),
        (sp.Sum(X[k], (k, 1, 3)), X[1] + X[2] + X[3], True),
        (sp.Sum(X[k], (k, 1, 3)), X[1] + X[2], False),
        (sp.Sum(2 * X[k], (k, 1, n)), 2 * sp.Sum(X[k], (k, 1, n)), True),
        (sp.Trace(A * B), sp.Trace(B * A), True),
        (sp.Trace(A * B), sp.Trace(A) * sp.Trace(B), False),
    ],
)
def test_matrix_and_indexed_symbols(claims, lhs, rhs, holds):
    if holds:
        claims.prove("D1", "it is true", lhs, rhs)
    else:
        with pytest.raises(ClaimFailed, match="counter-example"):
            claims.prove("D1", "it is false", lhs, rhs)


def test_a_divergent_expression_is_not_proved(claims):
    with pytest.raises(ClaimUndecided):
        claims.prove("D1", "it is not", sp.Integral(sp.exp(x**2), (x, 0, sp.oo)), half)


def test_what_sympy_stumbles_over_is_at_worst_undecided(claims):
    with pytest.raises((ClaimFailed, ClaimUndecided)):
        claims.refute("D1", "it is true", sp.Integral(sp.floor(7 * x), (x, 0, 1)), sp.Integer(3))


def test_what_is_proved_can_be_read_back(claims):
    lhs, rhs = TRUE["integral"]
    claims.prove("D1", "in words", lhs, rhs)
    (claim,) = claims.entries
    assert (sp.sympify(claim.lhs), sp.sympify(claim.rhs)) == (lhs, rhs)


# --- agree ------------------------------------------------------------------------------------


def agree(claims, ours, theirs, **tolerances):
    claims.agree("N1", "in words", ours, theirs, oracle="scipy", **tolerances)


@pytest.mark.parametrize(
    ("ours", "theirs", "tolerances"),
    [
        (1.0, 1.0 + 1e-10, {"rtol": 1e-9}),
        ([1.0, 2.0], np.array([1.0, 2.0]), {}),
        (torch.tensor([1.0, 2.0], requires_grad=True), [1.0, 2.0 + 1e-7], {"atol": 1e-6}),
        (3, 3, {}),
        ([Fraction(1, 3), 2], [Fraction(2, 6), 2], {}),
        ([2**200], [2**200], {}),
        ([1 + 2j], [1 + 2j + 1e-12j], {"rtol": 1e-9}),
        (np.zeros((2, 3)), np.zeros((2, 3)), {}),
    ],
)
def test_agree_accepts(claims, ours, theirs, tolerances):
    agree(claims, ours, theirs, **tolerances)
    assert [c.kind for c in claims.entries] == ["checked"]


@pytest.mark.parametrize(
    ("ours", "theirs", "tolerances", "parts"),
    [
        (1.0, 1.1, {"rtol": 1e-3}, ["ours  1.0", "scipy  1.1", "relative 0.001"]),
        ([1.0, 2.0, 3.0], [1.0, 2.0, 3.5], {"atol": 0.4}, ["at index (2,)", "absolute 0.4"]),
        ([[1.0, 5.0]], [[1.0, 2.0]], {}, ["at index (0, 1)", "exactly"]),
        ([Fraction(1, 3)], [Fraction(1, 2)], {}, ["1/3", "1/2", "difference 1/6", "exactly"]),
        (1.0, 1.0 + 1e-8, {"rtol": 1e-9}, ["difference", "relative 1e-09"]),
        ([1 + 1j], [1 - 1j], {"rtol": 0.5}, ["difference 2.0"]),
        ([1e-9], [0.0], {"rtol": 1.0}, ["difference 1e-09"]),
    ],
)
def test_agree_names_the_worst_entry(claims, ours, theirs, tolerances, parts):
    with pytest.raises(ClaimFailed, match="N1 does not hold: in words") as caught:
        agree(claims, ours, theirs, **tolerances)
    assert all(part in str(caught.value) for part in parts), str(caught.value)
    assert claims.entries == []


def test_agree_of_single_fractions(claims):
    agree(claims, Fraction(1, 3), Fraction(2, 6))
    with pytest.raises(ClaimFailed, match="1/6"):
        agree(claims, Fraction(1, 3), Fraction(1, 2))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (2**53 + 1, 2**53),
        ([2**53 + 1, 1], [2**53, 1]),
        (np.array([2**60 + 1]), np.array([2**60])),
        ([2**53 + 1], [Fraction(2**53)]),
        (2**70 + 1, 2**70),
    ],
)
def test_integers_are_compared_exactly(claims, ours, theirs):
    with pytest.raises(ClaimFailed, match="difference 1"):
        agree(claims, ours, theirs)


SHARED = np.array([1.0, 2.0])


@pytest.mark.parametrize(
    ("ours", "theirs", "tolerances", "part"),
    [
        (SHARED, SHARED, {}, "same object"),
        ([], [], {}, "at least one number, got 0"),
        ([math.nan], [math.nan], {"atol": 1}, "nan or infinity"),
        ([1.0], [math.inf], {"atol": 1}, "theirs hold nan"),
        ([1.0, 2.0], [1.0], {}, r"shapes differ, \(2,\) and \(1,\)"),
        (1.0, [1.0], {}, "shapes differ"),
        ([[1.0, 2.0]], [[1.0], [2.0]], {}, "shapes differ"),
        (1.0, 2.0, {"rtol": -1.0}, "negative"),
        (None, 1.0, {}, "ours"),
        ("one", 1.0, {}, "no numbers"),
        ({"a": 1}, 1.0, {}, "no numbers"),
        (1.0, 2.0, {"rtol": math.nan}, "tolerance"),
        (1.0, 2.0, {"atol": math.nan}, "tolerance"),
        (1.0, 2.0, {"atol": math.inf}, "tolerance"),
        ([[1.0], [1.0, 2.0]], [1.0, 2.0], {}, "ours"),
        pytest.param(10**400, 1.5, {"rtol": 1e-9}, "ours", id="beyond floats"),
    ],
)
def test_agree_refuses(claims, ours, theirs, tolerances, part):
    with pytest.raises(ClaimRefused, match=part):
        agree(claims, ours, theirs, **tolerances)
    assert claims.entries == []


def test_agree_needs_the_oracles_name_key_and_words(claims):
    with pytest.raises(ClaimRefused, match="oracle must be named"):
        claims.agree("N1", "in words", 1.0, 1.0, oracle="")
    with pytest.raises(ClaimRefused, match="the key must look like"):
        claims.agree("first", "in words", 1.0, 1.0, oracle="scipy")
    with pytest.raises(ClaimRefused, match="must be a sentence"):
        claims.agree("N1", "", 1.0, 1.0, oracle="scipy")


# --- bound ------------------------------------------------------------------------------------


def test_bound_accepts_what_lies_inside(claims):
    claims.bound("N1", "in words", [0.1, 0.9], above=0, below=1)
    claims.bound("N1", "in words", torch.tensor(3.0), above=2.9)
    claims.bound("N1", "in words", 1e-13, below=1e-12)
    assert [c.detail for c in claims.entries] == [
        "2 values, 0.10 to 0.90, each > 0 and < 1",
        "3.00 > 2.9",
        "< 1e-12",
    ]


@pytest.mark.parametrize(
    ("values", "bounds", "part"),
    [
        ([0.0, 1.0], {"above": 0}, "smallest value 0, not > 0"),
        ([0.5, 1.0], {"below": 1}, "largest value 1, not < 1"),
        ([-1e-9, 0.5], {"above": 0, "below": 1}, "smallest value -1e-09"),
        ([0.5, 1.5], {"above": 0, "below": 1}, "largest value 1.5"),
    ],
)
def test_bound_names_the_worst_value(claims, values, bounds, part):
    with pytest.raises(ClaimFailed, match=part):
        claims.bound("N1", "in words", values, **bounds)


@pytest.mark.parametrize(
    ("values", "bounds", "part"),
    [
        ([1.0], {}, "a bound is needed"),
        ([], {"above": 0}, "at least one number"),
        ([math.nan], {"above": 0}, "nan or infinity"),
        ([math.inf], {"above": 0}, "nan or infinity"),
        ("many", {"above": 0}, "no numbers"),
        ([1.0], {"below": math.inf}, "bound|below"),
        ([1.0], {"above": -math.inf}, "bound|above"),
        ([1.0], {"above": math.nan}, "bound|above"),
        ([1 + 5j], {"above": 0}, "complex|real"),
    ],
)
@pytest.mark.filterwarnings("ignore::numpy.exceptions.ComplexWarning")
def test_bound_refuses(claims, values, bounds, part):
    with pytest.raises(ClaimRefused, match=part):
        claims.bound("N1", "in words", values, **bounds)
    assert claims.entries == []


# --- estimate ---------------------------------------------------------------------------------

DRAWS = np.random.default_rng(1).normal(2.0, 1.0, 10_000)


@pytest.mark.parametrize("draws", [DRAWS, list(DRAWS), torch.tensor(DRAWS), DRAWS.reshape(100, -1)])
def test_estimate_accepts_a_sample_of_the_right_mean(claims, draws):
    claims.estimate("N1", "in words", draws, 2.0)
    assert claims.entries[0].kind == "estimated"
    assert claims.entries[0].detail == "1.989 ± 0.01 against 2, z = −1.1 (allowed 4)"


def test_estimate_rejects_a_value_five_errors_away(claims):
    error = DRAWS.std(ddof=1) / 100
    claims.estimate("N1", "in words", DRAWS, DRAWS.mean() + 3.9 * error)
    with pytest.raises(ClaimFailed, match=r"(?s)N1 does not hold.*z = −4\.1\n.*allowed \|z\|: 4"):
        claims.estimate("N1", "in words", DRAWS, DRAWS.mean() + 4.1 * error)
    with pytest.raises(ClaimFailed, match=r"z = \+2\.1"):
        claims.estimate("N1", "in words", DRAWS, DRAWS.mean() - 2.1 * error, sigmas=2)


def test_estimate_takes_a_mean_and_its_error(claims):
    claims.estimate("N1", "in words", (1.0, 0.1), 1.35)
    with pytest.raises(ClaimFailed, match=r"1.00 ± 0.1 against 1.5, z = −5.0"):
        claims.estimate("N1", "in words", (1.0, 0.1), 1.5)


@pytest.mark.parametrize(
    ("samples", "exact", "options", "part"),
    [
        ([], 0.0, {}, "at least one number"),
        ([1.0], 1.0, {}, "one draw"),
        ([1.0, 1.0, 1.0], 1.0, {}, "standard error is 0"),
        ((1.0, 0.0), 1.0, {}, "standard error is 0"),
        ((1.0, -0.1), 1.0, {}, "standard error is -0.1"),
        ((1.0, 0.1, 0.2), 1.0, {}, "must hold 2 numbers, got 3"),
        ([1.0, math.nan, 2.0], 1.0, {}, "samples hold nan"),
        ((1.0, math.nan), 1.0, {}, "samples hold nan"),
        ([1.0, 2.0], math.nan, {}, "exact hold nan"),
        ([1.0, 2.0], None, {}, "exact"),
        ([1.0, 2.0], 1.5, {"sigmas": 0}, "sigmas"),
        ([1.0, 2.0], 1.5, {"sigmas": 7}, "sigmas"),
        ([1.0, 2.0], 1.5, {"sigmas": math.nan}, "sigmas"),
        ([0.1] * 3, 0.1, {}, "standard error"),
        ([0.7] * 1000, 0.7, {}, "standard error"),
        ([1.0, 2.0], [1.5, 1.6], {}, "exact"),
        ([1.0, 2.0], 1.5j, {}, "exact"),
        ([1.0, 2.0j], 1.5, {}, "complex|real"),
        ([1e308, 1.5e308, 1.2e308], 0.0, {}, "samples|standard error"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::numpy.exceptions.ComplexWarning")
def test_estimate_refuses(claims, samples, exact, options, part):
    with pytest.raises(ClaimRefused, match=part):
        claims.estimate("N1", "in words", samples, exact, **options)
    assert claims.entries == []


# --- compare ----------------------------------------------------------------------------------

BASE = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
LIFT = np.array([0.9, 1.0, 1.1, 1.0, 0.9])


def test_compare_sees_through_the_seeds_own_spread_if_paired(claims):
    claims.compare("E1", "it is higher", BASE + LIFT, BASE)
    claims.compare("E1", "it is lower", BASE, torch.tensor(BASE + LIFT), expect="lower")
    assert [c.kind for c in claims.entries] == ["observed", "observed"]
    assert claims.entries[0].detail.startswith("difference +0.98 ± 0.04 over 5 paired seeds")
    with pytest.raises(ClaimFailed, match=r"difference \+1 ± 1 over 5 and 5 seeds, p = 0\.18"):
        claims.compare("E1", "it is higher", BASE + LIFT, BASE, paired=False)


def test_compare_without_pairs_takes_different_numbers_of_seeds(claims):
    claims.compare("E1", "it is higher", [5.0, 5.1, 4.9], [1.0, 1.2, 0.8, 1.0], paired=False)
    assert "over 3 and 4 seeds" in claims.entries[0].detail


def test_equal_means_within_the_margin(claims):
    claims.compare("E1", "no difference", BASE + LIFT - 1, BASE, expect="equal", margin=0.2)
    with pytest.raises(ClaimFailed, match=r"asserted: equal, margin 0\.05"):
        claims.compare("E1", "no difference", BASE + LIFT - 1, BASE, expect="equal", margin=0.05)


def test_what_was_asserted_of_the_difference_is_shown(claims):
    claims.compare("E1", "no difference", BASE + LIFT - 1, BASE, expect="equal", margin=0.2)
    claims.compare("E1", "clearly higher", BASE + LIFT, BASE, margin=0.3)
    assert "0.2" in claims.entries[0].detail
    assert "0.3" in claims.entries[1].detail


@pytest.mark.parametrize(
    ("ours", "baseline", "options"),
    [
        (BASE, BASE + LIFT, {}),
        (BASE + LIFT, BASE, {"expect": "lower"}),
        (BASE + LIFT, BASE, {"margin": 0.95}),
        (BASE + LIFT - 1, BASE, {}),
        (BASE + LIFT, BASE, {"expect": "equal", "margin": 0.5}),
    ],
)
def test_compare_rejects(claims, ours, baseline, options):
    with pytest.raises(ClaimFailed, match=r"(?s)E1 does not hold.*difference .* ± .*asserted: "):
        claims.compare("E1", "in words", ours, baseline, **options)
    assert claims.entries == []


@pytest.mark.parametrize(
    ("ours", "baseline", "options", "part"),
    [
        ([1.0, 2.0], [1.0, 3.0], {}, "at least 3 seeds"),
        ([], [], {}, "at least one number"),
        ([1.0, math.nan, 2.0], BASE[:3], {}, "ours hold nan"),
        (BASE, [1.0, math.inf, 2.0, 3.0, 4.0], {}, "baseline hold nan"),
        (BASE, BASE[:4], {}, "differ in number, 5 and 4"),
        (BASE, BASE, {}, "no spread"),
        (BASE + 1, BASE, {}, "no spread"),
        ([1.0] * 3, [2.0] * 3, {"paired": False}, "no spread"),
        (BASE + LIFT, BASE, {"margin": -1.0}, "margin"),
        (BASE + LIFT, BASE, {"expect": "equal"}, "margin"),
        (BASE * 1e6 / 3 + 0.1, BASE * 1e6 / 3, {}, "no spread"),
        (BASE + LIFT, BASE, {"expect": "equal", "margin": math.inf}, "margin"),
        (BASE + LIFT, BASE, {"margin": math.nan}, "margin"),
        (BASE + LIFT, BASE, {"expect": "better"}, "expect|better"),
        (np.ones((2, 3)) + LIFT[:3], np.eye(3, 2), {}, "shape|number"),
        (BASE + LIFT + 1j, BASE, {}, "complex|real"),
    ],
)
@pytest.mark.filterwarnings("ignore::numpy.exceptions.ComplexWarning")
def test_compare_refuses(claims, ours, baseline, options, part):
    with pytest.raises(ClaimRefused, match=part):
        claims.compare("E1", "in words", ours, baseline, **options)
    assert claims.entries == []


def test_small_figures_have_a_spread_too(claims):
    claims.compare("E1", "in words", [5e-13, 6e-13, 7e-13], [1e-13, 2.5e-13, 2e-13])
    assert claims.entries


# --- what is displayed ------------------------------------------------------------------------


def test_a_claim_in_text_and_markdown(claims, shown):
    claims.prove("D2", "the slope of $x^2$", sp.Derivative(x**2, x), 2 * x)
    claims.agree("N1", "in words", 1.0 / 3, 0.333333333333, oracle="scipy", rtol=1e-9)
    proved, checked = shown
    assert repr(proved) == "✓ D2 proved: the slope of $x^2$"
    assert proved._repr_markdown_() == (
        "✓ **D2** · *proved* — the slope of $x^2$\n\n$$\\frac{d}{d x} x^{2} = 2 x$$"
    )
    detail = "0.3333 against 0.3333 by scipy; tolerance relative 1e-09"
    assert repr(checked) == f"✓ N1 checked: in words [{detail}]"
    markdown = checked._repr_markdown_()
    assert markdown == f"✓ **N1** · *checked* — in words <small>[{detail}]</small>"


def test_what_sympy_alone_has_proved_is_called_so(claims, shown, monkeypatch):
    verdict = Verdict("equal", sp.S.Zero, confirmed=False)
    monkeypatch.setattr(evidence, "decide", lambda *_: verdict)
    claims.prove("D2", "the slope of $x^2$", sp.Derivative(x**2, x), 2 * x)
    assert repr(shown[0]) == "✓ D2 proved: the slope of $x^2$ [proved by sympy alone]"


def test_a_false_sentence_is_shown_with_its_counter_example(claims, shown, monkeypatch):
    point = Counterexample({"a": "2", "b": "-1"}, "3.0000000", "1.0000000")
    verdict = Verdict("different", 2 * x, point)
    monkeypatch.setattr(evidence, "decide", lambda *_: verdict)
    claims.refute("D2", "The variances simply add.", (a + b) ** 2, a**2 + b**2)
    example = "e.g. at $a = 2$, $b = -1$: 3.00 against 1.00"
    assert repr(shown[0]) == f"✗ D2 ruled out: The variances simply add. [{example}]"
    first, *below = shown[0]._repr_markdown_().split("\n\n")
    assert first == f"✗ **D2** · *ruled out* — The variances simply add. <small>[{example}]</small>"
    assert below[0] == "<details><summary>both sides</summary>"
    assert below[1] == "$$\\left(a + b\\right)^{2} \\neq a^{2} + b^{2}$$"


def test_a_long_point_stands_below_the_line(claims, shown):
    many = sp.symbols("u1:20", positive=True)
    claims.refute("D2", "These are equal.", sum(many) ** 2, sum(u**2 for u in many))
    assert shown[0].detail.startswith("e.g. at the point below: ")
    assert all(f"u_{{{i}}}" in shown[0].point for i in range(1, 20))
    assert shown[0].point in shown[0]._repr_markdown_()


def test_a_false_equation_of_numbers_needs_no_point(claims, shown):
    claims.refute("D2", "Two is three.", sp.Integer(2), sp.Integer(3))
    assert shown[0].detail == "2.00 against 3.00"


def test_a_quotation_shows_its_source(claims, shown):
    claims.quote("D4", "linear programs have no duality gap", source="Gale, Kuhn, Tucker 1951")
    line = "linear programs have no duality gap [Gale, Kuhn, Tucker 1951]"
    assert repr(shown[0]) == f"≡ D4 quoted: {line}"
    assert shown[0]._repr_markdown_().startswith("≡ **D4** · *quoted* — linear programs")


@pytest.mark.parametrize("source", ["", "  "])
def test_a_quotation_needs_a_source(claims, source):
    with pytest.raises(ClaimRefused, match="D4: the source must be named"):
        claims.quote("D4", "linear programs have no duality gap", source=source)
    assert claims.entries == []


def test_a_long_formula_is_shortened_and_the_whole_one_folded(claims, shown):
    nested = sp.log(sp.exp(sum(sp.sqrt(a**i + b) for i in range(2, 30))) + sp.exp(s))
    claims.prove("D3", "a long one", sp.Derivative(nested, s), nested.diff(s))
    short, folded, whole, end = shown[0]._repr_markdown_().split("\n\n")[1:]
    assert r"\cdots" in short
    assert visible_length(short) <= READABLE + len("$$$$")
    assert folded == "<details><summary>the whole formula</summary>"
    assert whole == f"$${shown[0].formula}$$"
    assert end == "</details>"


def test_what_the_marks_mean_is_said_once_before_the_first_claim(monkeypatch):
    shown = []
    monkeypatch.setattr(claims_module, "display", shown.append)
    claims = Claims("mathematics/em")
    with pytest.raises(ClaimFailed):
        claims.bound("N1", "it fails", 2.0, below=1)
    assert shown == []
    claims.bound("N1", "it lies inside", 0.5, below=1)
    claims.bound("N1", "it lies inside", 0.5, below=1)
    marks, *rest = shown
    assert isinstance(marks, MarksLine)
    assert rest == claims.entries
    assert "](../index.ipynb)" in marks._repr_markdown_()
    assert all(mark.sign in repr(marks) for mark in MARKS.values())


SENTENCES = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1)


@given(st.sampled_from(list(MARKS)), SENTENCES, SENTENCES | st.just(""), st.booleans())
def test_a_claim_is_read_back_from_what_is_shown(kind, statement, detail, with_formula):
    claim = Claim("D2a", kind, statement, detail, *(["x = x", "x = x"] if with_formula else []))
    read = read_claim(claim._repr_markdown_())
    assert (read.key, read.kind, read.statement, read.detail) == ("D2a", kind, statement, detail)


@pytest.mark.parametrize("other", ["", "text", "✓ Exercise 1", "✓ **D2** · *seen* — in words"])
def test_what_is_no_claim_is_not_read_as_one(other):
    assert read_claim(other) is None


def text_of(claim):
    return repr(claim) + claim._repr_markdown_()


def test_no_float_noise_is_shown(claims, shown):
    """Summing in another order changes the last bits, never what is printed."""
    noisy = [0.1, 0.2, 0.3, -0.6, 1e-9, 7.7]
    for order in itertools.islice(itertools.permutations(noisy), 0, 720, 97):
        claims.estimate("N1", "in words", list(order), 1.2833333333333334)
        claims.compare("E1", "in words", list(order), [v - 1 - v / 9 for v in order])
        claims.bound("N2", "in words", sum(order), above=0, below=10)
        claims.agree("N3", "in words", sum(order), 7.7 + 1e-9, oracle="hand", rtol=1e-12)
    assert len({text_of(c) for c in shown}) == 4


def test_a_mean_that_is_zero_but_for_noise_has_no_sign(claims, shown):
    claims.estimate("N1", "in words", (1e-17, 0.01), 0.0)
    claims.estimate("N1", "in words", (-1e-17, 0.01), 0.0)
    for noise in (1e-17, -1e-17):
        ours = np.array([0.1, -0.1, 0.05, -0.05]) + noise
        claims.compare("E1", "in words", ours, np.zeros(4), expect="equal", margin=1)
    assert text_of(shown[0]) == text_of(shown[1])
    assert text_of(shown[2]) == text_of(shown[3])


def test_the_same_failure_gives_the_same_message(claims):
    messages = set()
    for _ in range(3):
        with pytest.raises(ClaimFailed) as caught:
            claims.prove("D1", "in words", sp.Derivative(f(x) * a * b, x), f(x) * a - b * y)
        messages.add(str(caught.value))
    assert len(messages) == 1


# --- ledger -----------------------------------------------------------------------------------


@pytest.fixture
def full(claims, monkeypatch):
    monkeypatch.delenv("KEXUE_CLAIMS_DIR", raising=False)
    monkeypatch.setattr(explore_module, "_explorers", {})
    claims.prove("D1", "a | b", sp.Derivative(x**2, x), 2 * x)
    claims.quote("D2", "a theorem", source="a book")
    claims.refute("D1", "not this", sp.Derivative(x**2, x), x)
    claims.agree("N1", "they are equal", 1.0, 1.0, oracle="hand")
    claims.bound("N2", "it lies inside", 0.5, below=1)
    claims.estimate("N3", "by chance", DRAWS, 2.0)
    claims.compare("E1", "it is better", BASE + LIFT, BASE)
    return claims


def test_the_ledger_lists_every_claim(full):
    ledger = full.ledger()
    assert isinstance(ledger, Ledger)
    summary = (
        "7 claims: 1 proved, 1 ruled out, 1 quoted, 1 checked, 1 measured, 1 estimated, 1 observed"
    )
    assert repr(ledger).splitlines()[0] == summary
    # Without the figures in brackets: they stand where the claims are made.
    assert repr(ledger).splitlines()[1:] == [claim.line() for claim in full.entries]
    assert all(repr(claim).startswith(claim.line()) for claim in full.entries)
    markdown = ledger._repr_markdown_()
    assert markdown.startswith(f"<details><summary><b>{summary}</b></summary>")
    assert "| D1 | ✓ proved | a \\| b | $x$ real |" in markdown
    assert all(f"*{mark.word}*: {mark.meaning}." in markdown for mark in MARKS.values())


def test_the_legend_explains_only_what_occurs(claims, monkeypatch):
    monkeypatch.delenv("KEXUE_CLAIMS_DIR", raising=False)
    claims.bound("N2", "it lies inside", 0.5, below=1)
    markdown = claims.ledger()._repr_markdown_()
    assert "*measured*" in markdown
    assert "*proved*" not in markdown


def test_the_ledger_writes_json_where_it_is_told(full, tmp_path, monkeypatch):
    full.ledger()
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("KEXUE_CLAIMS_DIR", str(tmp_path / "deep"))
    full.ledger()
    record = json.loads((tmp_path / "deep/mathematics/em.json").read_text("utf8"))
    assert record["article"] == "mathematics/em"
    assert record["explorers"] == []
    kinds = ["proved", "quoted", "refuted", "checked", "measured", "estimated", "observed"]
    assert [c["kind"] for c in record["claims"]] == kinds
    assert record["claims"][0]["statement"] == "a | b"
    assert sp.sympify(record["claims"][0]["lhs"]) == sp.Derivative(x**2, x)


def test_the_ledger_saves_the_explorers_frames(full, tmp_path, monkeypatch):
    monkeypatch.setattr(explore_module, "_explorers", {})
    monkeypatch.setenv("KEXUE_CLAIMS_DIR", str(tmp_path))
    stale = tmp_path / "mathematics/em/renamed"
    stale.mkdir(parents=True)

    def curve(height=1.0):
        figure, ax = plt.subplots()
        ax.axhline(height)
        return figure

    explore_module.explore(curve, height=(0.0, 2.0))
    full.ledger()
    record = json.loads((tmp_path / "mathematics/em.json").read_text("utf8"))
    assert [explorer["name"] for explorer in record["explorers"]] == [
        "test_the_ledger_saves_the_explorers_frames.<locals>.curve"
    ]
    (frames,) = (tmp_path / "mathematics/em").iterdir()
    assert (frames / "frames.json").is_file()
    assert len(list(frames.glob("*.png"))) == 16


def test_an_empty_ledger_is_refused(claims, tmp_path, monkeypatch):
    monkeypatch.setenv("KEXUE_CLAIMS_DIR", str(tmp_path))
    with pytest.raises(ClaimRefused, match="nothing was claimed"):
        claims.ledger()
    assert not list(tmp_path.iterdir())


def test_a_failed_claim_is_not_in_the_ledger(full):
    before = len(full.entries)
    with pytest.raises(ClaimFailed):
        full.bound("N9", "it is false", 2.0, below=1)
    assert len(full.ledger().entries) == before


@pytest.mark.parametrize("name", ["", "em", "mathematics/", "Mathematics/em", "a/b/c", "a/b\n"])
def test_the_articles_name_is_checked(name):
    with pytest.raises(ValueError, match='article must look like "series/name"'):
        Claims(name)


def test_claims_are_not_to_be_changed():
    with pytest.raises(AttributeError):
        Claim("D1", "proved", "in words").statement = "others"
