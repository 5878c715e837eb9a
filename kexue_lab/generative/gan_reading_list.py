"""The Dirac-GAN, whose training is solved by eigenvalues, and norms of matrices and convolutions.

Data sit at 0, the one fake at θ, the critic is D(x) = ψx. L = f(θψ) + f(0), which the critic
maximises and the generator minimises; a large D means fake. Source: kexue.fm/archives/6240;
Mescheder, Geiger and Nowozin, 2018, arXiv:1801.04406.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit
from torch import Tensor

from kexue_lab.generative.adversarial import Loss, power_step
from kexue_lab.precision import widened
from kexue_lab.validation import (
    check_choice,
    check_count,
    check_finite,
    check_floating,
    check_non_negative,
    check_positive,
)

Penalty = Literal["none", "r1", "instance_noise", "roth", "wgan_gp"]
Array = NDArray[np.float64]

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(96)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


@dataclass(frozen=True)
class DiracGAN:
    """A generator with one parameter θ against a critic with one parameter ψ.

    Args:
        loss: "logistic", f(t) = −log(1 + exp −t), or "wasserstein", f(t) = t.
        penalty: what the critic's loss gets on top. "r1": γ/2 ψ². "instance_noise": data and fake
            carry normal noise of variance σ². "roth": the analytic penalty of Roth et al. with γ,
            for the logistic loss. "wgan_gp": λ/2 (|ψ| − 1)².
        strength: γ, σ² or λ; 0 is no penalty.

    Raises:
        ValueError: for an unknown name, a negative strength, or "roth" with another loss.

    Source: Mescheder et al., arXiv:1801.04406, sections 2 and 3; Roth et al., arXiv:1705.09367.

    Example:
        >>> DiracGAN(penalty="r1", strength=1.0).jacobian().tolist()
        [[0.0, -0.5], [0.5, -1.0]]
    """

    loss: Loss = "logistic"
    penalty: Penalty = "none"
    strength: float = 0.0

    def __post_init__(self) -> None:
        check_choice(Loss, loss=self.loss)
        check_choice(Penalty, penalty=self.penalty)
        check_non_negative(strength=self.strength)
        if self.penalty == "roth" and self.loss != "logistic":
            raise ValueError(
                f'penalty "roth" must go with the logistic loss, got {self.loss!r}: it needs a '
                "probability"
            )

    def field(self, theta: ArrayLike, psi: ArrayLike) -> tuple[Array, Array]:
        """Return the direction of training (−∂L/∂θ, ∂(L − penalty)/∂ψ), each of the common shape.

        The expectation of instance noise is taken at 96 Gauss-Hermite nodes: right to 1e-6 while
        |ψ|σ ≤ 5. The slope of the penalty "wgan_gp" at ψ = 0 is taken as 0.

        Args:
            theta: numbers.
            psi: numbers, of a shape that broadcasts against theta's.
        """
        theta, psi = np.broadcast_arrays(_numbers("theta", theta), _numbers("psi", psi))
        if self.penalty == "instance_noise":
            return self._noisy(theta, psi)
        slope = self._slope(theta * psi)
        return -psi * slope, theta * slope - self._pull(theta, psi)

    def _slope(self, t: Array) -> Array:
        """f'(t)."""
        slope: Array = expit(-t) if self.loss == "logistic" else np.ones_like(t)
        return slope

    def _pull(self, theta: Array, psi: Array) -> Array:
        """Derivative of the penalty with respect to ψ."""
        k = self.strength
        if self.penalty == "r1":
            return k * psi
        if self.penalty == "wgan_gp":
            return k * (np.abs(psi) - 1) * np.sign(psi)
        if self.penalty == "roth":
            real: Array = expit(-theta * psi)  # the critic's probability that the fake is real
            return k * psi * (0.25 + real**2 - theta * psi * real**2 * (1 - real))
        return np.zeros_like(psi)

    def _noisy(self, theta: Array, psi: Array) -> tuple[Array, Array]:
        noise = math.sqrt(self.strength) * _NODES
        fake = theta[..., None] + noise
        on_fake, on_data = (self._slope(psi[..., None] * t) for t in (fake, -noise))
        return -psi * (on_fake @ _WEIGHTS), (fake * on_fake - noise * on_data) @ _WEIGHTS

    def jacobian(self) -> Array:
        """Return the matrix (2, 2) of the field's derivatives at the equilibrium (0, 0).

        Raises:
            ValueError: for "wgan_gp" of a positive strength, which has none there.
        """
        first, second = (0.5, -0.25) if self.loss == "logistic" else (1.0, 0.0)
        damping = {"r1": -1.0, "roth": -0.5, "instance_noise": 2 * second}
        if self.penalty == "wgan_gp" and self.strength:
            raise ValueError('the field of "wgan_gp" must have a derivative, and has none at ψ = 0')
        corner = damping.get(self.penalty, 0.0) * self.strength
        return np.array([[0.0, -first], [first, corner]])

    def step_matrix(self, h: float, alternating: bool = False) -> Array:
        """Return the matrix (2, 2) by which one step near (0, 0) multiplies (θ, ψ).

        Args:
            h: the step's size.
            alternating: the critic answers the generator's step.

        Example:
            >>> eigenvalues = np.linalg.eigvals(DiracGAN().step_matrix(0.1))
            >>> print(np.abs(eigenvalues).round(6))
            [1.001249 1.001249]
        """
        check_positive(h=h)
        change = h * self.jacobian()
        if alternating:
            change[1] += change[1, 0] * change[0]
        return np.eye(2) + change

    def step(
        self, theta: float, psi: float, h: float, alternating: bool = False
    ) -> tuple[float, float]:
        """Return (θ, ψ) after one step of size h.

        Args:
            theta: the generator's parameter.
            psi: the critic's.
            h: the step's size.
            alternating: the critic answers the generator's step.
        """
        check_positive(h=h)
        to_theta, to_psi = self.field(theta, psi)
        after = theta + h * float(to_theta)
        if alternating:
            _, to_psi = self.field(after, psi)
        return after, psi + h * float(to_psi)

    def trajectory(
        self,
        n: int,
        h: float,
        start: tuple[float, float] = (1.0, 1.0),
        alternating: bool = False,
    ) -> Array:
        """Return (θ, ψ) before and after each of n steps, (n + 1, 2).

        Args:
            n: number of steps.
            h: their size.
            start: (θ, ψ) at first.
            alternating: the critic answers the generator's steps.

        Raises:
            ValueError: if it leaves the range of floating-point numbers.

        Example:
            >>> print(DiracGAN(penalty="r1", strength=1.0).trajectory(2, 0.1).round(3).tolist())
            [[1.0, 1.0], [0.973, 0.927], [0.946, 0.862]]
        """
        check_count(n=n)
        check_positive(h=h)
        theta, psi = start
        places = [(float(theta), float(psi))]
        with np.errstate(over="ignore", invalid="ignore"):
            for number in range(1, n + 1):
                places.append(self.step(*places[-1], h, alternating))
                if not all(map(math.isfinite, places[-1])):
                    raise ValueError(f"the trajectory must stay finite, step {number} did not")
        return np.array(places)


