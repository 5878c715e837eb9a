"""What the exercises of optimization/generalization check."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import sympy as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from kexue_lab.exercises import Exercise, Mistake

Inputs = Iterator[tuple[Any, ...]]
Array = NDArray[np.float64]


# --- another divergence


def _laws(rng: np.random.Generator) -> Inputs:
    for size in (2, 3, 5):
        yield (rng.dirichlet(np.full(size, 3.0)),)


# --- the fourth power, smoothed


def _symbols(_rng: np.random.Generator) -> Inputs:
    yield sp.symbols("s v", positive=True)
    yield sp.symbols("a b", positive=True)


# --- another norm


def _slopes(rng: np.random.Generator) -> Inputs:
    yield np.array([0.4, -1.5, 0.7]), 0.25
    for size in (2, 4, 6):
        yield rng.normal(size=size), float(rng.uniform(0.1, 0.9))


def _one_coordinate(slope: Array, epsilon: float, place: int) -> Array:
    step = np.zeros_like(slope)
    step[place] = epsilon * np.sign(slope[place])
    return step


def _worst(slope: Array, epsilon: float) -> Array:
    return _one_coordinate(slope, epsilon, int(np.abs(slope).argmax()))


# --- noise that does as much


def _curvatures(rng: np.random.Generator) -> Inputs:
    for size in (3, 4, 6):
        root = rng.normal(size=(size, size))
        yield root @ root.T, float(rng.uniform(0.1, 0.9))


def _equal_noise(H: Array, epsilon: float) -> float:
    return epsilon * math.sqrt(np.linalg.eigvalsh(H)[-1] / np.trace(H))


# --- regression


class _Net:
    """Outputs W tanh(x) + 0.5 of inputs x."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def __repr__(self) -> str:
        return f"a model with weights of shape {tuple(self.weight.shape)}"

    def __call__(self, x: Tensor) -> Tensor:
        return torch.tanh(x) @ self.weight.T + 0.5


def _models(rng: np.random.Generator) -> Inputs:
    for rows, d, m in ((1, 4, 2), (3, 5, 2), (4, 3, 4)):
        weight = torch.tensor(rng.normal(size=(m, d))).requires_grad_()
        x, start = (torch.tensor(rng.normal(size=(rows, d))) for _ in range(2))
        yield _Net(weight), x, start / start.norm(dim=1, keepdim=True)


def _direction_and_gradient(result: Any, f: _Net, x: Tensor, start: Tensor) -> list[Any]:
    """The direction; whether it has left a gradient in the weights; whether it hangs on them."""
    if not isinstance(result, Tensor):
        raise ValueError("return the direction as a torch tensor")
    kept = f.weight.grad
    left = kept is not None and bool(kept.count_nonzero())
    return [result.detach().numpy(), float(left), float(result.requires_grad)]


def _step(
    xi: float = 1e-3,
    whole: bool = False,
    backward: bool = False,
    mean: bool = False,
    attached: bool = False,
) -> Callable[[_Net, Tensor, Tensor], Tensor]:
    """One power step for the squared error, or what goes wrong in it."""

    def power_step(f: _Net, x: Tensor, start: Tensor) -> Tensor:
        r = (xi * start).detach().requires_grad_()
        gap = (f(x + r) - f(x).detach()).square().sum()
        if backward:
            torch.autograd.backward(gap)
            slope = r.grad if r.grad is not None else torch.zeros_like(r)
        else:
            (slope,) = torch.autograd.grad(gap, r, create_graph=attached)
        if mean:
            slope = slope.mean(0, keepdim=True).expand_as(slope)
        size = slope.norm() if whole else slope.norm(dim=1, keepdim=True)
        direction: Tensor = slope / size.clamp_min(1e-30)
        return direction

    return power_step


def _exact(f: _Net, x: Tensor, start: Tensor) -> Tensor:
    """JᵀJ start, normalised: the limit of short trial steps."""
    J = f.weight.detach() * (1 - torch.tanh(x) ** 2)[:, None, :]
    u = torch.einsum("bmd,bme,be->bd", J, J, start)
    direction: Tensor = u / u.norm(dim=1, keepdim=True)
    return direction


# --- the least gain

_P = np.array([0.5, 0.25, 0.25])


def _least_gain() -> Array:
    rows = np.zeros((3, 4))
    rows[:, 0] = 1.0, -1.0, -1.0
    rows[:, 1] = 0.0, 2**0.5, -(2**0.5)
    return rows


