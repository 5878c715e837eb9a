"""What the exercises of generative/finite_scalar_quantization check."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from scipy.special import expit, ndtr, ndtri
from torch import Tensor

from kexue_lab.exercises import Exercise, Mistake

Inputs = Iterator[tuple[Any, ...]]
Array = NDArray[np.float64]


# --- neighbours


def _places(rng: np.random.Generator) -> Inputs:
    # 25 has the levels (1, 3): each wrong rule gives something else.
    yield 25, [8, 5]
    yield 7, [8, 5]  # (7, 0), a corner
    yield 0, [4, 2, 3]
    for _ in range(4):
        levels = [int(n) for n in rng.integers(3, 8, 3)]
        yield int(rng.integers(1, math.prod(levels) - 1)), levels


def _digits(index: int, levels: Sequence[int]) -> list[int]:
    found = []
    for number in levels:
        found.append(index % number)
        index //= number
    return found


def _neighbours(index: int, levels: Sequence[int]) -> list[int]:
    found, place = [], 1
    for digit, number in zip(_digits(index, levels), levels, strict=True):
        found += [index + step * place for step in (-1, 1) if 0 <= digit + step < number]
        place *= number
    return sorted(found)


def _with_carry(index: int, levels: Sequence[int]) -> list[int]:
    places = [math.prod(levels[:j]) for j in range(len(levels))]
    found = [index + step * place for place in places for step in (-1, 1)]
    return sorted(n for n in found if 0 <= n < math.prod(levels))


def _wrapped(index: int, levels: Sequence[int]) -> list[int]:
    found, place = set(), 1
    for digit, number in zip(_digits(index, levels), levels, strict=True):
        found |= {index + ((digit + step) % number - digit) * place for step in (-1, 1)}
        place *= number
    return sorted(found - {index})


def _diagonal(index: int, levels: Sequence[int]) -> list[int]:
    mine = _digits(index, levels)
    others = ((n, _digits(n, levels)) for n in range(math.prod(levels)) if n != index)
    return [n for n, d in others if max(abs(a - b) for a, b in zip(mine, d, strict=True)) == 1]


def _last_fastest(index: int, levels: Sequence[int]) -> list[int]:
    return _neighbours(index, levels[::-1])


# --- dithered rounding


def _dithers(rng: np.random.Generator) -> Inputs:
    u = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    for y in (1.3, -0.2, *rng.uniform(-3, 3, 3)):
        yield torch.full((1000,), float(y), dtype=torch.float64, requires_grad=True), u


def _value_and_gradient(result: Tensor, y: Tensor, u: Tensor) -> list[Any]:
    gradient = None
    if result.requires_grad:
        (gradient,) = torch.autograd.grad(result.sum(), y, allow_unused=True)
    if gradient is None:
        gradient = torch.zeros_like(y)
    return [result.detach().double().numpy(), gradient.double().numpy()]


def _judge_dither(observed: list[Array], y: Tensor, u: Tensor) -> str | None:
    value, gradient = observed
    target = float(y.detach()[0])
    if value.shape != (1000,):
        return f"the result has the shape {value.shape}, not that of y"
    if np.abs(value - np.round(value)).max() > 1e-9:
        return "the results are not all whole numbers"
    if np.abs(value - target).max() >= 1:
        return f"a result is not one of the two whole numbers beside y = {target:.3f}"
    if abs(value.mean() - target) > 0.002:
        return f"the mean over u is {value.mean():.3f}, but y is {target:.3f}"
    if np.abs(gradient - 1).max() > 1e-9:
        return f"the gradient by y is not 1 everywhere, but e.g. {gradient[0]:g}"
    return None


def _straight(y: Tensor, value: Tensor) -> Tensor:
    return y + (value - y).detach()


# --- a fair bound


def _normal_draws(rng: np.random.Generator) -> Inputs:
    z = ndtri((np.arange(6000) + 0.5) / 6000)
    yield z, 5, 1.0
    for levels in (3, 4, 8):
        std = float(rng.uniform(0.3, 0.8) + rng.integers(0, 2) * 1.7)
        yield std * z, levels, std


def _judge_bound(y: Any, z: Array, levels: int, std: float) -> str | None:
    y = np.asarray(y, dtype=float)
    if y.shape != z.shape:
        return f"the result has the shape {y.shape}, not that of z"
    steps = np.diff(y)
    # Far out a monotone bound may stand still in floating point; a rounded one does so everywhere.
    rising = steps if y[-1] > y[0] else -steps
    if rising.min() < 0 or (rising > 0).mean() < 0.8:
        return "the bound is not strictly monotone: rounding shall come afterwards"
    chosen = np.round(y).astype(int)
    if chosen.min() < 0 or chosen.max() > levels - 1:
        return f"levels from {chosen.min()} to {chosen.max()} occur, and 0 to {levels - 1} exist"
    shares = np.bincount(chosen, minlength=levels) / len(z)
    if np.abs(shares - 1 / levels).max() > 0.002:
        return f"the levels occur with the shares {np.round(shares, 4).tolist()}"
    return None


# --- a revival


def _tables(rng: np.random.Generator) -> Inputs:
    yield np.array([[0.0, 0.0], [4.0, 1.0], [-1.0, 5.0]]), 1
    made = 0
    while made < 3:
        codebook = 2 * rng.standard_normal((5, 2))
        gaps = cdist(codebook, codebook) + 99 * np.eye(5)
        if gaps.min() > 1:
            made += 1
            yield codebook, int(rng.integers(5))


def _stepped(z: Array, codebook: Array) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Who is nearest before and after each selected code has gone to the mean of its vectors."""
    before = cdist(z, codebook).argmin(1)
    moved = codebook.copy()
    for k in set(before.tolist()):
        moved[k] = z[before == k].mean(0)
    return before, cdist(z, moved).argmin(1)


