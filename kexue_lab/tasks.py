"""Toy tasks on sequences: batches of random tokens and what a model shall answer.

Each function draws (inputs, targets), integers of shape (batch, n). A target of `IGNORED` is not
asked for; `torch.nn.functional.cross_entropy` leaves it out by default.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kexue_lab.validation import check_count

IGNORED = -100
"""The target where nothing is asked."""


def copy_task(
    batch: int, length: int, symbols: int, generator: torch.Generator
) -> tuple[Tensor, ...]:
    """Return the sequence itself as its target; inputs and targets in [0, symbols)."""
    inputs = _random_tokens(batch, length, symbols, generator)
    return inputs, inputs.clone()


def reverse_task(
    batch: int, length: int, symbols: int, generator: torch.Generator
) -> tuple[Tensor, ...]:
    """Return the sequence from its end: target i is input n − 1 − i.

    Example:
        >>> inputs, targets = reverse_task(1, 4, 9, torch.Generator().manual_seed(0))
        >>> inputs, targets
        (tensor([[8, 3, 7, 1]]), tensor([[1, 7, 3, 8]]))
    """
    inputs = _random_tokens(batch, length, symbols, generator)
    return inputs, inputs.flip(-1)


def sort_task(
    batch: int, length: int, symbols: int, generator: torch.Generator
) -> tuple[Tensor, ...]:
    """Return the sequence in ascending order."""
    inputs = _random_tokens(batch, length, symbols, generator)
    return inputs, inputs.sort(-1).values


def shift_task(
    batch: int, length: int, symbols: int, shifts: int, generator: torch.Generator
) -> tuple[Tensor, ...]:
    """Shift a sequence cyclically by the amount that its first token names.

    Args:
        batch: number of sequences.
        length: n, the token with the amount included.
        symbols: number of different symbols, the tokens 0 to symbols − 1.
        shifts: amounts are 0 to shifts − 1; the token symbols + s stands for s.
        generator: source of the tokens.

    Returns:
        Inputs with the amount in front, and targets: nothing at the amount, and at the i-th symbol
        the one that stands s further on, cyclically.

    Raises:
        ValueError: if a size is below 1, or `shifts` exceeds the n − 1 symbols.

    Example:
        >>> inputs, targets = shift_task(1, 5, 9, 4, torch.Generator().manual_seed(1))
        >>> inputs, targets
        (tensor([[11,  2,  4,  5,  3]]), tensor([[-100,    5,    3,    2,    4]]))
    """
    check_count(shifts=shifts)
    check_count(2, length=length)
    if shifts >= length:
        raise ValueError(f"shifts must be at most length - 1 = {length - 1}, got {shifts}")
    content = _random_tokens(batch, length - 1, symbols, generator)
    amount = torch.randint(shifts, (batch, 1), generator=generator)
    source = (torch.arange(length - 1) + amount) % (length - 1)
    targets = F.pad(content.gather(-1, source), (1, 0), value=IGNORED)
    return torch.cat([symbols + amount, content], -1), targets


def recall_task(
    batch: int, pairs: int, queries: int, values: int, generator: torch.Generator
) -> tuple[Tensor, ...]:
    """Look values up by their keys: tokens that each hold a pair (key, value), then bare keys.

    Args:
        batch: number of sequences.
        pairs: number of pairs; the keys 0 to pairs − 1 stand in random order, each once.
        queries: number of keys asked for, different ones, at the end.
        values: number of different values.
        generator: source of orders and values.

    Returns:
        Inputs, (batch, pairs + queries): the token key · values + value for a pair and
        pairs · values + key for a query; and targets, the value at a query and nothing at a pair.

    Raises:
        ValueError: if a size is below 1, or `queries` exceeds `pairs`.

    Example:
        >>> inputs, targets = recall_task(1, 3, 1, 10, torch.Generator().manual_seed(0))
        >>> inputs, targets
        (tensor([[28,  3, 17, 31]]), tensor([[-100, -100, -100,    7]]))
    """
    check_count(batch=batch, pairs=pairs, queries=queries, values=values)
    if queries > pairs:
        raise ValueError(f"queries must be at most pairs = {pairs}, got {queries}")
    table = torch.randint(values, (batch, pairs), generator=generator)
    keys = torch.rand(batch, pairs, generator=generator).argsort(-1)
    asked = torch.rand(batch, pairs, generator=generator).argsort(-1)[:, :queries]
    inputs = torch.cat([keys * values + table.gather(-1, keys), pairs * values + asked], -1)
    return inputs, F.pad(table.gather(-1, asked), (pairs, 0), value=IGNORED)


def token_accuracy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the share of asked tokens whose largest logit is the target.

    Args:
        logits: shape (..., n, classes).
        targets: integers, shape (..., n), `IGNORED` where nothing is asked.
    """
    asked = targets != IGNORED
    right = (logits.argmax(-1) == targets) & asked
    return right.sum() / asked.sum()


def token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy of the asked tokens, in nats; shapes as `token_accuracy`."""
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten(), ignore_index=IGNORED)


def _random_tokens(batch: int, length: int, symbols: int, generator: torch.Generator) -> Tensor:
    check_count(batch=batch, length=length, symbols=symbols)
    return torch.randint(symbols, (batch, length), generator=generator)
