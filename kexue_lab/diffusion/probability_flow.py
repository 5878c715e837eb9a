"""The Fokker–Planck equation on a grid, and the family of processes that share its solution.

For the forward SDE dx = f_t dt + g_t dw with marginal densities p_t, every κ ≥ 0 gives a process
dx = [f_t − ½(1 − κ) g_t² ∇ log p_t] dt + √κ g_t dw with the same p_t, and the reverse process
dx = [f_t − ½(1 + κ) g_t² ∇ log p_t] dt + √κ g_t dw̄. κ = 0 is the probability-flow ODE in both
directions; κ = 1 reversed is Anderson's reverse SDE.
Source: Song et al., "Score-Based Generative Modeling through SDEs", arXiv:2011.13456.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.sparse import csc_matrix, identity
from scipy.sparse.linalg import splu
from scipy.special import exprel, ndtri
from torch import Tensor

from kexue_lab.diffusion.mixtures import GaussianMixture
from kexue_lab.diffusion.schedules import NoiseSchedule, Score
from kexue_lab.precision import narrowed, widened
from kexue_lab.validation import (
    check_choice,
    check_count,
    check_monotone,
    check_non_negative,
    check_points,
    check_precise,
)

Array = NDArray[np.float64]


def fokker_planck_generator(
    edges: ArrayLike, drift: Callable[[Array], Array], diffusion: float
) -> csc_matrix:
    """Return the matrix L of ṗ = L p for ∂p/∂t = −∂(fp)/∂x + ½g² ∂²p/∂x² on a grid.

    Exponentially fitted fluxes between cells: columns sum to 0 (no flux through the ends), off the
    diagonal L ≥ 0, and for linear f the exact equilibrium exp(∫2f/g²) at the cell centres is in
    the null space. With `diffusion` 0 the fluxes are upwind, of first order.

    Args:
        edges: (n + 1,) equally spaced increasing cell edges.
        drift: f, from the (n − 1,) interior edges to an array of that shape.
        diffusion: g² ≥ 0.

    Returns:
        (n, n) `scipy.sparse.csc_matrix` that acts on cell averages.

    Raises:
        ValueError: if edges are not equally spaced and increasing, diffusion is negative or not
            finite, or drift returns another shape or values that are not finite.

    Source: Scharfetter & Gummel 1969; Chang & Cooper, J. Comput. Phys. 6 (1970).
    """
    grid = _check_edges(edges)
    return _assemble(_hop_rates(grid, lambda x: (drift(x),), diffusion, 1), len(grid) - 1, 1)


def fokker_planck_generator_2d(
    edges: ArrayLike, drift: Callable[[Array, Array], tuple[Array, Array]], diffusion: float
) -> csc_matrix:
    """Return the matrix L of ṗ = L p for ∂p/∂t = −∇·(fp) + ½g² ∇²p on a square grid.

    Args:
        edges: (n + 1,) equally spaced increasing cell edges, the same on both axes.
        drift: (x, y) ↦ (f_x, f_y), arrays of one shape; called on the faces of each direction.
        diffusion: g² ≥ 0; 0 means upwind fluxes.

    Returns:
        (n², n²) `scipy.sparse.csc_matrix` that acts on cell averages p[x, y] in C order.

    Raises:
        ValueError: as `fokker_planck_generator`.

    Source: `fokker_planck_generator`, one direction at a time.
    """
    grid = _check_edges(edges)
    return _assemble(_hop_rates(grid, drift, diffusion, 2), len(grid) - 1, 2)


def solve_fokker_planck(
    p0: ArrayLike,
    edges: ArrayLike,
    drift: Callable[..., Any],
    diffusion: Callable[[float], float],
    times: ArrayLike,
    *,
    theta: float = 0.5,
) -> Array:
    """Solve ∂p/∂t = −∇·(fp) + ½g_t² ∇²p in one or two dimensions, one θ-step between given times.

    (1 − θ Δt L) p_new = (1 + (1 − θ) Δt L) p with L at the middle of the step. θ = ½ is
    Crank–Nicolson, of second order, and certainly positive if Δt max|L_ii| ≤ 2; θ = 1 is backward
    Euler, of first order and always positive. Mass is conserved to rounding.

    Args:
        p0: cell averages at times[0], (n,) or (n, n); see `cell_averages`.
        edges: (n + 1,) equally spaced increasing cell edges (of both axes).
        drift: f as (t, x) ↦ array, or (t, x, y) ↦ (f_x, f_y) in two dimensions.
        diffusion: t ↦ g_t² ≥ 0.
        times: (m,) increasing.
        theta: weight of the implicit part, in [0.5, 1].

    Returns:
        (m, n) or (m, n, n): p at each of `times`, the first being p0.

    Raises:
        ValueError: if p0 does not fit the edges, is negative or not finite, times are not
            increasing, theta is outside [0.5, 1], or as `fokker_planck_generator`.
    """
    grid = _check_edges(edges)
    n = len(grid) - 1
    p = np.asarray(p0, dtype=np.float64)
    if p.shape not in ((n,), (n, n)):
        raise ValueError(f"p0 must have shape ({n},) or ({n}, {n}), got {p.shape}")
    if not (np.isfinite(p) & (p >= 0)).all():
        raise ValueError(f"p0 must be non-negative and finite, got minimum {p.min()}")
    clock = np.asarray(times, dtype=np.float64)
    if clock.ndim != 1 or clock.size == 0 or not np.isfinite(clock).all():
        raise ValueError(f"times must be one-dimensional and finite, got {clock}")
    if not (np.diff(clock) > 0).all():
        raise ValueError(f"times must be one-dimensional and increasing, got {clock}")
    if not 0.5 <= theta <= 1:
        raise ValueError(f"theta must lie in [0.5, 1], got {theta}")

    path = [p.ravel()]
    unit = identity(p.size, format="csc")
    rates, step = np.empty(0), 0.0
    for start, end in pairwise(clock.tolist()):
        middle = 0.5 * (start + end)
        new_rates = _hop_rates(grid, _frozen(drift, middle, p.ndim), diffusion(middle), p.ndim)
        # Equal steps differ by the rounding of the times; a factorisation serves them all.
        if not (math.isclose(end - start, step, rel_tol=1e-9) and np.array_equal(rates, new_rates)):
            rates, step = new_rates, end - start
            generator = _assemble(rates, n, p.ndim)
            implicit = splu(unit - theta * step * generator)
        path.append(implicit.solve(path[-1] + (1 - theta) * step * (generator @ path[-1])))
    return np.stack(path).reshape(-1, *p.shape)


def cell_averages(density: Callable[[Array], Array], edges: ArrayLike) -> Array:
    """Return the averages (n,) of a density over n equal cells, by four Gauss–Legendre points each.

    Exact for polynomials of degree 7, and, unlike differences of a distribution function, accurate
    relative to the density itself in both tails.

    Args:
        density: p, from an array of points to an array of its shape.
        edges: (n + 1,) equally spaced increasing cell edges.

    Raises:
        ValueError: if edges are not equally spaced and increasing, or density returns another
            shape.

    Example:
        >>> cell_averages(lambda x: x**2, [0.0, 1.0, 2.0])
        array([0.33333333, 2.33333333])
    """
    points, weights = _gauss_points(edges)
    values = _evaluate_density(density, points)
    return values.reshape(-1, len(weights)) @ weights


def cell_averages_2d(density: Callable[[Array, Array], Array], edges: ArrayLike) -> Array:
    """Return the averages (n, n) of a density over square cells, by 4 × 4 Gauss–Legendre points.

    Args:
        density: p(x, y), from two arrays of one shape to an array of that shape.
        edges: (n + 1,) equally spaced increasing cell edges, the same on both axes.

    Raises:
        ValueError: if edges are not equally spaced and increasing, or density returns another
            shape.
    """
    points, weights = _gauss_points(edges)
    values = _evaluate_density(density, *np.meshgrid(points, points, indexing="ij"))
    n, m = len(points) // len(weights), len(weights)
    return np.asarray(np.einsum("iajb,a,b->ij", values.reshape(n, m, n, m), weights, weights))


def family_drift(
    x: Tensor,
    t: float,
    score: Score,
    schedule: NoiseSchedule,
    kappa: float = 0.0,
    *,
    reverse: bool = False,
) -> Tensor:
    """Return the drift f_t x − ½(1 ∓ κ) g_t² ∇ log p_t of the family, − forward and + reverse.

    With noise √κ g_t dw every κ has the marginals of the forward SDE (κ = 1 is that SDE). The
    reverse drift belongs to dt < 0. Source: Song et al., arXiv:2011.13456, appendix D.

    Args:
        x: (B, d).
        t: time in [0, 1].
        score: (x: (B, d), t) ↦ ∇ log p_t(x), (B, d).
        schedule: gives f_t and g_t².
        kappa: κ = σ_t²/g_t² ≥ 0; it may exceed 1.
        reverse: the drift of the reverse process.

    Raises:
        ValueError: if kappa is negative or not finite, x is not (B, d), t is outside [0, 1] or g_t²
            infinite there (t = 1 of the cosine schedule), or the score's shape is not that of x.
        TypeError: if x is not a floating-point tensor.
    """
    check_points(x=x)
    check_non_negative(kappa=kappa)
    gradient = score(x, t)
    if gradient.shape != x.shape:
        raise ValueError(f"score must return shape {tuple(x.shape)}, got {tuple(gradient.shape)}")
    f, rate = schedule.drift(t), schedule.diffusion_squared(t)
    if not math.isfinite(rate):
        raise ValueError(f"t must be a time of finite g_t², got {t}")
    factor = 1 + kappa if reverse else 1 - kappa
    drift = f * widened(x) - 0.5 * factor * rate * widened(gradient)
    return drift if drift.dtype == x.dtype else narrowed(drift, x.dtype, "the drift")


@torch.no_grad()
def sample_family(
    score: Score,
    schedule: NoiseSchedule,
    x: Tensor,
    times: Sequence[float] | Tensor,
    kappa: float = 0.0,
    *,
    generator: torch.Generator | None = None,
    return_path: bool = False,
) -> Tensor:
    """Move points along a member of the family by Euler(–Maruyama) steps between given times.

    Increasing times run the forward process, decreasing times the reverse one. Each step evaluates
    the score at the time where it starts. Source: Maruyama 1955; Song et al., arXiv:2011.13456.

    Args:
        score: (x: (B, d), t) ↦ ∇ log p_t(x), (B, d).
        schedule: gives f_t and g_t².
        x: (B, d), points distributed as p at times[0].
        times: (m,), m ≥ 2, strictly increasing or strictly decreasing in [0, 1].
        kappa: κ = σ_t²/g_t² ≥ 0; 0 draws no noise (the ODE).
        generator: source of the noise.
        return_path: return the points at every time.

    Returns:
        (B, d) at times[-1], or (m, B, d) with `return_path`; without gradients.

    Raises:
        ValueError: if times are not strictly monotone or outside [0, 1], or as `family_drift`.
        TypeError: if x is not a floating-point tensor.
    """
    check_points(x=x)
    check_precise(x=x)
    check_non_negative(kappa=kappa)
    clock = check_monotone(1.0, times=times)
    reverse = clock[1] < clock[0]
    path = [x]
    for t, u in pairwise(clock):
        x = x + (u - t) * family_drift(x, t, score, schedule, kappa, reverse=reverse)
        if kappa > 0:
            scale = math.sqrt(kappa * schedule.diffusion_squared(t) * abs(u - t))
            x = x + scale * torch.randn(
                x.shape, generator=generator, dtype=x.dtype, device=x.device
            )
        if return_path:
            path.append(x)
    return torch.stack(path) if return_path else x


@torch.no_grad()
def log_likelihood(
    x: Tensor,
    score: Score,
    schedule: NoiseSchedule,
    *,
    t0: float = 0.0,
    t1: float = 1.0,
    n_steps: int = 100,
    prior: Callable[[Tensor], Tensor] | None = None,
    divergence: Literal["exact", "hutchinson"] = "exact",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return log p_{t0}(x) by the probability-flow ODE, (B,).

    log p_{t0}(x) = log p_{t1}(x_{t1}) + ∫ ∇·v dt along ẋ = v = f_t x − ½g_t² ∇ log p_t, by Heun's
    method at times t_k = t0 + (t1 − t0)(k/n)², which are dense where p_t is sharp; the error is of
    second order in 1/n. Hutchinson's estimator zᵀ(∂v/∂x)z, with one z of random signs for each
    point kept along its path, is unbiased for the integral.
    Source: Chen et al., arXiv:1806.07366; Grathwohl et al., arXiv:1810.01367; Song et al.,
    arXiv:2011.13456, appendix D.2.

    Args:
        x: (B, d), points at time t0.
        score: (x: (B, d), t) ↦ ∇ log p_t(x), (B, d), differentiable by autograd (no `no_grad`
            inside), each row depending on its own point only.
        schedule: gives f_t and g_t².
        t0: time of the density that is computed.
        t1: time of the prior; t0 < t1.
        n_steps: number n of steps from t0 to t1.
        prior: (B, d) ↦ log p_{t1}, (B,); the standard normal by default.
        divergence: "exact" costs d backward passes for each evaluation, "hutchinson" one.
        generator: source of the random signs.

    Returns:
        (B,) in nats, without gradients.

    Raises:
        ValueError: unless 0 ≤ t0 < t1 ≤ 1, n_steps ≥ 1 and divergence is one of the two; or as
            `family_drift`.
        TypeError: if x is not a floating-point tensor.
    """
    check_points(x=x)
    check_precise(x=x)
    if not 0 <= t0 < t1 <= 1:
        raise ValueError(f"t0 and t1 must satisfy 0 <= {t0} < {t1} <= 1")
    check_count(n_steps=n_steps)
    check_choice(Literal["exact", "hutchinson"], divergence=divergence)
    if divergence == "exact":
        # Row i of every point's Jacobian at once; rows do not mix points.
        probes = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)[:, None, :].expand(
            -1, *x.shape
        )
    else:
        signs = torch.randint(0, 2, x.shape, generator=generator, device=x.device)
        probes = (2 * signs - 1).to(x)[None]

    def field(points: Tensor, t: float) -> tuple[Tensor, Tensor]:
        velocity, pull, *_ = torch.func.vjp(lambda y: family_drift(y, t, score, schedule), points)
        products = torch.func.vmap(lambda probe: pull(probe)[0])(probes)
        return velocity, (products * probes).sum((0, 2))

    integral = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    progress = np.linspace(0, 1, n_steps + 1) ** 2
    clock = t0 * (1 - progress) + t1 * progress
    for t, u in pairwise(clock.tolist()):
        start, start_divergence = field(x, t)
        end, end_divergence = field(x + (u - t) * start, u)
        x = x + 0.5 * (u - t) * (start + end)
        integral = integral + 0.5 * (u - t) * (start_divergence + end_divergence)
    return (prior or _standard_normal_log_prob)(x) + integral


