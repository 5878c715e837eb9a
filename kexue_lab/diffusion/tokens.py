"""Corrupted tokens: masks and edits, and the exact law of what their samplers produce.

A masked token falls into an absorbing state (吸收态) at a time of its own and stays there. Which
have fallen is all the noise there is: a step that keeps it lifts some of the masks that are there,
a step with fresh noise masks random positions anew. For small vocabularies the law of the samples
is computed by enumeration. `kexue_lab.diffusion.unified` offers these functions as well.
Sources: kexue.fm/archives/9271; Austin et al., "Structured Denoising Diffusion Models in Discrete
State-Spaces", arXiv:2107.03006.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations, pairwise, product
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import comb
from torch import Tensor

from kexue_lab.precision import widened
from kexue_lab.validation import check_choice, check_count

Array = NDArray[np.float64]
_LARGEST = 4096  # states that enumeration will take


def mask_sampler_distribution(
    p: ArrayLike, *, k: int = 1, factorised: bool = True, improved: bool = True
) -> Array:
    """Return the exact law of what a mask-and-predict sampler produces, by enumeration.

    From all tokens masked, each step draws the masked tokens from p given the others and leaves k
    masks fewer: on a random subset of the masks that were there (improved), or on random positions
    (baseline). With one token a step a factorised prediction is exact (improved).

    Args:
        p: law of the data, (V,)·l: an axis of size V for each of the l positions.
        k: masks removed in a step, ≥ 1.
        factorised: predict the masked tokens independently of each other.
        improved: see above.

    Returns:
        An array of the shape of p.

    Raises:
        TypeError: if k is not an integer.
        ValueError: if p is no distribution with equal axes, has over 4096 states, or k < 1.

    Source: kexue.fm/archives/9271, section on masking; order-agnostic autoregression.

    Example:
        >>> p = np.array([[0.5, 0.0], [0.0, 0.5]])
        >>> mask_sampler_distribution(p, k=2)
        array([[0.25, 0.25],
               [0.25, 0.25]])
    """
    law = _check_law(p)
    check_count(k=k)
    length = law.ndim
    # Weight of each set of masked positions, over the tokens at the others (masked axes: size 1).
    states = {tuple(range(length)): np.ones((1,) * length)}
    masked = length
    while masked > 0:
        following = max(masked - k, 0)
        filled = {mask: weight * _predict(law, mask, factorised) for mask, weight in states.items()}
        everything = sum(filled.values())
        states = {}
        for rest in combinations(range(length), following):
            if improved:
                sources = [joint for mask, joint in filled.items() if set(rest) <= set(mask)]
                total = sum(sources) / comb(masked, following)
            else:
                total = everything / comb(length, following)
            states[rest] = total.sum(rest, keepdims=True)
        masked = following
    result: Array = states[()]
    return result


def _predict(law: Array, mask: tuple[int, ...], factorised: bool) -> Array:
    """p(masked tokens | the others), or the product of its marginals; uniform where undefined."""
    given = law.sum(mask, keepdims=True)
    size = law.shape[0]
    safe = np.where(given > 0, given, 1)
    if not factorised:
        return np.where(given > 0, law / safe, size ** -len(mask))
    product_of_marginals = np.ones_like(law)
    for position in mask:
        others = tuple(i for i in mask if i != position)
        marginal = law.sum(others, keepdims=True) / safe
        product_of_marginals = product_of_marginals * np.where(given > 0, marginal, 1 / size)
    return product_of_marginals


def edit_sampler_distribution(
    p: ArrayLike,
    *,
    factorised: bool,
    improved: bool,
    start: Literal["uniform", "true"] = "uniform",
) -> Array:
    """Return the exact law of what an edit-one-token-a-step sampler produces, by enumeration.

    Baseline: t random positions hold uniformly random tokens; a step draws x̂_0 given x_t and
    corrupts t − 1 random positions anew. Improved: exactly t positions differ from x_0; a step
    draws x̂_0 with exactly t differences and restores one of them at random.

    Args:
        p: law of the data, (V,)·l.
        factorised: draw x̂_0 from the product of the posterior's marginals (conditioned on t
            differences if improved).
        improved: see above.
        start: the law of the first state, with all l positions corrupted: "uniform" tokens, or the
            "true" law, which differs if improved.

    Returns:
        An array of the shape of p.

    Raises:
        ValueError: if p is no distribution with equal axes, has over 4096 states, or start is
            unknown.

    Source: kexue.fm/archives/9271, section on text editing.
    """
    law = _check_law(p)
    check_choice(Literal["uniform", "true"], start=start)
    size, length = law.shape[0], law.ndim
    tokens = np.array(list(product(range(size), repeat=length)))
    distance = (tokens[:, None] != tokens).sum(-1)
    prior = law.ravel()
    state = np.full(prior.size, 1 / prior.size)
    if start == "true":
        state = prior @ _edit_kernel(distance, length, size, improved)
    for t in range(length, 0, -1):
        joint = prior[:, None] * _edit_kernel(distance, t, size, improved)  # (x_0, x_t)
        guess = _normalised(joint, distance == t if improved else np.ones_like(joint))
        if factorised:
            marginals = [
                np.stack([guess[tokens[:, i] == v].sum(0) for v in range(size)])
                for i in range(length)
            ]
            guess = math.prod(marginals[i][tokens[:, i]] for i in range(length))
            if improved:
                guess = _normalised(guess * (distance == t), distance == t)
        if improved:
            state = _restore_one(guess * state, tokens, size) / t
        else:
            state = (guess @ state) @ _edit_kernel(distance, t - 1, size, improved)
    result: Array = state.reshape(law.shape)
    return result


def _edit_kernel(distance: NDArray[np.int64], t: int, size: int, improved: bool) -> Array:
    """p(x_t | x_0) for every pair, from the number of positions in which they differ."""
    length = int(distance.max())
    kernel: Array
    if improved:
        kernel = (distance == t) / (comb(length, t) * (size - 1) ** t)
    else:
        # Subsets of t positions that contain the differing ones, each with probability V^-t.
        subsets = np.where(distance <= t, comb(length - distance, t - distance), 0)
        kernel = subsets / (comb(length, t) * float(size) ** t)
    return kernel


def _normalised(joint: Array, allowed: ArrayLike) -> Array:
    """Columns scaled to sum 1; a column of zeros becomes uniform over what is allowed."""
    weights = np.where(joint.sum(0) > 0, joint, np.asarray(allowed, dtype=np.float64))
    result: Array = weights / weights.sum(0)
    return result


def _restore_one(joint: Array, tokens: NDArray[np.int64], size: int) -> Array:
    """The law of x_t with one differing position set to x̂_0, summed over the positions."""
    places = size ** np.arange(tokens.shape[1])[::-1]
    index = np.arange(len(tokens))
    result = np.zeros(len(tokens))
    for i, place in enumerate(places):
        change = (tokens[:, None, i] - tokens[None, :, i]) * place  # x̂_0 − x_t at position i
        np.add.at(result, (index + change)[change != 0], joint[change != 0])
    return result


def mask_sample(
    logits_fn: Callable[[Tensor, int], Tensor],
    n: int,
    length: int,
    mask_id: int,
    steps: int,
    *,
    improved: bool = True,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw token sequences by predicting masked tokens and lifting some of the masks each step.

    Args:
        logits_fn: (tokens (n, length), number of masks in each) ↦ logits (n, length, V).
        n: number of sequences.
        length: tokens of each.
        mask_id: the token of a mask; it is never produced.
        steps: number of steps, 1 … length; the number of masks falls evenly.
        improved: keep masks on a random subset of those that were there; else mask random
            positions anew, which lets later steps repair earlier ones.
        generator: source of randomness.

    Returns:
        (n, length), int64, without gradients.

    Raises:
        TypeError: if a number is not an integer.
        ValueError: if a number is out of range, or the logits have another shape.

    Source: kexue.fm/archives/9271; Chang et al., "MaskGIT", arXiv:2202.04200 (by confidence).
    """
    check_count(n=n, length=length, steps=steps)
    check_count(0, mask_id=mask_id)
    if steps > length:
        raise ValueError(f"steps must be at most length = {length}, got {steps}")
    device = generator.device if generator is not None else None
    tokens = torch.full((n, length), mask_id, device=device)
    masked = torch.ones_like(tokens, dtype=torch.bool)
    counts = [round(length * (1 - i / steps)) for i in range(steps + 1)]
    with torch.no_grad():
        for count, following in pairwise(counts):
            logits = logits_fn(tokens, count)
            if logits.ndim != 3 or logits.shape[:2] != (n, length):
                shape = tuple(logits.shape)
                raise ValueError(f"logits_fn must return ({n}, {length}, V), got {shape}")
            logits = widened(logits)
            if mask_id < logits.shape[-1]:
                logits = logits.index_fill(-1, torch.tensor([mask_id], device=device), -math.inf)
            drawn = torch.multinomial(logits.softmax(-1).flatten(0, 1), 1, generator=generator)
            tokens = torch.where(masked, drawn.reshape(n, length), tokens)
            # The positions of the largest keys are masked again; improved: only among the masked.
            keys = torch.rand(n, length, generator=generator, device=device)
            keys = keys + masked if improved else keys
            masked = torch.zeros_like(masked).scatter_(1, keys.topk(following).indices, True)
            tokens = tokens.masked_fill(masked, mask_id)
    return tokens


def _check_law(p: ArrayLike) -> Array:
    law = np.asarray(p, dtype=np.float64)
    if law.ndim < 1 or len(set(law.shape)) != 1 or law.shape[0] < 2:
        raise ValueError(f"p must have l axes of one size V >= 2, got shape {law.shape}")
    if law.size > _LARGEST:
        raise ValueError(f"p must have at most {_LARGEST} states, got {law.size}")
    if not (law >= 0).all() or not math.isclose(law.sum(), 1, abs_tol=1e-9):
        raise ValueError(f"p must be non-negative with sum 1, got sum {law.sum():g}")
    return law