def _judge_revival(z: Any, codebook: Array, j: int) -> str | None:
    z = np.asarray(z, dtype=float)
    if z.ndim != 2 or z.shape[1] != codebook.shape[1] or not len(z):
        return f"a batch has the shape (vectors, {codebook.shape[1]}), got {z.shape}"
    before, after = _stepped(z, codebook)
    if j in before:
        return f"code {j} is selected before the step, by vector {before.tolist().index(j)}"
    if j not in after:
        return f"code {j} is selected by no vector after the step either"
    return None


def _revival(codebook: Array, j: int) -> Array:
    gaps = cdist(codebook, codebook) + 1e9 * np.eye(len(codebook))
    k = int(gaps[j].argmin())
    away = codebook[k] - codebook[j]
    # One halfway to j, a little on k's side; and many that draw k away but are nearest to k.
    border = codebook[k] - 0.499 * away
    reach = 0.45 * min(1.0, float(gaps[k].min() / gaps[j, k])) * away
    return np.array([border, *[codebook[k] + reach] * 99])


# --- what dithering costs


def _fractions(rng: np.random.Generator) -> Inputs:
    yield (0.3,)
    for low, high in ((0.05, 0.25), (0.55, 0.7), (0.75, 0.95)):
        yield (float(rng.uniform(low, high)),)


def _plain(r: float) -> float:
    return min(r, 1 - r) ** 2


# --- the ends of the scale


def _level_numbers(rng: np.random.Generator) -> Inputs:
    for levels in (3, 2, 4, 5, 8, 9):
        yield (levels,)


