"""Step sizes, weight decay and schedules from one requirement: the idea behind the Amos optimiser.

An optimiser moves θ ← θ - (α u + ρ θ) along some direction u. If the weight decay ρ is of second
order in the step size α and cancels the second-order harm of the step, the distance to the end
point θ* shrinks by e^(-S), with α and ρ ∝ e^(-2S). What is assumed on the cosine p between
u and θ - θ* then decides the schedule: 1/t² if it stays, 1/t if it falls like the distance.

References:
    R. Tian, A. Parikh, "Amos: An Adam-style Optimizer with Adaptive Weight Decay towards
    Model-Oriented Scale", 2022, arXiv:2210.11693.
    J. Su, "基于Amos优化器思想推导出来的一些“炼丹策略”", 2022, https://kexue.fm/archives/9344.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal, overload

import numpy as np
import torch
from torch import Tensor

from kexue_lab.precision import holds, length, widened
from kexue_lab.validation import check_choice, check_count, check_non_negative, check_positive

Kind = Literal["inverse", "inverse_square"]
Direction = Literal["adam", "sign", "gradient"]


@overload
def decay_factor(t: float, kappa: float, kind: Kind = "inverse") -> float: ...
@overload
def decay_factor(t: Tensor, kappa: float, kind: Kind = "inverse") -> Tensor: ...
def decay_factor(t: float | Tensor, kappa: float, kind: Kind = "inverse") -> float | Tensor:
    """Return the share of the first learning rate that is left after t steps.

    "inverse" is 1/(1 + κt), "inverse_square" 1/(1 + κt)².

    Args:
        t: Steps done, at least 0; a number, or a tensor of any shape.
        kappa: Rate κ of the decay per step, at least 0.
        kind: "inverse" or "inverse_square".

    Returns:
        Factors in [0, 1]; a float for a number, a tensor of the dtype of `t` (of torch's default
        dtype for whole numbers) and its shape for a tensor.

    Raises:
        TypeError: If `t` is neither a real number nor a real tensor, or `kappa` not a real number.
        ValueError: If `t` or `kappa` is negative or not finite, or `kind` unknown.

    Source: https://kexue.fm/archives/9344; D4 of the lesson.

    Example:
        >>> decay_factor(9, 1.0)
        0.1
        >>> decay_factor(torch.tensor([0.0, 1.0]), 1.0, "inverse_square")
        tensor([1.0000, 0.2500])
    """
    wide = _times(t)
    check_non_negative(kappa=kappa)
    check_choice(Kind, kind=kind)
    root = 1 / (1 + float(kappa) * wide)
    return _like(root if kind == "inverse" else root * root, t)


@overload
def decay_factor_general(t: float, alpha0: float, p0: float, beta: float) -> float: ...
@overload
def decay_factor_general(t: Tensor, alpha0: float, p0: float, beta: float) -> Tensor: ...
def decay_factor_general(
    t: float | Tensor, alpha0: float, p0: float, beta: float
) -> float | Tensor:
    """Return e^(-2S) for progress p = p0 e^(-βS): (1 + (1+β) α0 p0 t)^(-2/(1+β)).

    S solves S' = α0 p e^(-S) from 0; e^(-S) is the distance to the end point, in units of the first
    one. β = 0 and 1 are "inverse_square" and "inverse" of `decay_factor`.

    Args:
        t: Steps done, at least 0; a number, or a tensor of any shape.
        alpha0: First step in units of the first distance, in (0, 1].
        p0: First cosine between the direction and the error, in (0, 1].
        beta: How fast progress slows down, at least 0.

    Returns:
        As `decay_factor`.

    Raises:
        TypeError: As `decay_factor`.
        ValueError: If an argument is out of its range, or not finite.

    Source: D4 of the lesson.

    Example:
        >>> round(decay_factor_general(900, 0.01, 1.0, 1.0), 6)
        0.052632
    """
    wide = _times(t)
    _check_share(alpha0=alpha0)
    _check_share(p0=p0)
    check_non_negative(beta=beta)
    # By logarithms: (1+β) α0 p0 t may leave the range where its power does not.
    log_bracket = math.log1p(beta) + math.log(alpha0) + math.log(p0) + wide.log()
    grown = torch.logaddexp(torch.zeros_like(wide), log_bracket)
    return _like(torch.exp(-2 / (1 + float(beta)) * grown), t)


def kappa_for(fraction: float, steps: int, kind: Kind = "inverse") -> float:
    """Return the κ with which `decay_factor` is `fraction` after `steps` steps.

    Args:
        fraction: What shall be left of the first learning rate, in (0, 1).
        steps: Number of steps, at least 1.
        kind: "inverse" or "inverse_square".

    Raises:
        TypeError: If `fraction` is not a real number or `steps` not an int.
        ValueError: If an argument is out of its range, `kind` is unknown, or κ beyond float64.

    Source: `decay_factor`, solved for κ.

    Example:
        >>> kappa_for(0.1, 900)
        0.01
    """
    _check_share(fraction=fraction)
    check_count(1, steps=steps)
    check_choice(Kind, kind=kind)
    if fraction == 1:
        raise ValueError(f"fraction must be less than 1, got {fraction}")
    root = float(fraction) if kind == "inverse" else math.sqrt(fraction)
    kappa = (1 - root) / root / steps
    if not math.isfinite(kappa):
        raise ValueError(f"fraction must leave kappa finite, got {fraction}")
    return kappa


class _WideState(torch.optim.Optimizer):
    """An optimiser whose state keeps float32 where the parameter is of half precision."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take a state as `state_dict` gave it, in the precision in which it was kept."""
        super().load_state_dict(state_dict)
        saved = [i for group in state_dict["param_groups"] for i in group["params"]]
        own = [p for group in self.param_groups for p in group["params"]]
        for index, p in zip(saved, own, strict=True):
            for key, value in state_dict["state"].get(index, {}).items():
                kept = isinstance(value, Tensor)
                self.state[p][key] = value.detach().clone().to(p.device) if kept else value

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; parameters without a gradient stay.

        Args:
            closure: Computes the loss anew, with its gradients, before the step.

        Returns:
            What `closure` returned, or None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None or p.numel() == 0:
                    continue
                if p.grad.is_sparse:
                    raise RuntimeError("gradients must be dense, got a sparse one")
                state = self.state[p]
                state["step"] = state.get("step", 0) + 1
                p.copy_(self._moved(widened(p), widened(p.grad), group, state))
        return loss

    def _moved(
        self, theta: Tensor, g: Tensor, group: dict[str, Any], state: dict[str, Any]
    ) -> Tensor:
        raise NotImplementedError


