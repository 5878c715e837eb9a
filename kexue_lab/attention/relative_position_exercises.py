"""What the exercises of attention/relative_position check."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kexue_lab.exercises import Exercise, Mistake

Inputs = Iterator[tuple[Any, ...]]

_CLOSE = 1e-9

# --- floors of a mirrored net


def _lengths(rng: np.random.Generator) -> Inputs:
    yield (10,)
    yield (7,)
    yield (2,)
    for _ in range(5):
        yield (int(rng.integers(3, 40)),)


def _mirror_floors(n: int) -> tuple[float, float]:
    return (n**2 - 1) / 12, 2 * (n // 2) / n * math.log(2)


# --- a factor with given row sums


def _squares_factor(n: int) -> list[float]:
    return [n * (2 * r + 1) if r >= 0 else 0 for r in range(1 - n, n)]


def _judge_factor(got: Any, n: int) -> str | None:
    g = np.asarray(got, dtype=float)
    if g.shape != (2 * n - 1,):
        return f"return 2n - 1 = {2 * n - 1} numbers, got the shape {g.shape}"
    sums = [sum(g[i - j + n - 1] for j in range(1, n + 1)) / n for i in range(1, n + 1)]
    for i, found in enumerate(sums, 1):
        if abs(found - i**2) > _CLOSE * n**2:
            return f"row {i} of {n} sums to {found:.6g}, not to {i**2}"
    return None


def _factor(n: int, value: Any) -> list[float]:
    return [value(r) for r in range(1 - n, n)]


# --- six architectures

# RoPE and a mask; l2, symmetric; l2, RoPE; [CLS], symmetric; URPE on a circle; [CLS] at the end
_SOLVABLE = [False, False, True, True, False, False]


def _but(**changed: bool) -> list[bool]:
    return [changed.get(letter, value) for letter, value in zip("abcdef", _SOLVABLE, strict=True)]


# --- a factor with a short table


def _tables(rng: np.random.Generator) -> Inputs:
    for h, n, reach in ((1, 4, 3), (2, 6, 2), (3, 9, 4)):
        logits = torch.from_numpy(rng.standard_normal((h, n, n)))
        yield logits, torch.from_numpy(rng.standard_normal((h, 2 * reach + 1)))


def _scaled_weights(
    logits: Tensor,
    g: Tensor,
    *,
    sign: int = 1,
    clip: bool = True,
    inside: bool = False,
    again: bool = False,
) -> Tensor:
    """The repaired code, and its faults by name."""
    n, reach = logits.shape[-1], g.shape[-1] // 2
    i = torch.arange(n)
    offsets = sign * (i[:, None] - i)
    if clip:
        offsets = offsets.clamp(-reach, reach)
    factor = g[:, (offsets + reach) % g.shape[-1]]
    if inside:
        return (logits * factor).softmax(-1)
    weights = logits.softmax(-1) * factor
    return weights / weights.sum(-1, keepdim=True) if again else weights


# --- two special tokens


def _ends(rng: np.random.Generator) -> Inputs:
    for n in (6, 7):
        for same in (False, True):
            yield n, same
    for _ in range(6):
        yield int(rng.integers(1, 30)), bool(rng.random() < 0.6)


def _distinct_rows(n: int, same: bool) -> int:
    return (n + 1) // 2 if same else n


EXERCISES = (
    Exercise(
        "the floors of a mirrored net",
        solution=_mirror_floors,
        inputs=_lengths,
        mistakes=(
            Mistake(
                "as if all positions were alike",
                lambda n: ((n**2 - 1) / 12, math.log(n)),
                "for classes a mirror pair is told from the other pairs.",
            ),
            Mistake(
                "half of the squared error",
                lambda n: ((n**2 - 1) / 24, 2 * (n // 2) / n * math.log(2)),
                "what is the best common number for i and n + 1 - i? It is the same for each pair.",
            ),
            Mistake(
                "half as many places",
                lambda n: (((n / 2) ** 2 - 1) / 12, 2 * (n // 2) / n * math.log(2)),
                "the best constant of a pair i, n + 1 - i is still (n + 1)/2.",
            ),
            Mistake(
                "no squared error within a pair's class",
                lambda n: (0.0, 2 * (n // 2) / n * math.log(2)),
                "the net must give one number to both i and n + 1 - i.",
            ),
            Mistake(
                "the middle forgotten",
                lambda n: ((n**2 - 1) / 12, math.log(2)),
                "for odd n one token is its own mirror image.",
            ),
            Mistake(
                "the classes' floor as a sum",
                lambda n: ((n**2 - 1) / 12, 2 * (n // 2) * math.log(2)),
                "the losses are means over the n positions.",
            ),
        ),
    ),
    Exercise(
        "a factor with row sums 1, 4, 9, …",
        solution=_squares_factor,
        inputs=_lengths,
        judge=_judge_factor,
        mistakes=(
            Mistake(
                "the squares themselves",
                lambda n: _factor(n, lambda r: n * r**2 if r >= 0 else 0),
                "a row sum is a sum of values of g: its differences should be those of i².",
            ),
            Mistake(
                "symmetric",
                lambda n: _factor(n, lambda r: n * (2 * abs(r) + 1)),
                "with a symmetric g the first and the last row agree.",
            ),
            Mistake(
                "without the weights",
                lambda n: _factor(n, lambda r: 2 * r + 1 if r >= 0 else 0),
                "each entry of g is multiplied by the weight 1/n.",
            ),
            Mistake(
                "on both sides",
                lambda n: _factor(n, lambda r: n * (2 * r + 1)),
                "the offsets to the right, r < 0, are summed as well.",
            ),
            Mistake(
                "in the other direction",
                lambda n: list(reversed(_squares_factor(n))),
                "place r + n - 1 holds g of the offset r = i - j: the last place is r = n - 1.",
            ),
            Mistake(
                "one step late",
                lambda n: _factor(n, lambda r: n * (2 * r - 1) if r >= 1 else 0),
                "row 1 sees the offset 0 and offsets to the right only.",
            ),
        ),
    ),
    Exercise(
        "which of six can solve the probe",
        solution=lambda: list(_SOLVABLE),
        mistakes=(
            Mistake(
                "a mask suffices",
                lambda: _but(a=True),
                "what do the rows of masked softmax weights sum to?",
            ),
            Mistake(
                "another norm suffices",
                lambda: _but(b=True),
                "one of them cannot tell left from right.",
            ),
            Mistake(
                "rotations are symmetric",
                lambda: _but(c=False),
                "one of the claims of step 2 is about RoPE and symmetry.",
            ),
            Mistake(
                "symmetry kills everything",
                lambda: _but(d=False),
                "a token at one end breaks the mirror.",
            ),
            Mistake(
                "a factor suffices",
                lambda: _but(e=True),
                "what are the row sums if the rows are shifted copies of each other?",
            ),
            Mistake(
                "a special token suffices",
                lambda: _but(f=True),
                "who can see the special token?",
            ),
            Mistake(
                "all but softmax",
                lambda: _but(b=True, e=True),
                "look at symmetry and at edges, not at the norm alone.",
            ),
        ),
    ),
    Exercise(
        "a factor with a short table",
        solution=_scaled_weights,
        inputs=_tables,
        mistakes=(
            Mistake(
                "as given",
                lambda b, g: _scaled_weights(b, g, sign=-1, clip=False, again=True),
                "what must the rows not sum to?",
            ),
            Mistake(
                "from the key's side",
                lambda b, g: _scaled_weights(b, g, sign=-1),
                "the offset is i - j, with i the row.",
            ),
            Mistake(
                "around the table",
                lambda b, g: _scaled_weights(b, g, clip=False),
                "far offsets take the value at the end of the table; a remainder wraps around.",
            ),
            Mistake(
                "normalised again",
                lambda b, g: _scaled_weights(b, g, again=True),
                "divided by its sum each row sums to 1 again, and step 1 applies.",
            ),
            Mistake(
                "inside the softmax",
                lambda b, g: _scaled_weights(b, g, inside=True),
                "a factor on the logits is one more relative encoding before the softmax.",
            ),
        ),
    ),
    Exercise(
        "two special tokens",
        solution=_distinct_rows,
        inputs=_ends,
        exact=True,
        mistakes=(
            Mistake(
                "the mirror always wins",
                lambda n, same: (n + 1) // 2,
                "the weights of the two ends change places under the mirror; do their values?",
            ),
            Mistake(
                "always all",
                lambda n, same: n,
                "if both ends have the same value, mirror the whole sequence.",
            ),
            Mistake(
                "pairs only",
                lambda n, same: n // 2 if same else n,
                "for odd n the middle token is in no pair.",
            ),
            Mistake(
                "nothing at all",
                lambda n, same: 1,
                "rows sum to 1, but the values are not all equal.",
            ),
        ),
    ),
)
