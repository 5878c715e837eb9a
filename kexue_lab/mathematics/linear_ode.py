"""The last solution of a linear system ẋ = A(t) x of which n − 1 solutions are known.

With X = [x_1 … x_{n−1}] of full rank, their generalised cross product w (so that det[X | v] = w·v)
obeys ẇ = (tr A − Aᵀ) w, and x_n = X c + φ w solves the system if

    φ = D/‖w‖²,   D = exp ∫ tr A,   ċ = φ X⁺ (A + Aᵀ) w :

integrals of known functions only. Any v(t) with w·v ≠ 0 may be added in place of w (another gauge);
a fixed coordinate vector gives d'Alembert's reduction, which breaks down where that component of w
vanishes.
Source: kexue.fm/archives/2644; Hartman, "Ordinary Differential Equations", chapter IV.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import sympy as sp
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import solve_ivp
from torch import Tensor

from kexue_lab.precision import length, narrowed, power_of_two, widened
from kexue_lab.validation import check_count, check_floating, check_positive, check_precise

Array = NDArray[np.float64]
# Solutions shorter than this are brought to length 1 while they are integrated.
_DECAYED = 1e-3


def wedge(x: Tensor) -> Tensor:
    """Return the generalised cross product w of n − 1 columns: det[x | v] = w·v for every v.

    w_i = (−1)^{i+n} det(x without row i). It is orthogonal to the columns, ‖w‖² = det xᵀx, and for
    n = 3 it is the cross product.

    Args:
        x: (..., n, n−1) floating point, n ≥ 2.

    Returns:
        (..., n).

    Raises:
        TypeError: if x is not a floating-point tensor.
        ValueError: if x has another shape.

    Source: w is what remains when det[x | v] is expanded along its last column.

    Example:
        >>> wedge(torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]]))
        tensor([ 2., -2.,  1.])
    """
    check_floating(x=x)
    _check_columns(x.shape)
    n = x.shape[-2]
    others = torch.tensor([[j for j in range(n) if j != i] for i in range(n)], device=x.device)
    signs = torch.tensor([(-1.0) ** (i + n - 1) for i in range(n)], dtype=x.dtype, device=x.device)
    # Small minors are expanded: a batched LU costs more than the few products themselves.
    minors = widened(x)[..., others, :]
    w = signs * (_small_det(minors) if n <= 4 else torch.linalg.det(minors))
    return w.to(x.dtype)


def _small_det(m: Tensor) -> Tensor:
    """The determinant of (..., k, k) for k ≤ 3, by its first row."""
    k = m.shape[-1]
    if k == 1:
        return m[..., 0, 0]
    if k == 2:
        return m[..., 0, 0] * m[..., 1, 1] - m[..., 0, 1] * m[..., 1, 0]
    volume: Tensor = (m[..., 0, :] * torch.linalg.cross(m[..., 1, :], m[..., 2, :])).sum(-1)
    return volume


def wedge_symbolic(x: sp.Matrix) -> sp.Matrix:
    """Return the generalised cross product of the n − 1 columns of a sympy matrix, (n, 1).

    Raises:
        TypeError: if x is not a sympy matrix.
        ValueError: if x is not n × (n−1) with n ≥ 2.

    Source: as `wedge`.

    Example:
        >>> a, b = sp.symbols("a b")
        >>> wedge_symbolic(sp.Matrix([a, b]))
        Matrix([
        [-b],
        [ a]])
    """
    if not isinstance(x, sp.MatrixBase):
        raise TypeError(f"x must be a sympy matrix, got {type(x).__name__}")
    _check_columns(x.shape)
    n = x.rows
    rows = [[j for j in range(n) if j != i] for i in range(n)]
    return sp.Matrix([(-1) ** (i + n - 1) * x[rows[i], :].det() for i in range(n)])


def last_solution_symbolic(
    a: sp.Matrix, x: sp.Matrix, t: sp.Symbol, t0: sp.Expr | int = 0
) -> sp.Matrix:
    """Return the solution x_n = X ∫ φ X⁺(A + Aᵀ)w + φ w of ẋ = A x in closed form, (n, 1).

    The integrals run from t0. What sympy cannot integrate stays an `Integral`.

    Args:
        a: A(t), n × n.
        x: n − 1 known solutions in columns, n × (n−1), independent.
        t: the time.
        t0: where the integrals begin, and det[X | x_n] = 1.

    Raises:
        TypeError: if a or x is not a sympy matrix.
        ValueError: if the shapes disagree, the columns of x do not solve ẋ = A x, or they are
            linearly dependent.

    Source: the module's formula.

    Example:
        >>> t = sp.Symbol("t", positive=True)
        >>> last_solution_symbolic(sp.Matrix([[0, 0], [1, 0]]), sp.Matrix([1, t]), t)
        Matrix([
        [0],
        [1]])
    """
    for name, matrix in (("a", a), ("x", x)):
        if not isinstance(matrix, sp.MatrixBase):
            raise TypeError(f"{name} must be a sympy matrix, got {type(matrix).__name__}")
    _check_columns(x.shape)
    if a.shape != (x.rows, x.rows):
        raise ValueError(f"a must have shape ({x.rows}, {x.rows}), got {a.shape}")
    residual = sp.simplify(x.diff(t) - a * x)
    if not residual.is_zero_matrix:
        raise ValueError(f"x must solve x' = a x, got the residual {residual.tolist()}")
    w = wedge_symbolic(x)
    norm = sp.simplify(w.dot(w))
    if norm == 0:
        raise ValueError("x must have independent columns, got w = 0")

    def quadrature(f: sp.Expr) -> sp.Expr:
        s = sp.Dummy("s", real=True)
        return sp.integrate(sp.simplify(f).subs(t, s), (s, t0, t))

    phi = sp.simplify(sp.exp(quadrature(a.trace()))) / norm
    slope = phi * (x.T * x).LUsolve(x.T * (a + a.T) * w)
    return sp.simplify(x * slope.applyfunc(quadrature) + phi * w)


def complete_basis(
    a: Callable[[float], ArrayLike],
    x0: ArrayLike,
    t_eval: ArrayLike,
    rtol: float = 1e-10,
    atol: float = 1e-12,
) -> tuple[Array, Array]:
    """Integrate n − 1 solutions of ẋ = A x and, by quadratures along them, the missing one.

    Starts at t = 0 with x_n = w/‖w‖² (that is, c = 0). The pseudo-inverse comes from a QR
    factorisation: XᵀX would square the condition number, which grows as the solutions align.

    Args:
        a: A, from a time to (n, n).
        x0: (n, n−1), the known solutions at t = 0.
        t_eval: (T,) increasing times ≥ 0.
        rtol: relative tolerance of the integrator, `scipy.integrate.solve_ivp` with DOP853.
        atol: its absolute tolerance.

    Returns:
        The known solutions (T, n, n−1) and the last one (T, n), at `t_eval`.

    Raises:
        ValueError: if x0 has another shape or dependent columns, a returns another shape, or the
            times are not increasing from 0 on.
        RuntimeError: if the integrator gives up, or the known solutions have aligned so far that
            their directions are lost in rounding.

    Source: the module's formula; det[X | x_n] = D is Liouville's check.

    Example:
        >>> x, last = complete_basis(lambda t: [[0, 0], [1, 0]], [[1], [0]], [0.0, 2.0])
        >>> np.allclose(last, [0, 1])
        True
    """
    start = np.asarray(x0, dtype=np.float64)
    _check_columns(start.shape)
    if start.ndim != 2:
        raise ValueError(f"x0 must have shape (n, n-1), got {start.shape}")
    n = len(start)
    if _is_deficient(torch.from_numpy(start)):
        raise ValueError(f"x0 must have independent columns, got rank < {n - 1}: {start.tolist()}")
    clock = np.asarray(t_eval, dtype=np.float64)
    if clock.ndim != 1 or not clock.size or clock[0] < 0 or not (np.diff(clock) > 0).all():
        raise ValueError(f"t_eval must increase from 0 on, got {clock}")
    if np.shape(a(0.0)) != (n, n):
        raise ValueError(f"a must return shape ({n}, {n}), got {np.shape(a(0.0))}")
    check_positive(rtol=rtol, atol=atol)

    entries = n * (n - 1)

    def slope(t: float, state: Array) -> Array:
        matrix = np.asarray(a(t), dtype=np.float64)
        x = state[:entries].reshape(n, n - 1)
        w = wedge(torch.from_numpy(x)).numpy()
        q, r = np.linalg.qr(x)
        phi = np.exp(state[-1]) / (w @ w)
        dc = phi * np.linalg.solve(r, q.T @ ((matrix + matrix.T) @ w))
        return np.concatenate([(matrix @ x).ravel(), dc, [np.trace(matrix)]])

    knowns, lasts, due = [], [], clock
    now, state = 0.0, np.concatenate([start.ravel(), np.zeros(n)])
    columns, size_of_last = np.ones(n - 1), 1.0
    while len(due):
        times, states, now, state = _integrate(slope, now, state, due, rtol, atol)
        x, last = _unpacked(states, n)
        _check_independent(x, times, rtol)
        knowns.append(x * columns)
        lasts.append(last * size_of_last)
        due = due[len(times) :]
        state, lengths, size = _rescaled(state, n)
        columns, size_of_last = columns * lengths, size_of_last * size
    return np.concatenate(knowns), np.concatenate(lasts)


def _integrate(
    slope: Callable[[float, Array], Array],
    start: float,
    state: Array,
    due: Array,
    rtol: float,
    atol: float,
) -> tuple[Array, Array, float, Array]:
    """Integrate until a solution has decayed: times done, states there, time and state reached."""
    n = round(math.sqrt(len(state)))  # a state is X, c and ln D: n(n − 1) + n − 1 + 1 numbers
    if due[-1] == start:
        return due, state[:, None], start, state

    def decayed(_: float, y: Array) -> float:
        x, last = _unpacked(y[:, None], n)
        return (
            min(float(np.linalg.norm(x[0], axis=0).min()), float(np.linalg.norm(last))) - _DECAYED
        )

    decayed.terminal, decayed.direction = True, -1  # type: ignore[attr-defined]
    solution = solve_ivp(
        slope, (start, due[-1]), state, "DOP853", t_eval=due, rtol=rtol, atol=atol, events=decayed
    )
    if not solution.success or not np.isfinite(solution.y).all():
        raise RuntimeError(f"the integrator gave up: {solution.message}")
    if solution.status == 0:
        return solution.t, solution.y, float(due[-1]), solution.y[:, -1]
    states = solution.y if len(solution.t) else np.empty((len(state), 0))
    return solution.t, states, float(solution.t_events[0][0]), solution.y_events[0][0]


def _unpacked(states: Array, n: int) -> tuple[Array, Array]:
    """The known solutions (T, n, n−1) and the last one (T, n) of states (n², T): X, c, ln D."""
    size = n * (n - 1)
    x = states[:size].T.reshape(-1, n, n - 1)
    w = wedge(torch.from_numpy(x)).numpy()
    phi = np.exp(states[-1]) / np.square(w).sum(-1)
    return x, (x @ states[size:-1].T[..., None])[..., 0] + phi[:, None] * w


def _rescaled(state: Array, n: int) -> tuple[Array, Array, float]:
    """The same state with columns and last solution of length 1, and their lengths.

    The integrator's absolute tolerance would drown solutions that have decayed below it.
    """
    size = n * (n - 1)
    x, last = _unpacked(state[:, None], n)
    columns, length = np.linalg.norm(x[0], axis=0), float(np.linalg.norm(last))
    c = state[size:-1] * columns / length
    log_d = state[-1] - np.log(columns).sum() - math.log(length)
    return np.concatenate([(x[0] / columns).ravel(), c, [log_d]]), columns, length


def _check_independent(x: Array, times: Array, rtol: float) -> None:
    for t, columns in zip(times, x, strict=True):
        smallest = np.linalg.svd(columns / np.linalg.norm(columns, axis=0), compute_uv=False)[-1]
        if not smallest > max(10 * rtol, 1e-13):
            raise RuntimeError(f"the known solutions became dependent to rounding by t = {t:g}")


def complete_basis_batched(
    a: Callable[[float], Tensor],
    x0: Tensor,
    t_end: float,
    steps: int,
    gauge: Literal["wedge"] | int = "wedge",
) -> Tensor:
    """Return the last solution at `t_end` of a batch of systems, by RK4 on (X, c, ln D).

    Starts at t = 0 with c = 0, so that x_n(0) = v/(w·v) for the gauge v: w itself, or the fixed
    coordinate vector e_i. With e_i the integrand is infinite where w_i = 0.

    Args:
        a: A, from a time to (B, n, n) in the dtype of x0.
        x0: (B, n, n−1), the known solutions at t = 0.
        t_end: end of the integration, > 0.
        steps: number of RK4 steps.
        gauge: "wedge" or the index i in 0 … n−1.

    Returns:
        (B, n).

    Raises:
        TypeError: if x0 is not float32 or float64, or steps is not an integer.
        ValueError: if x0 or a(0) has another shape, columns of x0 are dependent, steps < 1,
            t_end ≤ 0, or gauge is unknown.

    Source: with v = w, the module's formula; with v = e_i, d'Alembert's reduction of order.
    """
    check_precise(x0=x0)
    _check_columns(x0.shape)
    if x0.ndim != 3:
        raise ValueError(f"x0 must have shape (B, n, n-1), got {tuple(x0.shape)}")
    n = x0.shape[1]
    if a(0.0).shape != (len(x0), n, n):
        raise ValueError(f"a must return ({len(x0)}, {n}, {n}), got {tuple(a(0.0).shape)}")
    check_positive(t_end=t_end)
    check_count(steps=steps)
    if _is_deficient(x0):
        raise ValueError("x0 must have independent columns in every system, got a deficient rank")
    if gauge != "wedge" and (not isinstance(gauge, int) or not 0 <= gauge < n):
        raise ValueError(f'gauge must be "wedge" or an index below {n}, got {gauge!r}')

    def slope(matrix: Tensor, x: Tensor, log_d: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        phi, direction = _gauge_vector(x, log_d, gauge)
        if gauge == "wedge":
            target = (matrix @ direction + matrix.mT @ direction)[..., 0]
        else:
            target = (matrix @ direction)[..., 0]
        dc = phi[:, None] * _left_solve(x, target, gauge)
        return matrix @ x, dc, matrix.diagonal(dim1=-2, dim2=-1).sum(-1)

    x, c, log_d = x0, x0.new_zeros(len(x0), n - 1), x0.new_zeros(len(x0))
    h = t_end / steps
    for i in range(steps):
        begin, middle, end = a(i * h), a((i + 0.5) * h), a((i + 1) * h)
        k1 = slope(begin, x, log_d)
        k2 = slope(middle, x + h / 2 * k1[0], log_d + h / 2 * k1[2])
        k3 = slope(middle, x + h / 2 * k2[0], log_d + h / 2 * k2[2])
        k4 = slope(end, x + h * k3[0], log_d + h * k3[2])
        x, c, log_d = (
            value + h / 6 * (p + 2 * q + 2 * r + s)
            for value, p, q, r, s in zip((x, c, log_d), k1, k2, k3, k4, strict=True)
        )
        x, c, log_d = _balanced(x, c, log_d)
    phi, direction = _gauge_vector(x, log_d, gauge)
    return (x @ c[..., None])[..., 0] + phi[:, None] * direction[..., 0]


def _balanced(x: Tensor, c: Tensor, log_d: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same solution from columns of a size whose products neither vanish nor overflow."""
    unit = power_of_two(x.abs().amax(-2))
    unit = torch.where((unit > 2.0**-20) & (unit < 2.0**20), 1.0, unit)
    return x / unit[:, None], c * unit, log_d - unit.log().sum(-1)


