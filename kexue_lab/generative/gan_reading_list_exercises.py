"""What the exercises of generative/gan_reading_list check."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from kexue_lab.exercises import Exercise, Mistake
from kexue_lab.generative.gan_reading_list import wgan_gp_cycle

Inputs = Iterator[tuple[Any, ...]]
Array = NDArray[np.float64]

_T = sp.Symbol("t", real=True)


# --- a penalty on both sides


def _two_weights(rng: np.random.Generator) -> Inputs:
    yield 0.5, 0.3, 0.4  # turns
    yield 0.5, 0.3, 1.4  # does not
    yield 0.8, 2.1, 0.3  # no weight on fakes is best
    for _ in range(3):
        slope, data, fake = rng.uniform((0.3, 0.1, 0.2), (1.2, 0.5, 2.5))
        yield float(slope), float(data), float(fake)


def _slow(slope: float, total: float) -> float:
    inside = total**2 / 4 - slope**2
    return total / 2 - (math.sqrt(inside) if inside > 0 else 0)


def _fast(slope: float, total: float) -> float:
    inside = total**2 / 4 - slope**2
    return total / 2 + (math.sqrt(inside) if inside > 0 else 0)


def _best(slope: float, data: float) -> float:
    return max(0.0, 2 * slope - data)


# --- steps


def _games(rng: np.random.Generator) -> Inputs:
    for gamma in (0.2, 1.0, 2.5):
        yield gamma, 0.5
    for _ in range(3):
        slope = float(rng.uniform(0.3, 1.5))
        yield slope * float(rng.uniform(0.2, 4)), slope


def _alternating(gamma: float, slope: float) -> float:
    return (-gamma + math.sqrt(gamma**2 + 4 * slope**2)) / slope**2


def _simultaneous(gamma: float, slope: float) -> float:
    if gamma <= 2 * slope:
        return gamma / slope**2
    return 4 / (gamma + math.sqrt(gamma**2 - 4 * slope**2))


# --- running norms


def _drifting(rng: np.random.Generator) -> Inputs:
    for size, count in ((1.0, 3), (1.0, 12), (1e12, 40)):
        start, drift = rng.normal(size=(2, 5, 3))
        weights = [size * (start + 0.1 * k * drift) for k in range(count)]
        yield weights, rng.normal(size=5)


def _running(keep: bool, late: bool = True) -> Callable[[list[Array], Array], list[float]]:
    def answer(weights: list[Array], u: Array) -> list[float]:
        now, norms = u / np.linalg.norm(u), []
        for W in weights:
            v = W.T @ now
            v = v / np.linalg.norm(v)
            after = W @ v / np.linalg.norm(W @ v)
            norms.append(float((after if late else now) @ W @ v))
            now = after if keep else now
        return norms

    return answer


def _unnormalised(weights: list[Array], u: Array) -> list[float]:
    norms = []
    with np.errstate(all="ignore"):
        for W in weights:
            v = W.T @ u
            u = W @ v
            norms.append(float(u @ W @ v / (np.linalg.norm(u) * np.linalg.norm(v))))
    return norms


def _no_lengths(weights: list[Array], u: Array) -> list[float]:
    norms = []
    with np.errstate(all="ignore"):
        for W in weights:
            v = W.T @ u
            u = W @ v
            norms.append(float(u @ W @ v))
    return norms


def _exact(weights: list[Array], u: Array) -> list[float]:
    return [float(np.linalg.norm(W, 2)) for W in weights]


# --- noise for any loss


def _losses(rng: np.random.Generator) -> Inputs:
    yield -sp.log(1 + sp.exp(-_T)), _T, 0.7
    yield -sp.log(1 + sp.exp(-_T)), _T, 3.1
    yield 1 - sp.exp(-_T), _T, 0.45
    yield _T, _T, 0.9
    yield -((2 - _T) ** 2) / 3, _T, float(rng.uniform(0.3, 0.9))
    yield -((2 - _T) ** 2) / 3, _T, float(rng.uniform(2.2, 3.5))


def _noisy(
    share: float = 2.0, curved: bool = True, turning: bool = False
) -> Callable[[sp.Expr, sp.Symbol, float], float]:
    def answer(f: sp.Expr, t: sp.Symbol, variance: float) -> float:
        slope = float(sp.diff(f, t).subs(t, 0))
        second = float(sp.diff(f, t, 2).subs(t, 0)) if curved else -1.0
        damping = -share * second * variance
        if damping <= 0:
            return 0.0
        return damping / slope**2 if turning else _simultaneous(damping, slope)

    return answer


# --- a cycle


def _targets(rng: np.random.Generator) -> Inputs:
    yield 1.0, 1.0
    yield 3.0, 0.5
    for _ in range(4):
        yield float(rng.uniform(0.3, 1.8)), float(rng.uniform(1.3, 3))


def _cycle(lam: float, g: float) -> float:
    return lam * g if lam >= 2 else wgan_gp_cycle(lam, g)


EXERCISES = (
    Exercise(
        "a penalty on both sides",
        solution=lambda slope, gamma_data, gamma_fake: (
            _slow(slope, gamma_data + gamma_fake),
            _best(slope, gamma_data),
        ),
        inputs=_two_weights,
        rtol=1e-6,
        mistakes=(
            Mistake(
                "the fakes left out",
                lambda slope, gamma_data, gamma_fake: (
                    _slow(slope, gamma_data),
                    _best(slope, gamma_data),
                ),
                "the fake sits at θ, but the critic's slope there is ψ as everywhere: what does "
                "the second penalty add to the derivative by ψ?",
            ),
            Mistake(
                "the mean of the weights",
                lambda slope, gamma_data, gamma_fake: (
                    _slow(slope, (gamma_data + gamma_fake) / 2),
                    _best(slope, gamma_data),
                ),
                "two penalties are added to the loss, and so are their derivatives.",
            ),
            Mistake(
                "half of the trace",
                lambda slope, gamma_data, gamma_fake: (
                    (gamma_data + gamma_fake) / 2,
                    _best(slope, gamma_data),
                ),
                "for large weights the two eigenvalues are real and differ: the slower one rules.",
            ),
            Mistake(
                "the fast eigenvalue",
                lambda slope, gamma_data, gamma_fake: (
                    _fast(slope, gamma_data + gamma_fake),
                    _best(slope, gamma_data),
                ),
                "in the end it is the slower of the two parts that is left.",
            ),
            Mistake(
                "the best total",
                lambda slope, gamma_data, gamma_fake: (
                    _slow(slope, gamma_data + gamma_fake),
                    2 * slope,
                ),
                "that is the best sum of both weights; a part of it is there already.",
            ),
            Mistake(
                "a negative weight",
                lambda slope, gamma_data, gamma_fake: (
                    _slow(slope, gamma_data + gamma_fake),
                    2 * slope - gamma_data,
                ),
                "a weight is at least 0: what if that of the data is beyond the best already?",
            ),
        ),
    ),
    Exercise(
        "how far an alternating step may go",
        solution=_alternating,
        inputs=_games,
        rtol=1e-6,
        mistakes=(
            Mistake(
                "as with simultaneous steps",
                lambda gamma, slope: gamma / slope**2,
                "the critic answers a generator that has moved already: its row of the matrix is "
                "another, and so are trace and determinant.",
                variants=(_simultaneous,),
            ),
            Mistake(
                "the determinant alone",
                lambda gamma, slope: 2 / gamma,
                "a determinant above −1 is needed but is not enough: both eigenvalues must lie "
                "within the unit circle.",
            ),
            Mistake(
                "without a penalty",
                lambda gamma, slope: 2 / slope,
                "that is the bound without R1. R1 makes it smaller.",
            ),
            Mistake(
                "the sign of the root",
                lambda gamma, slope: (gamma + math.sqrt(gamma**2 + 4 * slope**2)) / slope**2,
                "try it: just below this step one eigenvalue is far below −1.",
            ),
            Mistake(
                "the discriminant",
                lambda gamma, slope: (-gamma + math.sqrt(gamma**2 + slope**2)) / slope**2,
                "solve the quadratic once more: its constant term is 4.",
            ),
        ),
    ),
    Exercise(
        "a power iteration that runs along",
        solution=_running(keep=True),
        inputs=_drifting,
        keeps_inputs=True,
        rtol=1e-6,
        mistakes=(
            Mistake(
                "from the start each time",
                _running(keep=False),
                "one step from the same vector learns nothing from the steps before: keep u.",
            ),
            Mistake(
                "the old vector in the estimate",
                _running(keep=True, late=False),
                "the estimate takes u after the step.",
            ),
            Mistake(
                "lengths in the estimate only",
                _unnormalised,
                "the vectors grow with every step, until they overflow: bring each to length 1.",
            ),
            Mistake(
                "no lengths",
                _no_lengths,
                "the largest singular value is uᵀWv for u and v of length 1.",
            ),
            Mistake(
                "by singular values",
                _exact,
                "those are the true norms. Asked for is what one power step a matrix knows.",
            ),
        ),
    ),
    Exercise(
        "instance noise for any loss",
        solution=_noisy(),
        inputs=_losses,
        rtol=1e-6,
        mistakes=(
            Mistake(
                "the variance taken for a weight of R1",
                _noisy(share=1.0, curved=False),
                "noise damps through the curvature of f; that is the dictionary of Roth et al., "
                "not of noise.",
                variants=(_noisy(share=2.0, curved=False),),
            ),
            Mistake(
                "noise on one side",
                _noisy(share=1.0),
                "data and fake both carry noise, and each brings a term with f''.",
            ),
            Mistake(
                "always turning",
                _noisy(turning=True),
                "much noise makes the eigenvalues real: then another condition holds.",
            ),
            Mistake(
                "four times",
                _noisy(share=4.0),
                "there are two noisy samples, each with the weight one.",
            ),
        ),
    ),
    Exercise(
        "a cycle for another slope",
        solution=_cycle,
        inputs=_targets,
        rtol=1e-6,
        mistakes=(
            Mistake(
                "the slope left out",
                lambda lam, g: _cycle(lam, 1.0),
                "measure θ and ψ in units of g: what becomes of the two equations?",
            ),
            Mistake(
                "the point aimed at",
                lambda lam, g: lam * g,
                "for weights below 2 the flow aims there, but has crossed the axis before it "
                "arrives.",
            ),
            Mistake(
                "the frequency left out",
                lambda lam, g: lam * g / math.tanh(math.pi * lam / 4),
                "the half turn takes the time π/ω, not π.",
            ),
            Mistake(
                "a whole turn",
                lambda lam, g: (
                    lam
                    * g
                    / (math.tanh(math.pi * lam / (2 * math.sqrt(1 - lam**2 / 4))) if lam < 2 else 1)
                ),
                "the aim changes at each crossing, after half a turn.",
            ),
            Mistake(
                "divided by the slope",
                lambda lam, g: _cycle(lam, 1.0) / g,
                "a larger slope wanted makes a larger cycle.",
            ),
        ),
    ),
)
