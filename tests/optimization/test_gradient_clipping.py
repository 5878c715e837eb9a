"""Clipping factors, steps for (L0, L1)-smooth functions, descent, and the norm of a Hessian."""

import math
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from typing import Any

import mpmath
import numpy as np
import pytest
import sympy as sp
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.integrate import quad, solve_ivp
from scipy.optimize import minimize_scalar
from torch import Tensor

from kexue_lab.optimization import gradient_clipping as gc

F64 = torch.float64
E = math.e
KINDS = ("hard", "soft")

norms = st.floats(1e-3, 1e3)
constants = st.floats(1e-2, 1e2)


def f64(value: Any) -> Tensor:
    return torch.tensor(value, dtype=F64)


def bound(g: float, s: float, l0: float, l1: float) -> float:
    return gc.descent_upper_bound(f64(g), f64(s), l0, l1).item()


def best_length(g: float, l0: float, l1: float) -> float:
    return gc.optimal_step_length(f64(g), l0, l1).item()


def extremal(x: float, l0: float, l1: float) -> float:
    """The function with f'' = L0 + L1 |f'| everywhere."""
    with mpmath.workdps(40):
        r = mpmath.mpf(l1) * abs(x)
        return float(l0 * (mpmath.exp(r) - 1 - r) / mpmath.mpf(l1) ** 2)


def extremal_slope(x: float, l0: float, l1: float) -> float:
    return math.copysign(l0 * math.expm1(l1 * abs(x)) / l1, x)


def quartic_gradient(theta: Tensor) -> Tensor:
    return 4 * theta**3


def quartic_run(theta0: float, rule: str) -> gc.GDResult:
    """Descent on θ⁴ with L1 = 1, L0 = 16 until |f'| ≤ 0.01."""
    lr = 1 / (12 * theta0**2) if rule == "gd" else 1 / 16
    clipping: dict[str, Any] = {} if rule == "gd" else {"gamma": 16, "kind": rule}
    return gc.clipped_gradient_descent(
        quartic_gradient, f64(theta0), lr, tol=1e-2, max_steps=20_000, **clipping
    )


def gd_steps_predicted(theta0: float) -> float:
    """From dθ/dt = -4ηθ³ with η = 1/(12 θ0²), the long tail only."""
    return 12 * theta0**2 / 8 * (4 / 1e-2) ** (2 / 3)


# Clipping factors


def test_factors_at_the_threshold() -> None:
    for gamma in (0.5, 1.0, 3.0):
        assert gc.clip_factor(f64(gamma), gamma, "hard").item() == 1
        assert gc.clip_factor(f64(gamma), gamma, "soft").item() == 0.5


def test_soft_lies_between_half_of_hard_and_hard() -> None:
    x = torch.logspace(-6, 6, 120_001, dtype=F64)
    ratio = gc.clip_factor(x, 1.0, "soft") / gc.clip_factor(x, 1.0, "hard")
    assert ratio.min().item() == pytest.approx(0.5, abs=1e-15)
    assert x[ratio.argmin()].item() == pytest.approx(1, abs=1e-12)
    assert 1 - 2e-6 < ratio.max().item() <= 1


@given(st.lists(norms, min_size=1, max_size=5), constants)
@settings(deadline=None)
def test_factors_against_numpy(values: list[float], gamma: float) -> None:
    g = np.array(values)
    hard = gc.clip_factor(f64(values), gamma, "hard").numpy()
    soft = gc.clip_factor(f64(values), gamma, "soft").numpy()
    np.testing.assert_allclose(hard, np.minimum(1, gamma / g), rtol=1e-14)
    np.testing.assert_allclose(soft, gamma / (g + gamma), rtol=1e-14)
    assert (g * hard <= gamma * (1 + 1e-14)).all()
    assert (g * soft < gamma).all()


