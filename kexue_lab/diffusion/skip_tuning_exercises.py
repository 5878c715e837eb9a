"""What the exercises of diffusion/skip_tuning check."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kexue_lab.diffusion.skip_tuning import TinyUNet, gaussian_gain, skip_weights
from kexue_lab.exercises import Exercise, Mistake

Inputs = Iterator[tuple[Any, ...]]
Array = NDArray[np.float64]


class _Closed(TinyUNet):
    """A U-Net whose skips cannot be weighted from outside."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, t)

    def __eq__(self, other: object) -> bool:
        """Whether both networks compute the same: their parameters and hooks."""
        if not isinstance(other, _Closed) or _hooks(self) != _hooks(other):
            return False
        pairs = zip(self.parameters(), other.parameters(), strict=True)
        return all(bool(torch.equal(a, b)) for a, b in pairs)

    __hash__ = nn.Module.__hash__

    def __repr__(self) -> str:
        return "a TinyUNet of 4 channels"


def _hooks(net: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules())


def _counts(rng: np.random.Generator) -> Inputs:
    yield 4, 0.7
    yield from ((int(rng.integers(2, 9)), float(rng.uniform(0.3, 0.9))) for _ in range(4))


def _steps(rng: np.random.Generator) -> Inputs:
    yield 1.0, 2.0, 1.0
    for s, sigma, share in rng.uniform([0.2, 0.3, 0.1], [2, 5, 0.9], (5, 3)):
        yield float(s), float(sigma), float(share * sigma)


def _steps_and_last(rng: np.random.Generator) -> Inputs:
    yield from _steps(rng)
    yield 1.0, 0.5, 0.0


def _networks(rng: np.random.Generator) -> Inputs:
    for seed in rng.integers(0, 1000, 2).tolist():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = _Closed(4, 8).double().eval()
            nn.init.normal_(net.exit.weight)
        x = torch.from_numpy(rng.standard_normal((2, 1, 8, 8)))
        yield net, x, torch.from_numpy(rng.uniform(-1, 1, 2)), tuple(rng.uniform(0.3, 0.9, 4))


def _tables(rng: np.random.Generator) -> Inputs:
    for seeds in (5, 5, 8):
        choose, judge = 1 + 0.2 * rng.standard_normal((2, seeds, 5))
        base = int(rng.integers(5))
        choose[0, (base + 1) % 5] = 0.1
        yield choose, judge, base


def _gain_of_variances(s: float, sigma: float, sigma_next: float) -> float:
    ratio = (s**2 + sigma_next**2) / (s**2 + sigma**2)
    return (1 - ratio) / (1 - (s**2 + sigma * sigma_next) / (s**2 + sigma**2))


def _to_first_order(s: float, sigma: float, sigma_next: float, share: float) -> float:
    return 1 - share * (sigma - sigma_next) * s**2 / (sigma * (s**2 + sigma**2))


def _hooked(net: nn.Module, x: Tensor, t: Tensor, weights: tuple[float, ...]) -> Tensor:
    with torch.no_grad():
        return TinyUNet.forward(net, x, t, weights)  # type: ignore[arg-type]


def _scaled_encoder(net: Any, x: Tensor, t: Tensor, weights: tuple[float, ...]) -> Tensor:
    layers = (net.entry, net.high, net.down1, net.low)
    for layer, weight in zip(layers, weights, strict=True):
        layer.register_forward_hook(lambda module, inputs, output, w=weight: w * output)
    with torch.no_grad():
        result: Tensor = net(x, t)
    return result


def _scaled_input(
    part: Callable[[int], slice],
) -> Callable[[Any, Tensor, Tensor, tuple[float, ...]], Tensor]:
    """With hooks, which stay, that scale a part of the channels, given the number of the skip's."""

    def scaled(net: Any, x: Tensor, t: Tensor, weights: tuple[float, ...]) -> Tensor:
        width = net.entry.out_channels
        blocks = (net.up_high2, net.up_high1, net.up_low2, net.up_low1)
        sizes = (width, width, 2 * width, 2 * width)
        for block, size, weight in zip(blocks, sizes, weights, strict=True):

            def scale(_: Any, inputs: Any, size: int = size, weight: float = weight) -> Any:
                hidden, embedding = inputs
                changed = hidden.clone()
                changed[:, part(size)] *= weight
                return changed, embedding

            block.register_forward_pre_hook(scale)
        with torch.no_grad():
            result: Tensor = net(x, t)
        return result

    return scaled


