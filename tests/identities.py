"""Random identities that hold by construction, and false neighbours of each.

No value comes from sympy's evaluation: closed forms are built with fractions and with formulas of
the textbook, integrals of kinked functions piece by piece between kinks that are put there.
"""

import itertools
import random
from collections.abc import Callable, Iterator
from fractions import Fraction
from math import comb, factorial
from typing import Any, NamedTuple

import sympy as sp

x, t, c = sp.symbols("x t c", real=True)
a, b, s = sp.symbols("a b s", positive=True)
k = sp.Symbol("k", integer=True)
n = sp.Symbol("n", integer=True, positive=True)
f = sp.Function("f")


class Statement(NamedTuple):
    """Two sides, and where they are said to be equal."""

    left: Any
    right: Any
    domain: dict[Any, Any] = {}  # noqa: RUF012


Family = Callable[[random.Random], Statement]


def exact(number: Fraction) -> sp.Rational:
    return sp.Rational(number.numerator, number.denominator)


def small(rng: random.Random) -> Fraction:
    return Fraction(rng.randint(1, 7), rng.randint(1, 4))


def antiderivative(coefficients: list[Fraction], at: Fraction) -> Fraction:
    return sum((q * at ** (i + 1) / (i + 1) for i, q in enumerate(coefficients)), Fraction(0))


def over_pieces(coefficients: list[Fraction], low: Fraction, kinks: list[Fraction], high: Fraction):
    """The integral of the absolute value of a polynomial whose real zeros are the kinks."""
    ends = [low, *sorted(z for z in kinks if low < z < high), high]
    values = [antiderivative(coefficients, end) for end in ends]
    return sum(abs(q - p) for p, q in itertools.pairwise(values))


# --- integrals ----------------------------------------------------------------------------------


def absolute_quadratic(rng: random.Random) -> Statement:
    p, q = small(rng), -small(rng)
    low, high = q - small(rng), p + small(rng)
    body = sp.Abs((x - exact(p)) * (x - exact(q)))
    value = over_pieces([p * q, -p - q, Fraction(1)], low, [p, q], high)
    return Statement(sp.Integral(body, (x, exact(low), exact(high))), exact(value))


def step_polynomial(rng: random.Random) -> Statement:
    low, middle = -small(rng), small(rng)
    high = middle + small(rng)
    p, q = ([Fraction(rng.randint(-4, 4)) for _ in range(3)] for _ in range(2))
    bodies = [sum(exact(z) * x**i for i, z in enumerate(each)) for each in (p, q)]
    body = sp.Piecewise((bodies[0], x < exact(middle)), (bodies[1], True))
    value = antiderivative(p, middle) - antiderivative(p, low)
    value += antiderivative(q, high) - antiderivative(q, middle)
    return Statement(sp.Integral(body, (x, exact(low), exact(high))), exact(value))


def waves(rng: random.Random) -> Statement:
    """Half-waves of |sin|, |cos|, of the positive part and of the sign."""
    m, count = rng.randint(1, 3), rng.randint(1, 5)
    start = sp.Rational(rng.randint(-3, 3)) * sp.pi / m
    end = start + 2 * count * sp.pi / m
    body, value = rng.choice(
        [
            (sp.Abs(sp.sin(m * x)), sp.Rational(4 * count, m)),
            (sp.Abs(sp.cos(m * x)), sp.Rational(4 * count, m)),
            (sp.Max(sp.sin(m * x), 0), sp.Rational(2 * count, m)),
            (sp.sign(sp.sin(m * x)) + 1, 2 * count * sp.pi / m),
        ]
    )
    return Statement(sp.Integral(body, (x, start, end)), value)


def kink_at_a_symbol(rng: random.Random) -> Statement:
    p = rng.randint(1, 3)
    left = sp.Integral(sp.Abs(x - a), (x, 0, p))
    return Statement(left, a**2 / 2 + (p - a) ** 2 / 2, {a: (0, p)})


def exponential_moment(rng: random.Random) -> Statement:
    m = rng.randint(0, 4)
    left = sp.Integral(x**m * sp.exp(-a * x), (x, 0, sp.oo))
    return Statement(left, factorial(m) / a ** (m + 1))


def gaussian_moment(rng: random.Random) -> Statement:
    m = rng.choice([0, 1, 2, 3, 4])
    density = sp.exp(-((x - c) ** 2) / (2 * s**2)) / (s * sp.sqrt(2 * sp.pi))
    double = {0: 1, 2: 1, 4: 3}
    value = sum(comb(m, j) * c ** (m - j) * s**j * double.get(j, 0) for j in range(m + 1))
    return Statement(sp.Integral(x**m * density, (x, -sp.oo, sp.oo)), sp.sympify(value))