def test_hard_clipping_of_a_model_is_that_of_torch() -> None:
    gen = torch.Generator().manual_seed(0)
    for scale in (0.01, 1.0, 100.0):
        parts = [torch.randn(shape, generator=gen, dtype=F64) for shape in ((3, 4), (5,), (1,))]
        tensors = [torch.zeros_like(part).requires_grad_() for part in parts]
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.grad = scale * part
        joint = torch.nn.utils.clip_grad_norm_(tensors, 2.0)
        factor = gc.clip_factor(joint, 2.0)
        for tensor, part in zip(tensors, parts, strict=True):
            # torch divides by the norm + 1e-6.
            torch.testing.assert_close(tensor.grad, factor * scale * part, rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_factors_of_extreme_norms(kind: str) -> None:
    factors = gc.clip_factor(f64([0.0, math.inf, math.nan, 1e-300, 1e300]), 2.0, kind)
    assert factors[0] == 1
    assert factors[1] == 0
    assert factors[2].isnan()
    assert factors[3] == 1
    assert factors[4].item() == pytest.approx(2e-300)


@pytest.mark.parametrize(("kind", "slope"), [("hard", 0.0), ("soft", -0.5)])
def test_gradient_of_the_factor_at_zero(kind: str, slope: float) -> None:
    norm = f64(0.0).requires_grad_()
    gc.clip_factor(norm, 2.0, kind).backward()
    assert norm.grad is not None
    assert norm.grad.item() == slope


@pytest.mark.parametrize("kind", KINDS)
def test_factors_under_vmap(kind: str) -> None:
    norm = torch.linspace(0, 5, 12, dtype=F64).reshape(3, 4)
    mapped = torch.func.vmap(lambda row: gc.clip_factor(row, 1.5, kind))(norm)
    assert torch.equal(mapped, gc.clip_factor(norm, 1.5, kind))


@given(norms, constants, constants)
@settings(deadline=None)
def test_soft_clipping_is_the_step_of_the_smoothness_constants(
    g: float, l0: float, l1: float
) -> None:
    rate = gc.clip_factor(f64(g), l0 / l1, "soft").item() / l0
    assert rate == pytest.approx(1 / (l0 + l1 * g), rel=1e-12)
    assume(abs(l0 - l1) > 0.1 * l1)
    swapped = gc.clip_factor(f64(g), l1 / l0, "soft").item() / l0
    assert swapped != pytest.approx(1 / (l0 + l1 * g), rel=1e-9)


# The bound on a step


@pytest.mark.parametrize(
    ("step", "change"), [(math.log(21 / 11), -3.57917046), (10 / 11, -2.78819316)]
)
def test_known_bounds(step: float, change: float) -> None:
    assert bound(10, step, 1, 1) == pytest.approx(change, abs=5e-9)


def test_bound_from_the_comparison_equation() -> None:
    for g, s, l0, l1 in ((10, 0.9, 1, 1), (0.3, 0.4, 2, 3), (5, 2, 0.5, 0.1), (2, 0.7, 0, 1.5)):

        def growth(_: float, u: np.ndarray, l0: float = l0, l1: float = l1) -> np.ndarray:
            return l0 + l1 * u

        u = solve_ivp(growth, (0, s), [g], dense_output=True, rtol=1e-11, atol=1e-12).sol
        rise = quad(lambda t, u=u, g=g: u(t)[0] - g, 0, s)[0]
        assert bound(g, s, l0, l1) == pytest.approx(-g * s + rise, rel=1e-8)


def test_no_cancellation_for_short_steps() -> None:
    r = torch.logspace(-14, 2.5, 500, dtype=F64)
    with mpmath.workdps(50):
        exact = [float(mpmath.exp(x) - 1 - x) for x in map(mpmath.mpf, r.tolist())]
    ours = gc.descent_upper_bound(torch.zeros_like(r), r, 1.0, 1.0)
    torch.testing.assert_close(ours, f64(exact), rtol=2e-15, atol=0)


def test_gradient_of_the_bound_is_the_slope_of_its_worst_function() -> None:
    s = torch.tensor([0.0, 1e-9, 0.3, 1.0, 4.0], dtype=F64, requires_grad=True)
    gc.descent_upper_bound(torch.zeros_like(s), s, 2.0, 1.0).sum().backward()
    assert s.grad is not None
    torch.testing.assert_close(s.grad, 2 * torch.expm1(s.detach()), rtol=1e-14, atol=0)


def test_the_bound_is_attained_uphill_and_the_one_with_a_half_is_false() -> None:
    l0, l1, x, step = 2.0, 3.0, 0.4, 0.25
    g = extremal_slope(x, l0, l1)
    start, end = extremal(x, l0, l1), extremal(x + step, l0, l1)
    # Uphill the linear term has the other sign.
    uphill = start + 2 * g * step + bound(g, step, l0, l1)
    assert end == pytest.approx(0.90637502, abs=5e-9)
    assert uphill == pytest.approx(0.90637502, abs=5e-9)
    with_half = start + g * step + (l0 + l1 * g) * step**2 / 2
    assert with_half == pytest.approx(0.84310833, abs=5e-9)
    assert with_half < end


def test_the_bound_with_a_half_is_false_downhill_too() -> None:
    l0, l1, x, step = 2.0, 3.0, 0.01, 1.0
    g = extremal_slope(x, l0, l1)
    change = extremal(x - step, l0, l1) - extremal(x, l0, l1)
    assert -g * step + (l0 + l1 * g) * step**2 / 2 < change < bound(g, step, l0, l1)


@given(st.floats(1e-3, 3), st.floats(1e-3, 3), st.floats(0.1, 3), st.floats(0.1, 3))
@settings(deadline=None)
def test_equality_uphill(x: float, step: float, l0: float, l1: float) -> None:
    g = extremal_slope(x, l0, l1)
    rise = extremal(x + step, l0, l1) - extremal(x, l0, l1)
    # The rise itself is a difference of two rounded values.
    slack = 1e-14 * extremal(x + step, l0, l1)
    assert 2 * g * step + bound(g, step, l0, l1) == pytest.approx(rise, rel=1e-13, abs=slack)


@pytest.mark.parametrize("l1", [0.5, 1.0, 2.0])
@given(st.floats(-6, 6), st.floats(0, 6))
@settings(deadline=None)
def test_the_bound_holds_for_smooth_functions(l1: float, x: float, s: float) -> None:
    cases: list[tuple[Callable[[float], float], float, float]] = [
        (lambda t: t**4, 4 * x**3, gc.power_function_l0(2, l1)),
        (lambda t: t**6, 6 * x**5, gc.power_function_l0(3, l1)),
        (lambda t: math.exp(l1 * t), l1 * math.exp(l1 * x), 0.0),
        (lambda t: math.cosh(l1 * t), l1 * math.sinh(l1 * x), l1**2),
        (lambda t: extremal(t, 2.0, l1), extremal_slope(x, 2.0, l1), 2.0),
    ]
    for f, slope, l0 in cases:
        end = x - math.copysign(s, slope)
        slack = 1e-12 * (1 + abs(f(x)) + abs(f(end)) + abs(slope) * s)
        assert f(end) - f(x) <= bound(abs(slope), s, l0, l1) + slack


@given(norms, st.floats(0, 10), constants)
@settings(deadline=None)
def test_without_growth_it_is_the_classic_descent_lemma(g: float, s: float, l0: float) -> None:
    # f = L0 θ²/2 attains it.
    theta = g / l0
    change = l0 * ((theta - s) ** 2 - theta**2) / 2
    assert bound(g, s, l0, 0.0) == pytest.approx(change, rel=1e-9, abs=1e-9 * l0 * (theta + s) ** 2)
    assert bound(g, s, l0, 1e-13) == pytest.approx(bound(g, s, l0, 0.0), rel=1e-6, abs=1e-6)
    assert bound(g, s, 0.0, 0.0) == pytest.approx(-g * s)


def test_constant_of_the_quadratic_term() -> None:
    assert bound(0.0, 1e-6, 1.0, 1.0) / 1e-12 == pytest.approx(0.5, abs=1e-6)
    assert bound(0.0, 1.0, 1.0, 1.0) == pytest.approx(0.71828183, abs=5e-9)


@pytest.mark.parametrize(("l0", "l1"), [(1.0, 1.0), (16.0, 1.0), (0.3, 4.0)])
def test_the_bound_for_hard_clipping_at_the_full_and_at_half_the_rate(l0: float, l1: float) -> None:
    gamma = l0 / l1

    def change(lr: float, g: float) -> float:
        length = lr * g * gc.clip_factor(f64(g), gamma).item()
        return bound(g, length, l0, l1)

    unit = l0 / l1**2
    assert change(1 / l0, gamma) / unit == pytest.approx(0.43656366, abs=5e-9)
    for g in np.geomspace(1e-3, 1e3, 61) * gamma:
        assert change(1 / (2 * l0), g) < 0


# The best step


def test_known_step() -> None:
    assert best_length(10, 1, 1) == pytest.approx(0.64662716, abs=5e-9)


@given(norms, constants, st.floats(0.1, 10))
@settings(deadline=None)
def test_the_step_against_a_minimiser(g: float, l0: float, l1: float) -> None:
    step = best_length(g, l0, l1)
    found = minimize_scalar(
        lambda s: bound(g, s, l0, l1), bounds=(0, 2 * step), options={"xatol": 1e-12 * step}
    )
    assert bound(g, step, l0, l1) == pytest.approx(found.fun, rel=1e-8)
    # The argument of a minimum is known to half the digits only; the slope there is sharper.
    assert step == pytest.approx(found.x, rel=1e-5)
    s = f64(step).requires_grad_()
    gc.descent_upper_bound(f64(g), s, l0, l1).backward()
    assert s.grad is not None
    assert abs(s.grad.item()) < 1e-13 * (g + l0 / l1)


def test_the_step_at_the_reference_point_to_eight_digits() -> None:
    found = minimize_scalar(lambda s: bound(10, s, 1, 1), bracket=(0.1, 0.6, 2), tol=1e-10)
    assert best_length(10, 1, 1) == pytest.approx(found.x, abs=1e-8)
    assert bound(10, best_length(10, 1, 1), 1, 1) == pytest.approx(found.fun, abs=1e-8)


def test_limits_of_the_step() -> None:
    g = f64([0.0, 1e-9, 0.5, 3.0, 1e9])
    assert torch.equal(gc.optimal_step_length(g, 4.0, 0.0), g / 4)
    almost = gc.optimal_step_length(g[:4], 4.0, 1e-14)
    torch.testing.assert_close(almost, g[:4] / 4, rtol=1e-12, atol=0)
    no_floor = gc.optimal_step_length(g, 0.0, 2.0)
    ceiling = math.log(2) / 2
    torch.testing.assert_close(no_floor, f64([0.0] + [ceiling] * 4), rtol=1e-15, atol=0)
    assert best_length(1e12, 4.0, 2.0) == pytest.approx(ceiling, rel=1e-11)


@given(norms, st.floats(1.01, 5), constants, constants, st.floats(0.1, 10), st.floats(0.1, 10))
@settings(deadline=None)
def test_laws_of_the_step(
    g: float, factor: float, l0: float, l1: float, height: float, width: float
) -> None:
    step = best_length(g, l0, l1)
    assert step < g / (l0 + l1 * g), "shorter than the soft-clipped step"
    assert step < best_length(factor * g, l0, l1) <= math.log(2) / l1
    # height · f(θ / width) has the step stretched by the width.
    stretched = best_length(height * g / width, height * l0 / width**2, l1 / width)
    assert stretched == pytest.approx(width * step, rel=1e-12)


@given(st.floats(1e-6, 1e6), constants, constants)
@settings(deadline=None)
def test_guaranteed_decrease(ratio: float, l0: float, l1: float) -> None:
    g = ratio * l0 / l1
    unit = g**2 / (l0 + l1 * g)
    soft = -bound(g, g / (l0 + l1 * g), l0, l1) / unit
    best = -bound(g, best_length(g, l0, l1), l0, l1) / unit
    assert 3 - E - 1e-12 <= soft <= best <= 0.5 + 1e-12
    assert best >= 2 * math.log(2) - 1 - 1e-12


def test_guaranteed_decrease_at_both_ends() -> None:
    for ratio, soft, best in ((1e-7, 0.5, 0.5), (1e9, 0.28171817, 0.38629436)):
        unit = ratio**2 / (1 + ratio)
        assert -bound(ratio, ratio / (1 + ratio), 1, 1) / unit == pytest.approx(soft, abs=1e-7)
        assert -bound(ratio, best_length(ratio, 1, 1), 1, 1) / unit == pytest.approx(best, abs=1e-7)


# Power functions


@pytest.mark.parametrize("k", [2, 3, 4, 6])
@pytest.mark.parametrize("l1", [0.5, 1.0, 3.0])
def test_least_l0_is_the_maximum_over_the_line(k: int, l1: float) -> None:
    n = 2 * k
    theta = np.linspace(-10 * k / l1, 10 * k / l1, 200_001)
    excess = n * (n - 1) * np.abs(theta) ** (n - 2) - l1 * n * np.abs(theta) ** (n - 1)
    l0 = gc.power_function_l0(k, l1)
    assert excess.max() == pytest.approx(l0, rel=1e-6)
    assert excess.max() <= l0 * (1 + 1e-12)
    assert abs(theta[excess.argmax()]) == pytest.approx(2 * (k - 1) / l1, rel=1e-3)


def test_known_l0() -> None:
    assert gc.power_function_l0(2, 1) == 16
    assert gc.power_function_l0(3, 1) == 1536
    exact = gc.power_function_l0(3, Fraction(2, 3))
    assert isinstance(exact, Fraction)
    assert exact == 7776


@pytest.mark.parametrize("k", [2, 3, 5])
def test_symbolic_l0(k: int) -> None:
    l1, theta = sp.symbols("L1 theta", positive=True)
    excess = sp.diff(theta ** (2 * k), theta, 2) - l1 * sp.diff(theta ** (2 * k), theta)
    (best,) = sp.solve(sp.diff(excess, theta), theta)
    assert sp.simplify(gc.power_function_l0(k, l1) - excess.subs(theta, best)) == 0
    assert gc.power_function_l0(2, sp.Symbol("L1")).free_symbols, "a sign may be left open"
    assert gc.power_function_l0(2, sp.sqrt(2)) == 8


# Descent


@pytest.mark.parametrize(
    ("theta0", "soft", "hard", "plain"),
    [(2, 107, 105, 320), (10, 115, 113, 8135), (100, 205, 203, None)],
)
def test_step_counts_on_the_quartic(theta0: float, soft: int, hard: int, plain: int | None) -> None:
    counts = {"soft": soft, "hard": hard} | ({} if plain is None else {"gd": plain})
    for rule, steps in counts.items():
        run = quartic_run(theta0, rule)
        assert run.converged
        assert run.steps == steps
        assert run.grad_norms[-1] <= 1e-2 < run.grad_norms[-2]


def test_plain_descent_from_far_away_takes_as_long_as_predicted() -> None:
    theta, lr, steps = 100.0, 1 / 120_000, 0
    while abs(4 * theta**3) > 1e-2:
        theta -= lr * 4 * theta**3
        steps += 1
    assert steps == 814314
    assert gd_steps_predicted(100) == pytest.approx(814325, abs=0.5)
    assert gd_steps_predicted(100) == pytest.approx(steps, rel=2e-5)


def test_growth_of_the_step_counts() -> None:
    assert quartic_run(10, "gd").steps == pytest.approx(gd_steps_predicted(10), rel=0.01)
    plain = [quartic_run(theta0, "gd").steps for theta0 in (5, 10)]
    assert math.log2(plain[1] / plain[0]) == pytest.approx(2, abs=0.02)
    tail = 16 / 8 * (4 / 1e-2) ** (2 / 3)
    assert tail == pytest.approx(108.6, abs=0.05)
    for rule in KINDS:
        near, far, farther = (quartic_run(theta0, rule).steps for theta0 in (10, 100, 200))
        assert near == pytest.approx(tail, rel=0.1)
        assert abs(far - near - 90) <= 1, "one step per unit of length"
        assert abs(farther - far - 100) <= 1


@pytest.mark.parametrize("theta0", [0.7, 2.0, 10.0])
def test_largest_stable_rate_on_the_quartic(theta0: float) -> None:
    limit = 1 / (2 * theta0**2)
    below = gc.clipped_gradient_descent(quartic_gradient, f64(theta0), 0.99 * limit)
    assert not below.diverged
    assert abs(below.theta.item()) < theta0
    above = gc.clipped_gradient_descent(quartic_gradient, f64(theta0), 1.01 * limit)
    assert above.diverged
    assert not above.converged
    assert above.steps < 1000
    assert not above.grad_norms[-1].isfinite()
    assert above.grad_norms[:-1].isfinite().all()
    saved = gc.clipped_gradient_descent(quartic_gradient, f64(theta0), 1.01 * limit, gamma=0.1)
    assert not saved.diverged


def test_a_lucky_rate_lands_on_the_optimum() -> None:
    run = gc.clipped_gradient_descent(quartic_gradient, f64(2.0), 1 / 16)
    assert run.converged
    assert run.steps == 1
    assert run.theta == 0
    assert run.grad_norms.tolist() == [32, 0]


@pytest.mark.parametrize(
    ("f", "gradient", "l0", "l1", "theta0"),
    [
        (lambda theta: theta**4, quartic_gradient, 16.0, 1.0, 5.0),
        (lambda theta: theta**4, quartic_gradient, 4.0, 2.0, 5.0),
        (lambda theta: torch.cosh(theta) - 1, torch.sinh, 1.0, 1.0, 8.0),
    ],
)
def test_every_soft_clipped_step_keeps_its_guarantee(
    f: Callable[[Tensor], Tensor],
    gradient: Callable[[Tensor], Tensor],
    l0: float,
    l1: float,
    theta0: float,
) -> None:
    theta, eps, steps = f64(theta0), 1e-2, 0
    while (g := gradient(theta).abs().item()) > eps:
        run = gc.clipped_gradient_descent(gradient, theta, 1 / l0, l0 / l1, "soft", max_steps=1)
        drop = (f(theta) - f(run.theta)).item()
        assert drop >= (3 - E) * g**2 / (l0 + l1 * g) * (1 - 1e-9)
        theta, steps = run.theta, steps + 1
        assert steps <= f(f64(theta0)).item() / (3 - E) * (l0 / eps**2 + l1 / eps)
    assert steps > 5


def test_descent_against_the_optimiser_of_torch() -> None:
    gen = torch.Generator().manual_seed(1)
    matrix = torch.randn(4, 4, generator=gen, dtype=F64)
    target = torch.randn(4, generator=gen, dtype=F64)
    start = 5 * torch.randn(4, generator=gen, dtype=F64)

    def loss(theta: Tensor) -> Tensor:
        return torch.cosh(matrix @ theta - target).log().sum()

    for gamma in (None, 2.0):
        ours = gc.clipped_gradient_descent(torch.func.grad(loss), start, 0.1, gamma, max_steps=50)
        theta = start.clone().requires_grad_()
        optimiser = torch.optim.SGD([theta], lr=0.1)
        seen = []
        for _ in range(50):
            optimiser.zero_grad()
            loss(theta).backward()
            limit = math.inf if gamma is None else gamma
            seen.append(torch.nn.utils.clip_grad_norm_([theta], limit).item())
            optimiser.step()
        # torch divides by the norm + 1e-6.
        torch.testing.assert_close(ours.theta, theta.detach(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours.grad_norms[:-1], f64(seen), rtol=1e-4, atol=1e-5)
        assert min(seen) < 2 < max(seen), "both branches of the clip are used"


def test_the_norm_is_taken_over_all_entries() -> None:
    theta0 = f64([[3.0, 0.0], [0.0, 4.0]])
    for kind, length in (("hard", 1.0), ("soft", 5 / 6)):
        run = gc.clipped_gradient_descent(lambda t: t, theta0, 1.0, 1.0, kind, max_steps=1)
        torch.testing.assert_close(run.theta, theta0 * (1 - length / 5), rtol=1e-14, atol=0)
        assert run.grad_norms[0] == 5
        assert run.grad_norms.shape == (2,)


def test_when_descent_stops() -> None:
    def shrink(max_steps: int, tol: float) -> gc.GDResult:
        return gc.clipped_gradient_descent(
            lambda t: t, f64([8.0]), 0.5, tol=tol, max_steps=max_steps
        )

    at_once = shrink(10, 8.0)
    assert (at_once.steps, at_once.converged, at_once.theta.item()) == (0, True, 8)
    none_allowed = shrink(0, 1.0)
    assert (none_allowed.steps, none_allowed.converged) == (0, False)
    last_moment = shrink(3, 1.0)
    assert (last_moment.steps, last_moment.converged, last_moment.theta.item()) == (3, True, 1)
    too_short = shrink(2, 1.0)
    assert (too_short.steps, too_short.converged, too_short.diverged) == (2, False, False)
    assert too_short.grad_norms.tolist() == [8, 4, 2]


def test_descent_leaves_the_start_alone_and_takes_derivatives_by_autograd() -> None:
    start = torch.tensor([2.0, -1.0])

    def by_autograd(theta: Tensor) -> Tensor:
        assert theta.grad_fn is None, "no graph grows from step to step"
        theta.requires_grad_()
        (gradient,) = torch.autograd.grad((theta**4).sum(), theta, create_graph=True)
        return gradient

    run = gc.clipped_gradient_descent(by_autograd, start, 0.01, 1.0, max_steps=7)
    plain = gc.clipped_gradient_descent(quartic_gradient, start, 0.01, 1.0, max_steps=7)
    torch.testing.assert_close(run.theta, plain.theta)
    assert not run.theta.requires_grad
    assert not start.requires_grad
    assert start.tolist() == [2, -1]
    at_once = gc.clipped_gradient_descent(quartic_gradient, start, 0.01, max_steps=0)
    at_once.theta.zero_()
    assert start.tolist() == [2, -1]
    assert run.theta.dtype == run.grad_norms.dtype == torch.float32


def test_a_gradient_that_is_not_a_number_counts_as_divergence() -> None:
    run = gc.clipped_gradient_descent(torch.log, f64([-1.0]), 0.1, 1.0)
    assert run.diverged
    assert not run.converged
    assert run.steps == 0


# The norm of a Hessian


def three_parameter_loss(w: Tensor) -> Tensor:
    return torch.sin(w[0] * w[1]) + w[2] ** 4 * w[0] + torch.exp(w[1] - w[2])


def test_hessian_of_three_parameters() -> None:
    for seed in range(5):
        gen = torch.Generator().manual_seed(seed)
        w = torch.randn(3, generator=gen, dtype=F64, requires_grad=True)
        dense = torch.autograd.functional.hessian(three_parameter_loss, w.detach())
        exact = torch.linalg.eigvalsh(dense).abs().max().item()
        found = gc.hessian_spectral_norm(three_parameter_loss(w), [w], 60, gen)
        assert found == pytest.approx(exact, rel=1e-4)


def test_hessian_of_a_network() -> None:
    gen = torch.Generator().manual_seed(2)
    x = torch.randn(20, 3, generator=gen, dtype=F64)
    y = torch.randint(0, 2, (20,), generator=gen)
    shapes = [(3, 4), (4,), (4, 2)]
    params = [torch.randn(s, generator=gen, dtype=F64, requires_grad=True) for s in shapes]

    def loss(first: Tensor, bias: Tensor, second: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(torch.tanh(x @ first + bias) @ second, y)

    def flat_loss(flat: Tensor) -> Tensor:
        parts = flat.split([12, 4, 8])
        return loss(*(part.view(s) for part, s in zip(parts, shapes, strict=True)))

    flat = torch.cat([p.detach().reshape(-1) for p in params])
    dense = torch.autograd.functional.hessian(flat_loss, flat)
    exact = torch.linalg.eigvalsh(dense).abs().max().item()
    value = loss(*params)
    found = gc.hessian_spectral_norm(value, iter(params), 200, gen)
    assert found == pytest.approx(exact, rel=1e-4)
    value.backward()
    assert params[0].grad is not None, "the graph is kept"


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=6), st.integers(0, 100))
@settings(deadline=None, max_examples=40)
def test_power_iteration_rises_to_the_norm(eigenvalues: list[float], seed: int) -> None:
    top = max(map(abs, eigenvalues))
    assume(top > 1e-3)
    w = torch.zeros(len(eigenvalues), dtype=F64, requires_grad=True)
    loss = (f64(eigenvalues) * w**2).sum() / 2
    found = [
        gc.hessian_spectral_norm(loss, [w], n, torch.Generator().manual_seed(seed))
        for n in (1, 2, 5, 40)
    ]
    assert all(a <= b + 1e-12 for a, b in pairwise(found))
    assert found[-1] <= top * (1 + 1e-12)
    assert found[-1] > 0.5 * top


def test_opposite_extreme_eigenvalues() -> None:
    w = torch.ones(3, dtype=F64, requires_grad=True)
    loss = (w[0] ** 2 - w[1] ** 2) * 1.5 + w[2] ** 2 / 4
    found = gc.hessian_spectral_norm(loss, [w], generator=torch.Generator().manual_seed(0))
    assert found == pytest.approx(3, rel=1e-9)


def test_losses_with_little_or_no_curvature() -> None:
    gen = torch.Generator().manual_seed(0)
    a = torch.ones(2, dtype=F64, requires_grad=True)
    b = torch.ones(3, dtype=F64, requires_grad=True)
    for params in ([a], [a, b]):
        assert gc.hessian_spectral_norm(3 * a.sum(), params, generator=gen) == 0
    assert gc.hessian_spectral_norm((0 * a**2).sum(), [a], generator=gen) == 0
    unused = gc.hessian_spectral_norm((a**2).sum() + b.sum(), [a, b], generator=gen)
    assert unused == pytest.approx(2, rel=1e-12)


def test_hessian_by_a_parameter_that_is_a_transposed_view() -> None:
    w = f64([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]).T.requires_grad_()
    gen = torch.Generator().manual_seed(0)
    # The second derivative of w⁴ at its largest entry.
    found = gc.hessian_spectral_norm((w**4).sum(), [w], 60, gen)
    assert found == pytest.approx(12 * 6**2, rel=1e-9)


def test_the_start_comes_from_the_generator() -> None:
    w = torch.ones(3, dtype=F64, requires_grad=True)
    loss = three_parameter_loss(w)

    def once(seed: int) -> float:
        gen = torch.Generator().manual_seed(seed)
        return gc.hessian_spectral_norm(loss, [w], 1, gen)

    assert once(0) == once(0)
    assert once(0) != once(1)
    torch.manual_seed(0)
    assert gc.hessian_spectral_norm(loss, [w], 1) == once(0)


# Types and errors


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, F64])
def test_dtype_and_device_are_kept(dtype: torch.dtype) -> None:
    # Tensors on the meta device have a shape, a dtype and no values.
    for device in ("cpu", "meta"):
        g = torch.ones(2, 1, dtype=dtype, device=device)
        s = torch.full((3,), 0.5, dtype=dtype, device=device)
        results = [
            gc.clip_factor(g, 2.0),
            gc.clip_factor(g, 2.0, "soft"),
            gc.optimal_step_length(g, 1.0, 2.0),
            gc.optimal_step_length(g, 1.0, 0.0),
            gc.descent_upper_bound(g, s, 1.0, 2.0),
        ]
        assert {r.dtype for r in results} == {dtype}
        assert {r.device.type for r in results} == {device}
        assert [tuple(r.shape) for r in results] == [(2, 1)] * 4 + [(2, 3)]


