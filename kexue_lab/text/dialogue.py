"""Dialogues as one sequence for a language model: encoding, losses, and a reply.

[CLS] u_1 [SEP] u_2 [SEP] … u_n [SEP], where speakers take turns: the tokens of utterance k,
counted from 0, and the [SEP] that closes it, have segment k mod 2.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from kexue_lab.precision import holds, narrowed, widened
from kexue_lab.text.decoding import filter_logits
from kexue_lab.text.fact_grammar import CLS, PAD, SEP, FactGrammar
from kexue_lab.text.language_models import CausalLM
from kexue_lab.training import fit, generator
from kexue_lab.validation import check_choice, check_count, check_floating

Which = Literal["all", "replies", "last"]
Reduction = Literal["mean", "sum", "none"]
_WEIGHTS = Path(__file__).parent / "recorded" / "dialogue.pt"


class Encoded(NamedTuple):
    """Tokens, their segments, and the number of the turn to which each belongs; integers.

    [CLS] has segment and turn 0.
    """

    ids: Tensor
    segments: Tensor
    turns: Tensor


def encode_dialogue(
    utterances: Sequence[Sequence[int]], *, cls_id: int, sep_id: int, max_length: int | None = None
) -> Encoded:
    """Return a dialogue as one sequence.

    Args:
        utterances: the turns, tokens without [SEP].
        cls_id: token of [CLS].
        sep_id: token of [SEP].
        max_length: whole utterances are left out from the end until no more tokens remain.

    Returns:
        Three tensors of shape (n,).

    Raises:
        ValueError: if there is no utterance or an empty one, or the first does not fit.

    Source: the article's section on the model; Wei et al., "NEZHA", arXiv:1909.00204, for the
    model that it trains.

    Example:
        >>> ids, segments, turns = encode_dialogue([[7, 8], [9]], cls_id=1, sep_id=2)
        >>> ids.tolist(), segments.tolist()
        ([1, 7, 8, 2, 9, 2], [0, 0, 0, 0, 1, 1])
    """
    if not len(utterances) or not all(len(utterance) for utterance in utterances):
        raise ValueError(f"utterances must be some, none empty, got {list(utterances)!r:.80}")
    ids, turns = [cls_id], [0]
    for number, utterance in enumerate(utterances):
        if max_length is not None and len(ids) + len(utterance) + 1 > max_length:
            break
        ids += [*utterance, sep_id]
        turns += [number] * (len(utterance) + 1)
    if len(ids) == 1:
        needed = len(utterances[0]) + 2
        raise ValueError(f"max_length must hold the first utterance, {needed}, got {max_length}")
    told = torch.tensor(turns)
    return Encoded(torch.tensor(ids), told % 2, told)


def encode_batch(
    dialogues: Sequence[Sequence[Sequence[int]]],
    *,
    cls_id: int,
    sep_id: int,
    pad_id: int,
    max_length: int | None = None,
) -> Encoded:
    """Encode dialogues and fill them up on the right; padding has segment and turn 0.

    Args:
        dialogues: lists of utterances.
        cls_id: as `encode_dialogue`.
        sep_id: as `encode_dialogue`.
        pad_id: token of the padding.
        max_length: as `encode_dialogue`.

    Returns:
        Three tensors of shape (B, n).

    Example:
        >>> encode_batch([[[7, 8], [9]], [[7]]], cls_id=1, sep_id=2, pad_id=0).ids
        tensor([[1, 7, 8, 2, 9, 2],
                [1, 7, 2, 0, 0, 0]])
    """
    if not len(dialogues):
        raise ValueError(f"dialogues must be some, got {dialogues!r}")
    rows = [
        encode_dialogue(d, cls_id=cls_id, sep_id=sep_id, max_length=max_length) for d in dialogues
    ]
    pads = (pad_id, 0, 0)
    return Encoded(
        *(
            nn.utils.rnn.pad_sequence(list(parts), batch_first=True, padding_value=pad)
            for parts, pad in zip(zip(*rows, strict=True), pads, strict=True)
        )
    )


def dialogue_loss(
    logits: Tensor,
    ids: Tensor,
    *,
    pad_id: int,
    turns: Tensor | None = None,
    which: Which = "all",
    reduction: Reduction = "mean",
) -> Tensor:
    """Return the negative log-probability of each next token, in nats.

    Args:
        logits: (B, T, V); those at t are about the token at t + 1.
        ids: (B, T).
        pad_id: token of the padding, which is not counted.
        turns: (B, T), the turn of each token; needed unless `which` is "all".
        which: "all" turns, the "replies", without turn 0, or the "last" turn of each row alone.
        reduction: "mean" over all counted tokens of the batch, their "sum", or "none": the losses
            themselves, (B, T − 1), 0 where a token is not counted.

    Raises:
        ValueError: also if shapes disagree, no token is counted, or a loss is beyond the dtype.

    Example:
        >>> dialogue_loss(torch.zeros(1, 4, 5), torch.tensor([[1, 4, 2, 0]]), pad_id=0)
        tensor(1.6094)
    """
    check_floating(logits=logits)
    check_choice(Which, which=which)
    check_choice(Reduction, reduction=reduction)
    if logits.ndim != 3 or ids.shape != logits.shape[:2]:
        raise ValueError(
            f"logits and ids must have shapes (B, T, V), (B, T), got {tuple(logits.shape)}"
            f" and {tuple(ids.shape)}"
        )
    counted = _counted(ids, pad_id, turns, which)
    if not holds(counted.any()):
        raise ValueError(f"ids must hold a token that is counted, got none for {which!r}")
    losses = cross_entropy(widened(logits)[:, :-1].mT, ids[:, 1:], reduction="none")
    losses = torch.where(counted, losses, 0)
    if reduction == "mean":
        losses = losses.sum() / counted.sum()
    elif reduction == "sum":
        losses = losses.sum()
    return narrowed(losses, logits.dtype, "loss")


def _counted(ids: Tensor, pad_id: int, turns: Tensor | None, which: Which) -> Tensor:
    """Which tokens from the second on are to be learnt, (B, T − 1)."""
    real = ids != pad_id
    if which == "all":
        return real[:, 1:]
    if turns is None or turns.shape != ids.shape:
        found = None if turns is None else tuple(turns.shape)
        raise ValueError(f"turns must have the shape of ids, {tuple(ids.shape)}, got {found}")
    if which == "replies":
        return (real & (turns > 0))[:, 1:]
    last = torch.where(real, turns, -1).amax(1, keepdim=True)
    return (real & (turns == last))[:, 1:]


@torch.no_grad()
def reply(
    model: nn.Module,
    history: Sequence[Sequence[int]],
    *,
    sep_id: int,
    cls_id: int,
    max_new_tokens: int = 32,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
) -> list[int]:
    """Draw the next utterance token by token, up to [SEP].

    Args:
        model: maps ids and segments, (1, n), to logits, (1, n, V), as `CausalLM` does.
        history: the utterances so far.
        sep_id: as `encode_dialogue`.
        cls_id: as `encode_dialogue`.
        max_new_tokens: an utterance that is not closed is cut there.
        temperature: as `filter_logits`.
        top_k: as `filter_logits`.
        top_p: as `filter_logits`.
        generator: source of the draws.

    Returns:
        The tokens, without [SEP].

    Example:
        >>> model = CausalLM(9, d_model=8, num_heads=2)
        >>> _ = torch.nn.init.constant_(model.transformer.read_out.bias[7:8], 60.0)
        >>> reply(model, [[3, 4]], sep_id=2, cls_id=1, max_new_tokens=3, top_p=0.01)
        [7, 7, 7]
    """
    check_count(max_new_tokens=max_new_tokens)
    ids, segments, _ = (
        part[None] for part in encode_dialogue(history, cls_id=cls_id, sep_id=sep_id)
    )
    speaker = 1 - segments[:, -1:]
    drawn: list[int] = []
    while len(drawn) < max_new_tokens:
        logits = model(ids, segments)[0, -1]
        law = filter_logits(logits, temperature=temperature, top_k=top_k, top_p=top_p).softmax(-1)
        token = torch.multinomial(law, 1, generator=generator)
        if int(token) == sep_id:
            break
        drawn.append(int(token))
        ids, segments = torch.cat([ids, token[None]], 1), torch.cat([segments, speaker], 1)
    return drawn


def fact_model() -> CausalLM:
    """Return the model of `FactGrammar()`'s dialogues whose weights are stored with the course.

    They are what `train_fact_model()` returned on one CPU core, rounded to half precision.
    """
    model = CausalLM(FactGrammar().vocab_size)
    model.load_state_dict(torch.load(_WEIGHTS, weights_only=True))
    return model.eval()


def train_fact_model(steps: int = 900, seed: int = 0, device: str = "cpu") -> CausalLM:
    """Train a `CausalLM` with relative positions on 3000 dialogues of 12 turns.

    Batches hold 32 dialogues; the learning rate rises to 0.004 over a tenth of the steps and then
    falls to 0, both linearly.

    Args:
        steps: the default takes about half a minute on one core.
        seed: of dialogues, initial weights and batches.
        device: as in `pick_device`.
    """
    grammar, g = FactGrammar(), generator(seed)
    data = encode_batch(
        [grammar.sample(12, g) for _ in range(3000)], cls_id=CLS, sep_id=SEP, pad_id=PAD
    )

    def batch(g: torch.Generator) -> tuple[Tensor, Tensor]:
        rows = torch.randint(len(data.ids), (32,), generator=g)
        return data.ids[rows], data.segments[rows]

    trained = fit(
        lambda _: CausalLM(grammar.vocab_size),
        batch,
        lambda model, ids, segments: dialogue_loss(model(ids, segments), ids, pad_id=PAD),
        seeds=[seed],
        steps=steps,
        learning_rate=lambda done: 4e-3 * min(done / 0.1, (1 - done) / 0.9) + 1e-9,
        device=device,
    )
    model = trained.models[0].cpu()
    assert isinstance(model, CausalLM)
    return model
