"""What the exercises of diffusion/optimal_variance check."""

import math
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import softmax

from kexue_lab.diffusion.ddim import posterior_coefficients
from kexue_lab.exercises import Exercise, Mistake

Array = NDArray[np.float64]
Inputs = Iterator[tuple[Any, ...]]


# ---------------------------------------------------------------------------- 1: equally bad


def _shares(rng: np.random.Generator) -> Inputs:
    yield (0.5,)
    for share in rng.uniform(0.1, 0.9, 5):
        yield (float(share),)


def _price(factor: float) -> float:
    """Twice the nats lost by `factor` times the best variance."""
    return 1 / factor - 1 + math.log(factor)


def _equally_bad(share: float) -> float:
    cost = _price(share)
    return float(brentq(lambda b: _price(b) - cost, 1.0, math.exp(cost + 1), xtol=1e-13))


def _upside_down(share: float) -> float:
    """With r = v/v* instead of v*/v."""
    cost = share - 1 - math.log(share)
    return float(brentq(lambda b: b - 1 - math.log(b) - cost, 1.0, 3 * cost + 10, xtol=1e-13))


# ---------------------------------------------------------------------------- 2: a die


def _dice(rng: np.random.Generator) -> Inputs:
    for faces in (2, 3, 3, 6):
        values = rng.normal(size=faces).round(2) + np.arange(faces)
        probs = rng.dirichlet(np.ones(faces))
        late, early = rng.uniform(0.8, 1.2), rng.uniform(0.3, 0.7)
        levels = math.cos(late), math.sin(late), math.cos(early), math.sin(early)
        x_t = levels[0] * float(values @ probs) + 0.4 * levels[1] * float(rng.normal())
        yield values, probs, x_t, *levels, float(rng.uniform(0.3, 0.9)) * levels[3]


def _open(values: Array, weights: Array) -> float:
    return float(weights @ (values - weights @ values) ** 2)


def _step_variance(
    values: Array,
    probs: Array,
    x_t: float,
    ab_t: float,
    bb_t: float,
    ab_u: float,
    bb_u: float,
    sigma: float,
    *,
    faults: tuple[str, ...] = (),
) -> float:
    noise = bb_t if "noise" in faults else bb_t**2
    log_weights = np.log(probs) - (x_t - ab_t * values) ** 2 / (2 * noise)
    if "prior" in faults:
        log_weights += np.log(1 / len(probs)) - np.log(probs)
    weights = probs if "unseen" in faults else softmax(log_weights)
    lam = posterior_coefficients(ab_t, bb_t, ab_u, bb_u, sigma)[1]
    power = 1 if "linear" in faults else 2
    share = 1.0 if "share" in faults else lam**power
    fresh = 0.0 if "fresh" in faults else sigma**2
    return fresh + share * _open(values, weights)


_DIE_HINTS = {
    "unseen": "this is the variance before x_t was seen: weigh the values by Bayes' rule.",
    "prior": "Bayes' rule also has the probability of each value before x_t was seen.",
    "noise": "the noise in x_t has the variance β̄_t², not β̄_t.",
    "share": "x_0 enters the step with the coefficient λ, so its variance enters with λ².",
    "linear": "x_0 enters the step with the coefficient λ, so its variance enters with λ².",
    "fresh": "the fresh noise has a variance, too: add σ².",
}


def _die_mistake(fault: str) -> Mistake:
    return Mistake(fault, lambda *a: _step_variance(*a, faults=(fault,)), _DIE_HINTS[fault])


# ---------------------------------------------------------------------------- 3: the estimate


def _outputs(rng: np.random.Generator) -> Inputs:
    """Outputs of a network, the levels, and the variances of the data along their axes."""
    for size, angle, widths in (
        (0.4, 0.45, (5.0, 9.0)),  # within the bounds
        (0.6, 1.0, (20.0, 30.0)),
        (0.35, 1.1, (0.05, 3.0)),  # above the upper one
        (1.3, 0.9, (0.5, 3.0)),  # below 0
    ):
        angle += float(rng.uniform(-0.03, 0.03))
        eps = size * np.sign(rng.normal(size=(6, 3))) * rng.uniform(0.9, 1.1, (6, 3))
        variances = np.array([*widths, 0.5 * sum(widths)]) * rng.uniform(0.9, 1.1, 3)
        yield eps, math.cos(angle), math.sin(angle), variances


def _clipped_estimate(
    eps: Array,
    alpha_bar: float,
    beta_bar: float,
    variances: Array,
    *,
    faults: tuple[str, ...] = (),
) -> float:
    power = (eps**2).sum(1).mean() if "sum" in faults else (eps**2).mean()
    ratio = alpha_bar / beta_bar if "factor" in faults else beta_bar / alpha_bar
    known = variances.mean() if "axes" in faults else variances
    upper = np.mean(known * beta_bar**2 / (alpha_bar**2 * known + beta_bar**2))
    return float(np.clip(ratio**2 * (1 - power), 0, upper))


