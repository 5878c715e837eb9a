"""What the exercises of optimization/simsiam check."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import sympy as sp
from scipy.optimize import brentq

from kexue_lab.exercises import Exercise, Mistake
from kexue_lab.optimization.simsiam import toy_limit

Inputs = Iterator[tuple[Any, ...]]
Array = np.ndarray


# ---------------------------------------------------------------------------- 1: a quick predictor


def _races(rng: np.random.Generator) -> Inputs:
    for _ in range(4):
        phi0, theta0, a = rng.uniform(0.2, 0.8), rng.uniform(0.3, 0.9), rng.uniform(2, 9)
        yield float(phi0), float(theta0), float(a ** rng.choice([-1, 1]))
    yield 1.1, 0.95, 3.0


# ---------------------------------------------------------------------------- 2: a start that dies


def _harm(answer: Any) -> str | None:
    """What is wrong with a start at which stopping the gradient shall cause the collapse."""
    try:
        phi0, theta0 = (float(v) for v in answer)
    except (TypeError, ValueError):
        return "return two numbers: φ and θ at the start"
    if not (abs(phi0) <= 100 and 0 < theta0 <= 100):
        return f"φ must lie between -100 and 100, θ between 0 and 100, got {phi0:g}, {theta0:g}"
    if abs(phi0 - 1) < 1e-3:
        return "at φ = 1 nothing moves, with or without a stopped gradient"
    stopped, whole = (toy_limit(phi0, theta0, mode)[1] for mode in ("stop_gradient", "full"))
    if stopped > 0:
        return f"with the gradient stopped the encoder lives: θ ends at {stopped:.3g}"
    if whole <= 0.1:
        return f"with the whole gradient θ ends at {whole:.3g}, and should end above 0.1"
    return None


# ------------------------------------------------------------------------ 3: a share of the best


def _shares(rng: np.random.Generator) -> Inputs:
    for _ in range(5):
        kappa, sigma2, eta = rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.9), rng.uniform(0.01, 0.1)
        yield float(kappa), float(sigma2), float(eta)
    yield 1.0, 0.3, 0.05


# ---------------------------------------------------------------------------- 4: many views


def _symbols(_rng: np.random.Generator) -> Inputs:
    yield (sp.Symbol("m", positive=True),)
    yield (sp.Symbol("n", positive=True),)


# ---------------------------------------------------------------------------- 5: a detector


def _clouds(rng: np.random.Generator) -> Inputs:
    d = 8
    spread = rng.standard_normal((60, d))
    one = rng.standard_normal(d)
    line = rng.standard_normal((60, 1)) * one
    yield (spread,)
    yield (one + 0.02 * rng.standard_normal((60, d)),)
    yield (line + 0.005 * rng.standard_normal((60, d)),)
    yield (line,)
    yield (1e-3 * spread,)  # short features in all directions
    yield (40 * (one / np.linalg.norm(one) + 0.01 * rng.standard_normal((60, d))),)  # long ones
    yield (0.7 * np.sqrt(d) * one / np.linalg.norm(one) + spread,)  # beside the origin
    lengths = np.exp(1.5 * rng.standard_normal((60, 1)))
    yield (lengths * (one + 0.03 * rng.standard_normal((60, d))),)  # of all lengths, one direction
    yield (one + 0.1 * line * rng.standard_normal(d) / np.abs(line).max(),)  # both kinds at once
    yield (np.hstack([np.sign(line[:, :1]), 0.15 * spread[:, 1:]]),)  # two points, and much noise
    yield (np.eye(d)[0] + 0.15 * rng.standard_normal((400, d)),)  # a common part, and all else
    for share, powers in ((0.93, range(d)), (1.07, range(d)), (1.07, [0] + [1] * (d - 1))):
        yield (_shrunk(spread, np.array(powers), share * d / 3),)


def _shrunk(z: Array, powers: Array, ratio: float) -> Array:
    """Features whose columns are multiplied by powers of a factor that gives them this ratio."""

    def excess(factor: float) -> float:
        return _participation(_eigenvalues(z * factor**powers)) - ratio

    columns: Array = z * brentq(excess, 0.1, 1) ** powers
    return columns


def _eigenvalues(z: Array) -> Array:
    """Those of the covariance of the directions."""
    values: Array = np.linalg.eigvalsh(np.cov((z / np.linalg.norm(z, axis=1, keepdims=True)).T))
    return values.clip(0)


def _participation(values: Array) -> float:
    return float(values.sum() ** 2 / (values**2).sum())


def _kind(
    z: Array,
    *,
    unit: bool = True,
    centre: bool = True,
    rank: Callable[[Array], float] = _participation,
) -> int:
    """0: healthy, 1: complete collapse, 2: dimensional collapse."""
    z = z / np.linalg.norm(z, axis=1, keepdims=True) if unit else z
    d = z.shape[1]
    centred = z - z.mean(0) if centre else z
    covariance = centred.T @ centred / (len(z) - 1)
    if np.trace(covariance) < 0.2**2:
        return 1
    return 2 if rank(np.linalg.eigvalsh(covariance).clip(0)) < d / 3 else 0


def _centred_first(z: Array) -> int:
    return _kind(z - z.mean(0))


def _spread_only(z: Array) -> int:
    kind = _kind(z)
    return 0 if kind == 2 else kind


def _mean_kept(z: Array) -> int:
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    rank = _participation(np.linalg.eigvalsh(unit.T @ unit).clip(0))
    return 1 if _kind(z) == 1 else 2 if rank < z.shape[1] / 3 else 0


def _per_dimension(z: Array) -> int:
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    return 1 if unit.std(0, ddof=1).mean() < 0.2 else _rank_only(z)


def _rank_first(z: Array) -> int:
    return _rank_only(z) or _kind(z)


def _rank_only(z: Array) -> int:
    return 2 if _participation(_eigenvalues(z)) < z.shape[1] / 3 else 0


def _positive(values: Array) -> float:
    return float((values > 1e-9).sum())


def _above(share: float) -> Callable[[Array], float]:
    """How many eigenvalues exceed a share of the largest."""
    return lambda values: float((values > share * values.max()).sum())


def _entropy_rank(values: Array) -> float:
    shares = values[values > 0] / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


EXERCISES = (
    Exercise(
        "where the encoder ends beside a predictor of another speed",
        solution=lambda phi0, theta0, a: math.sqrt(theta0**2 + (1 - phi0**2) / a),
        inputs=_races,
        mistakes=(
            Mistake(
                "as if a were 1",
                lambda phi0, theta0, a: math.sqrt(theta0**2 + 1 - phi0**2),
                "the speed a is missing: divide θ' by φ': where does a stand?",
            ),
            Mistake(
                "times a",
                lambda phi0, theta0, a: math.sqrt(abs(theta0**2 + a * (1 - phi0**2))),
                "a is upside down. Divide θ' by φ': where does a stand? A quick predictor leaves "
                "the encoder less time.",
            ),
            Mistake(
                "the whole gradient",
                lambda phi0, theta0, a: math.sqrt(max(theta0**2 - (1 - phi0) ** 2 / a, 0)),
                "that is what the whole gradient keeps; the stopped one moves θ by (1 - φ)φθ.",
                variants=(
                    lambda phi0, theta0, a: math.sqrt(max(theta0**2 - (1 - phi0) ** 2, 0)),
                    lambda phi0, theta0, a: math.sqrt(max(theta0**2 - a * (1 - phi0) ** 2, 0)),
                ),
            ),
            Mistake(
                "the constant itself",
                lambda phi0, theta0, a: math.sqrt(max(theta0**2 - phi0**2 / a, 0)),
                "that is the root of what stays; where does φ end?",
            ),
            Mistake(
                "a at the end only",
                lambda phi0, theta0, a: math.sqrt(max(theta0**2 - phi0**2 + 1 / a, 0)),
                "what stays is θ² - φ²/a, with the a at the start as at the end.",
            ),
            Mistake(
                "the square",
                lambda phi0, theta0, a: theta0**2 + (1 - phi0**2) / a,
                "that is θ²; asked for is θ.",
            ),
            Mistake(
                "a on the encoder's square too",
                lambda phi0, theta0, a: math.sqrt(abs(theta0**2 + 1 - phi0**2) / a),
                "what stays is θ² - φ²/a: only φ² is divided by a.",
            ),
            Mistake(
                "a squared",
                lambda phi0, theta0, a: math.sqrt(theta0**2 + (1 - phi0**2) / a**2),
                "separate dθ/dφ = φ/(aθ): a comes in once.",
            ),
        ),
    ),
    Exercise(
        "a start from which stopping the gradient causes the collapse",
        solution=lambda: (2.0, 1.4),
        judge=_harm,
        mistakes=(
            Mistake(
                "the article's start",
                lambda: (0.6, 0.1),
                "there it is the other way round. Where does the force of the stopped motion "
                "point to θ = 0?",
            ),
            Mistake(
                "both live",
                lambda: (0.6, 0.5),
                "between 0 and 1 the stopped motion always goes away from θ = 0; leave that strip.",
            ),
            Mistake(
                "both die on the left",
                lambda: (-0.5, 0.4),
                "to the left of 0 the whole gradient collapses wherever the stopped one does: "
                "compare the two conditions of (2) there.",
            ),
            Mistake(
                "too small on the right",
                lambda: (2.0, 0.5),
                "θ must be above the roof |1 - φ| for the whole gradient to spare it.",
            ),
            Mistake(
                "too large on the right",
                lambda: (2.0, 1.9),
                "that is above both: with the gradient stopped, φ² - θ² against 1 is what counts.",
            ),
        ),
    ),
    Exercise(
        "how fast a mode grows beside a predictor held at a share of the best",
        solution=lambda kappa, sigma2, eta: 2 * (kappa * (1 - kappa) / (1 + sigma2) - eta),
        inputs=_shares,
        mistakes=(
            Mistake(
                "the best predictor's bracket",
                lambda kappa, sigma2, eta: 2 * (kappa / (1 + sigma2) - eta),
                "the bracket 1 - (1 + σ²)p is not 1: at the best predictor it is 0.",
            ),
            Mistake(
                "the share alone in the bracket",
                lambda kappa, sigma2, eta: (
                    2 * (kappa / (1 + sigma2) * (1 - kappa * (1 + sigma2)) - eta)
                ),
                "put p = κ/(1 + σ²) into the bracket 1 - (1 + σ²)p: there (1 + σ²) cancels.",
            ),
            Mistake(
                "the predictor in the bracket",
                lambda kappa, sigma2, eta: (
                    2 * (kappa / (1 + sigma2) * (1 - kappa / (1 + sigma2)) - eta)
                ),
                "(1 + σ²)p is κ, so that the bracket is 1 - κ.",
            ),
            Mistake(
                "the share in front",
                lambda kappa, sigma2, eta: 2 * (kappa * (1 - kappa) - eta),
                "in front of the bracket stands p, which is κ/(1 + σ²).",
            ),
            Mistake(
                "growth once",
                lambda kappa, sigma2, eta: kappa * (1 - kappa) / (1 + sigma2) - 2 * eta,
                "s is a square: its growth, too, is twice as fast.",
            ),
            Mistake(
                "no predictor in front",
                lambda kappa, sigma2, eta: 2 * (1 - kappa - eta),
                "s' has a factor p in front of the bracket.",
            ),
            Mistake(
                "the rate of the encoder",
                lambda kappa, sigma2, eta: kappa * (1 - kappa) / (1 + sigma2) - eta,
                "that is how fast θ grows; s is its square.",
            ),
            Mistake(
                "without decay",
                lambda kappa, sigma2, eta: 2 * kappa * (1 - kappa) / (1 + sigma2),
                "the weight decay takes its part as well.",
            ),
            Mistake(
                "decay once",
                lambda kappa, sigma2, eta: 2 * kappa * (1 - kappa) / (1 + sigma2) - eta,
                "s is a square, so that it decays at twice the rate.",
            ),
        ),
    ),
    Exercise(
        "the share of the slope that stopping leaves, for many views",
        solution=lambda m: (m - 1) / m,
        inputs=_symbols,
        mistakes=(
            Mistake(
                "one half for any number of views",
                lambda m: sp.Rational(1, 2),
                "that is m = 2. For more views the target is a mean of m - 1 features, of which "
                "each view supplies a small part.",
            ),
            Mistake(
                "the target's share",
                lambda m: 1 / m,
                "that is what the target's part has; what is left of the prediction's?",
            ),
            Mistake(
                "all views in the mean",
                lambda m: sp.Integer(1),
                "that is so if the mean is over all m views, its own among them: then stopping "
                "changes nothing. Here the own view is left out.",
            ),
            Mistake(
                "upside down",
                lambda m: m / (m - 1),
                "a share is at most 1: upside down?",
            ),
            Mistake(
                "another share",
                lambda m: (m - 2) / (m - 1),
                "for two views the share must be one half.",
                variants=(
                    lambda m: m / (m + 1),
                    lambda m: 1 / (m - 1),
                    lambda m: (m - 1) / (2 * m),
                    lambda m: m / (2 * (m - 1)),
                    lambda m: ((m - 1) / m) ** 2,
                ),
            ),
        ),
    ),
    Exercise(
        "a detector of both kinds of collapse, mended",
        solution=_kind,
        inputs=_clouds,
        keeps_inputs=True,
        mistakes=(
            Mistake(
                "as given",
                lambda z: _kind(z, unit=False, centre=False, rank=_positive),
                "three things: the length of a feature does not count, the mean must be "
                "subtracted, and noise makes every eigenvalue positive.",
            ),
            Mistake(
                "not of length 1",
                lambda z: _kind(z, unit=False),
                "the cosine does not see how long a feature is: divide each row by its length.",
            ),
            Mistake(
                "not centred",
                lambda z: _kind(z, centre=False),
                "features that are all the same have large squares but no spread: subtract the "
                "mean.",
            ),
            Mistake(
                "centred before it has length 1",
                _centred_first,
                "that removes the common direction before you look at it: first the lengths, then "
                "the mean.",
            ),
            Mistake(
                "counting eigenvalues",
                lambda z: _kind(z, rank=_positive),
                "a line with a little noise has all eigenvalues positive: weigh them, (Σλ)²/Σλ².",
            ),
            Mistake(
                "another count of dimensions",
                lambda z: _kind(z, rank=lambda values: values.sum() / values.max()),
                "this is another rank than (Σλ)²/Σλ² with the eigenvalues λ of the covariance (the "
                "squares of singular values): near d/3 they part.",
                variants=(
                    lambda z: _kind(z, rank=lambda values: _participation(np.sqrt(values))),
                    lambda z: _kind(z, rank=_entropy_rank),
                    lambda z: _kind(z, rank=_above(0.1)),
                    lambda z: _kind(z, rank=_above(0.05)),
                    lambda z: _kind(z, rank=_above(0.01)),
                    lambda z: _kind(z, rank=lambda values: float((values > values.mean()).sum())),
                ),
            ),
            Mistake(
                "the mean kept in the rank",
                _mean_kept,
                "a strong common direction makes that rank small, although the rest is spread in "
                "all dimensions: take the eigenvalues of the covariance.",
            ),
            Mistake(
                "the deviation per dimension",
                _per_dimension,
                "0.2 is a bound for the root of the covariance's *trace*, over all dimensions.",
            ),
            Mistake(
                "the spread alone",
                _spread_only,
                "features on a line are spread out: look at the rank as well.",
            ),
            Mistake(
                "the rank before the spread",
                _rank_first,
                "one point may be spread along a line: it has collapsed completely all the same. "
                "Look at the spread first.",
            ),
            Mistake(
                "the rank alone",
                _rank_only,
                "one point with noise around it has the rank of the noise: look at the spread "
                "first.",
            ),
        ),
    ),
)