def double_integral(rng: random.Random) -> Statement:
    i, j = rng.randint(0, 3), rng.randint(0, 3)
    left = sp.Integral(x**i * t**j, (x, 0, t), (t, 0, a))
    return Statement(left, a ** (i + j + 2) / ((i + 1) * (i + j + 2)))


def trigonometric_product(rng: random.Random) -> Statement:
    p, q = rng.randint(1, 4), rng.randint(1, 4)
    left = sp.Integral(sp.cos(p * x) * sp.cos(q * x), (x, 0, 2 * sp.pi))
    return Statement(left + sp.Integral(x, (x, 0, 1)), sp.Rational(1, 2) + sp.pi * int(p == q))


def power_with_a_parameter(rng: random.Random) -> Statement:
    m = rng.randint(1, 4)
    return Statement(sp.Integral(x ** (a + m), (x, 0, b)), b ** (a + m + 1) / (a + m + 1))


# --- sums and products --------------------------------------------------------------------------


def power_sum(rng: random.Random) -> Statement:
    """The sum of a polynomial, by its values at the first numbers."""
    coefficients = [rng.randint(-3, 3) for _ in range(3)] + [rng.randint(1, 3)]
    term = sum(z * k**i for i, z in enumerate(coefficients))
    points = range(len(coefficients) + 2)
    sums = [sum(z * j**i for j in range(1, m + 1) for i, z in enumerate(coefficients))
            for m in points]  # fmt: skip
    total = sp.S.Zero
    for i, value in enumerate(sums):
        others = [m for m in points if m != i]
        weight = sp.Rational(value)
        for m in others:
            weight *= (n - m) * sp.Rational(1, i - m)
        total += weight
    return Statement(sp.Sum(term, (k, 1, n)), sp.expand(total))


def geometric(rng: random.Random) -> Statement:
    p, q = rng.randint(2, 9), rng.randint(1, 8)
    r = sp.Rational(min(q, p - 1), p) * rng.choice([1, -1])
    if rng.random() < 0.5:
        return Statement(sp.Sum(r**k, (k, 0, sp.oo)), 1 / (1 - r))
    return Statement(sp.Sum(r**k, (k, 0, n)), (1 - r ** (n + 1)) / (1 - r))


def telescope(rng: random.Random) -> Statement:
    p = rng.randint(1, 6)
    term = 1 / ((k + p) * (k + p + 1))
    if rng.random() < 0.5:
        return Statement(sp.Sum(term, (k, 0, sp.oo)), sp.Rational(1, p))
    return Statement(sp.Sum(term, (k, 0, n)), sp.Rational(1, p) - 1 / (n + p + 1))


def binomial_sum(rng: random.Random) -> Statement:
    m = rng.randint(1, 4)
    return Statement(sp.Sum(sp.binomial(n, k) * m**k, (k, 0, n)), sp.Integer(m + 1) ** n)


def exponential_series(rng: random.Random) -> Statement:
    m = rng.randint(1, 4)
    return Statement(sp.Sum((m * a) ** k / sp.factorial(k), (k, 0, sp.oo)), sp.exp(m * a))


def product_of_quotients(rng: random.Random) -> Statement:
    p = rng.randint(1, 5)
    return Statement(sp.Product((k + p) / (k + p - 1), (k, 1, n)), (n + p) / sp.Integer(p))


def product_of_powers(rng: random.Random) -> Statement:
    p = rng.randint(1, 4)
    return Statement(sp.Product(a ** (p * k), (k, 1, n)), a ** (p * n * (n + 1) / 2))


def linear_sum(rng: random.Random) -> Statement:
    p, q = rng.randint(2, 5), rng.randint(1, 5)
    left = sp.Sum(p * f(k) + q, (k, 1, n))
    return Statement(left, p * sp.Sum(f(k), (k, 1, n)) + q * n)


# --- limits -------------------------------------------------------------------------------------


def quotient_at_zero(rng: random.Random) -> Statement:
    p, q = rng.randint(1, 5), rng.randint(1, 5)
    body, value = rng.choice(
        [
            (sp.sin(p * a * x) / (q * x), p * a / q),
            ((sp.exp(p * a * x) - 1) / (q * x), p * a / q),
            ((1 - sp.cos(p * a * x)) / (q * x**2), p**2 * a**2 / (2 * q)),
            (sp.log(1 + p * a * x) / (q * x), p * a / q),
        ]
    )
    return Statement(sp.Limit(body, x, 0), value)


def quotient_at_infinity(rng: random.Random) -> Statement:
    p, q = rng.randint(1, 5), rng.randint(1, 5)
    body, value = rng.choice(
        [
            ((p * a * t**2 + t) / (q * b * t**2 + 1), p * a / (q * b)),
            ((1 + p * a / t) ** (q * t), sp.exp(p * q * a)),
            (sp.tanh(p * a * t) * q, sp.Integer(q)),
            (t * (sp.exp(p * a / t) - 1) * q, p * q * a),
        ]
    )
    return Statement(sp.Limit(body, t, sp.oo), value)


