"""A network that is its own critic: losses of the idempotent generative network, and its dynamics.

f maps d numbers to d numbers; x is data, z noise, both (B, d). The drift δ(y) = |f(y) − y|² is
small on data and large on fakes, so that it takes a critic's place. The weights λ are given in the
order (rec, idem, tight). Source: kexue.fm/archives/9969; Shocher et al., 2023, arXiv:2311.01462.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from kexue_lab.generative.adversarial import (
    Copies,
    Sampler,
    critic_loss,
    generator_loss,
)
from kexue_lab.generative.autoencoder import mlp
from kexue_lab.precision import length, narrowed, widened
from kexue_lab.training import StackedAdam, TrainingDiverged, generator
from kexue_lab.validation import (
    check_count,
    check_finite,
    check_floating,
    check_non_negative,
    check_points,
    check_positive,
)

Weights = Sequence[float]
Map = Callable[[Tensor], Tensor]

WEIGHTS = (20.0, 20.0, 2.5)


def single_loss_gan(critic: nn.Module, maker: nn.Module, x: Tensor, z: Tensor) -> Tensor:
    """Return one scalar whose gradients are those of both losses of a Wasserstein GAN.

    E D(x) − 2 E D(sg G(z)) + E D(G(z)), where sg stops gradients: the critic gets those of
    E D(x) − E D(G(z)), the generator those of E D(G(z)). The value is the critic's loss.

    Args:
        critic: D, one value a sample, (B,) or (B, 1); large means fake.
        maker: G, from z to the shape of x.
        x: data, (B, d…).
        z: noise, (B, k…).

    Source: kexue.fm/archives/9969, first section.

    Example:
        >>> D, G = nn.Linear(2, 1), nn.Linear(3, 2)
        >>> single_loss_gan(D, G, torch.zeros(4, 2), torch.zeros(5, 3)).shape
        torch.Size([])
    """
    check_floating(x=x, z=z)
    fake = maker(z)
    if x.shape[1:] != fake.shape[1:]:
        raise ValueError(
            f"maker must give samples of x's shape, got {tuple(fake.shape)} for x of "
            f"{tuple(x.shape)}"
        )
    values = [_one_each(critic(points), points) for points in (x, fake.detach(), fake)]
    both = critic_loss(values[0], values[1], "wasserstein")
    # What the generator minimises, without its part in the critic's gradient or in the value.
    extra = generator_loss(values[2], "wasserstein") - generator_loss(values[1], "wasserstein")
    return both + extra


def ign_losses(model: nn.Module, x: Tensor, z: Tensor) -> dict[str, Tensor]:
    """Return the three parts of the loss, scalars, without copying a weight.

    rec = E|f(x) − x|²; idem = E|f'(f(z)) − f(z)|²; tight = −E|f(f'(z)) − f'(z)|², where f' is f
    with frozen weights.

    Args:
        model: f, with outputs of its input's shape; deterministic (no dropout, no batch norm).
        x: data, (B, d…).
        z: noise, (B', d…).

    Source: Shocher et al., 2023, arXiv:2311.01462, section 2.2.

    Example:
        >>> double = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.constant_(double.weight, 2.0)
        >>> found = ign_losses(double, torch.tensor([[3.0]]), torch.tensor([[1.0]]))
        >>> {name: value.item() for name, value in found.items()}
        {'rec': 9.0, 'idem': 4.0, 'tight': -4.0}
    """
    check_floating(x=x, z=z)
    if x.ndim < 2 or x.shape[1:] != z.shape[1:] or x.numel() == 0 or z.numel() == 0:
        raise ValueError(
            f"x and z must have shape (B, d…) with one d…, got {tuple(x.shape)} and "
            f"{tuple(z.shape)}"
        )
    fixed = {name: p.detach() for name, p in model.named_parameters()}
    return _losses(model, lambda y: _called(model, fixed, y), x, z)


def _losses(f: Map, frozen: Map, x: Tensor, z: Tensor) -> dict[str, Tensor]:
    fake = f(z)
    still = fake.detach()
    return {
        "rec": _mean_square(f(x), x),
        "idem": _mean_square(frozen(fake), fake),
        "tight": -_mean_square(f(still), still),
    }


def ign_loss(
    model: nn.Module,
    x: Tensor,
    z: Tensor,
    *,
    weights: Weights = WEIGHTS,
    clamp: float | None = 1.5,
) -> Tensor:
    """Return λ_r rec + λ_i idem + λ_t tight.

    Args:
        model: as in `ign_losses`.
        x: as in `ign_losses`.
        z: as in `ign_losses`.
        weights: (λ_r, λ_i, λ_t), none negative.
        clamp: a; tight becomes a r tanh(tight / (a r)), where r is rec without gradient, so that
            it is never below −a r. None leaves tight as it is.

    Source: Shocher et al., 2023, arXiv:2311.01462, sections 2.2 and 2.3.
    """
    _check_weights(weights)
    if clamp is not None:
        check_positive(clamp=clamp)
    return _combined(ign_losses(model, x, z), weights, clamp)


def _combined(parts: Mapping[str, Tensor], weights: Weights, clamp: float | None) -> Tensor:
    rec, idem, tight = (widened(parts[name]) for name in ("rec", "idem", "tight"))
    if clamp is not None:
        scale = (clamp * rec.detach()).clamp_min(torch.finfo(rec.dtype).tiny)
        tight = scale * torch.tanh(tight / scale)
    total = weights[0] * rec + weights[1] * idem + weights[2] * tight
    return narrowed(total, parts["rec"].dtype, "the loss")


def idempotence_error(model: Map, z: Tensor) -> Tensor:
    """Return the mean of |f(f(z)) − f(z)|, a scalar: 0 for a map that does nothing twice.

    Args:
        model: f, with outputs of its input's shape.
        z: points, (B, d).

    Source: Shocher et al., 2023, arXiv:2311.01462, section 1.

    Example:
        >>> idempotence_error(lambda y: y / 2, torch.tensor([[4.0], [8.0]]))
        tensor(1.5000)
    """
    check_points(z=z)
    once = model(z)
    twice = model(once)
    _check_shape(twice, z)
    return narrowed(length(widened(twice) - widened(once)).mean(), z.dtype, "the error")


def linear_ign_gradient(W: Tensor, C: Tensor, S: Tensor, weights: Weights = WEIGHTS) -> Tensor:
    """Return the gradient of the loss (without clamp) at f(x) = W x, (…, d, d).

    2 (λ_r M C − λ_t M W S Wᵀ + λ_i Mᵀ M W S) with M = W − I.

    Args:
        W: matrices, (…, d, d).
        C: E x xᵀ of the data, (…, d, d).
        S: E z zᵀ of the noise, (…, d, d).
        weights: (λ_r, λ_i, λ_t), none negative.

    Source: derived in the lesson generative/idempotent_network, step 4.

    Example:
        >>> linear_ign_gradient(torch.tensor([[0.5]]), torch.tensor([[0.0]]), torch.tensor([[1.0]]))
        tensor([[5.6250]])
    """
    _check_matrices(W, C, S)
    _check_weights(weights)
    gradient = _gradient(widened(W), widened(C), widened(S), weights)
    return narrowed(gradient, W.dtype, "the gradient")


def _gradient(W: Tensor, C: Tensor, S: Tensor, weights: Weights) -> Tensor:
    M = W - torch.eye(W.shape[-1], dtype=W.dtype, device=W.device)
    pushed = weights[2] * (W @ S @ W.mT)
    return 2 * (M @ (weights[0] * C - pushed) + weights[1] * (M.mT @ (M @ (W @ S))))


def linear_ign_flow(
    W0: Tensor,
    C: Tensor,
    S: Tensor,
    weights: Weights = WEIGHTS,
    *,
    step: float = 1e-3,
    n_steps: int,
) -> Tensor:
    """Return W after 0, 1, …, n_steps steps of gradient descent, (n_steps + 1, …, d, d).

    Args:
        W0: where it starts, (…, d, d).
        C: as in `linear_ign_gradient`.
        S: as in `linear_ign_gradient`.
        weights: (λ_r, λ_i, λ_t), none negative.
        step: size of a step.
        n_steps: number of steps.

    Raises:
        FloatingPointError: if W is no longer finite.

    Source: as `linear_ign_gradient`.

    Example:
        >>> one = torch.ones(1, 1)
        >>> end = linear_ign_flow(0.9 * one, 0 * one, one, n_steps=2000)[-1]
        >>> float(end) < 1e-9  # no data here: W goes to 0
        True
    """
    _check_matrices(W0, C, S)
    _check_weights(weights)
    check_positive(step=step)
    check_count(n_steps=n_steps)
    W, C, S = widened(W0), widened(C), widened(S)
    path = [W0]
    for k in range(1, n_steps + 1):
        W = W - step * _gradient(W, C, S, weights)
        path.append(W.to(W0.dtype))
        if not bool(path[-1].isfinite().all()):
            raise FloatingPointError(f"W became infinite or nan at step {k}")
    return torch.stack(path)


def scalar_fixed_points(
    c: float, s: float, weights: Weights = WEIGHTS
) -> list[tuple[float, float]]:
    """Return where a gain w rests, increasing, each with the slope of dw/dt there.

    dw/dt = −2 (w − 1) [λ_r c − λ_t s w² + λ_i s w (w − 1)]; a negative slope means stable.

    Args:
        c: variance of the data along a direction, at least 0.
        s: variance of the noise along it, positive.
        weights: (λ_r, λ_i, λ_t), none negative.

    Raises:
        ValueError: also if every w is at rest (λ_i = λ_t = 0 and λ_r c = 0), or a result is beyond
            float64.

    Source: derived in the lesson generative/idempotent_network, step 4.

    Example:
        >>> [(round(w, 4), round(slope, 4)) for w, slope in scalar_fixed_points(0.0, 1.0)]
        [(0.0, -40.0), (1.0, 5.0), (1.1429, -5.7143)]
    """
    check_non_negative(c=c)
    check_positive(s=s)
    _check_weights(weights)
    unit = max(weights) or 1.0
    r, i, t = (value / unit for value in weights)
    k = r * (c / s)
    if i == t == 0 and k == 0:
        raise ValueError(f"weights must move w, got {tuple(weights)} with c = {c}")
    roots = sorted({1.0, *_zeros(i - t, i, k)})
    found = [(w, s * unit * _slope(w, i - t, i, k)) for w in roots]
    if not all(math.isfinite(number) for pair in found for number in pair):
        raise ValueError(f"fixed points must fit float64, got some beyond it for c = {c}, s = {s}")
    return found


def _zeros(a: float, b: float, k: float) -> list[float]:
    """Real zeros of a w² − b w + k, for b ≥ 0, without cancellation."""
    inside = b * b - 4 * a * k
    if inside < 0:
        return []
    half = (b + math.sqrt(inside)) / 2
    if half == 0:
        return [0.0] if a else []
    return [k / half] + ([half / a] if a else [])


def _slope(w: float, a: float, b: float, k: float) -> float:
    """Derivative of −2 (w − 1)(a w² − b w + k), by w."""
    if w == 1:
        return -2 * (a - b + k)
    return -2 * (w - 1) * (2 * a * w - b)  # the second factor vanishes at w


class IGNRecipe(NamedTuple):
    """How one network is trained.

    Attributes:
        weights: (λ_r, λ_i, λ_t).
        clamp: as in `ign_loss`.
        rate: learning rate.
    """

    weights: Weights = WEIGHTS
    clamp: float | None = None
    rate: float = 1e-3


def train_igns(
    recipes: Sequence[IGNRecipe],
    data: Sampler,
    *,
    seed: int,
    steps: int,
    widths: Sequence[int] = (2, 64, 64, 2),
    batch: int = 128,
) -> list[nn.Sequential]:
    """Train one network for each recipe, all side by side from the same weights on the same draws.

    Adam with β = (0.5, 0.999); the networks are made by `mlp`, the noise is standard normal.

    Args:
        recipes: one for each network.
        data: `data(n, generator)`, n samples, (n, d), or (recipes, n, d) for data of each its own.
        seed: of weights, data and noise.
        steps: number of updates.
        widths: of the input, the hidden layers, and the output, which is as wide as the input.
        batch: samples of data, and of noise, in a step.

    Raises:
        ValueError: for no recipe or numbers out of range, or if a loss is beyond float32.
        TrainingDiverged: if weights are no longer finite.

    Source: Shocher et al., 2023, arXiv:2311.01462, section 2.4; Adam: arXiv:1412.6980.

    Example:
        >>> from kexue_lab.generative.adversarial import gaussian_ring
        >>> nets = train_igns([IGNRecipe(), IGNRecipe(clamp=1.5)], gaussian_ring, seed=0, steps=2)
        >>> nets[1](torch.zeros(3, 2)).shape
        torch.Size([3, 2])
    """
    _check_training(recipes, seed, steps, batch, widths)
    draws = generator(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = mlp(*widths)
    f = Copies(net, len(recipes))
    move = StackedAdam(f.parameters, [recipe.rate for recipe in recipes], beta1=0.5)
    for step in range(1, steps + 1):
        x = data(batch, draws)
        z = torch.randn(batch, widths[0], generator=draws)
        loss = _side_by_side(f, recipes, x.expand(len(recipes), *x.shape[-2:]), z)
        if not bool(loss.isfinite()):
            raise TrainingDiverged(f"the loss is not finite at step {step}")
        move.step(torch.autograd.grad(loss, f.parameters))
    if not all(bool(p.isfinite().all()) for p in f.parameters):
        raise TrainingDiverged(f"weights are not finite after step {steps}")
    return f.split(net, f.parameters)


def _side_by_side(f: Copies, recipes: Sequence[IGNRecipe], x: Tensor, z: Tensor) -> Tensor:
    """The sum of all losses; each network has a gradient by its own only."""
    both = f(torch.cat([x, z.expand(len(recipes), *z.shape)], 1))
    again, fake = both[:, : x.shape[1]], both[:, x.shape[1] :]
    still, fixed = fake.detach(), [p.detach() for p in f.parameters]
    rec = (again - x).square().sum(-1).mean(-1)
    idem = (f.of(fake, fixed) - fake).square().sum(-1).mean(-1)
    tight = -(f(still) - still).square().sum(-1).mean(-1)
    parts = ({"rec": a, "idem": b, "tight": c} for a, b, c in zip(rec, idem, tight, strict=True))
    losses = [
        _combined(part, recipe.weights, recipe.clamp)
        for part, recipe in zip(parts, recipes, strict=True)
    ]
    return torch.stack(losses).sum()


def _check_weights(weights: Weights) -> None:
    """Check three finite weights, none negative.

    Args:
        weights: (λ_r, λ_i, λ_t).

    Raises:
        TypeError: if one is no real number.
        ValueError: if one is negative or not finite, or there are not three.

    Source: the conventions of this module.
    """
    if len(weights) != 3:
        raise ValueError(f"weights must be three numbers (rec, idem, tight), got {tuple(weights)}")
    for name, value in zip(("rec", "idem", "tight"), weights, strict=True):
        check_non_negative(**{f"weight of {name}": value})


def _mean_square(out: Tensor, target: Tensor) -> Tensor:
    _check_shape(out, target)
    square = (widened(out) - widened(target)).square().flatten(1).sum(1)
    return narrowed(square.mean(), target.dtype, "the loss")


def _called(model: nn.Module, parameters: Mapping[str, Tensor], y: Tensor) -> Tensor:
    value: Tensor = functional_call(model, dict(parameters), (y,))
    return value


def _one_each(values: Tensor, points: Tensor) -> Tensor:
    if values.numel() != len(points):
        raise ValueError(
            f"critic must give one value a sample, got {tuple(values.shape)} for {len(points)}"
        )
    return values.reshape(-1)


def _check_shape(out: Tensor, target: Tensor) -> None:
    if out.shape != target.shape:
        raise ValueError(
            f"model must keep the shape of its input, got {tuple(out.shape)} for "
            f"{tuple(target.shape)}"
        )


def _check_matrices(W: Tensor, C: Tensor, S: Tensor) -> None:
    check_floating(W=W, C=C, S=S)
    check_finite(W=W, C=C, S=S)
    for name, value in (("W", W), ("C", C), ("S", S)):
        if value.ndim < 2 or value.shape[-2:] != (W.shape[-1],) * 2 or value.numel() == 0:
            raise ValueError(
                f"{name} must have shape (…, d, d) with the d of W, got {tuple(value.shape)}"
            )


def _check_training(
    recipes: Sequence[IGNRecipe], seed: int, steps: int, batch: int, widths: Sequence[int]
) -> None:
    if not recipes:
        raise ValueError("recipes must be at least one, got none")
    check_count(steps=steps, batch=batch)
    check_count(0, seed=seed)
    if len(widths) < 2 or widths[0] != widths[-1] or widths[0] < 2:
        raise ValueError(f"widths must end as they begin, with at least 2, got {tuple(widths)}")
    for recipe in recipes:
        _check_weights(recipe.weights)
        check_positive(rate=recipe.rate)
        if recipe.clamp is not None:
            check_positive(clamp=recipe.clamp)
