"""Probability that n random points of a disc lie in one sector, and what has the same answer.

Angles are uniform on the circle unless a density is given; the radius of a point never matters when
the apex of the sector is the centre. With gaps measured in turns, all points lie in some sector of
angle θ exactly when the longest gap between neighbours is at least x = 1 - θ/2π, so everything
follows from the longest of n uniform spacings (the pieces of a stick broken at n - 1 points).

References:
    W. L. Stevens, "Solution to a geometrical problem in probability", 1939.
    P. Lévy, "Sur la division d'un segment par des points choisis au hasard", 1939.
    J. G. Wendel, "A Problem in Geometric Probability", 1962.
    T. M. Cover, "Geometrical and Statistical Properties of Systems of Linear Inequalities with
    Applications in Pattern Recognition", 1965.
"""

import math
import sys
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from numbers import Integral, Rational, Real
from typing import Any

import mpmath as mp
import numpy as np
import torch
from numpy.polynomial import legendre
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import nnls
from torch import Tensor

from kexue_lab.precision import power_of_two, widened
from kexue_lab.validation import check_floating

# Intermediate values of the recurrence lie in [0, 1]; starting from 2**1000 instead of 1 leaves
# them 600 decimal orders before they underflow, and is undone exactly at the end. What is lost
# below is amplified on the way to the result by up to 10**(0.18 n), so it cannot be seen up to the
# largest n for which the recurrence is trusted; beyond, exact arithmetic takes over.
_HEADROOM = 1000
_LARGEST_RECURRENCE = 2000
# Bits of all terms of an exact sum: beyond, it would take minutes.
_LARGEST_EXACT = 10**9
_PANELS = 48
_NODES_PER_PANEL = 12
_NUMBERS_PER_CHUNK = 1 << 21
_SEPARABLE_RESIDUAL = 1e-8


def max_gap_cdf(n: int, x: float) -> float:
    """Return P(M ≤ x), M the longest of n uniform spacings of [0, 1], without cancellation.

    P(M ≤ x) = (n-1)! x^(n-1) f_n(1/x), where f_n, the density of a sum of n uniforms on [0, 1], is
    a cardinal B-spline whose recurrence has only non-negative terms. It is also the probability
    that n random arcs of length x cover a circle of circumference 1. Takes about 1 ms at n = 200;
    above n = 2000 the alternating sum is taken in long arithmetic.

    Args:
        n: Number of spacings, at least 1.
        x: Length as a fraction of the whole; any finite number.

    Returns:
        The probability, to a relative accuracy of about 3n rounding errors.

    Raises:
        TypeError: If `n` is not an integer or `x` not a real number.
        ValueError: If `n` < 1 or `x` is not finite.

    Source: Stevens (1939); the recurrence is de Boor's for B-splines.

    Example:
        >>> max_gap_cdf(3, 0.5)
        0.25
    """
    return _float_cdf(_count("n", n), _finite("x", x))


def max_gap_tail(n: int, x: Fraction | float) -> Fraction | float:
    """Return P(M > x), M the longest of n uniform spacings of [0, 1].

    P(M > x) = Σ_{k ≥ 1, kx < 1} (-1)^(k-1) C(n, k) (1 - kx)^(n-1). The sum is used as it stands in
    exact arithmetic; in floating point it is used only where its terms decrease.

    Args:
        n: Number of spacings, at least 1.
        x: Length as a fraction of the whole. A `Fraction` or `int` is computed exactly.

    Returns:
        A `Fraction` for a rational `x`, otherwise a float of full relative accuracy; 1 for
        x < 1/n and 0 for x ≥ 1.

    Raises:
        TypeError: If `n` is not an integer or `x` not a real number.
        ValueError: If `n` < 1 or `x` is not finite.

    Source: Lévy (1939), Stevens (1939).
    """
    n, length = _count("n", n), _finite("x", x)
    return _exact_tail(n, length) if isinstance(x, Rational) else _float_tail(n, length)