def _paired(choose: Array, judge: Array, base: int) -> tuple[float, float, int]:
    rows = np.arange(len(choose))
    return _summary(judge[rows, choose.argmin(1)] - judge[:, base])


def _summary(difference: Array, ddof: int = 1) -> tuple[float, float, int]:
    spread = float(difference.std(ddof=ddof))
    return float(difference.mean()), spread, int((difference < 0).sum())


def _population(choose: Array, judge: Array, base: int) -> tuple[float, float, int]:
    rows = np.arange(len(choose))
    return _summary(judge[rows, choose.argmin(1)] - judge[:, base], 0)


def _unpaired(choose: Array, judge: Array, base: int) -> tuple[float, float, int]:
    chosen = judge[np.arange(len(choose)), choose.argmin(1)]
    mean, _, count = _paired(choose, judge, base)
    return mean, float(np.sqrt(chosen.var(ddof=1) + judge[:, base].var(ddof=1))), count


def _reversed(choose: Array, judge: Array, base: int) -> tuple[float, float, int]:
    mean, spread, count = _paired(choose, judge, base)
    return -mean, spread, count


def _reversed_throughout(choose: Array, judge: Array, base: int) -> tuple[float, float, int]:
    rows = np.arange(len(choose))
    return _summary(judge[:, base] - judge[rows, choose.argmin(1)])


def _chosen_by_its_own_score(choose: Array, judge: Array, base: int) -> tuple[float, float, int]:
    return _summary(choose.min(1) - judge[:, base])


def _deviation_of_the_chosen(choose: Array, judge: Array, base: int) -> tuple[float, float, int]:
    mean, _, count = _paired(choose, judge, base)
    return mean, float(judge[np.arange(len(choose)), choose.argmin(1)].std(ddof=1)), count


def _one_for_all(choose: Array, judge: Array, base: int) -> tuple[float, float, int]:
    return _summary(judge[:, choose.mean(0).argmin()] - judge[:, base])


