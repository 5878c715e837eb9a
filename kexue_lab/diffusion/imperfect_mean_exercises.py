"""What the exercises of diffusion/imperfect_mean check."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kexue_lab.exercises import Exercise, Mistake

Array = NDArray[np.float64]
Inputs = Iterator[tuple[Any, ...]]


# ---------------------------------------------------------------------------- 1: it never looks


def _constants(rng: np.random.Generator) -> Inputs:
    yield 1.0, 2.0, 0.5, 0.6, 0.8
    for m, c in rng.normal(size=(5, 2)):
        angle = float(rng.uniform(0.3, 1.2))
        yield float(m), float(rng.uniform(0.4, 3.0)), float(c), math.cos(angle), math.sin(angle)


# ---------------------------------------------------------------------------- 2: velocities


def _velocities(rng: np.random.Generator) -> Inputs:
    for angle in rng.uniform(0.4, 1.1, 4):
        v = rng.normal(size=(40, 3))
        widths = np.array([0.2, 0.5, 0.9])
        v_hat = 0.7 * v + widths * rng.normal(size=v.shape) + 0.3
        yield v, v_hat, math.cos(angle), math.sin(angle)


def _by_velocity(v: Array, v_hat: Array, alpha_bar: float, beta_bar: float) -> Array:
    return np.asarray(beta_bar**2 * ((v - v_hat) ** 2).mean(0))


# ---------------------------------------------------------------------------- 3: the step's loss


def _tensors(rng: np.random.Generator) -> Inputs:
    for size in (4, 7, 9):
        log_g, noise, eps = (torch.from_numpy(rng.standard_normal((size, 3))) for _ in range(3))
        sigma, lam, ratio = (float(k) for k in rng.uniform(0.3, 1.7, 3))
        yield log_g.requires_grad_(), noise, eps.requires_grad_(), sigma, lam, ratio


def _step_loss(
    log_g: Tensor,
    noise: Tensor,
    eps: Tensor,
    sigma: float,
    lam: float,
    ratio: float,
    *,
    faults: tuple[str, ...] = (),
) -> Tensor:
    residual = noise - eps if "detach" in faults else (noise - eps).detach()
    fresh = sigma if "sigma" in faults else sigma**2
    v = fresh + (lam * ratio) ** 2 * log_g.exp()
    found = (0 if "fresh" in faults else fresh) + (lam * ratio) ** 2 * residual**2
    nats = 0.5 * (v.log() + found / v)
    return nats.mean() if "mean" in faults else nats.sum(1).mean()


def _loss_and_gradient(loss: Any, log_g: Tensor, noise: Tensor, eps: Tensor, *_: float) -> Any:
    """The loss, its gradient by log_g, and whether one reaches eps."""
    if not isinstance(loss, Tensor) or loss.ndim:
        raise TypeError("a scalar tensor is asked for")
    if not loss.requires_grad:
        return loss, torch.zeros_like(log_g), False
    by_log_g, by_eps = torch.autograd.grad(loss, (log_g, eps), allow_unused=True)
    return loss, torch.zeros_like(log_g) if by_log_g is None else by_log_g, by_eps is not None


_LOSS_HINTS = {
    "detach": "the mean is frozen: no slope may reach `eps`, so detach the residual.",
    "sigma": "variances add, not deviations: the fresh noise enters as σ².",
    "fresh": "what the step has to cover is the fresh noise as well as λ·ratio times the residual.",
    "mean": "the nats of the pixels add up; only over the data is it a mean.",
}


def _loss_mistake(*faults: str) -> Mistake:
    hint = " And: ".join(_LOSS_HINTS[fault] for fault in faults)
    return Mistake(" and ".join(faults), lambda *a: _step_loss(*a, faults=faults), hint)


# ---------------------------------------------------------------------------- 4: is (4) safe


def _outputs(rng: np.random.Generator) -> Inputs:
    """Noise and guesses, whose pixels are not independent."""
    for k in (-0.2, 0.0, 0.05, 0.3):
        noise = rng.normal(size=(60, 4))
        common = rng.normal(size=(60, 1))
        yield noise, (1 + k) * (0.5 * noise + 0.4 * common + 0.1 * rng.normal(size=(60, 4)))


def _standard_errors(rows: Array, ddof: int = 1) -> float:
    return float(rows.mean() / (rows.std(ddof=ddof) / math.sqrt(rows.size)))


def _too_small_by(noise: Array, eps: Array) -> float:
    return _standard_errors((eps * (eps - noise)).mean(1))


# ---------------------------------------------------------------------------- 5: wrong, yet right


def _posteriors(rng: np.random.Generator) -> Inputs:
    for size in (3, 4, 6):
        exact = rng.uniform(0.6, 1.5, size) * np.where(rng.random(size) < 0.5, -1, 1)
        exact[0], exact[1] = abs(exact[0]), -abs(exact[1])
        yield rng.dirichlet(np.full(size, 8.0)), exact


def _exact_or_silent(probs: Array, exact: Array) -> Array:
    """Exact where ε* > 0, silent elsewhere."""
    return np.where(exact > 0, exact, 0.0)


def _judge(answer: Any, probs: Array, exact: Array) -> str | None:
    guess = np.asarray(answer, dtype=np.float64)
    if guess.shape != exact.shape:
        return f"one guess for each value is asked for, shape {exact.shape}, got {guess.shape}"
    if probs @ (guess - exact) ** 2 < 0.02:
        return "the guess must be wrong: the mean of (ε̂ − ε*)² must be at least 0.02"
    if probs @ guess**2 < 0.02:
        return "the guess must say something: the mean of ε̂² must be at least 0.02"
    if abs(probs @ (guess * (guess - exact))) > 1e-9:
        return "the mean of ε̂(ε̂ − ε*) is not 0, so part 1's formula errs"
    return None


EXERCISES = (
    Exercise(
        "a network that never looks",
        solution=lambda m, s, c, alpha_bar, beta_bar: -(s**2 + (m - c) ** 2),
        inputs=_constants,
        mistakes=(
            Mistake(
                "the truth",
                lambda m, s, c, a, b: s**2 + (m - c) ** 2,
                "that is the mean square error, the truth; asked is what the formula says.",
            ),
            Mistake(
                "as if its noise were constant",
                lambda m, s, c, a, b: (b / a) ** 2,
                "the guess of the *datum* is constant; that of the noise, (x_t − ᾱc)/β̄, is not.",
            ),
            Mistake(
                "on the scale of the noise",
                lambda m, s, c, a, b: -((a / b) ** 2) * (s**2 + (m - c) ** 2),
                "multiply by (β̄/ᾱ)², which turns errors of the noise into errors of the datum.",
            ),
            Mistake(
                "about the mean",
                lambda m, s, c, a, b: -(s**2),
                "E ε̂² is a mean square, not a variance: the constant need not be the data's mean.",
            ),
        ),
    ),
    Exercise(
        "a network that predicts velocities",
        solution=_by_velocity,
        inputs=_velocities,
        mistakes=(
            Mistake(
                "one number",
                lambda v, v_hat, a, b: float(_by_velocity(v, v_hat, a, b).mean()),
                "one variance for each pixel is asked for: average over the rows only.",
            ),
            Mistake(
                "the factor of the noise",
                lambda v, v_hat, a, b: (b / a) ** 2 * ((v - v_hat) ** 2).mean(0),
                "solve x_t = ᾱx_0 + β̄ε and v = ᾱε − β̄x_0 for x_0: which factor has v?",
                variants=(
                    lambda v, v_hat, a, b: (a / b) ** 2 * ((v - v_hat) ** 2).mean(0),
                    lambda v, v_hat, a, b: a**2 * ((v - v_hat) ** 2).mean(0),
                    lambda v, v_hat, a, b: ((v - v_hat) ** 2).mean(0),
                ),
            ),
            Mistake(
                "the factor unsquared",
                lambda v, v_hat, a, b: b * ((v - v_hat) ** 2).mean(0),
                "an error of v is one of x_0 times a factor; its square has the factor squared.",
            ),
            Mistake(
                "about their mean",
                lambda v, v_hat, a, b: b**2 * (v - v_hat).var(0),
                "do not subtract the mean of the residuals: it is an error of the guess, too.",
                variants=(lambda v, v_hat, a, b: b**2 * (v - v_hat).var(0, ddof=1),),
            ),
            Mistake(
                "by what the network says",
                lambda v, v_hat, a, b: b**2 * ((v**2).mean(0) - (v_hat**2).mean(0)),
                "that presumes an exact mean; use the residuals themselves.",
            ),
        ),
    ),
    Exercise(
        "the loss of a step",
        solution=_step_loss,
        inputs=_tensors,
        mistakes=(
            _loss_mistake("detach"),
            _loss_mistake("sigma"),
            _loss_mistake("fresh"),
            _loss_mistake("mean"),
            _loss_mistake("detach", "sigma"),
            _loss_mistake("detach", "mean"),
            _loss_mistake("fresh", "mean"),
            Mistake(
                "as it stands",
                lambda *a: _as_it_stands(*a),
                "all four faults are still there: print the value by hand for one datum.",
            ),
        ),
        observe=_loss_and_gradient,
    ),
    Exercise(
        "is part 1 safe here?",
        solution=_too_small_by,
        inputs=_outputs,
        mistakes=(
            Mistake(
                "every pixel for itself",
                lambda noise, eps: _standard_errors(eps * (eps - noise)),
                "pixels of one datum are not independent: average over them first, then count the "
                "rows.",
            ),
            Mistake(
                "the two formulas subtracted",
                lambda noise, eps: _standard_errors(
                    ((noise - eps) ** 2 - (1 - eps**2)).mean(1),
                ),
                "this has the same mean, but ε² − 1 is in it as noise: use the right side of (5).",
            ),
            Mistake(
                "too large by",
                lambda noise, eps: -_too_small_by(noise, eps),
                "asked is by how much it is too *small*: truth minus formula.",
            ),
            Mistake(
                "spread instead of standard error",
                lambda noise, eps: _too_small_by(noise, eps) / math.sqrt(len(noise)),
                "the error of a mean of N rows is their spread divided by √N.",
            ),
            Mistake(
                "N for N − 1",
                lambda noise, eps: _standard_errors((eps * (eps - noise)).mean(1), ddof=0),
                "divide by N − 1 in the variance of the rows (ddof = 1).",
            ),
        ),
    ),
    Exercise(
        "wrong, yet right",
        solution=_exact_or_silent,
        inputs=_posteriors,
        judge=_judge,
        mistakes=(
            Mistake(
                "the exact mean",
                lambda probs, exact: exact,
                "a wrong guess is asked for.",
            ),
            Mistake(
                "silence",
                lambda probs, exact: 0 * exact,
                "the right angle is there, but this guess says nothing.",
            ),
            Mistake(
                "too quiet",
                lambda probs, exact: 0.5 * exact,
                "a multiple of ε* makes no right angle: its error points along itself.",
                variants=(lambda probs, exact: 1.5 * exact, lambda probs, exact: -exact),
            ),
            Mistake(
                "shifted",
                lambda probs, exact: exact + 1,
                "a shift has the overlap 1 + E ε* with the guess: move each value on its own.",
            ),
        ),
    ),
)


def _as_it_stands(
    log_g: Tensor, noise: Tensor, eps: Tensor, sigma: float, lam: float, ratio: float
) -> Tensor:
    return _step_loss(
        log_g, noise, eps, sigma, lam, ratio, faults=("detach", "sigma", "fresh", "mean")
    )