def cold_limit(rng: random.Random) -> Statement:
    """The soft maximum of two numbers as the temperature falls to 0."""
    p, q = rng.sample(range(-4, 5), 2)
    body = s * sp.log(sp.exp(p / s) + sp.exp(q / s))
    return Statement(sp.Limit(body, s, 0, "+"), sp.Integer(max(p, q)))


# --- derivatives --------------------------------------------------------------------------------


def product_rule(rng: random.Random) -> Statement:
    p, q, m = rng.randint(1, 4), rng.randint(1, 4), rng.randint(1, 4)
    left = sp.Derivative(x**m * sp.exp(p * x) * sp.sin(q * x), x)
    right = sp.exp(p * x) * (
        (m * x ** (m - 1) + p * x**m) * sp.sin(q * x) + q * x**m * sp.cos(q * x)
    )
    return Statement(left, right)


def chain_rule(rng: random.Random) -> Statement:
    p, m = rng.randint(2, 5), rng.randint(2, 4)
    left = sp.Derivative(f(x) ** m * sp.exp(p * x), x)
    right = sp.exp(p * x) * f(x) ** (m - 1) * (m * sp.Derivative(f(x), x) + p * f(x))
    return Statement(left, right)


def moving_end(rng: random.Random) -> Statement:
    p = rng.randint(1, 4)
    left = sp.Derivative(sp.Integral(sp.exp(-p * t**2), (t, 0, x**2)), x)
    return Statement(left, 2 * x * sp.exp(-p * x**4))


# --- matrices -----------------------------------------------------------------------------------


def trace_of_product(rng: random.Random) -> Statement:
    rows, columns = rng.randint(1, 3), rng.randint(2, 3)
    A, B = sp.MatrixSymbol("A", rows, columns), sp.MatrixSymbol("B", columns, rows)
    i, j = sp.symbols("i j", integer=True)
    right = sp.Sum(A[i, j] * B[j, i], (i, 0, rows - 1), (j, 0, columns - 1))
    return Statement(sp.Trace(A * B), right)


def quadratic_form(rng: random.Random) -> Statement:
    size = rng.randint(2, 3)
    A, v = sp.MatrixSymbol("A", size, size), sp.MatrixSymbol("v", size, 1)
    i, j = sp.symbols("i j", integer=True)
    right = sp.Sum(v[i, 0] * A[i, j] * v[j, 0], (i, 0, size - 1), (j, 0, size - 1))
    return Statement((v.T * A * v)[0, 0], right)


def variance(rng: random.Random) -> Statement:
    """The sum of squared distances from the mean."""
    size = rng.randint(2, 4)
    v = sp.IndexedBase("v", real=True)
    i = sp.Symbol("i", integer=True)
    total = sp.Sum(v[i], (i, 1, size))
    left = sp.Sum((v[i] - total / size) ** 2, (i, 1, size))
    return Statement(left, sp.Sum(v[i] ** 2, (i, 1, size)) - total**2 / size)


FAMILIES: list[Family] = [
    absolute_quadratic,
    step_polynomial,
    waves,
    kink_at_a_symbol,
    exponential_moment,
    gaussian_moment,
    double_integral,
    trigonometric_product,
    power_with_a_parameter,
    power_sum,
    geometric,
    telescope,
    binomial_sum,
    exponential_series,
    product_of_quotients,
    product_of_powers,
    linear_sum,
    quotient_at_zero,
    quotient_at_infinity,
    cold_limit,
    product_rule,
    chain_rule,
    moving_end,
    trace_of_product,
    quadratic_form,
    variance,
]


def neighbour(true: Statement, rng: random.Random) -> Statement:
    """The statement with a wrong right-hand side."""
    shift = sp.Rational(rng.choice([-1, 1]) * rng.randint(1, 9), rng.randint(1, 9))
    wrong = [true.right + shift, sp.Rational(rng.choice([9, 11]), 10) * true.right + shift]
    symbols = sorted(true.right.free_symbols & true.right.atoms(sp.Symbol), key=str)
    if symbols and not true.right.has(sp.MatrixSymbol):
        wrong.append(true.right + shift * rng.choice(symbols))
    return true._replace(right=rng.choice(wrong))


# --- false statements that naive evaluation may well prove ---------------------------------------


