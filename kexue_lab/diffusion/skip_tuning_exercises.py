"""What the exercises of diffusion/skip_tuning check."""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq
from torch import Tensor, nn

from kexue_lab.diffusion.skip_tuning import gaussian_gain
from kexue_lab.diffusion.unet import TinyUNet
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


def _sums(rng: np.random.Generator) -> Inputs:
    yield 1.0, -0.8, 1.0
    for p, q, r in rng.uniform([0.3, 0.3, -0.9], [3, 3, 0.9], (5, 3)):
        yield float(p), float(r * math.sqrt(p * q)), float(q)


def _paths(rng: np.random.Generator) -> Inputs:
    yield 1.0, [2.0, 1.0, 0.0]
    for _ in range(4):
        levels = np.exp(np.sort(rng.uniform(-2, 2.5, int(rng.integers(2, 6))))[::-1])
        yield float(rng.uniform(0.3, 2)), [*levels.tolist(), 0.0]


def _last_steps(rng: np.random.Generator) -> Inputs:
    yield 0.25, 1.0, 1.0
    for m, sigma_d, sigma in rng.uniform([0.02, 0.5, 0.2], [0.2, 1.5, 2.0], (5, 3)):
        yield float(m), float(sigma_d), float(sigma)


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


def _kept(s: float, levels: list[float], gain: float) -> float:
    """By what the DDIM steps multiply y for N(0, s²)."""
    factor = 1.0
    for sigma, after in pairwise(levels):
        factor *= 1 + gain * (after - sigma) * sigma / (s**2 + sigma**2)
    return factor


def _gain_for(s: float, levels: list[float], goal: float) -> float:
    return float(brentq(lambda c: _kept(s, levels, c) - goal, 0.0, 1.0, xtol=1e-14))


def _one_gain(s: float, levels: list[float]) -> float:
    return _gain_for(s, levels, s / math.hypot(s, levels[0]))


def _from_the_sampler_s_start(s: float, levels: list[float]) -> float:
    return _gain_for(s, levels, min(1.0, s / levels[0]))


def _mean_gain(s: float, levels: list[float]) -> float:
    return float(np.mean([gaussian_gain(s**2, a, b) for a, b in pairwise(levels)]))


def _slope(m: float, sigma: float) -> float:
    return sigma / (m + sigma**2)


def _weight_for(slope: float, m: float, sigma: float, empty: float) -> float:
    """The weight with which the fine axis has this slope, if a network of 0 has `empty`."""
    return 1 - (_slope(m, sigma) - slope) / (_slope(m, sigma) - empty)


def _right_slope(m: float, sigma: float) -> float:
    return (1 - math.sqrt(m / (m + sigma**2))) / sigma


def _tuned_weight(m: float, sigma_d: float, sigma: float) -> float:
    return _weight_for(_right_slope(m, sigma), m, sigma, _slope(sigma_d**2, sigma))


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
        "the other weight",
        solution=lambda var_u, cov, var_v: -1 - 2 * cov / var_v,
        inputs=_sums,
        mistakes=(
            Mistake(
                "the lowest point",
                lambda var_u, cov, var_v: -cov / var_v,
                "there the variance is least; the parabola is as high as at 1 on the other side, "
                "as far from its lowest point as 1 is.",
            ),
            Mistake(
                "a lost factor 2",
                lambda var_u, cov, var_v: -1 - cov / var_v,
                "the covariance comes into the variance of a sum twice.",
            ),
            Mistake(
                "the sign of the covariance",
                lambda var_u, cov, var_v: -1 + 2 * cov / var_v,
                "solve again: the lowest point lies at -cov/var_v, right of 0 where the parts "
                "cancel.",
            ),
            Mistake(
                "a correlation",
                lambda var_u, cov, var_v: -1 - 2 * cov / math.sqrt(var_u * var_v),
                "`cov` is the covariance; the variance of u moves the parabola up and down, "
                "not sideways.",
            ),
        ),
    ),
    Exercise(
        "one gain for all steps",
        solution=_one_gain,
        inputs=_paths,
        rtol=1e-5,
        mistakes=(
            Mistake(
                "the mean of the steps' gains",
                _mean_gain,
                "each step's own gain is exact for that step; of one gain for all ask that the "
                "*product* of the factors is right.",
            ),
            Mistake(
                "the last step's gain",
                lambda s, levels: gaussian_gain(s**2, levels[-2], levels[-1]),
                "that mends the last step only.",
                variants=(lambda s, levels: gaussian_gain(s**2, levels[0], levels[1]),),
            ),
            Mistake(
                "the start without the data",
                _from_the_sampler_s_start,
                "at the first level y has the variance s² + σ_0², not σ_0².",
            ),
            Mistake(
                "one long step",
                lambda s, levels: gaussian_gain(s**2, levels[0], levels[-1]),
                "the levels between count: each step loses its own share.",
            ),
        ),
    ),
    Exercise(
        "the weight that mends the last step",
        solution=_tuned_weight,
        inputs=_last_steps,
        mistakes=(
            Mistake(
                "the factor of the variance",
                lambda m, sigma_d, sigma: 1.0,
                "1 is the untouched network, right for a factor m/(m+σ²) of y; that is the factor "
                "of the variance, and y is multiplied by its root.",
            ),
            Mistake(
                "the skip as a gain",
                lambda m, sigma_d, sigma: gaussian_gain(m, sigma, 0.0),
                "that is right for a network that guesses the noise; EDM's returns 0 for data of "
                "the variance σ_d².",
            ),
            Mistake(
                "a network that guesses the datum",
                lambda m, sigma_d, sigma: _weight_for(_right_slope(m, sigma), m, sigma, 1 / sigma),
                "an output of 0 is not the datum 0 here: it is the guess for data of the variance "
                "σ_d².",
            ),
            Mistake(
                "not squared",
                lambda m, sigma_d, sigma: _weight_for(
                    _right_slope(m, sigma), m, sigma, _slope(sigma_d, sigma)
                ),
                "σ_d is a standard deviation, m a variance.",
            ),
            Mistake(
                "the other direction",
                lambda m, sigma_d, sigma: 2 - _tuned_weight(m, sigma_d, sigma),
                "the slope has to become smaller, and for m below σ_d² the skip's share of it is "
                "positive: it must be lowered.",
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
                "the last weight everywhere",
                lambda net, x, t, weights: _hooked(net, x, t, weights[-1:] * 4),
                "all hooks use the last weight: a function made in a loop sees the loop's variable "
                "as it is when called. Bind it as a default argument.",
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