EXERCISES = (
    Exercise(
        "neighbours of a code",
        solution=_neighbours,
        inputs=_places,
        exact=True,
        mistakes=(
            Mistake(
                "one up, one down",
                lambda index, levels: [
                    n for n in (index - 1, index + 1) if 0 <= n < math.prod(levels)
                ],
                "that changes the first coordinate alone, and from its last level it carries into "
                "the next. What is a step of coordinate j worth?",
            ),
            Mistake(
                "carried into the next coordinate",
                _with_carry,
                "from the last level of a coordinate one step up carries, and lands far away. Look "
                "at the level first.",
            ),
            Mistake(
                "round the corner",
                _wrapped,
                "levels are no circle: 0 and the last one are not neighbours.",
            ),
            Mistake(
                "diagonals",
                _diagonal,
                "one coordinate changes, the others stay.",
            ),
            Mistake(
                "the last coordinate fastest",
                _last_fastest,
                "the place value of coordinate j is the product of the levels before it, so the "
                "first is the fastest.",
            ),
            Mistake(
                "the code itself",
                lambda index, levels: sorted([*_neighbours(index, levels), index]),
                "a code is not its own neighbour.",
            ),
        ),
    ),
    Exercise(
        "dithered rounding",
        solution=lambda y, u: _straight(y, torch.floor(y + u)),
        inputs=_dithers,
        observe=_value_and_gradient,
        judge=_judge_dither,
        mistakes=(
            Mistake(
                "as it stands",
                lambda y, u: _straight(y, torch.round(y + u)),
                "this u has the mean one half: the program rounds y + 1/2 on average.",
            ),
            Mistake(
                "no dither",
                lambda y, u: _straight(y, torch.round(y)),
                "without u the result is the same for all of them, and its mean is not y.",
                variants=(lambda y, u: _straight(y, torch.floor(y)),),
            ),
            Mistake(
                "no gradient",
                lambda y, u: torch.floor(y + u),
                "floor and round are constant almost everywhere: the gradient has to go past them.",
                variants=(
                    lambda y, u: y + (torch.floor(y + u) - y),
                    lambda y, u: (y + (torch.floor(y + u) - y)).detach(),
                ),
            ),
            Mistake(
                "no rounding",
                lambda y, u: y + u - 0.5,
                "the mean is right, but whole numbers are wanted.",
                variants=(lambda y, u: y + 0 * u,),
            ),
            Mistake(
                "rounded up",
                lambda y, u: _straight(y, torch.ceil(y + u)),
                "that is y + 1 on average: u has the mean one half already.",
                variants=(lambda y, u: _straight(y, torch.round(y + u + 0.5)),),
            ),
        ),
    ),
    Exercise(
        "a fair bound",
        solution=lambda z, levels, std: levels * ndtr(z / std) - 0.5,
        inputs=_normal_draws,
        judge=_judge_bound,
        mistakes=(
            Mistake(
                "outer levels of half width",
                lambda z, levels, std: (levels - 1) * ndtr(z / std),
                "now y is uniform from 0 to L − 1. How much of that rounds to 0, how much to 1?",
            ),
            Mistake(
                "the article's bound",
                lambda z, levels, std: (levels - 1) * expit(z),
                "a bound that knows nothing of the scale of z cannot be fair to all scales.",
            ),
            Mistake(
                "a sigmoid near the normal law",
                lambda z, levels, std: (levels - 1) * expit(1.702 * z / std),
                "the outer levels are half as wide as the others.",
            ),
            Mistake(
                "a sigmoid, widened",
                lambda z, levels, std: levels * expit(1.702 * z / std) - 0.5,
                "close: but the logistic law is not the normal law, and the shares still show it.",
            ),
            Mistake(
                "a level too many",
                lambda z, levels, std: levels * ndtr(z / std),
                "a number just below L rounds to L, and the last level is L − 1.",
            ),
            Mistake(
                "the scale forgotten",
                lambda z, levels, std: levels * ndtr(z) - 0.5 + 0 * std,
                "z has the standard deviation std, not 1.",
            ),
            Mistake(
                "already rounded",
                lambda z, levels, std: np.round(levels * ndtr(z / std) - 0.5),
                "the bound itself shall be smooth; rounding comes afterwards.",
            ),
        ),
    ),
    Exercise(
        "a dead code revives",
        solution=_revival,
        inputs=_tables,
        judge=_judge_revival,
        mistakes=(
            Mistake(
                "selected at once",
                lambda codebook, j: codebook[[j]],
                "a vector at the code itself selects it before the step.",
                variants=(lambda codebook, j: codebook,),
            ),
            Mistake(
                "everybody stays",
                lambda codebook, j: np.delete(codebook, j, 0),
                "vectors at the other codes move none of them. A selected code has to leave.",
            ),
            Mistake(
                "one vector alone",
                lambda codebook, j: _revival(codebook, j)[:1],
                "a single vector draws its code to itself. It takes others that draw the code away "
                "from it.",
            ),
            Mistake(
                "drawn away, and nobody left behind",
                lambda codebook, j: _revival(codebook, j)[1:],
                "the winner has left, but which vector is nearer to code j now?",
            ),
            Mistake(
                "drawn the wrong way",
                lambda codebook, j: (
                    codebook[
                        [int((cdist(codebook, codebook) + 1e9 * np.eye(len(codebook)))[j].argmin())]
                    ]
                    * (1 - 0.3)
                    + 0.3 * codebook[[j]]
                ),
                "the winner comes nearer to code j, and takes its vectors along. Draw it away.",
            ),
        ),
    ),
    Exercise(
        "what dithering costs",
        solution=lambda r: (_plain(r), r * (1 - r), 1 / 12),
        inputs=_fractions,
        mistakes=(
            Mistake(
                "always rounded down",
                lambda r: (r**2, r * (1 - r), 1 / 12),
                "plain rounding goes up where r is above one half.",
            ),
            Mistake(
                "subtracting undoes all",
                lambda r: (_plain(r), r * (1 - r), 0.0),
                "round(y + u) − u − y is the error of rounding the number y + u. How is y + u "
                "spread between two whole numbers?",
            ),
            Mistake(
                "variances added",
                lambda r: (_plain(r), r * (1 - r), r * (1 - r) + 1 / 12),
                "the rounded number and u are not independent: the one follows the other.",
                variants=(lambda r: (_plain(r), r * (1 - r), r * (1 - r) - 1 / 12),),
            ),
            Mistake(
                "averaged over r",
                lambda r: (1 / 12, 1 / 6, 1 / 12),
                "those are means over all fractions. The first two depend on r.",
            ),
            Mistake(
                "the noise added to the error",
                lambda r: (_plain(r), _plain(r) + 1 / 12, 1 / 12),
                "rounding comes after the noise: the result is one of two whole numbers.",
            ),
        ),
    ),
    Exercise(
        "both ends of the scale",
        solution=lambda levels: (1 if levels % 2 else 2, 2),
        inputs=_level_numbers,
        exact=True,
        mistakes=(
            Mistake(
                "one level in the middle",
                lambda levels: (1, 2),
                "for an even number of levels z = 0 lies on a border, between two of them.",
            ),
            Mistake(
                "all of them at the far end",
                lambda levels: (1 if levels % 2 else 2, levels),
                "for a huge spread nearly every z is far out, where the sigmoid is 0 or 1.",
                variants=(lambda levels: (1, levels),),
            ),
            Mistake(
                "one at the far end",
                lambda levels: (1 if levels % 2 else 2, 1),
                "z is as often far to the left as far to the right.",
                variants=(lambda levels: (1, 1),),
            ),
            Mistake(
                "even and odd exchanged",
                lambda levels: (2 if levels % 2 else 1, 2),
                "with three levels z = 0 gives the level 1, in the middle of its bin.",
            ),
            Mistake(
                "the ends exchanged",
                lambda levels: (2, 1 if levels % 2 else 2),
                "the first number is for a spread near 0.",
            ),
        ),
    ),
)
