"""How symbolic claims are written: brackets, dots, conditions, counter-examples."""

import pytest
import sympy as sp

from kexue_lab.formulas import (
    READABLE,
    conditions,
    formula,
    latex,
    ruled_out,
    short_formula,
    visible_length,
)
from kexue_lab.symbolic import Counterexample

x, y = sp.symbols("x y", real=True)
a, b, h = sp.symbols("a b h", positive=True)
k, n = sp.symbols("k n", integer=True, positive=True)
f, g = sp.Function("f"), sp.Function("g")
F, G = sp.symbols("F G", cls=sp.Function)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (sp.Derivative(a * b, a), r"\frac{\partial}{\partial a} \left(a b\right)"),
        (sp.Derivative(x**3 * sp.exp(x), x), r"\frac{d}{d x} \left(x^{3} e^{x}\right)"),
        (sp.Derivative(-x, x), r"\frac{d}{d x} \left(- x\right)"),
        (sp.Derivative(x + 1, x), r"\frac{d}{d x} \left(x + 1\right)"),
        (sp.Derivative(x**2, x), r"\frac{d}{d x} x^{2}"),
        (sp.Derivative(x / b, x), r"\frac{\partial}{\partial x} \frac{x}{b}"),
        (
            sp.Derivative(a * b, a, 2, b),
            r"\frac{\partial^{3}}{\partial b\partial a^{2}} \left(a b\right)",
        ),
        (sp.Product(k * a, (k, 1, n)), r"\prod_{k=1}^{n} \left(a k\right)"),
        (sp.Product(k + a, (k, 1, n)), r"\prod_{k=1}^{n} \left(a + k\right)"),
        (sp.Product(k, (k, 1, n)), r"\prod_{k=1}^{n} k"),
        (sp.Limit(x / a, x, 0), r"\lim_{x \to 0}\left(\frac{x}{a}\right)"),
        (sp.Limit(1 / x, x, 0, "-"), r"\lim_{x \to 0^-} \frac{1}{x}"),
        (sp.Limit(1 / x, x, sp.oo), r"\lim_{x \to \infty} \frac{1}{x}"),
    ],
)
def test_what_an_operator_acts_on_is_bracketed(expression, expected):
    assert latex(expression) == expected


def test_a_factor_behind_a_derivative_does_not_look_differentiated():
    text = latex(sp.Derivative(f(x), x) * sp.Integral(g(y), y))
    assert text.startswith(r"\left(\frac{d}{d x} f{\left(x \right)}\right) \int")


@pytest.mark.parametrize(
    ("text", "length"),
    [("x^{2}", 2), (r"\alpha_{t}", 2), (r"\frac{a}{b}", 3), (r"\left(a + b\right)", 5), ("", 0)],
)
def test_the_length_of_a_formula_is_that_of_its_signs(text, length):
    assert visible_length(text) == length


def test_a_short_formula_is_the_whole_one():
    sides = sp.Derivative(x**2, x), 2 * x
    assert short_formula(*sides, "=") == formula(*sides, "=") == r"\frac{d}{d x} x^{2} = 2 x"


@pytest.mark.parametrize(
    "long",
    [
        sp.Add(*[a**i for i in range(90)]),
        sp.log(sp.exp(sum(sp.sqrt(a**i + b) for i in range(2, 30))) + sp.exp(h)),
        sp.Derivative(sp.prod([sp.sin(a + i * b) for i in range(30)]), a),
        sp.Integral(sp.exp(-(sum(x**i / i for i in range(1, 40)) ** 2)), (x, 0, 1)),
    ],
    ids=["sum", "nested", "derivative", "integral"],
)
def test_a_long_formula_gets_dots(long):
    short = short_formula(long, a, "=")
    assert r"\cdots" in short
    assert visible_length(short) <= READABLE < visible_length(formula(long, a, "="))
    assert r"\cdots \cdots" not in short


def test_what_nobody_reads_has_no_formula():
    table = sp.Matrix(20, 20, lambda i, j: sp.exp(a**i * b**j))
    assert formula(table, table.T, "=") == ""


u, v = sp.Function("u", positive=True), sp.Function("v")
X = sp.IndexedBase("X")


@pytest.mark.parametrize(
    ("left", "right", "domain", "expected"),
    [
        (x, sp.S(1), None, "$x$ real"),
        (x + y, a + b, None, "$a, b > 0$; $x, y$ real"),
        (n, sp.S(1), None, "$n > 0$; $n$ whole"),
        (sp.Symbol("z"), sp.S(1), None, ""),
        (sp.Symbol("w", nonzero=True, real=True), sp.S(1), None, r"$w$ real; $w \neq 0$"),
        (x, sp.S(1), {x: (0, 1)}, r"$x\in(0, 1)$"),
        (x, y, {x: (0, sp.oo)}, r"$y$ real; $x\in(0, \infty)$"),
        (u(x), v(x), None, "$u > 0$; $x$ real"),
        (X[k], sp.S(1), None, "$k > 0$; $k$ whole"),
        (sp.Limit(x / a, x, 0), sp.S(0), None, r"$a > 0$; $x\to 0$ from both sides"),
        (sp.Limit(h, h, 0), sp.S(0), None, r"$h\to 0$ from above"),
        (sp.Limit(x, x, 1, "-"), sp.S(1), None, r"$x\to 1$ from below"),
        (sp.Limit(x, x, 1), sp.S(1), {x: (0, 1)}, r"$x\in(0, 1)$; $x\to 1$ from below"),
        (sp.Limit(x, x, sp.oo), sp.S(1), None, r"$x\to \infty$"),
    ],
)
def test_conditions(left, right, domain, expected):
    found = conditions(left, right, domain)
    assert sorted(found.split("; ")) == sorted(expected.split("; "))


@pytest.mark.parametrize(
    ("point", "left", "right", "expected"),
    [
        ({"a": "2", "b": "-1"}, "3.0", "1.0", ("$a = 2$, $b = -1$", "3.00 against 1.00")),
        ({"a": "-2/3"}, "1.5", "-1.5", (r"$a = - \frac{2}{3}$", "1.50 against −1.50")),
        ({"a": "263/97"}, "6.79632", "4.80570", (r"$a \approx 2.71$", "6.80 against 4.81")),
        ({"x_1": "1"}, "0.33333333", "0.33333444", ("$x_{1} = 1$", "0.333333 against 0.333334")),
        ({}, "0", "-0.5", ("", "0 against −0.500")),
        ({"f": "Lambda(z1, z1**2/5 + 1)"}, "1", "2", (r"$f(u) = \frac{u^{2}}{5} + 1$", None)),
        ({"f": "Lambda((z1, z2), z1*z2)"}, "1", "2", ("$f(u, v) = u v$", None)),
        ({"a": "1"}, "1.5 + 2.0*I", "3.0", ("$a = 1$", "1.5 + 2.0*I against 3.0")),
        ({"a": "2"}, "123456.7", "0.000012", ("$a = 2$", "123457 against 1.20e-05")),
        ({"g": "2"}, "7.2e-12", "4.0", ("$g = 2$", "0 against 4.00")),
    ],
)
def test_a_counter_example_in_few_digits(point, left, right, expected):
    where, values = ruled_out(Counterexample(point, left, right))
    assert where == expected[0]
    assert expected[1] in (None, values)