def same_sector_probability(
    n: int, theta: float | None = None, *, turn: Fraction | float | None = None
) -> Fraction | float:
    """Return the probability that n uniform points of a disc lie in one sector of a given angle.

    P_n(θ) = P(longest gap > 1 - θ/2π); for θ ≤ π this is n (θ/2π)^(n-1). The sector has its apex at
    the centre and may be turned freely.

    Args:
        n: Number of points, at least 1.
        theta: Angle of the sector in radians, in (0, 2π].
        turn: The same angle as a fraction of the full circle, in (0, 1]. A `Fraction` or `int`
            is computed exactly. Give exactly one of `theta` and `turn`.

    Returns:
        A `Fraction` for a rational `turn`, otherwise a float.

    Raises:
        TypeError: If `n` is not an integer, an angle is not a real number, or not exactly one of
            `theta` and `turn` is given.
        ValueError: If `n` < 1 or the angle is out of range.

    Example:
        >>> same_sector_probability(4, turn=Fraction(2, 3))
        Fraction(26, 27)
    """
    n = _count("n", n)
    if (theta is None) == (turn is None):
        raise TypeError(f"give exactly one of theta and turn, got theta={theta}, turn={turn}")
    if theta is not None:
        return _float_tail(n, 1 - Fraction(_angle(theta, 2 * math.pi) / (2 * math.pi)))
    part = _finite("turn", turn)
    if not 0 < part <= 1:
        raise ValueError(f"turn must be in (0, 1], got {turn}")
    return _exact_tail(n, 1 - part) if isinstance(turn, Rational) else _float_tail(n, 1 - part)


def same_sector_probability_density(
    n: int, theta: float, pdf: Callable[[NDArray[np.float64]], ArrayLike]
) -> float:
    """Return the probability that n points with a given angular density lie in one sector.

    P = n ∫ f(φ) G(φ)^(n-1) dφ with G(φ) = ∫_φ^{φ+θ} f: the events "point i is the clockwise-first
    one" are disjoint as long as θ ≤ π. Gauss-Legendre quadrature on panels that end at multiples of
    π/24, where `pdf` may have kinks or jumps; it must be smooth elsewhere.

    Args:
        n: Number of points, at least 1.
        theta: Angle of the sector in radians, in (0, π].
        pdf: Density f of the angle with respect to dφ, called with a float64 array of angles in
            [0, 2π] and returning an array of the same shape.

    Returns:
        The probability.

    Raises:
        TypeError: If `n` is not an integer, `theta` not a real number or `pdf` not callable.
        ValueError: If `n` < 1, `theta` is out of range, or `pdf` returns another shape, takes
            negative values or does not integrate to 1 within 1e-6.
    """
    n, theta = _count("n", n), _angle(theta, math.pi)
    nodes, weights, antiderivative = _gauss_legendre()
    panel = 2 * math.pi / _PANELS
    # Where f has a kink at a panel's end, f(φ + θ) has one `overhang` before such an end.
    overhang = theta % panel
    widths = np.tile([panel - overhang, overhang], _PANELS)
    starts = np.add.outer(panel * np.arange(_PANELS), [0.0, panel - overhang]).ravel()
    half = widths[:, None] / 2
    phi = starts[:, None] + half * (nodes + 1)

    density = _density_values(pdf, phi)
    total = float(np.sum(half * density * weights))
    if not abs(total - 1) <= 1e-6:
        raise ValueError(f"pdf must integrate to 1 over [0, 2π], got {total:.9g}")
    # G' = f(φ + θ) - f(φ); the constant follows from ∫ G = θ ∫ f.
    slope = half * (_density_values(pdf, (phi + theta) % (2 * math.pi)) - density)
    rise = slope @ weights
    mass = slope @ antiderivative.T + (np.cumsum(rise) - rise)[:, None]
    mass += (theta * total - np.sum(half * mass * weights)) / (2 * math.pi)
    return float(np.clip(n * np.sum(half * density * mass ** (n - 1) * weights), 0, 1))


def moving_apex_density(phi: ArrayLike, eccentricity: float) -> NDArray[Any]:
    """Return the density of the angle under which a uniform point of the unit disc is seen.

    f(φ) = ρ(φ)²/2π with ρ = -e cos φ + √(1 - e² sin² φ), the distance from the apex (e, 0) to the
    rim. Constant only for the apex at the centre, e = 0.

    Args:
        phi: Angles in radians at the apex, of any shape.
        eccentricity: Distance e of the apex from the centre, in [0, 1].

    Returns:
        Density with respect to dφ, of the shape of `phi`.

    Raises:
        TypeError: If `phi` or `eccentricity` is not real.
        ValueError: If `phi` is not finite or `eccentricity` out of range.
    """
    angles = _angles(phi)
    e = float(_finite("eccentricity", eccentricity))
    if not 0 <= e <= 1:
        raise ValueError(f"eccentricity must be in [0, 1], got {eccentricity}")
    ahead = e * np.cos(angles.astype(np.float64))
    # ρ = product/(root + ahead) = root - ahead: the form of the two that does not cancel.
    product = (1 - e) * (1 + e)
    root = np.sqrt(product + ahead**2)
    rim = np.where(ahead > 0, product / np.where(ahead > 0, root + ahead, 1), root - ahead)
    return np.asarray(rim**2 / (2 * math.pi)).astype(angles.dtype)