def quantile_map(
    x0: Tensor, mixture: GaussianMixture, schedule: NoiseSchedule, t0: float, t1: float
) -> Tensor:
    """Return F_{t1}⁻¹(F_{t0}(x)) for a one-dimensional mixture: the exact flow of the ODE, (B, 1).

    In one dimension the continuity equation keeps F_t(x_t) constant along the probability flow.
    Solved point by point (`scipy.optimize.brentq`) in float64, from the nearer tail; t1 < t0 is
    allowed.

    Args:
        x0: (B, 1), points at time t0.
        mixture: the data at time 0, d = 1.
        schedule: gives ᾱ_t and β̄_t.
        t0: time of x0.
        t1: time of the result.

    Raises:
        ValueError: if the mixture is not one-dimensional, x0 is not (B, 1) or lies so far out that
            the tail probability underflows, or t0 or t1 is outside [0, 1].
        TypeError: if x0 is not a floating-point tensor.

    Example:
        >>> weights, means = torch.tensor([0.5, 0.5]), torch.tensor([[-1.0], [1.0]])
        >>> data = GaussianMixture(weights, means, torch.tensor([0.04, 0.04]))
        >>> quantile_map(torch.tensor([[0.9]]), data, NoiseSchedule.cosine(), 0.0, 0.5)
        tensor([[0.4512]])
    """
    check_points(x0=x0)
    start = schedule.alpha_bar(t0), schedule.beta_bar(t0)
    end = schedule.alpha_bar(t1), schedule.beta_bar(t1)
    mirrored = GaussianMixture(mixture.weights, -mixture.means, mixture.variances)
    below, above = mixture.cdf(x0.double(), *start), mirrored.cdf(-x0.double(), *start)
    if not ((below > 0) & (above > 0)).all():
        raise ValueError(f"x0 lies too far out, a tail probability underflows: {x0.tolist()}")
    mapped = [
        _quantile(mixture, low, *end) if low < high else -_quantile(mirrored, high, *end)
        for low, high in zip(below.tolist(), above.tolist(), strict=True)
    ]
    return torch.tensor(mapped, dtype=x0.dtype, device=x0.device)[:, None]


