"""Decoding: from the laws of a next token to texts.

A step function maps (token, state) to (log-probabilities, state): tokens are integers of shape
(B,), log-probabilities (B, V) with <eos> last, and a state is a tensor, or tuples, lists and
dictionaries of them, whose first dimension is B. The first call gets the token None: whatever was
read before stands in the state.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from kexue_lab.precision import holds
from kexue_lab.text.markov import check_truncation, nucleus_bound
from kexue_lab.validation import check_choice, check_count, check_floating, check_positive

State = Any
Step = Callable[[Tensor | None, State], tuple[Tensor, State]]
Method = Literal["greedy", "ancestral", "top_k", "top_p"]


class Decoded(NamedTuple):
    """Texts; what is behind an end is <eos>.

    Tokens are integers of shape (B, L); lengths, (B,), count the tokens before <eos>; finished,
    (B,), says whether <eos> came within `max_length` tokens.
    """

    tokens: Tensor
    lengths: Tensor
    finished: Tensor


class Beam(NamedTuple):
    """The best text that beam search found for each prefix.

    The first three are as in `Decoded`; log_probs, (B,), are those of the whole texts, with <eos>.
    """

    tokens: Tensor
    lengths: Tensor
    finished: Tensor
    log_probs: Tensor


def truncate_logits(
    logits: Tensor,
    top_k: int | None = None,
    top_p: float | None = None,
    keep_eos: bool = False,
) -> Tensor:
    """Put all but the most probable tokens to −∞.

    Args:
        logits: shape (..., V), the last one that of <eos>; they may hold −∞.
        top_k: how many are kept; all where V is smaller.
        top_p: the smallest number of most probable ones of this mass is kept, in (0, 1].
        keep_eos: whether <eos> is kept in any case.

    Returns:
        Logits of the same shape, not normalised again; of equal ones the first are kept.

    Raises:
        ValueError: if both or neither of `top_k` and `top_p` are given, or one is out of range.

    Source: Fan et al., arXiv:1805.04833 (top-k); Holtzman et al., arXiv:1904.09751 (nucleus);
    Welleck et al., arXiv:2002.02492, section 4.1 (keeping <eos>).

    Example:
        >>> truncate_logits(torch.tensor([2.0, 3.0, 1.0, 0.0]), top_k=2, keep_eos=True)
        tensor([2., 3., -inf, 0.])
    """
    check_floating(logits=logits)
    check_truncation(top_k, top_p)
    ranked, order = logits.sort(dim=-1, descending=True, stable=True)
    if top_k is not None:
        kept = torch.arange(logits.shape[-1], device=logits.device).expand_as(order) < top_k
    else:
        assert top_p is not None
        masses = ranked.double().softmax(-1)
        kept = masses.cumsum(-1) - masses < nucleus_bound(top_p)
    chosen = torch.zeros_like(kept).scatter(-1, order, kept)
    if keep_eos:
        chosen[..., -1] = True
    return logits.masked_fill(~chosen, -math.inf)


def filter_logits(
    logits: Tensor, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> Tensor:
    """Divide by the temperature, then keep the k largest, then a nucleus of what is left.

    Args:
        logits: shape (..., V); they may hold −∞.
        temperature: T > 0.
        top_k: how many are kept, and all that equal the k-th; 0 for all.
        top_p: mass of the nucleus, in (0, 1]; at least one token is kept.

    Returns:
        Logits / T, those dropped −∞.

    Raises:
        ValueError: if an argument is out of range, or a logit / T is no number of the dtype.

    Source: Holtzman et al., "The Curious Case of Neural Text Degeneration", arXiv:1904.09751,
    section 3.

    Example:
        >>> filter_logits(torch.tensor([3.0, 1.0, 1.0, 0.0]), temperature=0.5, top_k=2)
        tensor([6., 2., 2., -inf])
    """
    check_floating(logits=logits)
    check_positive(temperature=temperature)
    check_count(0, top_k=top_k)
    check_truncation(None, top_p)
    warm = logits / temperature
    if not holds(warm.isfinite() | (logits == -math.inf)):
        raise ValueError(f"temperature must leave logits / temperature finite, got {temperature}")
    if 0 < top_k < logits.shape[-1]:
        smallest = warm.topk(top_k, -1).values[..., -1:]
        warm = warm.masked_fill(warm < smallest, -math.inf)
    return truncate_logits(warm, top_p=top_p)


def greedy(step: Step, state: State, max_length: int) -> Decoded:
    """Take the most probable token each time, of equal ones the first.

    Args:
        step: see the module.
        state: of the B prefixes.
        max_length: tokens after which a text is cut, <eos> counted.
    """
    return _decode(step, state, max_length, lambda log_probs: log_probs.argmax(-1))


def sample(
    step: Step,
    state: State,
    max_length: int,
    *,
    generator: torch.Generator | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    keep_eos: bool = False,
) -> Decoded:
    """Draw each token from its law: ancestral sampling, or top-k or nucleus sampling.

    Args:
        step: see the module.
        state: of the B prefixes.
        max_length: tokens after which a text is cut, <eos> counted.
        generator: source of the draws, on the device of the log-probabilities.
        top_k: as `truncate_logits`; without it and `top_p` each token is drawn from its whole law.
        top_p: as `truncate_logits`.
        keep_eos: as `truncate_logits`.

    Raises:
        ValueError: if both `top_k` and `top_p` are given, or one is out of range.
    """
    whole = top_k is None and top_p is None
    if not whole:
        check_truncation(top_k, top_p)

    def draw(log_probs: Tensor) -> Tensor:
        kept = log_probs if whole else truncate_logits(log_probs, top_k, top_p, keep_eos)
        return torch.multinomial(kept.softmax(-1), 1, generator=generator)[..., 0]

    return _decode(step, state, max_length, draw)


def decode(
    step_fn: Step,
    state: State,
    method: Method,
    max_length: int,
    generator: torch.Generator | None = None,
    *,
    top_k: int | None = None,
    top_p: float | None = None,
    keep_eos: bool = False,
) -> Decoded:
    """Decode by a rule that is named; see `greedy` and `sample`.

    Args:
        step_fn: see the module.
        state: of the B prefixes.
        method: "greedy", "ancestral", or "top_k" or "top_p" with the argument of that name.
        max_length: tokens after which a text is cut, <eos> counted.
        generator: source of the draws.
        top_k: as `truncate_logits`.
        top_p: as `truncate_logits`.
        keep_eos: as `truncate_logits`.

    Raises:
        ValueError: if `method` is unknown, or an argument is missing, not asked for or out of
            range.
    """
    check_choice(Method, method=method)
    for name, value in (("top_k", top_k), ("top_p", top_p)):
        if (value is None) == (method == name):
            raise ValueError(f"{name} must be given for {name!r} only, got {value} for {method!r}")
    if method == "greedy":
        return greedy(step_fn, state, max_length)
    return sample(
        step_fn,
        state,
        max_length,
        generator=generator,
        top_k=top_k,
        top_p=top_p,
        keep_eos=keep_eos,
    )


def beam_search(
    step_fn: Step, state: State, width: int, max_length: int, *, mean: bool = False
) -> Beam:
    """Keep the `width` best texts of each length; a finished one leaves the beam, which narrows.

    Args:
        step_fn: see the module; its state is taken apart and copied along the first dimension.
        state: of the B prefixes.
        width: number of texts kept, finished ones counted.
        max_length: tokens after which a text is cut, <eos> counted.
        mean: whether the last choice is by log-probability per token, <eos> counted, not by its
            sum.

    Returns:
        The best finished text; where none has ended, the best of the others.

    Source: Welleck et al., arXiv:2002.02492, section 3.2 and definition A.4.
    """
    check_count(width=width, max_length=max_length)
    log_probs, state = step_fn(None, state)
    eos = log_probs.shape[-1] - 1
    found = [
        _search(
            step_fn,
            law,
            tree_map(lambda part, i=i: part[i : i + 1], state),
            width,
            max_length,
            mean,
        )
        for i, law in enumerate(log_probs)
    ]
    longest = max(len(text.tokens) for text in found)
    finished = torch.tensor([text.tokens[-1] == eos for text in found])
    return Beam(
        torch.tensor([[*t.tokens, *[eos] * (longest - len(t.tokens))] for t in found]),
        torch.tensor([len(text.tokens) for text in found]) - finished.long(),
        finished,
        torch.tensor([text.log_prob for text in found]),
    )


def _decode(
    step: Step, state: State, max_length: int, choose: Callable[[Tensor], Tensor]
) -> Decoded:
    check_count(max_length=max_length)
    log_probs, state = step(None, state)
    eos = log_probs.shape[-1] - 1
    rows = [choose(log_probs)]
    while len(rows) < max_length and not bool((rows[-1] == eos).all()):
        log_probs, state = step(rows[-1], state)
        rows.append(choose(log_probs).masked_fill(rows[-1] == eos, eos))
    tokens = torch.stack(rows, -1)
    return Decoded(tokens, (tokens != eos).sum(-1), tokens[:, -1] == eos)


class _Text(NamedTuple):
    tokens: list[int]
    log_prob: float


def _search(
    step: Step, log_probs: Tensor, state: State, width: int, max_length: int, mean: bool
) -> _Text:
    """Beam search for one prefix, whose first law (V,) is known: its best text."""
    eos = log_probs.shape[-1] - 1
    done: list[_Text] = []
    alive = [_Text([], 0.0)]
    totals = log_probs[None]
    for length in range(1, max_length + 1):
        possible = int((totals > -math.inf).sum())
        best, places = totals.flatten().topk(min(width - len(done), possible))
        rows, tokens = places // (eos + 1), places % (eos + 1)
        grown = [
            _Text([*alive[row].tokens, token], score)
            for row, token, score in zip(rows.tolist(), tokens.tolist(), best.tolist(), strict=True)
        ]
        done += [text for text in grown if text.tokens[-1] == eos]
        alive = [text for text in grown if text.tokens[-1] != eos]
        if not alive or length == max_length:
            break
        on = tokens != eos
        state = tree_map(lambda part, kept=rows[on]: part[kept], state)
        log_probs, state = step(tokens[on], state)
        totals = best[on][:, None] + log_probs
    return max(done or alive, key=lambda t: t.log_prob / (len(t.tokens) if mean else 1))
