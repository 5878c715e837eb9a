"""What the exercises of losses/total_variation check."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from kexue_lab.exercises import Exercise, Mistake

Inputs = Iterator[tuple[Any, ...]]
Array = NDArray[np.float64]


# --- another road


def _points(rng: np.random.Generator) -> Inputs:
    yield 0.3, 0.5
    yield from ((float(p), float(g)) for p, g in rng.uniform((0.05, 0.05), (0.9, 0.9), (5, 2)))


def _root_loss(p: float, gamma: float) -> float:
    r = np.sqrt((1 - gamma) / gamma)
    return float((np.arcsinh(r) - np.arcsinh(r * p)) / np.sqrt(1 - gamma))


# --- GCE's end


def _laws(rng: np.random.Generator) -> Inputs:
    yield np.array([0.5, 0.3, 0.2]), 0.5
    for size in (2, 3, 4, 6):
        yield rng.dirichlet(np.full(size, 3.0)), float(rng.uniform(0.15, 0.8))


def _powered(q: Array, exponent: float) -> Array:
    raised = q**exponent
    return np.asarray(raised / raised.sum())


def _water_filled(q: Array, gamma: float) -> Array:
    """TaiLr's end."""
    largest = np.sort(q)[::-1]
    for m in range(len(q), 0, -1):
        kappa = (1 - gamma + m * gamma) / largest[:m].sum()
        if kappa * largest[m - 1] > gamma:
            break
    return np.asarray(np.maximum(0, kappa * q - gamma) / (1 - gamma))


# --- the threshold of two rivals


def _noises(rng: np.random.Generator) -> Inputs:
    yield 0.4, 0.3
    for low, high in ((0.1, 0.4), (0.6, 0.9), (0.1, 0.4), (0.6, 0.9)):
        yield float(rng.uniform(0.1, 0.45)), float(rng.uniform(low, high))


# --- the slope, mended


def _logits(rng: np.random.Generator) -> Inputs:
    yield np.array([1.0, -0.5, 0.3, 0.0]), 1, 0.1
    for size in (2, 3, 5):
        yield rng.normal(size=size), int(rng.integers(size)), float(rng.uniform(0.1, 0.9))
    yield np.array([900.0, 899.0, 897.5]), 1, 0.3
    yield np.array([-800.0, 0.5, 1.2]), 0, 0.0


def _softmax(mu: Array) -> Array:
    return np.asarray(np.exp(mu - logsumexp(mu)))


def _slope(mu: Array, y: int, gamma: float) -> Array:
    p = _softmax(mu)
    w = 1.0 if gamma == 0 else p[y] / (gamma + (1 - gamma) * p[y])
    return np.asarray(w * (p - np.eye(len(mu))[y]))


def _as_it_stands(mu: Array, y: int, gamma: float) -> Array:
    with np.errstate(all="ignore"):
        p = np.exp(mu) / np.exp(mu).sum()
        w = p[y] / (gamma + (1 - gamma) * p[y])
        return np.asarray(w * p - np.eye(len(mu))[y])


def _missing(mu: Array, y: int, gamma: float) -> Array:
    """What the right slope has more than one whose label is subtracted unweighted."""
    p = _softmax(mu)[y]
    w = 1.0 if gamma == 0 else p / (gamma + (1 - gamma) * p)
    return np.asarray((1 - w) * np.eye(len(mu))[y])


def _overflowing(mu: Array, y: int, gamma: float) -> Array:
    with np.errstate(all="ignore"):
        p = np.exp(mu) / np.exp(mu).sum()
        w = p[y] / (gamma + (1 - gamma) * p[y])
        return np.asarray(w * (p - np.eye(len(mu))[y]))


def _zero_over_zero(mu: Array, y: int, gamma: float, w: float = np.nan) -> Array:
    """Right but for the weight where p and γ are both 0."""
    p = _softmax(mu)
    blended = gamma + (1 - gamma) * p[y]
    w = p[y] / blended if blended > 0 else w
    return np.asarray(w * (p - np.eye(len(mu))[y]))


# --- the misses


def _settings(rng: np.random.Generator) -> Inputs:
    yield 0.4, 10, 0.05
    for gamma in (0.02, 0.1, 0.6):
        yield float(rng.uniform(0.2, 0.45)), int(rng.integers(6, 16)), gamma
    yield 0.25, 3, 0.3


def _sure(eta: float, num_classes: int, gamma: float) -> float:
    """The optimum's confidence, without the cap at 1."""
    return 1 - eta + gamma / (1 - gamma) * (num_classes * (1 - eta) - 1)


def _misses(eta: float, num_classes: int, gamma: float) -> Array:
    top = min(1.0, _sure(eta, num_classes, gamma))
    return np.array([1 - top, top - (1 - eta)])


def _uncapped(eta: float, num_classes: int, gamma: float) -> Array:
    top = _sure(eta, num_classes, gamma)
    return np.abs([1 - top, top - (1 - eta)])


