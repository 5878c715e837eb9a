"""Unit, oracle, property and bad-input tests of mathematics.linear_ode."""

import math

import numpy as np
import pytest
import sympy as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from kexue_lab.exercises import exercise
from kexue_lab.mathematics.linear_ode import (
    complete_basis,
    complete_basis_batched,
    last_solution_symbolic,
    planar_variational_flow,
    structured_generator,
    wedge,
    wedge_symbolic,
)

T = sp.Symbol("t", positive=True)
START = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def reference(t):
    return np.array([[math.sin(t), 1, 0], [0, math.cos(t), 2], [1, -1, -t / 2]])


def integrated(a, x0, times):
    """The full system by scipy: (T, n, columns)."""
    shape = np.shape(x0)
    solution = solve_ivp(
        lambda t, x: (a(t) @ x.reshape(shape)).ravel(),
        (0, times[-1]),
        np.ravel(x0),
        "DOP853",
        t_eval=times,
        rtol=1e-13,
        atol=1e-14,
    )
    return solution.y.T.reshape(-1, *shape)


# --- the cross product -------------------------------------------------------------------------


def test_in_three_dimensions_it_is_the_cross_product():
    x = normal(5, 3, 2)
    torch.testing.assert_close(wedge(x), torch.linalg.cross(x[..., 0], x[..., 1]))