def wgan_gp_cycle(lam: float, target: float = 1.0) -> float:
    """Return at which |θ| the flow of a Dirac-WGAN with the penalty λ/2 (|ψ| − g)² crosses ψ = 0.

    It settles on a cycle that passes ψ = 0 there: g λ coth(πλ/4ω), ω = √(1 − λ²/4).

    Args:
        lam: λ, between 0 and 2; from 2 on nothing turns, and the flow stops.
        target: the slope g at which the penalty vanishes.

    Source: our own computation; that WGAN-GP does not converge: arXiv:1801.04406, section 2.

    Example:
        >>> round(wgan_gp_cycle(1.0), 6)
        1.389582
    """
    check_positive(lam=lam, target=target)
    if lam >= 2:
        raise ValueError(f"lam must be below 2, got {lam}: the flow does not turn")
    omega = math.sqrt((1 - lam / 2) * (1 + lam / 2))
    angle = math.pi * lam / (4 * omega)
    ratio = 4 * omega / math.pi if angle < 1e-8 else lam / math.tanh(angle)
    found = target * ratio
    if not math.isfinite(found):
        raise ValueError(f"the cycle must fit a float, got target = {target}")
    return found


def spectral_norm(weight: Tensor, u: Tensor, steps: int = 1) -> tuple[Tensor, Tensor]:
    """Estimate the largest singular value of a layer's weight, flattened to (out, everything else).

    For a convolution that is not the norm of the operator: see `conv_operator_norm`.

    Args:
        weight: (out, …), at least two axes.
        u: (out,), not 0; kept from call to call.
        steps: multiplications by W Wᵀ.

    Returns:
        The estimate, a scalar with gradient u vᵀ, and the unit vector u. 0 for a weight of 0.

    Source: Miyato, Kataoka, Koyama and Yoshida, 2018, arXiv:1802.05957.

    Example:
        >>> import torch
        >>> sigma, _ = spectral_norm(torch.tensor([[3.0, 0.0], [0.0, 1.0]]), torch.ones(2), 10)
        >>> sigma
        tensor(3.)
    """
    check_floating(weight=weight)
    if weight.ndim < 2:
        raise ValueError(f"weight must have two axes or more, got {tuple(weight.shape)}")
    return power_step(weight.flatten(1), u, steps)


def conv_operator_norm(weight: Tensor, size: int) -> float:
    """Return the spectral norm of a circular convolution on pictures of size × size pixels.

    The Fourier transform makes a matrix (out, in) of the kernel for each frequency; the norm is the
    largest singular value of any of them.

    Args:
        weight: (out, in, k, k).
        size: of the pictures, at least k.

    Source: Sedghi, Gupta and Long, 2019, arXiv:1805.10408.

    Example:
        >>> import torch
        >>> round(conv_operator_norm(torch.ones(1, 1, 3, 3), 8), 4)  # a constant picture
        9.0
    """
    check_floating(weight=weight)
    check_count(size=size)
    if weight.ndim != 4 or weight.shape[2] != weight.shape[3] or weight.numel() == 0:
        raise ValueError(f"weight must have shape (out, in, k, k), got {tuple(weight.shape)}")
    if size < weight.shape[2]:
        raise ValueError(f"size must be at least {weight.shape[2]}, the kernel's, got {size}")
    check_finite(weight=weight)
    kernel = widened(weight.detach()).double().cpu().numpy()
    unit = float(np.abs(kernel).max()) or 1.0
    spectrum = np.fft.fft2(kernel / unit, (size, size))
    norm = float(np.linalg.svd(spectrum.transpose(2, 3, 0, 1), compute_uv=False).max()) * unit
    if not math.isfinite(norm):
        raise ValueError("the norm must fit a float, got infinity")
    return norm


def _numbers(name: str, value: ArrayLike) -> Array:
    array = np.asarray(value, dtype=np.float64)
    if np.isnan(array).any():
        raise ValueError(f"{name} must be numbers, got nan")
    return array
