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
    for decay in (0.0, *rng.uniform(0.05, 0.5, 3)):
        noise = rng.standard_normal(300)
        x = rng.uniform(0.2, 0.9) * noise + np.where(rng.random(300) < 0.3, -1.5, 1.0)
        yield x, noise, float(decay)


def _tensors(rng: np.random.Generator) -> Inputs:
    for size in (4, 7, 20):
        log_g, noise, eps = (torch.from_numpy(rng.standard_normal((size, 2))) for _ in range(3))
        yield log_g.requires_grad_(), noise, eps.requires_grad_()


def _shares(rng: np.random.Generator) -> Inputs:
    yield (0.47473316,)
    yield from ((float(v),) for v in rng.uniform(0.3, 0.95, 5))


def _both_estimates(x: Array, noise: Array, decay: float) -> tuple[float, float]:
    return _estimates_of_fit(x, noise, decay * np.eye(2))


def _estimates_of_fit(x: Array, noise: Array, penalty: Array) -> tuple[float, float]:
    """Of the fit that minimises the mean squared residual plus wᵀ·penalty·w."""
    features = np.stack([np.ones_like(x), x], 1)
    gram = features.T @ features / len(x) + penalty
    fitted = features @ np.linalg.solve(gram, features.T @ noise / len(x))
    return float(np.mean((noise - fitted) ** 2)), float(np.mean(noise**2) - np.mean(fitted**2))


def _without_constant(x: Array, noise: Array, decay: float) -> tuple[float, float]:
    fitted = x * (x @ noise) / (x @ x + decay * len(x))
    return float(np.mean((noise - fitted) ** 2)), float(np.mean(noise**2) - np.mean(fitted**2))


def _unbiased_first(x: Array, noise: Array, decay: float) -> tuple[float, float]:
    first, second = _both_estimates(x, noise, decay)
    return first * len(x) / (len(x) - 2), second


def _unbiased(x: Array, noise: Array, decay: float) -> tuple[float, float]:
    first, second = (v * len(x) / (len(x) - 2) for v in _both_estimates(x, noise, decay))
    return first, second


def _one_for_the_mean_square(x: Array, noise: Array, decay: float) -> tuple[float, float]:
    first, second = _both_estimates(x, noise, decay)
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
                variants=(lambda noise, eps: float(np.var(noise - eps, ddof=1)),),
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
                "one estimate twice",
                lambda *a: _both_estimates(*a)[:1] * 2,
                "the two agree where the fit is the minimum of the mean square itself (step 3), "
                "which it is at decay = 0 only: compute both.",
                variants=(lambda *a: _both_estimates(*a)[1:] * 2,),
            ),
            Mistake(
                "no decay",
                lambda x, noise, decay: _both_estimates(x, noise, 0.0),
                "the weights minimise the mean square *plus* decay·(w_0² + w_1²).",
            ),
            Mistake(
                "decay against the sum",
                lambda x, noise, decay: _both_estimates(x, noise, decay / len(x)),
                "the loss is a mean over the sample: against the sum of squares stands n·decay.",
            ),
            Mistake(
                "a constant without decay",
                lambda x, noise, decay: _estimates_of_fit(x, noise, np.diag([0.0, decay])),
                "both weights decay, the constant w_0 as well.",
            ),
            Mistake(
                "half or double decay",
                lambda x, noise, decay: _both_estimates(x, noise, decay / 2),
                "set the gradient of mean square + decay·|w|² to 0: both terms have a 2, which "
                "drops out.",
                variants=(lambda x, noise, decay: _both_estimates(x, noise, 2 * decay),),
            ),
            Mistake(
                "exchanged",
                lambda *a: _both_estimates(*a)[::-1],
                "the mean squared residual comes first.",
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
                variants=(_unbiased,),
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
                variants=(
                    lambda log_g, noise, eps: (
                        0.5 * (log_g + (noise - eps).detach() ** 2 * log_g.exp())
                    ).mean(),
                    lambda log_g, noise, eps: (
                        0.5 * (log_g + (noise - eps).detach() ** 2 / log_g)
                    ).mean(),
                ),
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
                variants=(
                    lambda log_g, noise, eps: (_nll(log_g, noise, eps) + 0.5 * log_g).mean(),
                    lambda log_g, noise, eps: (2 * _nll(log_g, noise, eps) - 0.5 * log_g).mean(),
                ),
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