@settings(deadline=None)
@given(n=st.integers(2, 7), seed=st.integers(0, 10**6))
def test_determinant_orthogonality_and_length(n, seed):
    x, v = normal(4, n, n - 1, seed=seed), normal(4, n, seed=seed + 1)
    w = wedge(x)
    determinant = torch.linalg.det(torch.cat([x, v[..., None]], -1))
    torch.testing.assert_close((w * v).sum(-1), determinant, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        (x.mT @ w[..., None])[..., 0], torch.zeros(4, n - 1).double(), rtol=0, atol=1e-9
    )
    torch.testing.assert_close(w.square().sum(-1), torch.linalg.det(x.mT @ x), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_symbols_and_tensors_agree(n):
    numbers = sp.Matrix(n, n - 1, lambda i, j: sp.Integer((3 * i + 5 * j + i * j * j) % 7 - 3))
    x = torch.tensor(numbers.tolist(), dtype=torch.float64)
    exact = torch.tensor([float(entry) for entry in wedge_symbolic(numbers)], dtype=torch.float64)
    torch.testing.assert_close(wedge(x), exact)


def test_dtype_is_kept():
    assert wedge(normal(3, 2).float()).dtype == torch.float32


# --- in closed form ----------------------------------------------------------------------------


def test_the_third_column_comes_back_exactly():
    phi = sp.Matrix([[1, 0, T], [T, 1, 0], [0, T, 1]])
    a = sp.simplify(phi.diff(T) * phi.inv())
    assert last_solution_symbolic(a, phi[:, :2], T) == sp.Matrix([T, 0, 1])


def test_eulers_equation_from_one_solution():
    a = sp.Matrix([[0, 1], [1 / T**2, -1 / T]])
    x = sp.Matrix([T, 1])
    last = last_solution_symbolic(a, x, T, t0=1)
    assert sp.simplify(last.diff(T) - a * last) == sp.zeros(2, 1)
    # A multiple of t and one of 1/t, with the Wronskian D = 1/t.
    assert sp.simplify(x.row_join(last).det() - 1 / T) == 0


def test_a_rotating_frame_needs_no_quadrature():
    a = sp.Matrix([[0, -1, 0], [1, 0, 0], [0, 0, 0]])
    x = sp.Matrix([[sp.cos(T), -sp.sin(T)], [sp.sin(T), sp.cos(T)], [0, 0]])
    assert last_solution_symbolic(a, x, T) == sp.Matrix([0, 0, 1])


def test_what_cannot_be_integrated_stays_an_integral():
    a = sp.Matrix([[0, 1], [-sp.Integer(2), 2 * T]])
    last = last_solution_symbolic(a, sp.Matrix([T, 1]), T)
    value = float(last[0].subs(T, sp.Rational(1, 2)).evalf())
    # Hermite's equation: −e^{t²} + √π t erfi(t).
    assert value == pytest.approx(-0.7390383125, abs=1e-9)


# --- by numbers --------------------------------------------------------------------------------

VALUES = {
    0.5: (-0.509468432261, -0.152669062762, 0.227726078915),
    1.0: (-0.776744277947, -0.092025421368, -0.051039270285),
    2.0: (-2.568412247865, -0.864272569622, -0.793735997853),
}


def test_the_reference_system():
    x, last = complete_basis(reference, START, list(VALUES))
    np.testing.assert_allclose(last, list(VALUES.values()), rtol=0, atol=1e-9)
    np.testing.assert_allclose(x, integrated(reference, START, list(VALUES)), rtol=0, atol=1e-8)
    expected = [1.714879776019, 2.860992747007, 3.763857127481]
    w = [1.467302487949, 3.082128128557, -12.845950837559]
    bases = np.concatenate([x, last[..., None]], -1)
    np.testing.assert_allclose(np.linalg.det(bases), expected, rtol=1e-9)
    np.testing.assert_allclose(wedge(torch.from_numpy(x[-1])), w, rtol=1e-8)


def test_a_rotating_frame_by_numbers():
    def turning(t):
        p, q, r = math.cos(t), math.sin(2 * t), 0.5
        return np.array([[0, -r, q], [r, 0, -p], [-q, p, 0]])

    x, last = complete_basis(turning, [[1, 1], [0, 1], [0, 0]], [5.0])
    expected = [-0.621505404854, 0.707234309032, -0.336972793954]
    np.testing.assert_allclose(np.cross(x[0, :, 0], x[0, :, 1]), expected, atol=1e-9)
    np.testing.assert_allclose(last[0], expected, atol=1e-9)


@settings(deadline=None, max_examples=15)
@given(n=st.integers(2, 6), seed=st.integers(0, 10**6))
def test_the_last_solution_solves_the_system(n, seed):
    rng = np.random.default_rng(seed)
    fixed, moving = rng.normal(size=(2, n, n)) / math.sqrt(n)
    x0 = np.linalg.qr(rng.normal(size=(n, n - 1)))[0]

    def a(t):
        return fixed + moving * math.sin(3 * t)

    _, last = complete_basis(a, x0, [0.0, 0.6])
    w = wedge(torch.from_numpy(x0)).numpy()
    np.testing.assert_allclose(last[0], w / (w @ w), atol=1e-12)
    np.testing.assert_allclose(last[1], integrated(a, last[0], [0.6])[0], rtol=1e-6, atol=1e-7)


def test_time_zero_alone_is_the_start():
    x, last = complete_basis(reference, START, [0.0])
    np.testing.assert_array_equal(x[0], START)
    np.testing.assert_allclose(last[0], np.array([-1, -1, 1]) / 3)


def batch_of_systems(n, count=40, seed=0):
    c = normal(3, count, n, n, seed=seed) / math.sqrt(n)
    x0 = torch.linalg.qr(normal(count, n, n, seed=seed + 1))[0][..., : n - 1]
    return (lambda t: c[0] + c[1] * math.sin(t) + c[2] * math.cos(2 * t)), x0


@pytest.mark.parametrize("n", [2, 3, 6])
def test_the_batch_agrees_with_scipy(n):
    a, x0 = batch_of_systems(n, count=4)
    last = complete_basis_batched(a, x0, 2.0, 200)
    for k in range(4):
        _, single = complete_basis(lambda t, k=k: a(t)[k].numpy(), x0[k].numpy(), [2.0])
        np.testing.assert_allclose(last[k], single[0], rtol=1e-5, atol=1e-6)


def test_the_batch_is_of_fourth_order():
    a, x0 = batch_of_systems(3)
    w = wedge(x0)
    start = w / w.square().sum(-1, keepdim=True)
    exact = complete_flow(a, start[..., None], 2.0, 800)[..., 0]
    errors = [
        (complete_basis_batched(a, x0, 2.0, k) - exact).norm(dim=-1).median() for k in (50, 100)
    ]
    assert 3.7 < math.log2(errors[0] / errors[1]) < 4.3


def test_a_fixed_gauge_solves_where_its_component_does_not_vanish():
    a, x0 = batch_of_systems(3, count=200)
    start = wedge(x0)
    for gauge in range(3):
        last = complete_basis_batched(a, x0, 0.05, 50, gauge)
        safe = start[:, gauge].abs() > 0.3
        unit = torch.eye(3, dtype=torch.float64)[gauge]
        begin = unit / start[:, gauge : gauge + 1]
        for k in torch.nonzero(safe)[:5, 0].tolist():
            expected = integrated(lambda t, k=k: a(t)[k].numpy(), begin[k].numpy(), [0.05])[0]
            np.testing.assert_allclose(last[k], expected, rtol=1e-6, atol=1e-6)


def test_the_last_axis_often_fails_where_the_moving_gauge_does_not():
    a, x0 = batch_of_systems(6, count=150)
    first = wedge(x0)
    bad = {}
    for gauge in ("wedge", 5):
        last = complete_basis_batched(a, x0, 2.0, 100, gauge)
        start = first if gauge == "wedge" else torch.eye(6, dtype=torch.float64)[5] / first[:, 5:]
        exact = complete_flow(a, start[..., None], 2.0, 400)[..., 0]
        error = (last - exact).norm(dim=-1) / exact.norm(dim=-1)
        bad[gauge] = (~(error < 1e-3)).double().mean().item()
    assert bad["wedge"] == 0
    assert bad[5] > 0.3


def complete_flow(a, x, end, steps):
    """RK4 on ẋ = A x alone."""
    h = end / steps
    for i in range(steps):
        k1 = a(i * h) @ x
        k2 = a((i + 0.5) * h) @ (x + h / 2 * k1)
        k3 = a((i + 0.5) * h) @ (x + h / 2 * k2)
        k4 = a((i + 1) * h) @ (x + h * k3)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return x


def test_float32_stays_float32():
    a, x0 = batch_of_systems(3)
    assert (
        complete_basis_batched(lambda t: a(t).float(), x0.float(), 1.0, 10).dtype == torch.float32
    )


# --- planar orbits -----------------------------------------------------------------------------

CYCLES = {0.5: (2.0024879304, 6.3806758018, 0.0391769202593, 1.23666687, 1e-10)}
CYCLES |= {1.0: (2.0086198609, 6.6632868593, 8.59695063604e-4, 2.74317237, 1e-9)}
CYCLES |= {2.0: (2.0198913847, 7.6298744797, 1.273849304e-8, 5.98516181, 2e-8)}


def van_der_pol(mu):
    return lambda z: torch.stack([z[1], mu * (1 - z[0] ** 2) * z[1] - z[0]])


def orbit(field, start, period, steps):
    points, h, z = [torch.tensor(start, dtype=torch.float64)], period / steps, None
    for _ in range(steps):
        z = points[-1]
        k1 = field(z)
        k2 = field(z + h / 2 * k1)
        k3 = field(z + h / 2 * k2)
        k4 = field(z + h * k3)
        points.append(z + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4))
    return torch.stack(points), torch.linspace(0, period, steps + 1, dtype=torch.float64)