EXERCISES = (
    Exercise(
        "the weights of the skips",
        solution=lambda n, bottom: list(skip_weights(n, bottom)),
        inputs=_counts,
        rtol=1e-6,
        mistakes=(
            Mistake(
                "the reversed order",
                lambda n, bottom: list(skip_weights(n, 1.0, bottom)),
                "the list begins at the top, and the skip nearest the input keeps its weight 1.",
            ),
            Mistake(
                "division by the number of skips",
                lambda n, bottom: [1 + i / n * (bottom - 1) for i in range(n)],
                "n skips have n − 1 gaps: the last weight must be rho_bottom itself.",
            ),
        ),
    ),
    Exercise(
        "the variance factor of an Euler step",
        solution=lambda s, sigma, sigma_next: (
            ((s**2 + sigma * sigma_next) / (s**2 + sigma**2)) ** 2
        ),
        inputs=_steps,
        mistakes=(
            Mistake(
                "the exact factor",
                lambda s, sigma, sigma_next: (s**2 + sigma_next**2) / (s**2 + sigma**2),
                "that is what the exact flow does; Euler's step loses variance.",
            ),
            Mistake(
                "not squared",
                lambda s, sigma, sigma_next: (s**2 + sigma * sigma_next) / (s**2 + sigma**2),
                "that multiplies y; a variance is multiplied by the square.",
            ),
        ),
    ),
    Exercise(
        "the gain that makes an Euler step exact",
        solution=lambda s, sigma, sigma_next: gaussian_gain(s**2, sigma, sigma_next),
        inputs=_steps_and_last,
        mistakes=(
            Mistake(
                "a gain on y",
                lambda s, sigma, sigma_next: math.sqrt((s**2 + sigma_next**2) / (s**2 + sigma**2)),
                "that is the factor of the whole step, a gain on y; the gain stands on d.",
            ),
            Mistake(
                "s for its square",
                lambda s, sigma, sigma_next: gaussian_gain(s, sigma, sigma_next),
                "s is a standard deviation; the variance of the data is s².",
            ),
            Mistake(
                "the right variance",
                _gain_of_variances,
                "the factors multiply y, so their squares multiply the variance: take the root "
                "of the ratio.",
            ),
            Mistake(
                "the form for short steps",
                lambda s, sigma, sigma_next: _to_first_order(s, sigma, sigma_next, 0.5),
                "this is right to first order in the length of the step; here the step is as long "
                "as it is: make the whole factor exact.",
                variants=(lambda s, sigma, sigma_next: _to_first_order(s, sigma, sigma_next, 1.0),),
            ),
            Mistake(
                "exact factor over Euler's",
                lambda s, sigma, sigma_next: (
                    math.sqrt((s**2 + sigma_next**2) * (s**2 + sigma**2))
                    / (s**2 + sigma * sigma_next)
                ),
                "this corrects the whole step; the gain stands on d alone, and y stays as it is.",
                variants=(
                    lambda s, sigma, sigma_next: (
                        (s**2 + sigma_next**2)
                        * (s**2 + sigma**2)
                        / (s**2 + sigma * sigma_next) ** 2
                    ),
                ),
            ),
        ),
    ),
    Exercise(
        "weights on the skips by hooks",
        solution=_hooked,
        inputs=_networks,
        keeps_inputs=True,
        mistakes=(
            Mistake(
                "scaled encoder",
                _scaled_encoder,
                "an encoder's output also feeds the encoder's next layer: scale the skips where "
                "they enter the decoder.",
            ),
            Mistake(
                "the reversed order",
                lambda net, x, t, weights: _hooked(net, x, t, weights[::-1]),
                "the first weight belongs to s_0, nearest the input, which enters up_high2.",
            ),
            Mistake(
                "the untouched network",
                lambda net, x, t, weights: _hooked(net, x, t, (1.0, 1.0, 1.0, 1.0)),
                "the hooks had no effect: a pre-hook must return the tuple of new inputs.",
            ),
            Mistake(
                "the whole input scaled",
                _scaled_input(lambda size: slice(None)),
                "only the last channels are the skip: leave the first ones, the decoder's own, "
                "as they are.",
            ),
            Mistake(
                "the first channels scaled",
                _scaled_input(lambda size: slice(None, -size)),
                "the skip stands in the *last* channels of hidden.",
                variants=(_scaled_input(lambda size: slice(None, size)),),
            ),
            Mistake(
                "hooks left behind",
                _scaled_input(lambda size: slice(-size, None)),
                "the hooks are still on the network when you return: keep their handles and "
                "remove() them.",
            ),
        ),
    ),
    Exercise(
        "an honest control",
        solution=_paired,
        inputs=_tables,
        mistakes=(
            Mistake(
                "judged where it was chosen",
                lambda choose, judge, base: _paired(choose, choose, base),
                "the best of several settings always looks good on the scores it was chosen by: "
                "judge it on the others.",
                variants=(_chosen_by_its_own_score,),
            ),
            Mistake(
                "chosen by the judge",
                lambda choose, judge, base: _paired(judge, judge, base),
                "the setting must be chosen by `choose`.",
            ),
            Mistake(
                "divided by n",
                _population,
                "the standard deviation of a sample divides by n − 1.",
            ),
            Mistake(
                "not paired",
                _unpaired,
                "the differences are paired by seed: take the deviation of the differences "
                "themselves.",
                variants=(_deviation_of_the_chosen,),
            ),
            Mistake(
                "untouched minus chosen",
                _reversed,
                "the difference is chosen − untouched: negative where the choice has helped.",
                variants=(_reversed_throughout,),
            ),
            Mistake(
                "one setting for all",
                _one_for_all,
                "each seed chooses its own best setting.",
            ),
        ),
    ),
)