def square_pond_density(phi: ArrayLike) -> NDArray[Any]:
    """Return the density of the angle of a uniform point of a square, seen from its centre.

    f(φ) = r(φ)²/8 with r = 1/max(|cos φ|, |sin φ|), the distance to the rim of a square of side 2
    with its sides along the axes. Kinks at odd multiples of π/4.

    Args:
        phi: Angles in radians, of any shape.

    Returns:
        Density with respect to dφ, of the shape of `phi`.

    Raises:
        TypeError: If `phi` is not real.
        ValueError: If `phi` is not finite.
    """
    angles = _angles(phi)
    wide = angles.astype(np.float64)
    density = 0.125 / np.maximum(np.abs(np.cos(wide)), np.abs(np.sin(wide))) ** 2
    return np.asarray(density).astype(angles.dtype)


def max_circular_gap(angles: Tensor) -> Tensor:
    """Return the longest gap between neighbours on the circle.

    Args:
        angles: Angles in radians, shape (..., n) with n ≥ 1; taken modulo 2π, in any order.

    Returns:
        Longest gaps in radians, shape (...); 2π for a single point.

    Raises:
        TypeError: If `angles` is not a floating-point tensor.
        ValueError: If `angles` has no last dimension of length at least 1 or is not finite.

    Example:
        >>> max_circular_gap(torch.tensor([0.0, 1.0, 3.0]))
        tensor(3.2832)
    """
    check_floating(angles=angles)
    if angles.ndim == 0 or angles.shape[-1] == 0:
        raise ValueError(f"angles must have shape (..., n) with n >= 1, got {tuple(angles.shape)}")
    if not bool(torch.isfinite(angles).all()):
        raise ValueError("angles must be finite, got nan or inf")
    wide = angles.double()
    # sin and cos know 2π to more digits than a remainder does.
    turned = torch.where(wide.abs() < 100, wide, torch.atan2(wide.sin(), wide.cos()))
    ordered = torch.remainder(turned, 2 * math.pi).sort(dim=-1).values
    across_zero = 2 * math.pi - (ordered[..., -1:] - ordered[..., :1])
    longest = torch.cat([ordered.diff(dim=-1), across_zero], dim=-1).amax(dim=-1)
    return longest.to(angles.dtype)