_ESTIMATE_HINTS = {
    "sum": "(7) has the mean over the dimensions: divide by d.",
    "factor": "an error of the noise is one of the datum times β̄/ᾱ, not ᾱ/β̄.",
    "axes": "the bound (8) holds along each axis: compute it there, and average the bounds.",
}


def _estimate_mistake(faults: tuple[str, ...]) -> Mistake:
    hint = " And: ".join(_ESTIMATE_HINTS[fault] for fault in faults)
    return Mistake(
        f"left as it was: {', '.join(faults)}",
        lambda *a: _clipped_estimate(*a, faults=faults),
        hint,
    )


# ---------------------------------------------------------------------------- 4: wide, yet known


def _two_points_open(a: float, t: float) -> float:
    """σ̄_t² for x_0 = ±a and ᾱ = cos(πt/2), by quadrature."""
    ab, bb = math.cos(math.pi * t / 2), math.sin(math.pi * t / 2)
    z, weight = np.polynomial.hermite_e.hermegauss(80)
    leaning = ab * a * (ab * a + bb * z) / bb**2
    return float(a**2 * weight @ (1 - np.tanh(leaning) ** 2) / weight.sum())


def _no_counter_example(answer: Any) -> str | None:
    try:
        a, t = map(float, answer)
    except (TypeError, ValueError):
        return "return two numbers: a and t"
    if not (1.2 <= a <= 10 and 0.05 <= t <= 0.95):
        return f"a must be in [1.2, 10] and t in [0.05, 0.95], got a = {a:g}, t = {t:g}"
    unknown, normal = _two_points_open(a, t), math.sin(math.pi * t / 2) ** 2
    if not unknown < normal / 2:
        return f"what is open of the datum is {unknown:.4g}, not below β̄_t²/2 = {normal / 2:.4g}"
    return None


# ---------------------------------------------------------------------------- 5: one for each pixel


def _pixels(rng: np.random.Generator) -> Inputs:
    for d in (2, 3, 5, 10):
        yield (np.exp(rng.normal(size=d)),)


def _nats_saved(variances: Array) -> float:
    return float(0.5 * np.sum(np.log(variances.mean() / variances)))


EXERCISES = (
    Exercise(
        "the factor that is equally bad",
        solution=_equally_bad,
        inputs=_shares,
        mistakes=(
            Mistake(
                "the inverse",
                lambda share: 1 / share,
                "twice the variance is cheaper than half of it (step 2): go further up.",
            ),
            Mistake(
                "as far above as below",
                lambda share: 2 - share,
                "the price is no function of the distance v − v*; put v = b v* into (4).",
            ),
            Mistake(
                "r upside down",
                _upside_down,
                "r is the best variance over the one that is used, so r = 1/b.",
            ),
            Mistake(
                "the factor that was given",
                lambda share: share,
                "(4) takes each price twice, once below the best variance and once above.",
            ),
        ),
        rtol=1e-7,
    ),
    Exercise(
        "a die instead of a coin",
        solution=_step_variance,
        inputs=_dice,
        mistakes=tuple(map(_die_mistake, _DIE_HINTS)),
    ),
    Exercise(
        "the estimate, mended",
        solution=_clipped_estimate,
        inputs=_outputs,
        mistakes=tuple(
            _estimate_mistake(faults)
            for count in (1, 2, 3)
            for faults in combinations(_ESTIMATE_HINTS, count)
        ),
    ),
    Exercise(
        "wide data that are known",
        solution=lambda: (2.0, 0.2),
        judge=_no_counter_example,
        mistakes=(
            Mistake(
                "narrow data",
                lambda: (0.9, 0.2),
                "their variance a² is below 1: the sentence does not speak of them.",
            ),
            Mistake(
                "too much noise",
                lambda: (1.5, 0.9),
                "there the noise hides which of the two points it was: go nearer to the data.",
            ),
            Mistake(
                "hardly apart",
                lambda: (1.2, 0.5),
                "the points must be far apart in units of the noise: larger a, or smaller t.",
            ),
            Mistake(
                "far apart, but later still",
                lambda: (3.0, 0.95),
                "at this t the points are only 2ᾱa apart, less than the noise: go nearer to the "
                "data.",
            ),
        ),
    ),
    Exercise(
        "a variance for each pixel",
        solution=_nats_saved,
        inputs=_pixels,
        mistakes=(
            Mistake(
                "without the half",
                lambda variances: 2 * _nats_saved(variances),
                "in one dimension the best variance v costs ½ ln v, not ln v.",
            ),
            Mistake(
                "per dimension",
                lambda variances: _nats_saved(variances) / len(variances),
                "the nats of the dimensions add up; this is their mean.",
            ),
            Mistake(
                "the other way round",
                lambda variances: -_nats_saved(variances),
                "more freedom cannot cost: the common variance is the dearer one.",
            ),
            Mistake(
                "the price (4) in each pixel, with r upside down",
                lambda variances: float(
                    0.5
                    * np.sum(
                        variances.mean() / variances - 1 - np.log(variances.mean() / variances)
                    )
                ),
                "r is the best variance over the one that is used: here v_i over their mean.",
            ),
        ),
    ),
)