ONE = f64(1.0)
INTEGER = torch.tensor(1)


def descend(*args: Any, **options: Any) -> gc.GDResult:
    return gc.clipped_gradient_descent(*args, **options)


def leaf() -> Tensor:
    return torch.ones(2, dtype=F64, requires_grad=True)


def hessian(loss: Callable[[Tensor], Any], **options: Any) -> float:
    w = leaf()
    return gc.hessian_spectral_norm(loss(w), [w], **options)


@pytest.mark.parametrize(
    ("call", "exception", "match"),
    [
        (lambda: gc.clip_factor(1.0, 1.0), TypeError, "norm .* float"),
        (lambda: gc.clip_factor(INTEGER, 1.0), TypeError, "norm .* torch.int64"),
        (lambda: gc.clip_factor(f64([1.0, -2.0]), 1.0), ValueError, "norm .* -2.0"),
        (lambda: gc.clip_factor(ONE, 0.0), ValueError, "gamma .* 0.0"),
        (lambda: gc.clip_factor(ONE, -1), ValueError, "gamma .* -1"),
        (lambda: gc.clip_factor(ONE, math.inf), ValueError, "gamma .* inf"),
        (lambda: gc.clip_factor(ONE, math.nan), ValueError, "gamma .* nan"),
        (lambda: gc.clip_factor(ONE, "1"), TypeError, "gamma .* str"),
        (lambda: gc.clip_factor(ONE, 1.0, "firm"), ValueError, "kind .* 'firm'"),
        (lambda: gc.optimal_step_length(2.0, 1, 1), TypeError, "grad_norm .* float"),
        (lambda: gc.optimal_step_length(-ONE, 1, 1), ValueError, "grad_norm .* -1.0"),
        (lambda: gc.optimal_step_length(ONE, -1, 1), ValueError, "L0 .* -1"),
        (lambda: gc.optimal_step_length(ONE, 1, -1), ValueError, "L1 .* -1"),
        (lambda: gc.optimal_step_length(ONE, 1, math.inf), ValueError, "L1 .* inf"),
        (lambda: gc.optimal_step_length(ONE, None, 1), TypeError, "L0 .* NoneType"),
        (lambda: gc.optimal_step_length(ONE, 0, 0.0), ValueError, "L0 and L1 .* both"),
        (lambda: gc.descent_upper_bound(2.0, ONE, 1, 1), TypeError, "grad_norm .* float"),
        (lambda: gc.descent_upper_bound(ONE, 1.0, 1, 1), TypeError, "step_length .* float"),
        (lambda: gc.descent_upper_bound(-ONE, ONE, 1, 1), ValueError, "grad_norm .* -1.0"),
        (lambda: gc.descent_upper_bound(ONE, -ONE, 1, 1), ValueError, "step_length .* -1.0"),
        (
            lambda: gc.descent_upper_bound(ONE.expand(2), ONE.expand(3), 1, 1),
            ValueError,
            r"step_length .* \(3,\) and \(2,\)",
        ),
        (lambda: gc.descent_upper_bound(ONE, ONE, -1, 1), ValueError, "L0 .* -1"),
        (lambda: gc.descent_upper_bound(ONE, ONE, 1, math.nan), ValueError, "L1 .* nan"),
        (lambda: gc.power_function_l0(1, 1.0), ValueError, "k .* 1"),
        (lambda: gc.power_function_l0(2.0, 1.0), TypeError, "k .* float"),
        (lambda: gc.power_function_l0(True, 1.0), TypeError, "k .* bool"),
        (lambda: gc.power_function_l0(2, 0.0), ValueError, "L1 .* 0.0"),
        (lambda: gc.power_function_l0(2, Fraction(-1, 2)), ValueError, "L1 .* -1/2"),
        (lambda: gc.power_function_l0(2, "L1"), TypeError, "L1 .* str"),
        (lambda: gc.power_function_l0(2, sp.Integer(0)), ValueError, "L1 .* 0"),
        (lambda: gc.power_function_l0(2, sp.oo), ValueError, "L1 .* oo"),
        (lambda: gc.power_function_l0(2, sp.nan), ValueError, "L1 .* nan"),
        (
            lambda: gc.power_function_l0(2, sp.Symbol("a", negative=True)),
            ValueError,
            "L1 .* a",
        ),
        (lambda: descend(3, ONE, 0.1), TypeError, "grad_fn .* int"),
        (lambda: descend(torch.sin, 1.0, 0.1), TypeError, "theta0 .* float"),
        (lambda: descend(torch.sin, INTEGER, 0.1), TypeError, "theta0 .* torch.int64"),
        (lambda: descend(torch.sin, ONE, 0.0), ValueError, "lr .* 0.0"),
        (lambda: descend(torch.sin, ONE, math.inf), ValueError, "lr .* inf"),
        (lambda: descend(torch.sin, ONE, "fast"), TypeError, "lr .* str"),
        (lambda: descend(torch.sin, ONE, 0.1, 0.0), ValueError, "gamma .* 0.0"),
        (lambda: descend(torch.sin, ONE, 0.1, kind="firm"), ValueError, "kind .* 'firm'"),
        (lambda: descend(torch.sin, ONE, 0.1, tol=-1.0), ValueError, "tol .* -1.0"),
        (lambda: descend(torch.sin, ONE, 0.1, tol=math.nan), ValueError, "tol .* nan"),
        (lambda: descend(torch.sin, ONE, 0.1, max_steps=-1), ValueError, "max_steps .* -1"),
        (lambda: descend(torch.sin, ONE, 0.1, max_steps=1.5), TypeError, "max_steps .* 1.5"),
        (lambda: descend(lambda t: 1.0, ONE, 0.1), TypeError, "grad_fn .* float"),
        (
            lambda: descend(lambda t: t.expand(2), ONE, 0.1),
            ValueError,
            r"grad_fn .* torch.float64 \(2,\) for torch.float64 \(\)",
        ),
        (
            lambda: descend(lambda t: t.float(), ONE, 0.1),
            ValueError,
            r"grad_fn .* torch.float32 \(\) for torch.float64 \(\)",
        ),
        (lambda: hessian(lambda w: 1.0), TypeError, "loss .* float"),
        (lambda: hessian(lambda w: w**2), ValueError, r"loss .* \(2,\)"),
        (lambda: hessian(lambda w: w.detach().sum()), ValueError, "loss .* requires_grad=False"),
        (
            lambda: gc.hessian_spectral_norm((leaf() ** 2).sum(), []),
            ValueError,
            "params .* none",
        ),
        (
            lambda: gc.hessian_spectral_norm((leaf() ** 2).sum(), [leaf(), ONE]),
            ValueError,
            r"params\[1\] .* \(\)",
        ),
        (
            lambda: gc.hessian_spectral_norm((leaf() ** 2).sum(), [1.0]),
            TypeError,
            r"params\[0\] .* float",
        ),
        (lambda: hessian(lambda w: w.sum() ** 2, n_iter=0), ValueError, "n_iter .* 0"),
        (lambda: hessian(lambda w: w.sum() ** 2, n_iter=2.0), TypeError, "n_iter .* 2.0"),
    ],
)
def test_bad_input(call: Callable[[], Any], exception: type[Exception], match: str) -> None:
    with pytest.raises(exception, match=match):
        call()


