"""Soft prompts: learnt vectors in the place of a template's words, before a frozen language model.

A sequence is: prompt vectors, the gap [MASK], further prompt vectors, the text. Label words stand
for classes: what the model expects in the gap tells the class.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, embedding

from kexue_lab.precision import narrowed, widened
from kexue_lab.text.language_models import MaskedLM
from kexue_lab.text.reviews import MASK
from kexue_lab.validation import check_choice, check_count, check_floating, check_positive

Reduction = Literal["mean", "sum", "none"]


class PartialEmbedding(nn.Module):
    """An embedding of which some rows are trained; the others are no parameters.

    Args:
        weight: E, (V, d), floating point.
        trainable_ids: the rows to be trained, distinct.

    Attributes:
        trained: these rows, the only parameter.

    Raises:
        ValueError: if a row is out of range or named twice.

    Source: kexue.fm/archives/8295, there by stopped gradients.

    Example:
        >>> table = PartialEmbedding(torch.eye(3), [1])
        >>> table(torch.tensor([1, 2])).sum().backward()
        >>> table.trained.grad
        tensor([[1., 1., 1.]])
    """

    frozen: Tensor
    ids: Tensor

    def __init__(self, weight: Tensor, trainable_ids: Sequence[int]) -> None:
        super().__init__()
        check_floating(weight=weight)
        if weight.ndim != 2:
            raise ValueError(f"weight must have shape (V, d), got {tuple(weight.shape)}")
        _check_ids(len(weight), trainable_ids=trainable_ids)
        ids = torch.tensor(list(trainable_ids), device=weight.device)
        self.register_buffer("frozen", weight.detach().clone())
        self.register_buffer("ids", ids)
        self.trained = nn.Parameter(weight.detach()[ids].clone())

    @property
    def weight(self) -> Tensor:
        """The whole table, (V, d), through which gradients reach the trained rows."""
        return self.frozen.index_copy(0, self.ids, self.trained)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the vectors of tokens, (…, d)."""
        return embedding(ids, self.weight)