def _gauge_vector(x: Tensor, log_d: Tensor, gauge: Literal["wedge"] | int) -> tuple[Tensor, Tensor]:
    """φ = D/(w·v), (B,), and the gauge's vector v, (B, n, 1)."""
    w = wedge(x)
    if gauge == "wedge":
        return log_d.exp() / w.square().sum(-1), w[..., None]
    unit = torch.zeros_like(w)
    unit[:, gauge] = 1
    return log_d.exp() / w[:, gauge], unit[..., None]


def _left_solve(x: Tensor, target: Tensor, gauge: Literal["wedge"] | int) -> Tensor:
    """The k of x k + (multiple of v) = target: by QR for v = w, by the other rows for v = e_i."""
    if gauge == "wedge":
        q, r = torch.linalg.qr(x)
        k: Tensor = torch.linalg.solve_triangular(r, q.mT @ target[..., None], upper=True)[..., 0]
        return k
    rows = [j for j in range(x.shape[1]) if j != gauge]
    # A singular system gives infinities, as the quadrature does there: nothing is raised.
    solution: Tensor = torch.linalg.solve_ex(x[:, rows], target[:, rows])[0]
    return solution


def planar_variational_flow(field: Callable[[Tensor], Tensor], z: Tensor, t: Tensor) -> Tensor:
    """Return the flow of the variational equation ẋ = Df(z(t)) x along a planar orbit ż = f(z).

    The velocity f(z) is one solution for free; the other comes from the quadratures of the
    module's formula, by the cumulative Simpson rule.

    Args:
        field: f, from (2,) to (2,), differentiable by autograd and vmap.
        z: (T, 2), the orbit at the times t.
        t: (T,), equally spaced and increasing.

    Returns:
        (T, 2, 2), the identity at t[0].

    Raises:
        TypeError: if z or t is not a floating-point tensor, or their dtypes disagree.
        ValueError: if the shapes disagree, T < 3, t is not uniform, or f vanishes on the orbit.

    Source: Diliberto, "On systems of ordinary differential equations", 1950.
    """
    check_precise(z=z, t=t)
    if t.ndim != 1 or len(t) < 3 or z.shape != (len(t), 2):
        raise ValueError(
            f"z must have shape (T, 2) and t (T,) with T >= 3, got {tuple(z.shape)}, "
            f"{tuple(t.shape)}"
        )
    steps = t.diff()
    if not (steps > 0).all() or not torch.allclose(steps, steps.mean(), rtol=1e-6):
        raise ValueError(f"t must be equally spaced and increasing, got steps {steps.tolist()}")
    velocity = torch.func.vmap(field)(z)
    norm = velocity.square().sum(-1)
    if not (norm > 0).all():
        raise ValueError("z must not touch an equilibrium: field vanishes on it")

    jacobian = torch.func.vmap(torch.func.jacrev(field))(z)
    w = torch.stack([-velocity[:, 1], velocity[:, 0]], -1)
    h = float(steps.mean())
    log_d = _cumulative_simpson(jacobian.diagonal(dim1=-2, dim2=-1).sum(-1), h)
    phi = log_d.exp() / norm
    symmetric = torch.einsum("ti,tij,tj->t", velocity, jacobian + jacobian.mT, w)
    c = _cumulative_simpson(phi * symmetric / norm, h)
    other = c[:, None] * velocity + phi[:, None] * w
    basis = torch.stack([velocity, other], -1)
    flow: Tensor = basis @ torch.linalg.inv(basis[0])
    return flow


