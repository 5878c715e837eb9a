"""What the exercises of diffusion/imperfect_mean check."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kexue_lab.diffusion.imperfect_mean import residual_variance, variance_nll
from kexue_lab.exercises import Exercise, Mistake

Inputs = Iterator[tuple[Any, ...]]
Array = NDArray[np.float64]


def _predictions(rng: np.random.Generator) -> Inputs:
    for shrink in (1.0, 0.6, 1.3):
        signal, rest = rng.standard_normal((2, 500))
        mixing = rng.uniform(0.3, 0.9)
        noise = mixing * signal + math.sqrt(1 - mixing**2) * rest
        yield noise, shrink * mixing * signal + rng.uniform(-0.3, 0.3)


def _errors(rng: np.random.Generator) -> Inputs:
    for m, b in rng.uniform(-2, 2, (6, 2)):
        yield float(m), float(b)


def _pairs(rng: np.random.Generator) -> Inputs:
    for _ in range(4):
        noise = rng.standard_normal(300)
        x = rng.uniform(0.2, 0.9) * noise + np.where(rng.random(300) < 0.3, -1.5, 1.0)
        yield x, noise


def _tensors(rng: np.random.Generator) -> Inputs:
    for size in (4, 7, 20):
        log_g, noise, eps = (torch.from_numpy(rng.standard_normal((size, 2))) for _ in range(3))
        yield log_g.requires_grad_(), noise, eps.requires_grad_()


def _shares(rng: np.random.Generator) -> Inputs:
    yield (0.47473316,)
    yield from ((float(v),) for v in rng.uniform(0.3, 0.95, 5))


def _both_estimates(x: Array, noise: Array, ridge: float = 0.0) -> tuple[float, float]:
    features = np.stack([np.ones_like(x), x], 1)
    gram = features.T @ features + ridge * len(x) * np.eye(2)
    fitted = features @ np.linalg.solve(gram, features.T @ noise)
    return float(np.mean((noise - fitted) ** 2)), float(np.mean(noise**2) - np.mean(fitted**2))


def _without_constant(x: Array, noise: Array) -> tuple[float, float]:
    fitted = x * (x @ noise) / (x @ x)
    return float(np.mean((noise - fitted) ** 2)), float(np.mean(noise**2) - np.mean(fitted**2))


def _unbiased_first(x: Array, noise: Array) -> tuple[float, float]:
    first, second = _both_estimates(x, noise)
    return first * len(x) / (len(x) - 2), second


def _one_for_the_mean_square(x: Array, noise: Array) -> tuple[float, float]:
    first, second = _both_estimates(x, noise)
    return first, second + 1 - float(np.mean(noise**2))


def _constant_from(noise: Array, eps: Array) -> float:
    return float(residual_variance(torch.from_numpy(noise), torch.from_numpy(eps)))


def _loss_and_gradient(loss: Any, log_g: Tensor, noise: Tensor, eps: Tensor) -> tuple[Any, ...]:
    """The loss, its gradient by log_g, and whether one reaches eps."""
    if not isinstance(loss, Tensor) or loss.ndim:
        raise TypeError("a scalar tensor is asked for")
    if not loss.requires_grad:
        return loss, torch.zeros_like(log_g), False
    by_log_g, by_eps = torch.autograd.grad(loss, (log_g, eps), allow_unused=True)
    return loss, torch.zeros_like(log_g) if by_log_g is None else by_log_g, by_eps is not None


def _nll(log_g: Tensor, noise: Tensor, eps: Tensor) -> Tensor:
    return 0.5 * (log_g + (noise - eps).detach() ** 2 * (-log_g).exp())


EXERCISES = (
    Exercise(
        "the best constant variance",
        solution=_constant_from,
        inputs=_predictions,
        mistakes=(
            Mistake(
                "the formula of part 1",
                lambda noise, eps: float(1 - np.mean(eps**2)),
                "that presumes an exact mean; use the residuals themselves.",
            ),
            Mistake(
                "variance of the residuals",
                lambda noise, eps: float(np.var(noise - eps)),
                "do not subtract the mean of the residuals: it is an error of the prediction and "
                "belongs to the variance.",
            ),
        ),
    ),
    Exercise(
        "the error of SN",
        solution=lambda m, b: -2 * b * (m + b),
        inputs=_errors,
        mistakes=(
            Mistake(
                "only the square",
                lambda m, b: -(b**2),
                "SN subtracts (m + b)² where m² would be right, and then lacks b² as well.",
            ),
            Mistake(
                "the exact prediction",
                lambda m, b: -2 * b * m,
                "b² is lost twice: once by SN's subtraction, once against the best variance.",
            ),
            Mistake(
                "against the variance",
                lambda m, b: -2 * b * m - b**2,
                "the best variance is not the data's: it owns the error b² as well.",
            ),
            Mistake(
                "best minus SN",
                lambda m, b: 2 * b * (m + b),
                "SN's variance minus the best one, not the other way round.",
            ),
        ),
    ),
    Exercise(
        "two estimates for a least squares fit",
        solution=_both_estimates,
        inputs=_pairs,
        mistakes=(
            Mistake(
                "a regularised fit",
                lambda x, noise: _both_estimates(x, noise, 0.1),
                "with weight decay the fit is not at the minimum of its loss; fit by plain least "
                "squares.",
            ),
            Mistake(
                "no constant",
                _without_constant,
                "the denoiser has a constant term w_0 as well.",
            ),
            Mistake(
                "n − 2",
                _unbiased_first,
                "both are plain means over the sample; no degrees of freedom are subtracted.",
            ),
            Mistake(
                "1 for the mean square",
                _one_for_the_mean_square,
                "take the sample's own mean of ε², not its expectation 1.",
            ),
        ),
    ),
    Exercise(
        "the likelihood loss of a variance",
        solution=variance_nll,
        inputs=_tensors,
        mistakes=(
            Mistake(
                "g for its logarithm",
                lambda log_g, noise, eps: (0.5 * (log_g + (noise - eps) ** 2 / log_g)).mean(),
                "the head gives ln g: divide by its exponential.",
            ),
            Mistake(
                "without the logarithm",
                lambda log_g, noise, eps: (0.5 * (noise - eps) ** 2 * (-log_g).exp()).mean(),
                "nothing keeps g from growing without ½ ln g.",
            ),
            Mistake(
                "no detach",
                lambda log_g, noise, eps: (
                    0.5 * (log_g + (noise - eps) ** 2 * (-log_g).exp())
                ).mean(),
                "the residual must be detached: the frozen mean is not to be trained by it.",
            ),
            Mistake(
                "the logarithm cut off",
                lambda log_g, noise, eps: (
                    0.5 * log_g.detach() + _nll(log_g, noise, eps) - 0.5 * log_g
                ).mean(),
                "the value is right, the gradient is not: with ½ ln g detached nothing keeps g "
                "from growing.",
            ),
            Mistake(
                "everything cut off",
                lambda log_g, noise, eps: _nll(log_g, noise, eps).mean().detach(),
                "nothing can be learned from this loss: detach the residual only.",
            ),
            Mistake(
                "no half",
                lambda log_g, noise, eps: 2 * _nll(log_g, noise, eps).mean(),
                "minus the log-likelihood has a ½ before both terms.",
            ),
            Mistake(
                "the sum",
                lambda log_g, noise, eps: _nll(log_g, noise, eps).sum(),
                "the mean over all entries is asked for.",
            ),
        ),
        observe=_loss_and_gradient,
    ),
    Exercise(
        "the mirrored scale error",
        solution=lambda E: 1 - 1 / math.sqrt(E),
        inputs=_shares,
        mistakes=(
            Mistake(
                "the positive error",
                lambda E: 1 / math.sqrt(E) - 1,
                "that is where part 1 turns negative; the question asks for the negative k.",
            ),
            Mistake(
                "zero of part 1 for negative k",
                lambda E: -1 / math.sqrt(E) - 1,
                "1 − E + k²E depends on k² only: which negative k has the same square?",
            ),
        ),
    ),
)
