"""The second road: numbers of unevaluated expressions, against mpmath and textbook values."""

import mpmath
import pytest
import sympy as sp

from kexue_lab.numeric import NoValue, Undefined, value
from kexue_lab.numeric.arithmetic import Work
from kexue_lab.numeric.comparison import compare

x, t = sp.symbols("x t", real=True)
k = sp.Symbol("k", integer=True)
n = sp.Symbol("n", integer=True, positive=True)
a, b = sp.symbols("a b", positive=True)
oo, pi = sp.oo, sp.pi


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (sp.Integral(sp.Abs(sp.sin(3 * x)), (x, 0, 10)), 6.38475048330),
        (sp.Integral(sp.sqrt(2 - x) * sp.sqrt(1 / (2 - x)), (x, 0, 1)), 1),
        (sp.Integral(sp.log(x) ** 2 / sp.sqrt(x), (x, 0, 1)), 16),
        (sp.Integral(1 / (x * sp.sqrt(x**2 - 1)), (x, -oo, -2)), -mpmath.pi / 6),
        (sp.Integral(x * sp.exp(-x - sp.exp(-x)), (x, -oo, oo)), mpmath.euler),
        (sp.Integral(sp.sin(x) / x, (x, 0, oo)), mpmath.pi / 2),
        (sp.Integral(1 / (1 + x**2), (x, 5, 0)), -mpmath.atan(5)),
        (sp.Integral(sp.exp(-((x - 300) ** 2)), (x, -oo, oo)), mpmath.sqrt(mpmath.pi)),
        (sp.Integral(sp.Max(x, t), (x, 0, 1), (t, 0, 1)), mpmath.mpf(2) / 3),
        (sp.Integral(sp.exp(-(x**2) - x * t - t**2), (x, -oo, oo), (t, -oo, oo)), 3.62759872847),
        (sp.Integral(x * sp.DiracDelta(2 * x - 2), (x, 3, 0)), -0.5),
        (sp.Sum(1 / k**2, (k, 1, oo)), mpmath.pi**2 / 6),
        (sp.Sum((-1) ** k / (2 * k + 1), (k, 0, oo)), mpmath.pi / 4),
        (sp.Sum(3**k, (k, -oo, 0)), 1.5),
        (sp.Sum((-1) ** k * 30**k / sp.factorial(k), (k, 0, 120)), mpmath.exp(-30)),
        (sp.Product(1 - 1 / k**2, (k, 2, oo)), 0.5),
        (sp.Limit((1 + 3 / x) ** x, x, oo), mpmath.exp(3)),
        (sp.Limit(sp.Abs(x) / x, x, 0, "-"), -1),
        (sp.Limit(a * sp.log(sp.exp(3 / a) + sp.exp(1 / a)), a, 0), 3),
        (sp.Limit((1 - sp.cos(x)) / x**2, x, 0), 0.5),
        (sp.Subs(sp.Derivative(sp.Abs(x) ** 3, x, 2), x, -2), 12),
        (sp.Subs(sp.Derivative(sp.sin(x) * sp.exp(2 * x), x, 3), x, 0), 11),
        (sp.Subs(sp.Derivative(sp.Integral(sp.exp(-t * x), (t, 0, 1)), x), x, 1), -0.26424111765),
    ],
    ids=lambda side: str(side)[:60],
)
def test_values(expression, expected):
    found = value(expression, {})
    assert abs(found.number - expected) < 1e-8 * (1 + abs(expected))
    assert found.error < 1e-7 * (1 + abs(expected))


@pytest.mark.parametrize(
    ("expression", "because"),
    [
        (sp.Integral(1 / x, (x, -1, 1)), "pole"),
        (sp.Integral(1 / (x - 1) ** 2, (x, 0, 3)), "pole"),
        (sp.Integral(sp.tan(x), (x, 0, 2)), "pole"),
        (sp.Integral(1 / x, (x, 1, oo)), "diverges"),
        (sp.Integral(sp.sin(x), (x, 0, oo)), "without fading"),
        (sp.Sum(1 / k, (k, 1, oo)), "diverges"),
        (sp.Sum((-1) ** k, (k, 0, oo)), "diverges"),
        (sp.Sum(1 / (k - 3), (k, 0, 5)), "division by zero"),
        (sp.Limit(sp.Abs(x) / x, x, 0), "both sides differ"),
        (sp.Limit(1 / x, x, 0), "no finite limit"),
        (sp.Limit(sp.sin(x), x, oo), "no finite limit"),
        (sp.Subs(sp.Derivative(sp.Abs(x), x), x, 0), "both sides differ"),
        (sp.Subs(sp.Derivative(sp.sqrt(x**2), x), x, 0), "both sides differ"),
    ],
    ids=lambda side: str(side)[:60],
)
def test_what_does_not_exist(expression, because):
    with pytest.raises(Undefined, match=because):
        value(expression, {})


@pytest.mark.parametrize(
    "expression",
    [
        sp.Integral(x, x),
        sp.Integral(sp.DiracDelta(x**2 - 1), (x, -2, 2)),
        sp.Sum(1, (k, 1, sp.Rational(5, 2))),
        sp.Sum(k, (k, 1, 10**7)),
        sp.Sum((k + 10) ** sp.Rational(-101, 100), (k, 1, oo)),  # it converges, barely
        sp.Integral(sp.exp(sp.exp(x)), (x, 0, oo)),
        sp.Derivative(a, a),
    ],
    ids=str,
)
def test_where_no_number_can_be_confirmed(expression):
    with pytest.raises(NoValue):
        value(expression, {})


def test_the_work_has_a_limit():
    with pytest.raises(NoValue, match="too much work"):
        value(sp.Integral(sp.sin(x**2), (x, 0, 9)), {}, Work(100))


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (sp.Sum(1 / ((k - 30) * (k - 31)), (k, 0, n)), -1 / (n - 30) - sp.Rational(1, 31)),
        (sp.Integral(1 / (x - 50) ** 2, (x, 0, b)), -1 / (b - 50) - sp.Rational(1, 50)),
        (sp.Integral(1 / (x - a) ** 2, (x, 70, 71)), 1 / (a - 71) - 1 / (a - 70)),
    ],
    ids=str,
)
def test_a_pole_that_only_large_numbers_meet(left, right):
    assert compare([(left, right)], {}).trouble


def test_what_is_left_of_large_terms_is_no_difference():
    """Both settings in doubles give 1 + 2^-17."""
    terms = (-1) ** (k - 1) * (1 - k * x) ** 7 * sp.binomial(8, k)
    point = sp.Rational(764, 97)
    assert abs(value(sp.Sum(terms, (k, 1, 8)), {x: point}).number - 1) < 1e-8


def test_generic_functions_are_random_and_smooth():
    f = sp.Function("f")
    chain = sp.Derivative(f(x**2), x), 2 * x * sp.Subs(sp.Derivative(f(t), t), t, x**2)
    assert compare([chain], {}).agreed >= 3
    assert compare([(f(x).diff(x), f(x))], {}).counterexample