def _judge_gain(answer: Any) -> str | None:
    try:
        W = np.asarray(answer, dtype=float)
    except (TypeError, ValueError):
        return "give numbers: three rows of four"
    if W.shape != (3, 4):
        return f"W must have three rows of four numbers, this has the shape {W.shape}"
    if not np.isfinite(W).all() or np.abs(W).max() > 100:
        return "let the numbers be finite and between -100 and 100"
    H = W.T @ (np.diag(_P) - np.outer(_P, _P)) @ W
    eigenvalues = np.linalg.eigvalsh(H)[::-1].clip(0)
    top = float(eigenvalues[0])
    if not top > 1e-3:
        return "the divergence does not grow in any direction, or hardly: λ_max must pass 0.001"
    gain = 4 * top / float(np.trace(H))
    if not abs(gain - 2) < 1e-3:  # roots may be typed with a few digits
        told = ", ".join(f"{value:.3g}" for value in eigenvalues)
        return f"the gain is {gain:.6g}, not 2: the eigenvalues of H are {told}"
    return None


EXERCISES = (
    Exercise(
        "the weights λ of the Jensen-Shannon divergence",
        solution=lambda p: 1 / (4 * np.asarray(p)),
        inputs=_laws,
        mistakes=(
            Mistake(
                "those of KL",
                lambda p: 1 / np.asarray(p),
                "from p to the middle is half of the way, and the square of a half is a quarter.",
            ),
            Mistake(
                "half the way, not squared",
                lambda p: 1 / (2 * np.asarray(p)),
                "both halves go half of the way; the divergence goes by the square.",
            ),
            Mistake(
                "one of the two halves",
                lambda p: 1 / (8 * np.asarray(p)),
                "there are two divergences, each with the factor ½: the second counts as well.",
            ),
            Mistake(
                "the middle as its own scale",
                lambda p: np.full_like(np.asarray(p), 0.25),
                "λ depends on p: the square of a change is divided by p, to leading order.",
            ),
        ),
    ),
    Exercise(
        "the fourth power under noise, exactly",
        solution=lambda s, v: s**4 + 6 * s**2 * v + 3 * v**2,
        inputs=_symbols,
        mistakes=(
            Mistake(
                "cut after the Laplacian",
                lambda s, v: s**4 + 6 * s**2 * v,
                "at s = 0 the mean of the fourth power is not 0.",
            ),
            Mistake(
                "the fourth moment is 3, not 1",
                lambda s, v: s**4 + 6 * s**2 * v + v**2,
                "that is so for noise of two signs; which fourth moment has a Gaussian?",
            ),
            Mistake(
                "one pair instead of six",
                lambda s, v: s**4 + s**2 * v + 3 * v**2,
                "how many ways are there to choose two factors of four?",
            ),
            Mistake(
                "one noise, two factors",
                lambda s, v: s**4 + 3 * s**2 * v + 3 * v**2,
                "of the four factors two carry noise: choose them in all ways.",
            ),
            Mistake(
                "v as a standard deviation",
                lambda s, v: s**4 + 6 * s**2 * v**2 + 3 * v**4,
                "v is a variance already, of the second order in σ.",
            ),
            Mistake(
                "no change",
                lambda s, v: s**4,
                "noise changes the mean of an even power.",
                variants=(lambda s, v: 3 * v**2,),
            ),
            Mistake(
                "half of the Laplacian forgotten",
                lambda s, v: s**4 + 12 * s**2 * v + 3 * v**2,
                "mind the ½ in front of the Laplacian.",
            ),
        ),
    ),
    Exercise(
        "the worst step in the norm of the sum",
        solution=_worst,
        inputs=_slopes,
        keeps_inputs=True,
        mistakes=(
            Mistake(
                "the step of the largest norm",
                lambda slope, epsilon: epsilon * np.sign(slope),
                "its absolute values add up to d·ε. You may spend ε in all.",
            ),
            Mistake(
                "the Euclidean step",
                lambda slope, epsilon: epsilon * slope / np.linalg.norm(slope),
                "its absolute values add up to more than ε.",
            ),
            Mistake(
                "shared out in proportion",
                lambda slope, epsilon: epsilon * slope / np.abs(slope).sum(),
                "of the right size; but is it the best use of ε? Compare with another way to "
                "spend it.",
            ),
            Mistake(
                "the sign forgotten",
                lambda slope, epsilon: np.abs(_worst(slope, epsilon)),
                "where the slope is negative the loss grows backwards.",
            ),
            Mistake(
                "the largest slope, not the steepest",
                lambda slope, epsilon: _one_coordinate(slope, epsilon, int(slope.argmax())),
                "which entry is largest in absolute value? A large negative slope is as good as "
                "a positive one.",
            ),
            Mistake(
                "shared out evenly",
                lambda slope, epsilon: epsilon * np.sign(slope) / len(slope),
                "of the right size; but does every entry repay its part of ε equally well?",
            ),
        ),
    ),
    Exercise(
        "the noise that does as much as VAT",
        solution=_equal_noise,
        inputs=_curvatures,
        keeps_inputs=True,
        mistakes=(
            Mistake(
                "the ratio without the root",
                lambda H, epsilon: epsilon * np.linalg.eigvalsh(H)[-1] / np.trace(H),
                "the divergences go by σ² and ε².",
            ),
            Mistake(
                "the smallest eigenvalue",
                lambda H, epsilon: (
                    epsilon * math.sqrt(max(np.linalg.eigvalsh(H)[0], 0) / np.trace(H))
                ),
                "numpy sorts eigenvalues upwards: the first is the smallest.",
            ),
            Mistake(
                "of equal length",
                lambda H, epsilon: epsilon / math.sqrt(len(H)),
                "that noise is as long as ε, and does less: it mostly points elsewhere.",
            ),
            Mistake(
                "the root of the gain",
                lambda H, epsilon: _equal_noise(H, epsilon) * math.sqrt(len(H)),
                "that is the length of the noise; σ is that of one component.",
            ),
            Mistake(
                "divided by the root of d",
                lambda H, epsilon: _equal_noise(H, epsilon) / math.sqrt(len(H)),
                "σ is that of one entry already: E r rᵀ = σ² I, and no d is left.",
            ),
            Mistake(
                "upside down",
                lambda H, epsilon: epsilon**2 / _equal_noise(H, epsilon),
                "noise feels all eigenvalues at once, VAT only the largest: which σ is larger?",
            ),
        ),
    ),
    Exercise(
        "the direction for a regression, mended",
        solution=_exact,
        inputs=_models,
        observe=_direction_and_gradient,
        rtol=0.02,
        atol=0.02,
        mistakes=(
            Mistake(
                "the slope at 0",
                lambda f, x, start: torch.zeros_like(x),
                "at r = 0 the squared error has no slope: take it at a short step along start.",
            ),
            Mistake(
                "normalised over the batch",
                _step(whole=True),
                "each sample needs a direction of length 1 of its own; with one sample this does "
                "not show.",
                within=0.02,
            ),
            Mistake(
                "gradients left in the model",
                _step(backward=True),
                "the search has added to the gradient of the weights. `torch.autograd.grad` asks "
                "for the slope in r alone.",
                within=0.02,
            ),
            Mistake(
                "a direction that hangs on the weights",
                _step(attached=True),
                "the direction still knows how it came from the weights, and a loss along it would "
                "be differentiated through the search: detach it.",
                within=0.02,
            ),
            Mistake(
                "one direction for all",
                _step(mean=True),
                "each sample has its own Jacobian, and its own direction.",
                within=0.02,
            ),
            Mistake(
                "a trial step of length 1",
                _step(xi=1.0),
                "the start has length 1: there the slope is no longer that of the parabola. Take "
                "a short step along it.",
                within=0.02,
            ),
            Mistake(
                "the start again",
                lambda f, x, start: start,
                "that is noise: no power step has been made.",
            ),
        ),
    ),
    Exercise(
        "a model with the least gain",
        solution=_least_gain,
        judge=_judge_gain,
        mistakes=(
            Mistake(
                "orthonormal rows",
                lambda: np.eye(3, 4),
                "with p = (½, ¼, ¼) the classes do not count alike: H is a covariance under p.",
            ),
            Mistake(
                "a simplex for equal classes",
                lambda: np.array([[2.0, 0, 0, 0], [-1, 3**0.5, 0, 0], [-1, -(3**0.5), 0, 0]]),
                "this is right for p = (⅓, ⅓, ⅓). Compute the variance of each column under p.",
            ),
            Mistake(
                "one column",
                lambda: np.array([[1.0, 0, 0, 0], [-1, 0, 0, 0], [-1, 0, 0, 0]]),
                "H has one eigenvalue only, and the gain is 4, the largest there is.",
            ),
            Mistake(
                "nothing moves",
                lambda: np.ones((3, 4)),
                "adding the same to all logits changes no probability.",
            ),
            Mistake(
                "uncorrelated, of unequal variance",
                lambda: np.array([[1.0, 0, 0, 0], [-1, 1, 0, 0], [-1, -1, 0, 0]]),
                "the covariance of the columns is 0, but their variances differ.",
            ),
            Mistake(
                "equal variances, not orthogonal",
                lambda: np.array(
                    [[1.0, 1.0, 0, 0], [-1, -1 + 2**0.5, 0, 0], [-1, -1 - 2**0.5, 0, 0]]
                ),
                "the two columns must also be uncorrelated under p.",
            ),
        ),
    ),
)