# ---------------------------------------------------------------- norms of any size and precision


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, F64])
def test_step_lengths_in_every_precision(dtype: torch.dtype) -> None:
    norm = torch.tensor(1000.0, dtype=dtype)
    expected = math.log(200_001 / 100_001) / 100
    length = gc.optimal_step_length(norm, 1.0, 100.0).item()
    assert length == pytest.approx(expected, rel=2 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_step_lengths_of_huge_and_tiny_curvatures(scale: float) -> None:
    one = torch.tensor([1.0, 1e10], dtype=F64)
    expected = gc.optimal_step_length(one, 1.0, 0.5) / scale
    assert torch.allclose(gc.optimal_step_length(one, scale, 0.5 * scale), expected, rtol=1e-12)


def test_norms_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="grad_norm must be finite"):
        gc.optimal_step_length(torch.tensor(math.nan), 1.0, 1.0)


@pytest.mark.parametrize("scale", [1e-30, 1e19, 1e30])
def test_the_norm_of_a_gradient_neither_overflows_nor_vanishes(scale: float) -> None:
    result = gc.clipped_gradient_descent(
        lambda theta: scale * theta, torch.tensor([3.0, 4.0]), lr=0.1, gamma=1.0, max_steps=3
    )
    assert not result.diverged
    assert not result.converged
    assert result.grad_norms[0].item() == pytest.approx(5 * scale, rel=1e-6)


def test_the_curvature_of_a_huge_loss() -> None:
    theta = torch.tensor([1.0, 2.0], requires_grad=True)
    loss = 1e25 * (theta.square() * torch.tensor([1.0, 3.0])).sum()
    norm = gc.hessian_spectral_norm(loss, [theta], 60, torch.Generator().manual_seed(0))
    assert norm == pytest.approx(6e25, rel=1e-5)
