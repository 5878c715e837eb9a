"""Texts that do not stop, and layers that make them stop.

<eos> is always the last entry of a law. Steps are counted from t = 0, the choice of the first
token; a text is as long as the number of its tokens before <eos>.
"""

import math
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from kexue_lab.precision import narrowed, widened
from kexue_lab.text.decoding import Step
from kexue_lab.validation import check_choice, check_count, check_floating

Mode = Literal["st", "nmst"]
Layer = Literal["softmax", "st", "nmst"]
State = dict[str, Tensor]


def eos_floor(num_tokens: int, reach: float, bias: float = 0.0) -> float:
    """Return the least probability of <eos> that a softmax over bounded states leaves.

    Args:
        num_tokens: V, the number of tokens, <eos> not counted.
        reach: R Δ, the largest norm of a state times the largest distance of a token's weights
            from those of <eos>.
        bias: β, the largest difference of a token's bias and that of <eos>.

    Returns:
        1 / (1 + V e^(RΔ + β)); 0 where it is below float64.

    Source: Welleck et al., arXiv:2002.02492, theorem 3.3 and its proof, here with its rate.

    Example:
        >>> round(eos_floor(30, 5.0), 8)
        0.00022455
    """
    check_count(num_tokens=num_tokens)
    if not (math.isfinite(reach) and reach >= 0):
        raise ValueError(f"reach must be non-negative and finite, got {reach}")
    if not math.isfinite(bias):
        raise ValueError(f"bias must be finite, got {bias}")
    odds = math.log(num_tokens) + reach + bias
    return math.exp(-odds) / (1 + math.exp(-odds)) if odds > 0 else 1 / (1 + math.exp(odds))


def greedy_stop_probability(num_tokens: int) -> float:
    """Return how likely greedy decoding stops where each arrow is drawn at random.

    Each of V tokens, and the start, has one most probable successor, uniform over the V tokens
    and <eos>.

    Args:
        num_tokens: V.

    Returns:
        Σ_j V (V−1) … (V−j+2) / (V+1)^j, which nears √(π / 2V).

    Example:
        >>> greedy_stop_probability(1)
        0.75
    """
    check_count(num_tokens=num_tokens)
    total, alive = 0.0, 1.0
    for visited in range(num_tokens + 1):
        total += alive / (num_tokens + 1)
        alive *= (num_tokens - visited) / (num_tokens + 1)
        if alive < 1e-18 * total:
            break
    return total


def greedy_stop_bound(eps: float) -> int:
    """Return after how many steps greedy decoding of a self-terminating model has chosen <eos>.

    Args:
        eps: ε of the layer, in (0, 1).

    Returns:
        The first number n with (1 − ε)^n ≤ 1/2; <eos> is counted.

    Raises:
        ValueError: also if n is beyond float64.

    Source: Welleck et al., arXiv:2002.02492, theorem 4.3 and its proof.

    Example:
        >>> greedy_stop_bound(0.05)
        14
    """
    _check_eps(eps)
    steps = math.log(2) / -math.log1p(-eps)
    if math.isinf(steps):
        raise ValueError(f"eps must leave a number of steps below 1e308, got {eps}")
    return math.ceil(steps)


def max_expected_length(eps: float) -> float:
    """Return the largest mean length of texts drawn from a self-terminating model.

    Args:
        eps: ε of the layer, in (0, 1).

    Returns:
        ℓ = Σ_t (1 − ε)^((t+1)(t+2)/2) over t ≥ 0, about √(π / 2ε) − 1: what is left where the
        network always asks to go on.

    Example:
        >>> round(max_expected_length(0.01), 3)
        11.517
    """
    _check_eps(eps)
    rate = -math.log1p(-eps)
    if rate > 1:
        return math.fsum(math.exp(-rate * (t + 1) * (t + 2) / 2) for t in range(60))
    # Poisson's summation: Σ e^(-r (t+3/2)²/2) over all integers t is a theta function.
    waves = 1 - 2 * math.exp(-2 * math.pi**2 / rate)
    return math.exp(rate / 8) * math.sqrt(math.pi / 2) / math.sqrt(rate) * waves - 1


def self_terminating_log_probs(logits: Tensor, eps: float, mode: Mode = "st") -> Tensor:
    """Return the log-probabilities of a layer that is bound to end.

    With u_t the last logit, "st" multiplies the probability to go on by (1 − ε) sigmoid(u_t) at
    each step: that of <eos> never falls. In "nmst" it is 1 − sigmoid(−u_t) (1 − ε)^(t+1), which
    may fall. In both it is at least 1 − (1 − ε)^(t+1). What is left goes to the tokens by their
    softmax.

    Args:
        logits: shape (B, T, V), of all steps of the texts from the first on; V ≥ 2.
        eps: ε, in (0, 1).
        mode: see above.

    Returns:
        Of the shape and dtype of `logits`.

    Raises:
        ValueError: also if a log-probability is beyond the dtype.

    Source: Welleck et al., arXiv:2002.02492, section 4.2 ("st"); Choi, Cho and Lee,
    arXiv:2210.00660, section 3 ("nmst").

    Example:
        >>> still = torch.zeros(1, 3, 2)
        >>> self_terminating_log_probs(still, 0.5).exp()[0, :, -1]
        tensor([0.7500, 0.9375, 0.9844])
    """
    check_floating(logits=logits)
    check_choice(Mode, mode=mode)
    _check_eps(eps)
    if logits.ndim != 3 or logits.shape[-1] < 2:
        raise ValueError(f"logits must have shape (B, T, V), V >= 2, got {tuple(logits.shape)}")
    wide = widened(logits)
    u = wide[..., -1]
    if mode == "st":
        log_on = (math.log1p(-eps) + logsigmoid(u)).cumsum(-1)
    else:
        steps = torch.arange(1, u.shape[-1] + 1, device=u.device, dtype=u.dtype)
        log_on = steps * math.log1p(-eps) + logsigmoid(-u)
    return narrowed(_with_eos(wide, log_on), logits.dtype, "log-probabilities")