class ScaleAdaptive(_WideState):
    """Any direction, with steps in units of a parameter's own scale and the decays of D3 and D4.

    A tensor θ of k entries moves by α0 √k σ f(t) against its direction u/|u|, and shrinks by
    α0² f(t)/(2q) of itself, where f is `decay_factor` at t = 1, 2, …. With "adam" or "sign" (and ε
    negligible) training is unchanged if a parameter is stored as θ/c with the scale σ/c.

    Args:
        params: Parameter groups, each a dict with "params" and "sigma": the standard deviation of
            a random matrix, 0.5 for a bias or gain. A group may set any of the other arguments.
        alpha0: First step in units of √k σ, in (0, 1].
        kappa: Rate of the decay per step, at least 0.
        kind: "inverse" or "inverse_square", as in `decay_factor`.
        q: What the theory assumes on θ·(θ - θ*) / |θ - θ*|², positive, with α0² ≤ 2q.
        betas: Averages of Adam for the slopes and their squares, each in [0, 1).
        eps: Added to the root of the second average, at least 0.
        direction: "adam", with both averages corrected for their start at 0; "sign" of the
            gradient; or the "gradient" itself.
        weight_decay: Whether to shrink θ.

    Raises:
        TypeError: If a parameter is not a floating-point tensor.
        ValueError: If an argument is out of its range, or a group has no "sigma".

    Where the direction is 0 a tensor only shrinks. Moments of half-precision parameters are kept in
    float32; a gradient is cut off where the sum of its squares would overflow. torch's schedulers
    act on "lr", which this does not have.

    Source: https://kexue.fm/archives/9344.

    Example:
        >>> w = torch.zeros(4, requires_grad=True)
        >>> w.sum().backward()
        >>> _ = ScaleAdaptive([{"params": [w], "sigma": 0.5}], alpha0=0.1, kappa=1.0).step()
        >>> w.detach()
        tensor([-0.0250, -0.0250, -0.0250, -0.0250])
    """

    def __init__(
        self,
        params: Iterable[Any],
        alpha0: float,
        kappa: float,
        kind: Kind = "inverse",
        q: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-12,
        direction: Direction = "adam",
        weight_decay: bool = True,
    ) -> None:
        defaults = {
            "alpha0": alpha0,
            "kappa": kappa,
            "kind": kind,
            "q": q,
            "betas": betas,
            "eps": eps,
            "direction": direction,
            "weight_decay": weight_decay,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group after checking it, as the constructor does."""
        group = self.defaults | param_group
        _check_scale("sigma", group)
        _check_share(alpha0=group["alpha0"])
        check_non_negative(kappa=group["kappa"])
        check_choice(Kind, kind=group["kind"])
        check_positive(q=group["q"])
        if group["alpha0"] ** 2 > 2 * group["q"]:
            raise ValueError(f"q must be at least alpha0²/2, got {group['q']}")
        _check_averages(betas=group["betas"])
        check_non_negative(eps=group["eps"])
        check_choice(Direction, direction=group["direction"])
        super().add_param_group(param_group)
        _check_parameters(self.param_groups[-1]["params"])

    def _moved(
        self, theta: Tensor, g: Tensor, group: dict[str, Any], state: dict[str, Any]
    ) -> Tensor:
        factor = decay_factor(state["step"], group["kappa"], group["kind"])
        u = g.sign() if group["direction"] == "sign" else g
        if group["direction"] == "adam":
            u = _adam_direction(g, group["betas"], group["eps"], state)
        size = length(u.reshape(-1))
        stride = group["alpha0"] * math.sqrt(theta.numel()) * group["sigma"] * factor
        moved: Tensor = theta - stride * torch.where(size > 0, u / size, 0)
        if group["weight_decay"]:
            moved -= group["alpha0"] ** 2 / (2 * group["q"]) * factor * theta
        return moved


class Amos(_WideState):
    """The optimiser Amos.

    With the mean square of the gradient g² over the reduced axes, its moving average v̂ corrected
    for the start at 0, and b = 0 at first:

        c = (1 + ζ √ξ b)^(-1/2),    d = 1/(1 + ζ √(ξη) b),    γ = c ξ² g²/v̂,
        δ = d (ξ η g/√v̂ + γ θ/2),    θ ← θ - δ,    b ← b + γ (1 + b).

    With momentum μ, θ moves by the average m ← μ m + (1 - μ) δ instead.

    Args:
        params: Parameter groups, each a dict with "params" and "eta", the scale η that the entries
            are expected to end at, and optionally "reduce_dims", a tuple of the axes over which
            squares are averaged; all of them by default, which keeps two numbers for a tensor. A
            group may set the other arguments as well.
        xi: Global learning rate ξ in (0, 1], about 1/√N for N independent batches in the data.
        beta: Decay of the average of squares, in [0, 1).
        zeta: Coefficient ζ of both decay factors, at least 0.
        momentum: Decay μ of the average of the moves, in [0, 1); 0 keeps no average.

    Raises:
        TypeError: If a parameter is not a floating-point tensor, or "reduce_dims" no tuple of ints.
        ValueError: If an argument is out of its range, a group has no "eta", or an axis is not
            there.

    State of a tensor: "v" and "b", of its shape with 1 for each reduced axis; with momentum also
    "m", of its shape. A row whose gradients
    have all been 0 stays. A gradient is cut off where the sum of its squares would overflow, in
    float32 for half precision. torch's schedulers act on "lr", which this does not have.

    Source: Tian and Parikh, arXiv:2210.11693, Algorithm 1.

    Example:
        >>> w = torch.ones(2, 3, requires_grad=True)
        >>> w.sum().backward()
        >>> optimizer = Amos([{"params": [w], "eta": 0.5, "reduce_dims": (1,)}], xi=0.1)
        >>> _ = optimizer.step()
        >>> w.detach()[0], optimizer.state[w]["v"].shape
        (tensor([0.9450, 0.9450, 0.9450]), torch.Size([2, 1]))
    """

    def __init__(
        self,
        params: Iterable[Any],
        xi: float,
        beta: float = 0.999,
        zeta: float = 0.25,
        momentum: float = 0.0,
    ) -> None:
        defaults = {"xi": xi, "beta": beta, "zeta": zeta, "momentum": momentum}
        super().__init__(params, defaults | {"reduce_dims": None})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group after checking it, as the constructor does."""
        group = self.defaults | param_group
        _check_scale("eta", group)
        _check_share(xi=group["xi"])
        _check_averages(beta=(group["beta"],), momentum=(group["momentum"],))
        check_non_negative(zeta=group["zeta"])
        super().add_param_group(param_group)
        tensors = self.param_groups[-1]["params"]
        _check_parameters(tensors)
        if group["reduce_dims"] is not None:
            _check_axes(group["reduce_dims"], tensors)

    def _moved(
        self, theta: Tensor, g: Tensor, group: dict[str, Any], state: dict[str, Any]
    ) -> Tensor:
        g, dims, beta = _cut(g), group["reduce_dims"], group["beta"]
        dims = tuple(range(g.ndim)) if dims is None else dims
        now = g.square().mean(dims, keepdim=True) if dims else g.square()
        if "v" not in state:
            state["v"], state["b"] = torch.zeros_like(now), torch.zeros_like(now)
        v, b, xi, eta = state["v"], state["b"], group["xi"], group["eta"]
        v.mul_(beta).add_(now, alpha=1 - beta)
        mean = v / (1 - beta ** state["step"])
        seen = mean > 0
        safe = torch.where(seen, mean, 1)
        c = (1 + group["zeta"] * math.sqrt(xi) * b).rsqrt()
        d = 1 / (1 + group["zeta"] * math.sqrt(xi) * math.sqrt(eta) * b)
        gamma = torch.where(seen, c * xi**2 * now / safe, 0)
        u = torch.where(seen, g / safe.sqrt(), 0)
        move: Tensor = d * (xi * eta * u + gamma * theta / 2)
        b.add_(gamma * (1 + b))
        if group["momentum"] > 0:
            m = state.setdefault("m", torch.zeros_like(theta))
            move = m.lerp_(move, 1 - group["momentum"])
        return theta - move


def simulate_distance(
    k: int,
    alpha0: float,
    p0: float,
    steps: int,
    beta: float = 0.0,
    q: float = 1.0,
    weight_decay: bool = True,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Return how the distance to θ* falls where the direction has a prescribed cosine to the error.

    θ0 and θ* are normal with k entries. At each step the unit vector u has the cosine
    p = p0 e^(-βS) to the error ε = θ - θ*, with S from theory, and is random otherwise; θ moves by
    α0 |ε0| e^(-2S) u and shrinks by α0² e^(-2S) / (2q) of itself.

    Args:
        k: Number of entries, at least 2.
        alpha0: First step in units of the first distance, in (0, 1].
        p0: First cosine, in (0, 1].
        steps: Number of steps, at least 0.
        beta: How fast progress slows down, at least 0.
        q: What the weight decay assumes, positive, with α0² ≤ 2q.
        weight_decay: Whether θ shrinks.
        seed: Of the random numbers, at least 0.

    Returns:
        Float64 arrays of length steps + 1: "distance" |ε|/|ε0|, "theory" e^(-S) for it, and "q",
        the measured θ·ε/|ε|² (nan where the distance is 0).

    Raises:
        TypeError: If a number is of another kind.
        ValueError: If one is out of its range.

    Source: D2 to D4 of the lesson.
    """
    check_count(2, k=k)
    _check_share(alpha0=alpha0)
    _check_share(p0=p0)
    check_count(0, steps=steps, seed=seed)
    check_positive(q=q)
    if alpha0**2 > 2 * q:
        raise ValueError(f"q must be at least alpha0²/2, got {q}")
    times = torch.arange(steps + 1, dtype=torch.float64)
    factor = decay_factor_general(times, alpha0, p0, beta).numpy()
    theory = np.sqrt(factor)
    rng = np.random.default_rng(seed)
    theta, end = rng.standard_normal(k), rng.standard_normal(k)
    first = float(np.linalg.norm(theta - end))
    rho = alpha0**2 / (2 * q) if weight_decay else 0.0
    distance, measured = np.empty(steps + 1), np.full(steps + 1, np.nan)
    for t in range(steps + 1):
        error = theta - end
        size = float(np.linalg.norm(error))
        distance[t] = size / first
        if size > 0:
            error /= size
            measured[t] = theta @ error / size
        cosine = p0 * theory[t] ** beta
        u = cosine * error + math.sqrt(1 - cosine**2) * _orthogonal_to(error, rng)
        theta = theta - factor[t] * (alpha0 * first * u + rho * theta)
    return {"distance": distance, "q": measured, "theory": theory}


def _orthogonal_to(unit: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random unit vector at a right angle to another."""
    drawn = rng.standard_normal(len(unit))
    drawn -= (drawn @ unit) * unit
    result: np.ndarray = drawn / np.linalg.norm(drawn)
    return result


def _times(t: float | Tensor) -> Tensor:
    """Times as float64, checked."""
    if isinstance(t, Tensor):
        if t.is_complex() or t.dtype == torch.bool:
            raise TypeError(f"t must be a real tensor, got {t.dtype}")
        wide = t.double()
        if not holds((wide >= 0) & wide.isfinite()):
            raise ValueError("t must be non-negative and finite, got another entry")
        return wide
    check_non_negative(t=t)
    return torch.tensor(float(t), dtype=torch.float64)


def _like(value: Tensor, t: float | Tensor) -> float | Tensor:
    if not isinstance(t, Tensor):
        return float(value)
    return value.to(t.dtype if t.is_floating_point() else torch.get_default_dtype())


def _adam_direction(
    g: Tensor, betas: tuple[float, float], eps: float, state: dict[str, Any]
) -> Tensor:
    """Adam's m̂/(√v̂ + ε), whose averages it moves on; 0 where no slope was seen."""
    g = _cut(g)
    if "m" not in state:
        state["m"], state["v"] = torch.zeros_like(g), torch.zeros_like(g)
    m, v, t = state["m"], state["v"], state["step"]
    m.mul_(betas[0]).add_(g, alpha=1 - betas[0])
    v.mul_(betas[1]).add_(g.square(), alpha=1 - betas[1])
    size = (v / (1 - betas[1] ** t)).sqrt_().add_(eps)
    direction: Tensor = torch.where(size > 0, m / (1 - betas[0] ** t) / size, 0)
    return direction


def _cut(g: Tensor) -> Tensor:
    """A gradient, cut off where the sum of its squares would overflow."""
    largest = math.sqrt(torch.finfo(g.dtype).max / (2 * g.numel()))
    return g.clamp(-largest, largest)


def _check_share(**numbers: float) -> None:
    check_positive(**numbers)
    for name, value in numbers.items():
        if value > 1:
            raise ValueError(f"{name} must be at most 1, got {value}")


def _check_scale(name: str, group: dict[str, Any]) -> None:
    if name not in group:
        raise ValueError(f"{name} must be given for each parameter group, got {sorted(group)}")
    check_positive(**{name: group[name]})


def _check_averages(**decays: tuple[float, ...]) -> None:
    for name, values in decays.items():
        if not all(isinstance(v, (int, float)) and 0 <= v < 1 for v in values):
            raise ValueError(f"{name} must be in [0, 1), got {values}")


def _check_parameters(tensors: list[Tensor]) -> None:
    for p in tensors:
        if not p.is_floating_point():
            raise TypeError(f"params must be floating-point tensors, got {p.dtype}")


def _check_axes(dims: Any, tensors: list[Tensor]) -> None:
    if not isinstance(dims, tuple) or not all(isinstance(d, int) for d in dims):
        raise TypeError(f"reduce_dims must be a tuple of ints, got {dims!r}")
    for p in tensors:
        places = {d % p.ndim for d in dims if -p.ndim <= d < p.ndim}
        if len(places) != len(dims):
            raise ValueError(f"reduce_dims must be distinct axes of {tuple(p.shape)}, got {dims}")