EXERCISES = (
    Exercise(
        "the root's road",
        solution=_root_loss,
        inputs=_points,
        mistakes=(
            Mistake(
                "TaiLr's loss",
                lambda p, gamma: -np.log(gamma + (1 - gamma) * p) / (1 - gamma),
                "this is (4); here p is squared, and there is a root.",
            ),
            Mistake(
                "the factor of the substitution",
                lambda p, gamma: _root_loss(p, gamma) * np.sqrt(1 - gamma),
                "with u = r p the integral becomes du / r, which leaves a factor in front.",
            ),
            Mistake(
                "the logarithm of the root",
                lambda p, gamma: -np.log(gamma + (1 - gamma) * p**2) / 2,
                "differentiate this: the inner derivative of p² appears. The integral of "
                "1/√(1 + u²) is asinh u.",
                variants=(lambda p, gamma: -np.log(gamma + (1 - gamma) * p**2) / 2 / (1 - gamma),),
            ),
            Mistake(
                "not zero at p = 1",
                lambda p, gamma: -np.arcsinh(np.sqrt((1 - gamma) / gamma) * p) / np.sqrt(1 - gamma),
                "the slope is right; the constant is not: ℓ(1) = 0.",
            ),
            Mistake(
                "the sign",
                lambda p, gamma: -_root_loss(p, gamma),
                "the loss falls as p grows.",
            ),
            Mistake(
                "the slope itself",
                lambda p, gamma: 1 / np.sqrt(gamma + (1 - gamma) * p**2),
                "this is the slope; the loss is its integral from p to 1.",
            ),
        ),
        rtol=1e-6,
    ),
    Exercise(
        "where GCE ends",
        solution=lambda q, s: _powered(q, 1 / (1 - s)),
        inputs=_laws,
        mistakes=(
            Mistake(
                "TaiLr's end",
                _water_filled,
                "this is (6), with s for γ; GCE has the slope -p^(s - 1).",
            ),
            Mistake(
                "not normalised",
                lambda q, s: q ** (1 / (1 - s)),
                "the common slope is to be chosen such that the probabilities sum to 1.",
            ),
            Mistake(
                "the inverse exponent",
                lambda q, s: _powered(q, 1 - s),
                "q p^(s - 1) is the same for all classes: then p^(1 - s) is proportional to q.",
            ),
            Mistake(
                "another exponent",
                lambda q, s: _powered(q, 1 / s),
                "the slope of (1 - p^s)/s is -p^(s - 1); set q times it equal for all classes.",
                variants=(lambda q, s: _powered(q, 1 + s),),
            ),
            Mistake(
                "the law of the labels",
                lambda q, s: q,
                "this is right for cross entropy, s = 0, only.",
            ),
        ),
        rtol=1e-6,
        atol=1e-9,
    ),
    Exercise(
        "two rivals",
        solution=lambda eta, part: eta * max(part, 1 - part) / (1 - eta),
        inputs=_noises,
        mistakes=(
            Mistake(
                "errors spread evenly",
                lambda eta, part: eta / (2 * (1 - eta)),
                "this is (8) for two rivals that are equally frequent; one of these is more so.",
            ),
            Mistake(
                "the weaker rival",
                lambda eta, part: eta * min(part, 1 - part) / (1 - eta),
                "from here on the weaker rival is given up; the noise is ignored when both are.",
            ),
            Mistake(
                "always the first",
                lambda eta, part: eta * part / (1 - eta),
                "the last rival to go is the more frequent one, whichever of the two it is.",
            ),
            Mistake(
                "all errors together",
                lambda eta, part: eta / (1 - eta),
                "(6) compares each rival with the label on its own, not their sum.",
            ),
            Mistake(
                "the share itself",
                lambda eta, part: eta * max(part, 1 - part),
                "the rival is to be compared with the label's own share, which is not 1.",
            ),
            Mistake(
                "upside down",
                lambda eta, part: (1 - eta) / (eta * max(part, 1 - part)),
                "a rival is given up once it is less than γ times as frequent as the first.",
            ),
        ),
        rtol=1e-6,
    ),
    Exercise(
        "the slope by the logits, mended",
        solution=_slope,
        inputs=_logits,
        mistakes=(
            Mistake(
                "as it stands",
                _as_it_stands,
                "the weight multiplies the whole gradient of -log p, which is p less the one-hot "
                "label.",
                variants=(lambda mu, y, gamma: _slope(mu, y, gamma) - _missing(mu, y, gamma),),
            ),
            Mistake(
                "exponentials that overflow",
                _overflowing,
                "exp(900) is infinite; only differences of logits matter, so subtract the largest.",
            ),
            Mistake(
                "0/0",
                _zero_over_zero,
                "at γ = 0 this is cross entropy, with the weight 1, however small p is.",
                variants=(lambda mu, y, gamma: _zero_over_zero(mu, y, gamma, 0.0),),
            ),
            Mistake(
                "unweighted",
                lambda mu, y, gamma: _softmax(mu) - np.eye(len(mu))[y],
                "this is the gradient of cross entropy, without the weight.",
            ),
        ),
        rtol=1e-6,
        atol=1e-9,
    ),
    Exercise(
        "what confidence misses",
        solution=_misses,
        inputs=_settings,
        mistakes=(
            Mistake(
                "more than certain",
                _uncapped,
                "beyond the threshold (7) does not hold: the confidence stops at 1.",
                variants=(
                    lambda eta, num_classes, gamma: (
                        lambda top: np.array([1 - top, top - (1 - eta)])
                    )(_sure(eta, num_classes, gamma)),
                ),
            ),
            Mistake(
                "turned around",
                lambda eta, num_classes, gamma: _misses(eta, num_classes, gamma)[::-1],
                "on clean labels the model is always right; on noisy ones with probability 1 - η.",
            ),
            Mistake(
                "cross entropy's",
                lambda eta, num_classes, gamma: np.array([eta, 0.0]),
                "this is right for γ = 0: cross entropy ends with the confidence 1 - η. TaiLr is "
                "more confident.",
            ),
            Mistake(
                "the noise ignored at every γ",
                lambda eta, num_classes, gamma: np.array([0.0, eta]),
                "this is right from the threshold on; below it the confidence is less than 1.",
            ),
        ),
        rtol=1e-6,
        atol=1e-9,
    ),
)