def monte_carlo_same_sector(
    n: int,
    theta: float,
    samples: int,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> tuple[float, float]:
    """Estimate the probability that n uniform angles lie in one sector, by simulation.

    Works in chunks of bounded memory, so `samples` may be as large as patience allows.

    Args:
        n: Number of points, at least 1.
        theta: Angle of the sector in radians, in (0, 2π].
        samples: Number of independent trials, at least 1.
        generator: Source of randomness; torch's global one by default.
        device: Where to simulate; by default the generator's device, else the CPU.

    Returns:
        The share p of trials inside one sector, and its standard error √(p(1-p)/samples); when all
        trials agree, the deviation that a uniform prior leaves, about 1/samples.

    Raises:
        TypeError: If `n` or `samples` is not an integer or `theta` not a real number.
        ValueError: If `n` or `samples` < 1, `theta` is out of range, or `generator` lives on
            another device than `device`.
    """
    n, samples = _count("n", n), _count("samples", samples)
    longest = 2 * math.pi - _angle(theta, 2 * math.pi)
    where = torch.device(device or (generator.device if generator is not None else "cpu"))
    if generator is not None and generator.device.type != where.type:
        raise ValueError(f"generator is on device {generator.device}, but device is {where}")
    rows = max(1, _NUMBERS_PER_CHUNK // n)
    hits = torch.zeros((), dtype=torch.int64, device=where)
    for start in range(0, samples, rows):
        shape = (min(rows, samples - start), n)
        turns = torch.rand(shape, generator=generator, dtype=torch.float64, device=where)
        hits += (max_circular_gap(2 * math.pi * turns) >= longest).sum()
    estimate = int(hits) / samples
    # Some gap is at least as long as the mean one: 2π/n is certain.
    if 0 < estimate < 1 or n * longest <= 2 * math.pi:
        return estimate, math.sqrt(estimate * (1 - estimate) / samples)
    # Where all trials agree their spread says nothing: the deviation of p given this, if every p
    # was as likely before.
    return estimate, math.sqrt((samples + 1) / (samples + 3)) / (samples + 2)


def same_halfspace_probability(n: int, d: int) -> Fraction:
    """Return the probability that n random points lie in one half-space through the origin.

    W(n, d) = 2^(1-n) Σ_{k<d} C(n-1, k), for independent points of a centrally symmetric
    distribution in general position. Also the share of the 2^n labellings of n points in general
    position that a hyperplane through the origin separates; W(2d, d) = 1/2 is Cover's capacity.

    Args:
        n: Number of points, at least 1.
        d: Dimension of the space, at least 1.

    Returns:
        The exact probability.

    Raises:
        TypeError: If `n` or `d` is not an integer.
        ValueError: If `n` < 1 or `d` < 1.

    Source: Wendel (1962); Cover (1965), function-counting theorem.

    Example:
        >>> same_halfspace_probability(4, 2)
        Fraction(1, 2)
    """
    n, d = _count("n", n), _count("d", d)
    if d >= n:
        return Fraction(1)
    if n * d > _LARGEST_EXACT:
        raise ValueError(f"n * d must be at most {_LARGEST_EXACT}, got n = {n}, d = {d}")
    count, choices = 0, 1
    for k in range(d):
        count += choices
        choices = choices * (n - 1 - k) // (k + 1)
    return Fraction(count, 2 ** (n - 1))


def separable_through_origin(points: Tensor, labels: Tensor) -> bool:
    """Decide whether a hyperplane through the origin separates two classes strictly.

    Cover's homogeneous linear separability: a w exists with y_i <w, x_i> > 0 for all i. It does
    unless 0 lies in the convex hull of the y_i x_i (Gordan), that is unless non-negative least
    squares solves Σ λ_i y_i x_i = 0, Σ λ_i = 1. Points are scaled to length 1 first, and margins
    below 1e-8 count as none.

    Args:
        points: Points x_i, shape (n, d).
        labels: Classes y_i, -1 or 1, shape (n,).

    Returns:
        Whether the classes are separable.

    Raises:
        TypeError: If `points` is not a floating-point tensor or `labels` not a tensor.
        ValueError: If a shape does not fit, `points` is not finite or a label is neither -1 nor 1.

    Example:
        >>> separable_through_origin(torch.eye(2), torch.tensor([1, -1]))
        True
    """
    _check_classification(points, labels, ndim=2)
    points = points.double()
    signed, lengths = _signed(points / power_of_two(points.abs().amax(-1, keepdim=True)), labels)
    return _hull_residual(signed / np.where(lengths > 0, lengths, 1.0)) >= _SEPARABLE_RESIDUAL


def largest_margin(points: Tensor, labels: Tensor) -> float:
    """Return the largest margin with which a hyperplane through the origin separates two classes.

    γ = max over unit vectors w of min_i y_i <w, x_i>, which is the distance from the origin to the
    convex hull of the y_i x_i. Non-negative least squares finds the nearest point of the hull: with
    the weights λ = cμ, Σ μ_i = 1, and z = Σ μ_i y_i x_i it minimises c²‖z‖² + (c - 1)², and the
    least value over c is ‖z‖²/(1 + ‖z‖²).

    Args:
        points: Points x_i, shape (n, d).
        labels: Classes y_i, -1 or 1, shape (n,).

    Returns:
        The margin, in the unit of the points; 0 if the classes are not separable, or if it is less
        than about 1e-8 times the longest point.

    Raises:
        TypeError: If `points` is not a floating-point tensor or `labels` not a tensor.
        ValueError: If a shape does not fit, `points` is not finite or a label is neither -1 nor 1.
    """
    _check_classification(points, labels, ndim=2)
    points = points.double()
    unit = float(power_of_two(points.abs().max()))  # lengths must neither overflow nor vanish
    signed, lengths = _signed(points / unit, labels)
    longest = float(lengths.max())
    residual = _hull_residual(signed / longest) if longest > 0 else 0.0
    if residual < _SEPARABLE_RESIDUAL:
        return 0.0
    return unit * longest * residual / math.sqrt(1 - residual**2)


def perceptron_separates(points: Tensor, labels: Tensor, updates: int) -> Tensor:
    """Train one perceptron per problem and tell which ones ended without a mistake.

    Rosenblatt's rule without a bias, from w = 0: w ← w + y_i x_i for a point with y_i <w, x_i> ≤ 0
    (here the most violated one), once per problem and update. True proves separability; False may
    only mean too few updates, so the share of True is a lower bound on the separable share.

    Args:
        points: Points x_i of each problem, shape (problems, n, d).
        labels: Classes y_i, -1 or 1, shape (problems, n).
        updates: Largest number of corrections per problem, at least 1.

    Returns:
        Whether every point has y_i <w, x_i> > 0 in the end, bool, shape (problems,).

    Raises:
        TypeError: If `points` is not a floating-point tensor, `labels` not a tensor or `updates`
            not an integer.
        ValueError: If a shape does not fit, `points` is not finite, a label is neither -1 nor 1, or
            `updates` < 1.
    """
    _check_classification(points, labels, ndim=3)
    updates = _count("updates", updates)
    points = widened(points)
    points = points / power_of_two(points.abs().amax((-2, -1), keepdim=True))
    signed = points * labels[..., None].to(points.dtype)
    problem = torch.arange(len(signed), device=signed.device)
    weight = torch.zeros_like(signed[:, 0])
    for _ in range(updates):
        margin, worst = torch.einsum("pnd,pd->pn", signed, weight).min(dim=1)
        mistaken = margin <= 0
        if not bool(mistaken.any()):
            break
        weight = weight + mistaken[:, None] * signed[problem, worst]
    return (torch.einsum("pnd,pd->pn", signed, weight) > 0).all(dim=1)


def _signed(points: Tensor, labels: Tensor) -> tuple[NDArray[Any], NDArray[Any]]:
    """The points y_i x_i, shape (n, d), of float64 points, and their lengths, shape (n, 1)."""
    signed = (points * labels[:, None].to(points.dtype)).detach().cpu().numpy()
    return signed, np.linalg.norm(signed, axis=1, keepdims=True)


def _hull_residual(signed: NDArray[Any]) -> float:
    """The root of min ‖Σ λ_i p_i‖² + (Σ λ_i - 1)² over λ ≥ 0: 0 if the origin is in the hull."""
    system = np.vstack([signed.T, np.ones(len(signed))])
    target = np.zeros(len(system))
    target[-1] = 1.0
    return float(nnls(system, target)[1])


def _float_cdf(n: int, x: Fraction) -> float:
    if x >= 1:
        return 1.0
    if n * x <= 1:
        return 0.0
    if n > _LARGEST_RECURRENCE:
        return float(1 - _series_tail(n, x))
    # h_m(j) = (m-1)! x^(m-1) f_m(1/x - j) obeys
    # h_m(j) = (1 - jx) h_{m-1}(j) + ((m+j)x - 1) h_{m-1}(j+1),
    # and h_1 is 1 at the one j with 0 <= 1/x - j < 1. Integer division rounds the weights
    # correctly: computed in floats they would lose their digits where jx is close to 1.
    p, q = x.numerator, x.denominator
    weight = [(i * p - q) / q for i in range(n + 1)]
    top = q // p
    values = [0.0] * top + [2.0**_HEADROOM, 0.0]
    for m in range(2, n + 1):
        for j in range(max(0, top - m + 1), min(top, n - m) + 1):
            values[j] = weight[m + j] * values[j + 1] - weight[j] * values[j]
    return min(1.0, math.ldexp(values[0], -_HEADROOM))


def _series_tail(n: int, x: Fraction) -> Any:
    """The tail for large n by its alternating sum, in as many digits as the terms cancel.

    The k-th term is at most first**k / k!, so they sum to at most e**first; and P(M ≤ x) is at most
    e**-first, since spacings below x make each other less likely. The number is mpmath's.
    """
    first = n * math.exp((n - 1) * math.log1p(-float(x))) if float(x) < 1 else 0.0
    if first > 750:
        return mp.mpf(1)
    with mp.workprec(round(1.5 * first) + 1300):
        length = mp.mpf(x.numerator) / x.denominator
        total, choices, k = mp.mpf(0), mp.mpf(1), 1
        while k * x < 1:
            choices = choices * (n - k + 1) / k
            term = choices * (1 - k * length) ** (n - 1)
            total += term if k % 2 else -term
            if k > first and term < mp.ldexp(total, -mp.mp.prec):
                break
            k += 1
        return +total


def _exact_tail(n: int, x: Fraction) -> Fraction:
    if x >= 1:
        return Fraction(0)
    if n * x <= 1:
        return Fraction(1)
    p, q = x.numerator, x.denominator
    if (n - 1) * q.bit_length() * len(_active(x)) > _LARGEST_EXACT:
        raise ValueError(f"n must be smaller for an exact result, got {n}: pass x as a float")
    terms = ((-1) ** (k - 1) * math.comb(n, k) * (q - k * p) ** (n - 1) for k in _active(x))
    return Fraction(sum(terms), q ** (n - 1))


def _float_tail(n: int, x: Fraction) -> float:
    if x >= 1:
        return 0.0
    if n * x <= 1:
        return 1.0
    # The k-th term is at most first**k / k!: up to first = 1 the sum has no cancellation to speak
    # of, beyond it the tail is so large that 1 - cdf has none.
    if n > _LARGEST_RECURRENCE:
        return float(_series_tail(n, x))
    if n * float(1 - x) ** (n - 1) > 1:
        return 1.0 - _float_cdf(n, x)
    total = 0.0
    for k in _active(x):
        term = math.comb(n, k) * float(1 - k * x) ** (n - 1)
        total += term if k % 2 else -term
        if term <= sys.float_info.epsilon * total:
            break
    return total


def _active(x: Fraction) -> range:
    """All k ≥ 1 with kx < 1."""
    return range(1, (x.denominator - 1) // x.numerator + 1)


@lru_cache(maxsize=1)
def _gauss_legendre() -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Nodes, weights and the matrix from values at the nodes to integrals from -1 to the nodes."""
    nodes, weights = legendre.leggauss(_NODES_PER_PANEL)
    to_coefficients = np.linalg.inv(legendre.legvander(nodes, _NODES_PER_PANEL - 1))
    integrals = legendre.legint(to_coefficients, lbnd=-1)
    return nodes, weights, legendre.legvander(nodes, _NODES_PER_PANEL) @ integrals


def _density_values(
    pdf: Callable[[NDArray[np.float64]], ArrayLike], phi: NDArray[np.float64]
) -> NDArray[np.float64]:
    if not callable(pdf):
        raise TypeError(f"pdf must be callable, got {pdf!r}")
    values = np.asarray(pdf(phi), dtype=np.float64)
    if values.shape != phi.shape:
        raise ValueError(f"pdf must return shape {phi.shape} for angles of it, got {values.shape}")
    if (values < 0).any():
        raise ValueError(f"pdf must not be negative, got {values.min():.6g}")
    return values


def _count(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if int(value) < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return int(value)


def _finite(name: str, value: object) -> Fraction:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a real number, got {value!r}")
    if isinstance(value, Rational):
        return Fraction(value)
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")
    return Fraction(float(value))


def _angle(theta: float, largest: float) -> float:
    angle = float(_finite("theta", theta))
    if not 0 < angle <= largest:
        turns = "π" if largest == math.pi else "2π"
        raise ValueError(f"theta must be in (0, {turns}], got {theta}")
    return angle


def _angles(phi: ArrayLike) -> NDArray[Any]:
    angles = np.asarray(phi)
    if angles.dtype.kind not in "fiu":
        raise TypeError(f"phi must be real numbers, got dtype {angles.dtype}")
    if not np.isfinite(angles).all():
        raise ValueError("phi must be finite, got nan or inf")
    return angles if angles.dtype.kind == "f" else angles.astype(np.float64)


def _check_classification(points: Tensor, labels: Tensor, ndim: int) -> None:
    check_floating(points=points)
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels must be a tensor, got {type(labels).__name__}")
    if points.ndim != ndim or 0 in points.shape:
        axes = "(n, d)" if ndim == 2 else "(problems, n, d)"
        raise ValueError(f"points must have shape {axes}, none empty, got {tuple(points.shape)}")
    if labels.shape != points.shape[:-1]:
        raise ValueError(
            f"labels must have shape {tuple(points.shape[:-1])}, got {tuple(labels.shape)}"
        )
    if not bool(torch.isfinite(points).all()):
        raise ValueError("points must be finite, got nan or inf")
    wrong = labels[(labels != 1) & (labels != -1)]
    if len(wrong):
        raise ValueError(f"labels must be -1 or 1, got {wrong[0].item()}")