def _quantile(mixture: GaussianMixture, level: float, alpha_bar: float, beta_bar: float) -> float:
    means = alpha_bar * mixture.means[:, 0].double()
    scales = (alpha_bar**2 * mixture.variances.double() + beta_bar**2).sqrt()
    # The mixture's quantile lies between the smallest and the largest of the components'.
    quantiles = means + scales * float(ndtri(level))
    widest = float(scales.max())

    def excess(x: float) -> float:
        point = torch.tensor([[x]], dtype=torch.float64, device=means.device)
        return float(mixture.cdf(point, alpha_bar, beta_bar)) - level

    low, high = float(quantiles.min()) - widest, float(quantiles.max()) + widest
    return float(brentq(excess, low, high, xtol=1e-14 * widest, maxiter=1000))


def _gauss_points(edges: ArrayLike) -> tuple[Array, Array]:
    """Four Gauss–Legendre points in every cell, (4n,), and their weights (4,) of sum 1."""
    grid = _check_edges(edges)
    nodes, weights = np.polynomial.legendre.leggauss(4)
    centres, half = 0.5 * (grid[1:] + grid[:-1]), 0.5 * np.diff(grid)
    return (centres[:, None] + half[:, None] * nodes).ravel(), 0.5 * weights


def _evaluate_density(density: Callable[..., Array], *points: Array) -> Array:
    values = np.asarray(density(*points), dtype=np.float64)
    if values.shape != points[0].shape:
        raise ValueError(f"density must return shape {points[0].shape}, got {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("density must return finite values, got nan or infinity")
    return values


def _hop_rates(
    edges: Array, drift: Callable[..., Sequence[Array]], diffusion: float, dimension: int
) -> Array:
    """Rates at which mass hops over each inner face, (2, faces): upwards, downwards.

    The flux up·p_i − down·p_{i+1} is exact for constant flux, f and g² between two cell centres:
    up = (g²/2h²) B(−z), down = (g²/2h²) B(z) with z = 2fh/g².
    """
    if not (diffusion >= 0 and math.isfinite(diffusion)):
        raise ValueError(f"diffusion must be non-negative and finite, got {diffusion}")
    spacing = (edges[-1] - edges[0]) / (len(edges) - 1)
    centres = 0.5 * (edges[1:] + edges[:-1])
    rates = []
    for axis in range(dimension):
        axes = [edges[1:-1] if i == axis else centres for i in range(dimension)]
        points = np.meshgrid(*axes, indexing="ij")
        components = drift(*points)
        if len(components) != dimension:
            raise ValueError(f"drift must return {dimension} components, got {len(components)}")
        velocity = np.asarray(components[axis], dtype=np.float64)
        if velocity.shape != points[0].shape or not np.isfinite(velocity).all():
            raise ValueError(
                f"drift must return finite values of shape {points[0].shape}, "
                f"got shape {velocity.shape}"
            )
        # B(z) = z/(e^z − 1) = 1/exprel(z) obeys B(−z) = z + B(z): upwind plus what diffusion adds,
        # which stays exact down to diffusion 0.
        spread = 0.0
        if diffusion > 0:
            with np.errstate(over="ignore", divide="ignore"):
                peclet = 2 * np.abs(velocity) * spacing / diffusion
                spread = 0.5 * diffusion / spacing**2 / exprel(peclet)
        with np.errstate(over="ignore"):
            up = np.maximum(velocity, 0) / spacing + spread
            down = np.maximum(-velocity, 0) / spacing + spread
        rates.append(np.stack([up.ravel(), down.ravel()]))
    result = np.concatenate(rates, axis=1)
    if not np.isfinite(result).all():
        raise ValueError(f"edges must leave finite rates, got spacing {spacing:g}")
    return result


def _assemble(rates: Array, n: int, dimension: int) -> csc_matrix:
    """The matrix of these hops on n**dimension cells: what leaves one cell enters its neighbour."""
    cells = np.arange(n**dimension).reshape(dimension * (n,))
    first = np.arange(n - 1)
    lower = np.concatenate([cells.take(first, axis).ravel() for axis in range(dimension)])
    upper = np.concatenate([cells.take(first + 1, axis).ravel() for axis in range(dimension)])
    up, down = rates
    rows = np.concatenate([upper, lower, lower, upper])
    columns = np.concatenate([lower, lower, upper, upper])
    return csc_matrix(
        (np.concatenate([up, -up, down, -down]), (rows, columns)), shape=(cells.size, cells.size)
    )


def _frozen(drift: Callable[..., Any], t: float, dimension: int) -> Callable[..., Sequence[Array]]:
    """The drift at time t as a function of the coordinates, with a component for each axis."""
    return lambda *x: (drift(t, *x),) if dimension == 1 else drift(t, *x)


def _standard_normal_log_prob(x: Tensor) -> Tensor:
    return -0.5 * (x.square().sum(-1) + x.shape[1] * math.log(2 * math.pi))


def _check_edges(edges: ArrayLike) -> Array:
    grid = np.asarray(edges, dtype=np.float64)
    if grid.ndim != 1 or len(grid) < 3 or not np.isfinite(grid).all():
        raise ValueError(f"edges must be at least three finite numbers in a row, got {grid}")
    widths = np.diff(grid)
    if not (widths > 0).all() or not np.allclose(widths, widths[0], rtol=1e-8, atol=0):
        raise ValueError(f"edges must be equally spaced and increasing, got {grid}")
    return grid