class SoftPrompt(nn.Module):
    """Vectors that stand before a text, with a gap among them.

    Args:
        length: m, how many.
        d_model: d, their width.
        mask_position: how many of them stand before the gap, 0 to m.
        init: their values at the start, (m, d); None for normal ones of variance 1/d.
        generator: source of these.

    Attributes:
        prompt: the vectors, (m, d), the only parameter.

    Raises:
        ValueError: if `mask_position` is out of range or `init` of another shape.

    Source: Liu et al., "GPT Understands, Too", arXiv:2103.10385; Lester et al., arXiv:2104.08691.

    Example:
        >>> prompt = SoftPrompt(4, 8, mask_position=2)
        >>> vectors, place = prompt.insert(torch.zeros(5, 10, 8), torch.ones(8))
        >>> vectors.shape, place
        (torch.Size([5, 15, 8]), 2)
    """

    def __init__(
        self,
        length: int,
        d_model: int,
        mask_position: int,
        *,
        init: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_count(length=length, d_model=d_model)
        check_count(0, mask_position=mask_position)
        if mask_position > length:
            raise ValueError(f"mask_position must be in 0..{length}, got {mask_position}")
        if init is None:
            init = torch.randn(length, d_model, generator=generator) / d_model**0.5
        check_floating(init=init)
        if init.shape != (length, d_model):
            raise ValueError(f"init must have shape {(length, d_model)}, got {tuple(init.shape)}")
        self.mask_position = mask_position
        self.prompt = nn.Parameter(init.detach().clone())

    def insert(self, text_embeddings: Tensor, mask_embedding: Tensor) -> tuple[Tensor, int]:
        """Put the prompt, with the gap in it, before texts.

        Args:
            text_embeddings: vectors of texts, (B, n, d).
            mask_embedding: the vector of [MASK], (d,).

        Returns:
            Vectors, (B, m + 1 + n, d), and the gap's place.
        """
        check_floating(text_embeddings=text_embeddings, mask_embedding=mask_embedding)
        width = self.prompt.shape[1]
        if text_embeddings.ndim != 3 or text_embeddings.shape[-1] != width:
            raise ValueError(
                f"text_embeddings must have shape (B, n, {width}), "
                f"got {tuple(text_embeddings.shape)}"
            )
        if mask_embedding.shape != (width,):
            raise ValueError(
                f"mask_embedding must have shape ({width},), got {tuple(mask_embedding.shape)}"
            )
        before, after = self.prompt[: self.mask_position], self.prompt[self.mask_position :]
        front = torch.cat([before, mask_embedding[None], after])
        front = front.expand(len(text_embeddings), -1, -1)
        return torch.cat([front, text_embeddings], 1), self.mask_position


def label_logits(logits: Tensor, label_ids: Sequence[int]) -> Tensor:
    """Return the logits of the label words only, (B, C).

    Args:
        logits: of all tokens in the gap, (B, V).
        label_ids: the label word of each class, C distinct tokens.

    Example:
        >>> label_logits(torch.tensor([[1.2, -0.3, 0.7, 2.0]]), (0, 3)).softmax(-1)
        tensor([[0.3100, 0.6900]])
    """
    _check_logits(logits, label_ids)
    return logits[:, list(label_ids)]


def prompt_loss(
    logits: Tensor,
    targets: Tensor,
    label_ids: Sequence[int],
    *,
    restrict: bool = False,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return the cross entropy of the right label word in the gap.

    Args:
        logits: of all tokens in the gap, (B, V); half precision is computed in float32.
        targets: classes, integers in 0..C−1, (B,).
        label_ids: the label word of each class.
        restrict: whether the softmax is taken over the label words only, not the vocabulary.
        reduction: "mean", "sum", or "none" for shape (B,).

    Source: Liu et al., arXiv:2103.10385, section 2.

    Example:
        >>> logits = torch.tensor([[1.2, -0.3, 0.7, 2.0]])
        >>> prompt_loss(logits, torch.tensor([1]), (0, 3), restrict=True)
        tensor(0.3711)
    """
    _check_logits(logits, label_ids)
    check_choice(Reduction, reduction=reduction)
    _check_targets(targets, len(logits), len(label_ids))
    ids = torch.tensor(list(label_ids), device=logits.device)
    scores = logits[:, ids] if restrict else logits
    wanted = targets if restrict else ids[targets]
    loss = cross_entropy(widened(scores), wanted, reduction=reduction)
    return narrowed(loss, logits.dtype, "the loss")


def gap_logits(model: MaskedLM, prompt: SoftPrompt, tokens: Tensor, mask_id: int = MASK) -> Tensor:
    """Return the logits of all tokens in the gap before texts, (B, V).

    Args:
        model: the language model.
        prompt: what stands before the texts.
        tokens: texts, (B, n).
        mask_id: the token of the gap.
    """
    vectors, place = prompt.insert(model.embedding(tokens), model.embedding.weight[mask_id])
    logits: Tensor = model(embeddings=vectors)[:, place]
    return logits


def hidden_states(model: MaskedLM, tokens: Tensor) -> Tensor:
    """Return the vectors with which the output table is compared, (B, n, d).

    Args:
        model: the language model.
        tokens: texts, (B, n).

    Raises:
        ValueError: if the texts are longer than the model's longest.
    """
    states: list[Tensor] = []
    hook = model.transformer.norm.register_forward_hook(lambda *of: states.append(of[2]))
    try:
        model(tokens)
    finally:
        hook.remove()
    return states[0]


def tune_prompt(
    model: MaskedLM,
    prompt: SoftPrompt,
    tokens: Tensor,
    targets: Tensor,
    label_ids: Sequence[int],
    *,
    steps: int = 200,
    lr: float = 0.02,
    auxiliary_rate: float = 0.0,
    batch_size: int = 32,
    mask_id: int = MASK,
    generator: torch.Generator | None = None,
) -> list[float]:
    """Train the vectors of a prompt by Adam and nothing else.

    The model's parameters, their `requires_grad` and its mode (training or not) stay as they were;
    meanwhile it is in evaluation mode.

    Args:
        model: the language model.
        prompt: trained in place.
        tokens: texts, (N, n).
        targets: classes, integers in 0..C−1, (N,).
        label_ids: the label word of each class.
        steps: number of steps.
        lr: Adam's learning rate.
        auxiliary_rate: share of the texts' tokens that become gaps as well, drawn anew at each
            step; the loss is then the mean over all gaps. In [0, 1).
        batch_size: texts at each step; all of them if there are no more.
        mask_id: the token of a gap.
        generator: source of batches and further gaps.

    Returns:
        The loss before each step.

    Source: Liu et al., arXiv:2103.10385; kexue.fm/archives/8295 for the auxiliary loss.
    """
    check_count(steps=steps, batch_size=batch_size)
    check_positive(lr=lr)
    if not 0 <= auxiliary_rate < 1:
        raise ValueError(f"auxiliary_rate must be in [0, 1), got {auxiliary_rate}")
    if tokens.ndim != 2 or not len(tokens):
        raise ValueError(f"tokens must have shape (N, n), N >= 1, got {tuple(tokens.shape)}")
    _check_ids(len(model.embedding.weight), label_ids=label_ids)
    _check_targets(targets, len(tokens), len(label_ids))
    parameters, was_training = list(model.parameters()), model.training
    flags = [parameter.requires_grad for parameter in parameters]
    optimizer, losses = torch.optim.Adam(prompt.parameters(), lr=lr), []
    model.eval().requires_grad_(False)
    try:
        for _ in range(steps):
            rows = _rows(len(tokens), batch_size, generator)
            loss = _loss(
                model,
                prompt,
                tokens[rows],
                torch.tensor(list(label_ids), device=targets.device)[targets[rows]],
                auxiliary_rate,
                mask_id,
                generator,
            )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(float(loss.detach()))
    finally:
        model.train(was_training)
        for parameter, flag in zip(parameters, flags, strict=True):
            parameter.requires_grad_(flag)
    return losses


def _loss(
    model: MaskedLM,
    prompt: SoftPrompt,
    tokens: Tensor,
    words: Tensor,
    rate: float,
    mask_id: int,
    generator: torch.Generator | None,
) -> Tensor:
    """The mean cross entropy over the label's gap and, at a rate, gaps within the texts."""
    if rate == 0:
        return cross_entropy(gap_logits(model, prompt, tokens, mask_id), words)
    gap = (torch.rand(tokens.shape, generator=generator) < rate).to(tokens.device)
    seen = tokens.masked_fill(gap, mask_id)
    vectors, place = prompt.insert(model.embedding(seen), model.embedding.weight[mask_id])
    logits = model(embeddings=vectors)
    of_text = logits[:, -tokens.shape[1] :][gap]
    return cross_entropy(torch.cat([logits[:, place], of_text]), torch.cat([words, tokens[gap]]))


def _rows(count: int, batch_size: int, generator: torch.Generator | None) -> Tensor:
    if count <= batch_size:
        return torch.arange(count)
    return torch.randperm(count, generator=generator)[:batch_size]


def _check_ids(size: int, /, **named: Sequence[int]) -> None:
    ((name, ids),) = named.items()
    if len(ids) == 0 or len(set(ids)) < len(ids):
        raise ValueError(f"{name} must be distinct and at least one, got {list(ids)}")
    if min(ids) < 0 or max(ids) >= size:
        raise ValueError(f"{name} must be in 0..{size - 1}, got {list(ids)}")


def _check_logits(logits: Tensor, label_ids: Sequence[int]) -> None:
    check_floating(logits=logits)
    if logits.ndim != 2:
        raise ValueError(f"logits must have shape (B, V), got {tuple(logits.shape)}")
    _check_ids(logits.shape[1], label_ids=label_ids)


def _check_targets(targets: Tensor, count: int, classes: int) -> None:
    if targets.shape != (count,):
        raise ValueError(f"targets must have shape ({count},), got {tuple(targets.shape)}")
    if targets.is_floating_point() or targets.dtype == torch.bool:
        raise TypeError(f"targets must be integers, got {targets.dtype}")
    if count and (int(targets.min()) < 0 or int(targets.max()) >= classes):
        raise ValueError(
            f"targets must be in 0..{classes - 1}, got {sorted(set(targets.tolist()))}"
        )