def pole_inside(rng: random.Random) -> Statement:
    p, low, high = exact(small(rng)), -exact(small(rng)), 8
    power = rng.randint(1, 3)
    if power == 1:
        value = sp.log(high - p) - sp.log(p - low)  # the principal value
    else:
        value = ((low - p) ** (1 - power) - (high - p) ** (1 - power)) / (power - 1)
    return Statement(sp.Integral(1 / (x - p) ** power, (x, low, high)), value)


def pole_at_a_symbol(rng: random.Random) -> Statement:
    p = rng.randint(1, 60)
    return Statement(sp.Integral(1 / (x - a) ** 2, (x, 0, p)), 1 / (a - p) - 1 / a)


def pole_below_the_end(rng: random.Random) -> Statement:
    p = rng.randint(1, 60)
    left = sp.Integral(1 / (x - p) ** 2, (x, 0, b))
    return Statement(left, -1 / (b - p) - sp.Rational(1, p))


def missing_terms(rng: random.Random) -> Statement:
    p = rng.randint(1, 40)
    left = sp.Sum(1 / ((k - p) * (k - p - 1)), (k, 0, n))
    return Statement(left, -1 / (n - p) - sp.Rational(1, p + 1))


def divergent_series(rng: random.Random) -> Statement:
    p = rng.randint(2, 9)
    term, value = rng.choice(
        [
            (sp.Integer(-p) ** k, sp.Rational(1, 1 + p)),
            (sp.Integer(p) ** k, sp.Rational(1, 1 - p)),
            (1 / (k + p), -sp.digamma(p)),
            (sp.Integer(-1) ** k * p, sp.Rational(p, 2)),
        ]
    )
    return Statement(sp.Sum(term, (k, 0, sp.oo)), value)


def divergent_integral(rng: random.Random) -> Statement:
    p = rng.randint(1, 5)
    body, value = rng.choice(
        [
            (sp.sin(p * x), sp.Rational(1, p)),
            (sp.cos(p * x), sp.S.Zero),
            (1 / (x + p), -sp.log(p)),
            (x / (x**2 + p), -sp.log(p) / 2),
        ]
    )
    return Statement(sp.Integral(body, (x, 0, sp.oo)), value)


def one_sided(rng: random.Random) -> Statement:
    p = rng.randint(-4, 4)
    body, value = rng.choice(
        [
            (sp.Abs(x - p) / (x - p), sp.S.One),
            (sp.exp(-1 / (x - p)), sp.S.Zero),
            (sp.atan(1 / (x - p)), sp.pi / 2),
            (sp.floor(x - p), sp.S.Zero),
        ]
    )
    return Statement(sp.Limit(body, x, p), value)


def slope_at_a_kink(rng: random.Random) -> Statement:
    p = rng.randint(-4, 4)
    body, value = rng.choice(
        [
            (sp.Abs(x - p), 0),
            (sp.Max(x, p), 1),
            (sp.sqrt((x - p) ** 2), 0),
            (sp.Piecewise((x - p, x < p), (2 * (x - p), True)), 2),
        ]
    )
    left = sp.Subs(sp.Derivative(body, x), x, p)
    return Statement(left, sp.sympify(value))


def order_of_parameters(rng: random.Random) -> Statement:
    p = rng.randint(1, 3)
    body, value = rng.choice(
        [
            (s * sp.log(sp.exp(a / s) + p * sp.exp(b / s)), b),
            (s ** (-a) * (s**p - s**a), sp.Integer(-1)),
            (1 / (1 + p * sp.exp((a - b) / s)), sp.S.Zero),
        ]
    )
    return Statement(sp.Limit(body, s, 0, "+"), value)


def forgotten_kink(rng: random.Random) -> Statement:
    """The antiderivative of one piece, taken for all of them."""
    p = rng.randint(1, 40)
    left, right = rng.choice(
        [
            (sp.Integral(sp.Abs(x - p), (x, 0, b)), p * b - b**2 / 2),
            (sp.Integral(sp.Max(x, p), (x, 0, b)), p * b),
            (sp.Integral(sp.Heaviside(x - p), (x, 0, b)), sp.S.Zero),
            (sp.Derivative(sp.Abs(x - p), x), sp.S.NegativeOne),
        ]
    )
    return Statement(left, right)


TRAPS: list[Family] = [
    pole_inside,
    pole_at_a_symbol,
    pole_below_the_end,
    missing_terms,
    divergent_series,
    divergent_integral,
    one_sided,
    slope_at_a_kink,
    order_of_parameters,
    forgotten_kink,
]


def drawn(family: Family, count: int) -> Iterator[Statement]:
    """Statements of a family, the same ones at each call and each different from the others."""
    rng = random.Random(family.__name__)
    seen = set()
    for _ in range(20 * count):
        statement = family(rng)
        if (statement.left, statement.right) not in seen:
            seen.add((statement.left, statement.right))
            yield statement
        if len(seen) == count:
            return
