"""What the exercises of diffusion/diffusion_ode check."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.stats import norm

from kexue_lab.exercises import Exercise, Mistake

Array = NDArray[np.float64]
Inputs = Iterator[tuple[Any, ...]]

_TURN = np.array([[0.0, -1.0], [1.0, 0.0]])


# ---------------------------------------------------------------------------- 1: the diffusivity


def _powers(rng: np.random.Generator) -> Inputs:
    yield 2.0, 1.5
    for _ in range(5):
        yield float(rng.uniform(0.6, 4)), float(rng.uniform(0.2, 3))


def _diffusivity(k: float, t: float) -> float:
    return float(k * t ** (2 * k - 1))


# ---------------------------------------------------------------------------- 2: a velocity


def _moving_gaussians(rng: np.random.Generator) -> Inputs:
    yield np.array([-1.0, 0.0, 2.0]), 0.0, 1.5, 0.0, 1.0
    for _ in range(4):
        m, m_dot, v_dot = rng.normal(size=3)
        yield rng.normal(size=4), float(m), float(rng.uniform(0.3, 3)), float(m_dot), float(v_dot)


def _velocity(x: Array, m: float, v: float, m_dot: float, v_dot: float) -> Array:
    return m_dot + v_dot / (2 * v) * (x - m)


# ---------------------------------------------------------------------------- 3: transport


def _mixtures(rng: np.random.Generator) -> Inputs:
    """A point, a noise level and a mixture of two Gaussians."""
    yield 0.0, 10.0, np.array([0.3, 0.7]), np.array([-1.5, 1.0]), np.array([0.3, 0.5])
    for _ in range(3):
        sigma, weight = float(rng.uniform(0.5, 8)), float(rng.uniform(0.2, 0.8))
        means, sds = np.array([-1.0, 1.0]) * rng.uniform(1, 2, 2), rng.uniform(0.3, 0.7, 2)
        # Where the data's own distribution function is neither 0 nor 1 to rounding, so that who
        # goes in the other direction gets a number.
        x = float(rng.uniform(means[0] - 2 * sds[0], means[1] + 2 * sds[1]))
        yield x, sigma, np.array([weight, 1 - weight]), means, sds


def _cdf(x: float, sigma: float, weights: Array, means: Array, sds: Array) -> float:
    return float(weights @ norm.cdf(x, means, np.hypot(sds, sigma)))


def _transport(x: float, sigma: float, weights: Array, means: Array, sds: Array) -> float:
    level = _cdf(x, sigma, weights, means, sds)
    root: float = brentq(lambda y: _cdf(y, 0.0, weights, means, sds) - level, -30, 30, xtol=1e-13)
    return root


def _noised(x: float, sigma: float, weights: Array, means: Array, sds: Array) -> float:
    level = _cdf(x, 0.0, weights, means, sds)
    root: float = brentq(
        lambda y: _cdf(y, sigma, weights, means, sds) - level, -300, 300, xtol=1e-13
    )
    return root


def _rescaled(x: float, sigma: float, weights: Array, means: Array, sds: Array) -> float:
    mean = float(weights @ means)
    variance = float(weights @ (sds**2 + means**2)) - mean**2
    return mean + (x - mean) * float(np.sqrt(variance / (variance + sigma**2)))


def _denoised(x: float, sigma: float, weights: Array, means: Array, sds: Array) -> float:
    """E[x_0 | x]: one jump along the tangent."""
    total = sds**2 + sigma**2
    shares = weights * norm.pdf(x, means, np.sqrt(total))
    return float(shares @ (means + sds**2 / total * (x - means)) / shares.sum())


# ---------------------------------------------------------------------------- 4: a gauge field


def _covariances(rng: np.random.Generator) -> Inputs:
    yield (np.diag([1.0, 0.25]),)
    for _ in range(4):
        shape = rng.normal(size=(2, 2))
        yield (shape @ shape.T + np.diag([0.8, 0.3]),)


def _judge_gauge(G: Any, C: Array) -> str | None:
    """What is wrong with the field Gx for the density N(0, C); None if it keeps the density."""
    field = np.asarray(G, dtype=np.float64)
    if field.shape != (2, 2) or not np.isfinite(field).all():
        return f"G must be a finite (2, 2) array, got shape {field.shape}"
    size = np.abs(field).max()
    if size < 1e-6:
        return "G = 0 changes nothing; find one that turns the paths"
    field = field / size
    points = np.random.default_rng().normal(size=(20, 2)) @ np.linalg.cholesky(C).T
    # ∇·(pR)/p = ∇·R + R·∇ log p
    pull = -np.einsum("bi,bi->b", points @ field.T, np.linalg.solve(C, points.T).T)
    worst = np.abs(np.trace(field) + pull).max()
    if worst > 1e-8:
        return f"∇·(pR)/p is not 0: at some point it is {worst:.4g}"
    return None


# ---------------------------------------------------------------------------- 5: the floor


def _noisy_mixtures(rng: np.random.Generator) -> Inputs:
    for _, sigma, *mixture in _mixtures(rng):
        yield (min(sigma, 1 + sigma / 8), *mixture)


def _fisher(sigma: float, weights: Array, means: Array, sds: Array) -> float:
    total = sds**2 + sigma**2

    def integrand(x: float) -> float:
        parts = weights * norm.pdf(x, means, np.sqrt(total))
        slope = parts @ ((means - x) / total)
        return float(slope**2 / parts.sum())

    reach = 9 * float(np.sqrt(total.max()))
    value: float = quad(integrand, means[0] - reach, means[1] + reach, limit=200, epsabs=1e-11)[0]
    return value


def _gaussian_floor(sigma: float, variance: Any) -> Any:
    return variance / (sigma**2 * (variance + sigma**2))


def _matched_floor(sigma: float, weights: Array, means: Array, sds: Array) -> float:
    variance = weights @ (sds**2 + means**2) - (weights @ means) ** 2
    return float(_gaussian_floor(sigma, variance))


def _mean_floor(sigma: float, weights: Array, means: Array, sds: Array) -> float:
    return float(weights @ _gaussian_floor(sigma, sds**2))


EXERCISES = (
    Exercise(
        title="the diffusivity of a power of t",
        solution=_diffusivity,
        inputs=_powers,
        mistakes=(
            Mistake(
                "half the variance",
                lambda k, t: t ** (2 * k) / 2,
                "σ² = 2∫D dt, so D is half the *derivative* of σ²",
            ),
            Mistake(
                "the SDE's rate",
                lambda k, t: 2 * k * t ** (2 * k - 1),
                "that is dσ²/dt, the g² of an SDE; the heat equation has half of it",
            ),
            Mistake(
                "the speed of σ",
                lambda k, t: k * t ** (k - 1),
                "that is dσ/dt; D = σ dσ/dt",
            ),
        ),
    ),
    Exercise(
        title="a velocity for a moving Gaussian",
        solution=_velocity,
        inputs=_moving_gaussians,
        mistakes=(
            Mistake(
                "without the half",
                lambda x, m, v, m_dot, v_dot: m_dot + v_dot / v * (x - m),
                "lengths grow like √v, and d ln √v/dt = v_dot/(2v)",
            ),
            Mistake(
                "the mean stays",
                lambda x, m, v, m_dot, v_dot: v_dot / (2 * v) * (x - m),
                "the mean moves too: add m_dot",
            ),
            Mistake(
                "about the origin",
                lambda x, m, v, m_dot, v_dot: m_dot + v_dot / (2 * v) * x,
                "the density spreads about its mean m, not about 0",
            ),
        ),
    ),
    Exercise(
        title="follow the ODE without solving it",
        solution=_transport,
        inputs=_mixtures,
        mistakes=(
            Mistake(
                "rescaling",
                _rescaled,
                "shrinking about the mean is right for one Gaussian only; "
                "what the flow keeps is the distribution function's value",
            ),
            Mistake(
                "the mean datum",
                _denoised,
                "E[x_0|x] is where the tangent at σ points; the curve bends",
            ),
            Mistake(
                "its own level",
                lambda x, sigma, weights, means, sds: x,
                "take the level F_σ(x), then solve F_0(y) = level for y",
            ),
            Mistake(
                "the other direction",
                _noised,
                "this goes from the data to the noise: x is at noise level sigma, its image "
                "among the data.",
            ),
        ),
        rtol=1e-6,
        atol=1e-8,
    ),
    Exercise(
        title="a gauge field for N(0, C)",
        solution=lambda C: C @ _TURN,
        inputs=_covariances,
        judge=_judge_gauge,
        mistakes=(
            Mistake(
                "outwards",
                lambda C: np.eye(2),
                "R = x spreads the density: ∇·(pR) is not 0",
            ),
            Mistake(
                "a plain rotation",
                lambda C: _TURN,
                "a rotation runs along circles; the level sets of p are ellipses",
            ),
            Mistake(
                "the factors in the wrong order",
                lambda C: np.linalg.solve(C, _TURN),
                "C⁻¹G must be antisymmetric; here it is C⁻²J",
            ),
            Mistake(
                "C on the wrong side",
                lambda C: _TURN @ C,
                "C⁻¹G must be antisymmetric; with G = JC it is C⁻¹JC.",
            ),
        ),
    ),
    Exercise(
        title="the loss of a perfect network",
        solution=lambda sigma, weights, means, sds: (
            1 / sigma**2 - _fisher(sigma, weights, means, sds)
        ),
        inputs=_noisy_mixtures,
        mistakes=(
            Mistake(
                "nothing",
                lambda sigma, weights, means, sds: 0.0,
                "the target −ε/σ is random given x; nobody can predict it without error",
            ),
            Mistake("the Fisher information", _fisher, "that is E s²; subtract it from 1/σ²"),
            Mistake(
                "the target's variance",
                lambda sigma, weights, means, sds: 1 / sigma**2,
                "1/σ² is the loss of the network that always answers 0; the score does better",
            ),
            Mistake(
                "a Gaussian of the same variance",
                _matched_floor,
                "this is the loss for a single Gaussian of the mixture's variance; the mixture's"
                " score is not linear.",
            ),
            Mistake(
                "the mean of the components",
                _mean_floor,
                "a mixture's score is no mean of the components' scores with fixed weights: "
                "integrate over x.",
            ),
        ),
        rtol=1e-6,
        atol=1e-8,
    ),
)