def chain_step(transition: ArrayLike) -> Step:
    """Return a chain as the step function of `kexue_lab.text.decoding`.

    Args:
        transition: a chain as in `kexue_lab.text.markov`, shape (S + 1, S + 1).

    Returns:
        A step function; its state holds one row number for each text: the row from which the
        text goes on, S for <bos>.

    Raises:
        ValueError: if the array is not square.

    Example:
        >>> from kexue_lab.text.decoding import greedy
        >>> step = chain_step([[0.2, 0.8], [0.7, 0.3]])
        >>> greedy(step, torch.tensor([1]), 9).tokens
        tensor([[0, 1]])
    """
    laws = torch.as_tensor(np.asarray(transition, dtype=np.float64)).log()
    if laws.ndim != 2 or laws.shape[0] != laws.shape[1]:
        raise ValueError(f"transition must be square, got {tuple(laws.shape)}")

    def step(token: Tensor | None, state: Any) -> tuple[Tensor, Any]:
        row = state if token is None else token
        return laws[row], row

    return step


class RecurrentLM(nn.Module):
    """A recurrent language model with one of three last layers.

    <eos>, the last entry of the vocabulary, also opens a text. The state that an LSTM shows is a
    tanh times a number from 0 to 1, so that no coordinate exceeds 1.

    Args:
        vocab_size: number of tokens, <eos> counted.
        d_embedding: width of a token.
        d_state: width of the state.
        layer: "softmax", or "st" or "nmst" as in `self_terminating_log_probs`.
        eps: ε of these two.

    Source: Hochreiter and Schmidhuber, "Long Short-Term Memory", 1997 (the recurrence).

    Example:
        >>> model = RecurrentLM(5, layer="st")
        >>> model(torch.tensor([[4, 0, 2]])).shape
        torch.Size([1, 3, 5])
    """

    def __init__(
        self,
        vocab_size: int,
        d_embedding: int = 16,
        d_state: int = 32,
        *,
        layer: Layer = "softmax",
        eps: float = 1e-3,
    ) -> None:
        super().__init__()
        check_count(2, vocab_size=vocab_size)
        check_choice(Layer, layer=layer)
        _check_eps(eps)
        self.layer, self.eps = layer, eps
        self.embedding = nn.Embedding(vocab_size, d_embedding)
        self.recurrence = nn.LSTM(d_embedding, d_state, batch_first=True)
        self.read_out = nn.Linear(d_state, vocab_size)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the log-probabilities of each next token, (B, n, V).

        Args:
            ids: integers, shape (B, n); the first of each row is <eos>, which opens the text.
        """
        logits = self.read_out(self.recurrence(self.embedding(ids))[0])
        if self.layer == "softmax":
            law: Tensor = logits.log_softmax(-1)
            return law
        return self_terminating_log_probs(logits, self.eps, self.layer)

    def begin(self, ids: Tensor) -> State:
        """Return the state of texts of which some tokens are known, for `step`.

        Args:
            ids: as in `forward`.
        """
        zeros = self.embedding.weight.new_zeros(len(ids), self.recurrence.hidden_size)
        state = {
            "shown": zeros,
            "cell": zeros,
            "log_on": zeros[:, 0],
            "steps": torch.zeros_like(ids[:, 0]),
            "token": ids[:, 0],
        }
        for token in ids[:, 1:].unbind(1):
            _, state = self.step(None, state)
            state["token"] = token
        return state

    @torch.no_grad()
    def step(self, token: Tensor | None, state: State) -> tuple[Tensor, State]:
        """Read one token and return the law of the next: a step of `kexue_lab.text.decoding`."""
        read = state["token"] if token is None else token
        vectors = self.embedding(read)[:, None]
        before = (state["shown"][None], state["cell"][None])
        _, (shown, cell) = self.recurrence(vectors, before)
        logits, steps = self.read_out(shown[0]), state["steps"] + 1
        if self.layer == "st":
            log_on = state["log_on"] + math.log1p(-self.eps) + logsigmoid(logits[:, -1])
        else:
            log_on = steps * math.log1p(-self.eps) + logsigmoid(-logits[:, -1])
        law = logits.log_softmax(-1) if self.layer == "softmax" else _with_eos(logits, log_on)
        after = {"shown": shown[0], "cell": cell[0]}
        return law, {**after, "log_on": log_on, "steps": steps, "token": read}


def _with_eos(logits: Tensor, log_on: Tensor) -> Tensor:
    """Log-probabilities from the tokens' logits and the logarithm of the probability to go on."""
    tokens = logits[..., :-1].log_softmax(-1) + log_on[..., None]
    # log(1 − e^x): each of the two ways is exact on its own side of −ln 2.
    border = -math.log(2)
    near = torch.log(-torch.expm1(log_on.clamp(min=border)))
    far = torch.log1p(-torch.exp(log_on.clamp(max=border)))
    ends = torch.where(log_on > border, near, far)
    return torch.cat([tokens, ends[..., None]], -1)


def _check_eps(eps: float) -> None:
    if not 0 < eps < 1:
        raise ValueError(f"eps must be in (0, 1), got {eps}")
