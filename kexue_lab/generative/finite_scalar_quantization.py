"""Two discrete bottlenecks: vector quantisation, and finite scalar quantisation (FSQ).

VQ replaces a vector z by the nearest of K learnt codes. FSQ bounds each of a few coordinates to an
interval of length L − 1 and rounds it, so that ∏ L_j codes exist without a table. Both are constant
almost everywhere, and let gradients pass straight through.
Sources: kexue.fm/archives/9826; Mentzer, Minnen, Agustsson, Tschannen, arXiv:2309.15505; van den
Oord, Vinyals, Kavukcuoglu, arXiv:1711.00937.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cholesky_banded, solveh_banded
from scipy.special import logit, ndtr, ndtri
from torch import Tensor, nn

from kexue_lab.precision import narrowed, power_of_two, widened
from kexue_lab.validation import (
    TensorLike,
    check_choice,
    check_count,
    check_finite,
    check_floating,
    check_non_negative,
    check_positive,
)

Array = NDArray[np.float64]
Bound = Literal["sigmoid", "tanh"]

MOST_LEVELS = 1000
"""With more of them the tanh bound, which stops a share ε short, misses its outer levels."""

_EPS = 1e-3  # the ε of the paper's code


class Usage(NamedTuple):
    """How many codes occur, and the exponential of their entropy: "as many, used evenly"."""

    used: int
    perplexity: float


class Quantizer(NamedTuple):
    """The centres of a scalar quantiser, increasing, and its mean squared error."""

    centres: NDArray[np.float64]
    mse: float


def round_ste(x: Tensor) -> Tensor:
    """Round to whole numbers, halves to even, with the gradient of the identity (straight-through).

    Args:
        x: any shape.

    Raises:
        TypeError: if x is not a floating-point tensor.
        ValueError: if x is not finite.

    Source: Bengio, Léonard, Courville, arXiv:1308.3432.

    Example:
        >>> y = torch.tensor([0.2, 1.7], requires_grad=True)
        >>> round_ste(y).square().sum().backward()
        >>> y.grad  # 2 round(y)
        tensor([0., 4.])
    """
    check_floating(x=x)
    check_finite(x=x)
    return _straight_through(x, x.round())


class FSQ(nn.Module):
    """Finite scalar quantisation: each coordinate is bounded and rounded to one of L levels.

    "sigmoid" (the article): y = (L − 1) σ(z), level c = round(y), output 2c/(L − 1) − 1.
    "tanh" (the paper's code): y = h tanh(z + s) − o with h = (L − 1)(1 − ε)/2, ε = 10⁻³, o = ½ for
    even L and else 0, s = tan(o/h); output round(y)/⌊L/2⌋, level c = round(y) + ⌊L/2⌋.
    In either case the gradient is that of the same formula without the rounding.

    Args:
        levels: number of levels of each coordinate, 2 … 1000.
        bound: "sigmoid" or "tanh".

    Raises:
        ValueError: if there are no levels, one is below 2 or above 1000, or their product is 2⁶³
            or more.

    Source: kexue.fm/archives/9826; Mentzer et al., arXiv:2309.15505, appendix A.1.

    Example:
        >>> FSQ([8, 5, 5, 5])(torch.tensor([[0.3, -1.2, 2.0, -0.1]]))[1]
        tensor([572])
    """

    basis: Tensor
    sizes: Tensor

    def __init__(self, levels: Sequence[int], *, bound: Bound = "sigmoid") -> None:
        super().__init__()
        check_choice(Bound, bound=bound)
        self.levels = tuple(levels)
        if not self.levels:
            raise ValueError(f"levels must be at least one number, got {levels!r}")
        for number in self.levels:
            _check_levels(number)
        self.bound: Bound = bound
        if self.codebook_size >= 2**63:
            raise ValueError(f"levels must have a product below 2^63, got {self.codebook_size}")
        places = [math.prod(self.levels[:j]) for j in range(len(self.levels))]
        self.register_buffer("basis", torch.tensor(places), persistent=False)
        self.register_buffer("sizes", torch.tensor(self.levels), persistent=False)

    @property
    def codebook_size(self) -> int:
        """Number of codes, the product of the levels."""
        return math.prod(self.levels)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Quantise.

        Args:
            z: (..., d), d the number of levels.

        Returns:
            The quantised z in [−1, 1], (..., d), and the index of its code, (...), int64.

        Raises:
            TypeError: if z is not a floating-point tensor.
            ValueError: if z has another last dimension or is not finite.
        """
        check_floating(z=z)
        self._check_width(z=z)
        check_finite(z=z)
        wide = widened(z)
        sizes, half = self.sizes.to(wide.dtype), self.sizes // 2
        if self.bound == "sigmoid":
            rounded = round_ste((sizes - 1) * wide.sigmoid())
            levels = rounded.detach()
            z_hat = 2 * rounded / (sizes - 1) - 1
        else:
            reach = (sizes - 1) * ((1 - _EPS) / 2)
            offset = (1 - self.sizes % 2).to(wide.dtype) / 2
            rounded = round_ste(reach * (wide + (offset / reach).tan()).tanh() - offset)
            levels = rounded.detach() + half
            z_hat = rounded / half
        return z_hat.to(z.dtype), (levels.long() * self.basis).sum(-1)

    def codes_to_indices(self, codes: Tensor) -> Tensor:
        """Return Σ_j c_j ∏_{i<j} L_i, a number in mixed radix (混合进制).

        Args:
            codes: levels 0 … L_j − 1, integers, (..., d).

        Returns:
            (...), int64.

        Raises:
            TypeError: if codes are not integers.
            ValueError: if the last dimension or a level is wrong.
        """
        _check_whole(codes=codes)
        self._check_width(codes=codes)
        if not bool(((codes >= 0) & (codes < self.sizes)).all()):
            raise ValueError(f"codes must lie in 0 … L − 1 for L = {self.levels}, got {codes}")
        return (codes.long() * self.basis).sum(-1)

    def indices_to_codes(self, indices: Tensor) -> Tensor:
        """Return the levels of indices: the inverse of `codes_to_indices`.

        Args:
            indices: integers 0 … codebook_size − 1, (...).

        Returns:
            (..., d), int64.

        Raises:
            TypeError: if indices are not integers.
            ValueError: if one is out of range.
        """
        _check_indices(indices, self.codebook_size)
        return (indices.long()[..., None] // self.basis) % self.sizes

    def _check_width(self, **tensors: Tensor) -> None:
        for name, value in tensors.items():
            if value.shape[-1:] != (len(self.levels),):
                raise ValueError(
                    f"{name} must have shape (..., {len(self.levels)}), got {tuple(value.shape)}"
                )


class VectorQuantizer(nn.Module):
    """Replace vectors by the nearest of K learnt codes, with straight-through gradients.

    Loss β mean (e − sg z)² + γ mean (z − sg e)², sg the stop of the gradient, means over all
    numbers. A code that no vector selects gets no gradient. With `restart_every`, in training, the
    codes that none has selected in so many calls are moved to random vectors of the batch, plus
    noise of standard deviation 0.01 (Dhariwal et al., arXiv:2005.00341, do it at every step).

    Args:
        n_codes: K.
        dim: length of a vector.
        beta: weight of the term that moves the codes.
        gamma: weight of the term that moves the vectors.
        restart_every: calls between two restarts; never if None.
        restarts: how many restarts there are at most.
        generator: of the first codes, uniform in (−1/K, 1/K), and of the restarts; torch's global
            one by default.

    Raises:
        TypeError: if a count is not an integer.
        ValueError: if a count is below 1 or a weight negative.

    Source: van den Oord, Vinyals, Kavukcuoglu, arXiv:1711.00937, equation 3.

    Example:
        >>> z_q, indices, loss = VectorQuantizer(16, 2)(torch.zeros(5, 2))
        >>> z_q.shape, indices.shape
        (torch.Size([5, 2]), torch.Size([5]))
    """

    idle: Tensor

    def __init__(
        self,
        n_codes: int,
        dim: int,
        *,
        beta: float = 1.0,
        gamma: float = 0.25,
        restart_every: int | None = None,
        restarts: int = 20,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_count(n_codes=n_codes, dim=dim)
        check_non_negative(beta=beta, gamma=gamma)
        check_count(0, restarts=restarts)
        if restart_every is not None:
            check_count(restart_every=restart_every)
        self.beta, self.gamma, self.restart_every = beta, gamma, restart_every
        uniform = torch.rand(n_codes, dim, generator=generator)
        self.codebook = nn.Parameter((2 * uniform - 1) / n_codes)
        self.register_buffer("idle", torch.ones(n_codes, dtype=torch.bool), persistent=False)
        self._calls, self._restarts_left, self._generator = 0, restarts, generator

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantise.

        Args:
            z: (..., dim), of the codebook's dtype.

        Returns:
            The nearest codes, (..., dim), whose gradient goes to z alone; their numbers, (...),
            int64; and the loss, a scalar.

        Raises:
            TypeError: if z is not a floating-point tensor of the codebook's dtype.
            ValueError: if z is empty, has another last dimension, is not finite, or is so far from
                the codes that the loss leaves the dtype.
        """
        check_floating(z=z, codebook=self.codebook)
        if z.shape[-1:] != self.codebook.shape[1:] or z.numel() == 0:
            width = self.codebook.shape[1]
            raise ValueError(f"z must be (..., {width}) and not empty, got {tuple(z.shape)}")
        check_finite(z=z)
        indices = _nearest(widened(z.detach()), widened(self.codebook.detach()))
        codes = nn.functional.embedding(indices, self.codebook)
        loss = self.beta * _mean_square(codes, z.detach())
        loss = narrowed(loss + self.gamma * _mean_square(z, codes.detach()), z.dtype, "loss")
        if self.training and self.restart_every is not None:
            self._restart(indices, z.detach())
        return _straight_through(z, codes), indices, loss

    @torch.no_grad()
    def _restart(self, indices: Tensor, z: Tensor) -> None:
        """Note which codes are used, and after `restart_every` calls move those that are not."""
        self.idle[indices.flatten()] = False
        self._calls += 1
        if (
            self.restart_every is None
            or self._calls % self.restart_every
            or not self._restarts_left
        ):
            return
        self._restarts_left -= 1
        rows, flat = self.idle.nonzero()[:, 0], z.flatten(0, -2)
        g = self._generator
        chosen = torch.randint(len(flat), (len(rows),), generator=g)
        noise = 0.01 * torch.randn(len(rows), flat.shape[1], generator=g)
        self.codebook[rows] = flat[chosen.to(flat.device)] + noise.to(flat)
        self.idle.fill_(True)


def level_probabilities(
    levels: int, std: float, *, bound: Bound = "sigmoid"
) -> NDArray[np.float64]:
    """Return how often `FSQ` chooses each level of a coordinate z ~ N(0, std²).

    Level k is chosen between the two points where the bounded z is k ∓ ½, so that
    P(level ≤ k) = Φ(logit((k + ½)/(L − 1))/std) for the sigmoid.

    Args:
        levels: L, 2 … 1000.
        std: standard deviation of z, positive.
        bound: as for `FSQ`.

    Returns:
        (L,), of sum 1.

    Raises:
        TypeError: if levels is not an integer.
        ValueError: if levels or std is out of range.

    Source: kexue.fm/archives/9826 (the rounding); the law follows from it.

    Example:
        >>> level_probabilities(5, 1.0).round(4)
        array([0.0258, 0.2789, 0.3905, 0.2789, 0.0258])
    """
    check_choice(Bound, bound=bound)
    _check_levels(levels)
    check_positive(std=std)
    middles = np.arange(levels - 1) + 0.5
    if bound == "sigmoid":
        edges = logit(middles / (levels - 1))
    else:
        reach, offset = (levels - 1) * (1 - _EPS) / 2, (1 - levels % 2) / 2
        edges = np.arctanh((middles - levels // 2 + offset) / reach) - math.tan(offset / reach)
    with np.errstate(over="ignore"):
        edges = np.concatenate([[-math.inf], edges / float(std), [math.inf]])
    low, high = edges[:-1], edges[1:]
    # On the right of 0 from the other side, where small tails keep their digits.
    probabilities = np.where(low > 0, ndtr(-low) - ndtr(-high), ndtr(high) - ndtr(low))
    return np.asarray(probabilities, dtype=np.float64)


def codebook_usage(indices: TensorLike, n_codes: int) -> Usage:
    """Return how many codes occur among indices, and the perplexity (困惑度) of their frequencies.

    The perplexity e^H, with H = −Σ p ln p over the frequencies p, is n for n codes used equally
    often.

    Args:
        indices: integers 0 … n_codes − 1, any shape, at least one.
        n_codes: number of codes, used or not.

    Raises:
        TypeError: if indices or n_codes are not integers.
        ValueError: if there are no indices, or one is out of range.

    Source: van den Oord, Vinyals, Kavukcuoglu, arXiv:1711.00937 (the perplexity of a codebook).

    Example:
        >>> codebook_usage([0, 3, 3, 0], 5)
        Usage(used=2, perplexity=2.0)
    """
    check_count(n_codes=n_codes)
    whole = torch.as_tensor(indices)
    if whole.numel() == 0:
        raise ValueError(f"indices must be at least one, got shape {tuple(whole.shape)}")
    _check_indices(whole, n_codes)
    counts = torch.unique(whole, return_counts=True)[1].double()
    p = counts / counts.sum()
    return Usage(len(counts), float(torch.exp2(-(p * p.log2()).sum())))


def lloyd_max(levels: int, *, tol: float = 1e-12) -> Quantizer:
    """Return the scalar quantiser of least mean squared error on N(0, 1).

    Each centre is the mean of what lies nearest to it: c_i p_i = φ(a_i) − φ(a_{i+1}), where p_i is
    the mass between the borders a_i and a_{i+1}, halfway between neighbours. Newton's method on
    these equations, from the centres that are best for many levels; where it fails, Lloyd's step.
    (For a log-concave density there is one solution: Fleischer, 1964.)

    Args:
        levels: number of centres, 1 … 1000.
        tol: the last step moves no centre further.

    Returns:
        `centres`, (levels,), and `mse`.

    Raises:
        TypeError: if levels is not an integer.
        ValueError: if levels or tol is out of range.

    Source: Lloyd, "Least squares quantization in PCM", 1982; Max, "Quantizing for minimum
        distortion", 1960.

    Example:
        >>> lloyd_max(2).centres.round(4)
        array([-0.7979,  0.7979])
    """
    check_count(levels=levels)
    if levels > MOST_LEVELS:
        raise ValueError(f"levels must be at most {MOST_LEVELS}, got {levels}")
    check_positive(tol=tol)
    if levels == 1:
        return Quantizer(np.zeros(1), 1.0)
    c = math.sqrt(3) * ndtri((np.arange(levels) + 0.5) / levels)
    mass, excess, slopes = _conditions(c)
    for _ in range(10_000):
        step = solveh_banded(slopes, excess, lower=True) if _is_definite(slopes) else excess / mass
        new = _conditions(c - step)
        if np.any(np.diff(c - step) <= 0) or np.abs(new[1]).max() > np.abs(excess).max():
            step = excess / mass  # Lloyd's: each centre to the mean of its part
            new = _conditions(c - step)
        c = c - step
        mass, excess, slopes = new
        if np.abs(step).max() <= max(tol, 1e-13 * levels):
            break
    c = (c - c[::-1]) / 2
    return Quantizer(c, float(1 - (_conditions(c)[0] * c * c).sum()))


def _conditions(c: Array) -> tuple[Array, Array, Array]:
    """Masses p of the parts; c p − ∫ x φ over each, to become 0; its derivatives, by diagonals."""
    borders = np.concatenate([[-math.inf], (c[1:] + c[:-1]) / 2, [math.inf]])
    density, mass = np.exp(-borders * borders / 2) / math.sqrt(2 * math.pi), np.diff(ndtr(borders))
    pull = np.diff(c) / 4 * density[1:-1]
    slopes = np.zeros((2, len(c)))
    slopes[0] = mass
    slopes[0, 1:] -= pull
    slopes[0, :-1] -= pull
    slopes[1, :-1] = -pull
    return mass, c * mass + np.diff(density), slopes


def _is_definite(bands: Array) -> bool:
    try:
        cholesky_banded(bands, lower=True)
    except LinAlgError:
        return False
    return True


def _straight_through(x: Tensor, value: Tensor) -> Tensor:
    # In this order the value is exact: the difference of equal numbers is 0.
    return value.detach() + (x - x.detach())


def _nearest(z: Tensor, codebook: Tensor) -> Tensor:
    """Number of the code nearest to each vector: the largest ⟨z, e⟩ − ½‖e‖², from the middle.

    Scaled by a power of two, so that squares neither overflow nor vanish where codes differ.
    """
    unit = power_of_two(torch.maximum(codebook.abs().amax(), z.abs().amax()))
    codes, points = codebook / unit, z / unit
    middle = codes.mean(0)
    codes, points = codes - middle, points - middle
    spread = power_of_two(codes.abs().amax())
    codes = codes / spread  # ⟨z, e⟩ − ½‖e‖², divided by the spread
    return (points @ codes.T - spread * codes.square().sum(-1) / 2).argmax(-1)


def _mean_square(x: Tensor, y: Tensor) -> Tensor:
    return (x.double() - y.double()).square().mean()


def _check_levels(levels: int) -> None:
    check_count(2, levels=levels)
    if levels > MOST_LEVELS:
        raise ValueError(f"levels must be at most {MOST_LEVELS}, got {levels}")


def _check_whole(**tensors: Tensor) -> None:
    for name, value in tensors.items():
        if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
            raise TypeError(f"{name} must be integers, got {value.dtype}")


def _check_indices(indices: Tensor, n_codes: int) -> None:
    _check_whole(indices=indices)
    outside = indices[(indices < 0) | (indices >= n_codes)]
    if outside.numel():
        raise ValueError(f"indices must lie in 0 … {n_codes - 1}, got {outside[0].item()}")