@pytest.mark.parametrize("mu", CYCLES)
def test_the_monodromy_of_van_der_pols_cycle(mu):
    x0, period, multiplier, lower, rtol = CYCLES[mu]
    field = van_der_pol(mu)
    flow = planar_variational_flow(field, *orbit(field, (x0, 0.0), period, 1600))
    torch.testing.assert_close(flow[0], torch.eye(2, dtype=torch.float64))
    assert torch.linalg.det(flow[-1]).item() == pytest.approx(multiplier, rel=rtol)
    expected = torch.tensor([[multiplier, 0], [lower, 1]], dtype=torch.float64)
    torch.testing.assert_close(flow[-1], expected, rtol=1e-7, atol=5e-8)


def test_the_flow_off_the_cycle_against_scipy():
    field = van_der_pol(1.0)
    z, t = orbit(field, (0.7, -0.4), 3.0, 600)
    flow = planar_variational_flow(field, z, t)

    def both(_, state):
        x, y = state[:2]
        jacobian = np.array([[0, 1], [-2 * x * y - 1, 1 - x * x]])
        velocity = [y, (1 - x * x) * y - x]
        return np.concatenate([velocity, (jacobian @ state[2:].reshape(2, 2)).ravel()])

    start = [0.7, -0.4, 1, 0, 0, 1]
    solution = solve_ivp(both, (0, 3), start, "DOP853", rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(flow[-1].ravel(), solution.y[2:, -1], rtol=1e-7, atol=1e-8)


# --- all systems with given solutions ----------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(n=st.integers(2, 6), seed=st.integers(0, 10**6))
def test_structured_generators_are_solved_and_found(n, seed):
    x, dx, free = normal(3, n, n - 1, seed=seed), normal(3, n, n - 1, seed=seed + 1), normal(3, n)
    a = structured_generator(x, dx, free)
    torch.testing.assert_close(a @ x, dx, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close((a @ wedge(x)[..., None])[..., 0], free, rtol=1e-6, atol=1e-6)


# --- bad input ---------------------------------------------------------------------------------

X = normal(2, 3, 2)
A3 = sp.eye(3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: wedge([[1.0], [2.0]]), TypeError, "x must be a floating-point tensor, got list"),
        (lambda: wedge(torch.ones(3, 2, dtype=torch.long)), TypeError, "x must be a floating"),
        (lambda: wedge(torch.ones(3, 3)), ValueError, r"x must have shape .*got \(3, 3\)"),
        (lambda: wedge(torch.ones(1, 0)), ValueError, "n >= 2"),
        (lambda: wedge(torch.ones(3)), ValueError, "x must have shape"),
        (lambda: wedge_symbolic([[1], [2]]), TypeError, "x must be a sympy matrix"),
        (lambda: wedge_symbolic(sp.eye(3)), ValueError, r"x must have shape .*\(3, 3\)"),
        (lambda: last_solution_symbolic([[1]], sp.eye(2), T), TypeError, "a must be a sympy"),
        (lambda: last_solution_symbolic(A3, A3, T), ValueError, "x must have shape"),
        (lambda: last_solution_symbolic(A3, sp.ones(2, 1), T), ValueError, "a must have shape"),
        (
            lambda: last_solution_symbolic(sp.eye(2), sp.Matrix([T, 1]), T),
            ValueError,
            "x must solve",
        ),
        (
            lambda: last_solution_symbolic(sp.zeros(3), sp.ones(3, 2), T),
            ValueError,
            "independent columns",
        ),
        (lambda: complete_basis(reference, np.eye(3), [1.0]), ValueError, "x must have shape"),
        (
            lambda: complete_basis(reference, np.ones((2, 3, 2)), [1.0]),
            ValueError,
            "x0 must have shape",
        ),
        (
            lambda: complete_basis(reference, np.ones((3, 2)), [1.0]),
            ValueError,
            "x0 must have independent columns",
        ),
        (lambda: complete_basis(reference, START, []), ValueError, "t_eval must increase"),
        (lambda: complete_basis(reference, START, [1, 1]), ValueError, "t_eval must increase"),
        (lambda: complete_basis(reference, START, [-1, 1]), ValueError, "t_eval must increase"),
        (
            lambda: complete_basis(lambda t: np.eye(2), START, [1.0]),
            ValueError,
            r"a must return shape \(3, 3\), got \(2, 2\)",
        ),
        (lambda: complete_basis(reference, START, [1.0], rtol=0), ValueError, "rtol must be pos"),
        (lambda: batched(x0=[1.0]), TypeError, "x0 must be a floating-point tensor"),
        (lambda: batched(x0=X[0]), ValueError, r"x0 must have shape \(B, n, n-1\)"),
        (lambda: batched(a=lambda t: torch.eye(3)), ValueError, r"a must return \(2, 3, 3\)"),
        (lambda: batched(t_end=0.0), ValueError, "t_end must be positive"),
        (lambda: batched(steps=0), ValueError, "steps must be at least 1, got 0"),
        (lambda: batched(steps=1.5), TypeError, "steps must be an integer, got 1.5"),
        (lambda: batched(gauge="moving"), ValueError, "gauge must be .*got 'moving'"),
        (lambda: batched(gauge=3), ValueError, "gauge must be .*got 3"),
        (lambda: planar(z=torch.zeros(3, 3)), ValueError, r"z must have shape .*\(3, 3\)"),
        (lambda: planar(t=torch.tensor([0.0, 1.0, 3.0])), ValueError, "t must be equally spaced"),
        (lambda: planar(t=torch.arange(3)), TypeError, "t must be a floating-point tensor"),
        (lambda: planar(z=torch.zeros(3, 2)), ValueError, "equilibrium"),
        (
            lambda: structured_generator(X, X[:1], X[..., 0]),
            ValueError,
            "dx must have the shape of x",
        ),
        (
            lambda: structured_generator(X, X, X[..., :2, 0]),
            ValueError,
            r"free must have shape \(..., 3\), got \(2, 2\)",
        ),
        (lambda: structured_generator(X, X.float(), X[..., 0]), TypeError, "share one dtype"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def batched(**changes):
    arguments = {"a": lambda t: torch.eye(3).double().expand(2, 3, 3), "x0": X, "t_end": 1.0}
    return complete_basis_batched(**{**arguments, "steps": 2, **changes})


def planar(**changes):
    arguments = {"field": van_der_pol(1.0), "z": torch.ones(3, 2), "t": torch.arange(3.0)}
    return planar_variational_flow(**{**arguments, **changes})


def test_a_solution_that_has_decayed_still_leads_to_the_other():
    x, last = complete_basis(lambda t: np.diag([-2.0, 1.0]), [[1], [0]], [0, 20, 100])
    assert last[:, 1] == pytest.approx(np.exp([0, 20, 100]), rel=1e-7)
    assert x[:, 0, 0] == pytest.approx(np.exp([0, -40, -200]), rel=1e-7)


def test_solutions_that_align_are_not_trusted():
    with pytest.raises(RuntimeError, match="dependent to rounding by t = 40"):
        complete_basis(lambda t: np.diag([3.0, 1, -1]), [[1, 1], [1, 2], [0, 1]], [0, 40])


def test_a_batch_whose_solutions_decay_in_single_precision():
    last = complete_basis_batched(
        lambda t: torch.tensor([[[-2.0, 0.0], [0.0, 0.1]]]),
        torch.tensor([[[1.0], [0.0]]]),
        100,
        2000,
    )
    assert last[0, 1].item() == pytest.approx(math.exp(10), rel=1e-3)


@pytest.mark.parametrize("x", [torch.zeros(1, 3, 2), torch.ones(1, 3, 2)])
def test_dependent_columns_are_refused(x):
    with pytest.raises(ValueError, match="x0 must have independent columns"):
        complete_basis_batched(lambda t: torch.zeros(1, 3, 3), x, 1.0, 3)
    with pytest.raises(ValueError, match="x must have independent columns"):
        structured_generator(x, x, torch.ones(1, 3))


# --- the exercises' hints ----------------------------------------------------------------------

PLANE = [[1, 0], [0, 1], [0, 0]]


@pytest.mark.parametrize(
    ("number", "answer", "said"),
    [
        (3, lambda: (np.diag([2, 3, 1]), PLANE), "grows at the rate 5, and a solution along w at"),
        (
            3,
            lambda: ([[1, 0, 0], [0, 1, 0], [0, 0, -2]], PLANE),
            "w is an area: it grows at the rate of the plan",
        ),
        (3, lambda: (np.diag([3, 1, -4]), PLANE), "the rate 4, and a solution along w at the rate"),
        (3, lambda: ([[0, -1, 0], [1, 0, 0], [0, 0, 0]], PLANE), "which condition must A and w"),
        (5, lambda k, t: 1 - t * math.atanh(t / k), "does it solve the equation? The antiderivat"),
        (5, lambda k, t: 1 + t / k * math.atanh(t / k), "but does it solve the equation? At t = 0"),
    ],
)
def test_a_wrong_answer_gets_a_hint_that_fits(number, answer, said):
    feedback = exercise("mathematics/linear_ode", number).check(answer)
    assert feedback.passed is False
    assert any(said in line for line in feedback.lines), feedback