def _cumulative_simpson(f: Tensor, h: float) -> Tensor:
    """∫ f from the first point to each: parabolas through three neighbours, of order h⁴."""
    first = (5 * f[:-2] + 8 * f[1:-1] - f[2:]) * (h / 12)  # left halves of each triple
    second = (-f[:-2] + 8 * f[1:-1] + 5 * f[2:]) * (h / 12)  # right halves
    inner = 0.5 * (first[1:] + second[:-1])  # every inner cell lies in two triples
    cells = torch.cat([first[:1], inner, second[-1:]])
    return torch.cat([f.new_zeros(1), cells.cumsum(0)])


def structured_generator(x: Tensor, dx: Tensor, free: Tensor) -> Tensor:
    """Return A = Ẋ X⁺ + a wᵀ/‖w‖², the matrices of all systems that the columns of X solve.

    n unknown functions a = A w instead of the n² of a free A.

    Args:
        x: X, (..., n, n−1), of full rank.
        dx: Ẋ, of the shape of x.
        free: a, (..., n).

    Returns:
        (..., n, n).

    Raises:
        TypeError: if an argument is not float32 or float64, or the dtypes disagree.
        ValueError: if the shapes disagree, the columns of x are dependent, or A overflows.

    Source: A X = Ẋ fixes A on the columns of X, and a = A w is free.
    """
    check_precise(x=x, dx=dx, free=free)
    _check_columns(x.shape)
    if dx.shape != x.shape:
        raise ValueError(f"dx must have the shape of x, {tuple(x.shape)}, got {tuple(dx.shape)}")
    if free.shape[-1:] != x.shape[-2:-1]:
        raise ValueError(f"free must have shape (..., {x.shape[-2]}), got {tuple(free.shape)}")
    if _is_deficient(x):
        raise ValueError("x must have independent columns, got a deficient rank")
    unit = power_of_two(x.abs().amax((-2, -1), keepdim=True))
    x, dx = x / unit, dx / unit
    w = wedge(x)
    q, r = torch.linalg.qr(x)
    # Ẋ X⁺ = Ẋ R⁻¹ Qᵀ, with R⁻¹ from the right.
    known = torch.linalg.solve_triangular(r, dx, upper=True, left=False) @ q.mT
    outer = free[..., :, None] * (w / w.square().sum(-1, keepdim=True))[..., None, :]
    return narrowed(known + outer / unit ** (x.shape[-1]), x.dtype, "A")


def _is_deficient(x: Tensor) -> bool:
    """Whether columns of one of the matrices are dependent to rounding, whatever their lengths."""
    lengths = length(x, -2, keepdim=True)
    directions = x / torch.where(lengths > 0, lengths, 1)
    return bool((torch.linalg.matrix_rank(directions) < x.shape[-1]).any())


def _check_columns(shape: tuple[int, ...]) -> None:
    if len(shape) < 2 or shape[-2] < 2 or shape[-1] != shape[-2] - 1:
        raise ValueError(f"x must have shape (..., n, n-1) with n >= 2, got {tuple(shape)}")
