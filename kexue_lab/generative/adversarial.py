"""Generator against critic: losses, penalties, one training loop, and a ring to try it on.

x is data, z noise, both (B, d); G(z) a fake. The critic D gives each sample one value, and a
*large value means fake*: the critic pulls D(x) down and D(G(z)) up, the generator pulls D(G(z))
down. (Papers that let large mean real write −D for it.)
"""

from collections.abc import Callable, Sequence
from itertools import count
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from kexue_lab.generative.autoencoder import mlp
from kexue_lab.precision import distances, length, narrowed, widened
from kexue_lab.training import StackedAdam, TrainingDiverged, generator
from kexue_lab.validation import (
    check_choice,
    check_count,
    check_finite,
    check_floating,
    check_non_negative,
    check_positive,
)

Loss = Literal["logistic", "wasserstein"]
Reduction = Literal["none", "mean"]
Sampler = Callable[[int, torch.Generator], Tensor]


def critic_loss(real: Tensor, fake: Tensor, loss: Loss = "logistic") -> Tensor:
    """Return what the critic minimises, the mean over the last axis.

    Logistic: log(1 + exp D(x)) + log(1 + exp −D(G(z))); Wasserstein: D(x) − D(G(z)).

    Args:
        real: the critic's values of data, (…, B).
        fake: its values of fakes, (…, B'), of the same dtype.
        loss: "logistic" or "wasserstein".

    Source: Goodfellow et al., 2014, arXiv:1406.2661; Arjovsky et al., 2017, arXiv:1701.07875.

    Example:
        >>> critic_loss(torch.tensor([-1.0]), torch.tensor([2.0]))
        tensor(0.4402)
    """
    check_choice(Loss, loss=loss)
    _check_values(real=real, fake=fake)
    low, high = widened(real), widened(fake)
    if loss == "logistic":
        low, high = softplus(low), -softplus(-high)
    return narrowed(low.mean(-1) - high.mean(-1), real.dtype, "the loss")


def generator_loss(fake: Tensor, loss: Loss = "logistic") -> Tensor:
    """Return what the generator minimises, the mean over the last axis.

    Logistic: log(1 + exp D(G(z))), the non-saturating form; Wasserstein: D(G(z)).

    Args:
        fake: the critic's values of fakes, (…, B).
        loss: "logistic" or "wasserstein".

    Source: as `critic_loss`.

    Example:
        >>> generator_loss(torch.tensor([2.0, -2.0]))
        tensor(1.1269)
    """
    check_choice(Loss, loss=loss)
    _check_values(fake=fake)
    values = widened(fake)
    values = softplus(values) if loss == "logistic" else values
    return narrowed(values.mean(-1), fake.dtype, "the loss")


def r1_penalty(values: Tensor, x: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Return |∇D(x)|² of each sample. R1 adds γ/2 of its mean over data to the critic's loss.

    It can be differentiated again, so that a critic can be trained on it.

    Args:
        values: D(x), one value a sample, (…, B), computed from `x`.
        x: samples, (…, B, d…), with `requires_grad`.
        reduction: "none" keeps (…, B); "mean" is over the last of these axes.

    Raises:
        ValueError: if the shapes do not fit, or x carries no gradient or did not make the values.

    Source: Mescheder, Geiger and Nowozin, 2018, arXiv:1801.04406, equation 9.

    Example:
        >>> x = torch.tensor([[3.0, 1.0]], requires_grad=True)
        >>> r1_penalty(x.square().sum(-1), x)  # |2x|²
        tensor(40., grad_fn=<MeanBackward1>)
    """
    check_choice(Reduction, reduction=reduction)
    check_floating(values=values, x=x)
    if values.ndim < 1 or x.ndim <= values.ndim or x.shape[: values.ndim] != values.shape:
        raise ValueError(
            f"values must have the leading shape of x, got {tuple(values.shape)} and "
            f"{tuple(x.shape)}"
        )
    if not x.requires_grad or not values.requires_grad:
        raise ValueError("x must require a gradient before the critic's values are computed")
    (slope,) = torch.autograd.grad(values.sum(), x, create_graph=True, allow_unused=True)
    if slope is None:
        raise ValueError("values must be computed from x, got some that do not depend on it")
    each = widened(slope).square().flatten(values.ndim).sum(-1)
    return narrowed(each if reduction == "none" else each.mean(-1), x.dtype, "the penalty")


def power_step(weight: Tensor, u: Tensor, steps: int = 1) -> tuple[Tensor, Tensor]:
    """Multiply u by W Wᵀ, and return an estimate uᵀW v of W's largest singular value, and u.

    The estimate is differentiable in W with u and v held fixed: its gradient is u vᵀ.

    Args:
        weight: matrices, (…, m, n).
        u: vectors, (…, m), not 0; kept from call to call.
        steps: how many multiplications by W Wᵀ.

    Returns:
        The estimate, (…), and unit vectors u, (…, m). For a weight of 0: 0, and u as a unit vector.

    Source: Miyato, Kataoka, Koyama and Yoshida, 2018, arXiv:1802.05957, algorithm 1.

    Example:
        >>> power_step(torch.diag(torch.tensor([3.0, 1.0])), torch.ones(2), steps=20)[0]
        tensor(3.)
    """
    check_floating(weight=weight, u=u)
    check_finite(weight=weight, u=u)
    check_count(steps=steps)
    if weight.ndim < 2 or u.shape != weight.shape[:-1] or weight.numel() == 0:
        raise ValueError(
            f"u must have the shape of weight less its last axis, got {tuple(u.shape)} and "
            f"{tuple(weight.shape)}"
        )
    if not bool((u != 0).any(-1).all()):
        raise ValueError("u must not be 0")
    wide = widened(weight)
    matrix, u_now = wide.detach(), _unit(widened(u.detach()))
    # One unit of size for the whole matrix: products neither overflow nor vanish.
    matrix = matrix / matrix.abs().amax((-2, -1), keepdim=True).clamp_min(_tiny(matrix))
    v = torch.zeros_like(matrix[..., 0, :])
    for _ in range(steps):
        v = _unit((matrix.mT @ u_now[..., None]).squeeze(-1))
        after = _unit((matrix @ v[..., None]).squeeze(-1))
        u_now = torch.where((after != 0).any(-1, keepdim=True), after, u_now)
    sigma = (u_now * (wide @ v[..., None]).squeeze(-1)).sum(-1)
    return narrowed(sigma, weight.dtype, "the norm"), u_now.to(weight.dtype)


def gaussian_ring(
    n: int,
    generator: torch.Generator | None = None,
    *,
    modes: int = 8,
    radius: float = 1.5,
    sd: float = 0.15,
) -> Tensor:
    """Draw n points, (n, 2) float32, of equally likely round Gaussians on a circle.

    Args:
        n: number of points.
        generator: of the draws; torch's global one by default.
        modes: number of Gaussians; the first lies at (radius, 0).
        radius: of the circle.
        sd: standard deviation of each Gaussian along each axis.

    Source: the toy of Metz et al., "Unrolled GANs", 2016, arXiv:1611.02163.

    Example:
        >>> gaussian_ring(5, torch.Generator().manual_seed(0)).shape
        torch.Size([5, 2])
    """
    check_count(n=n, modes=modes)
    check_positive(radius=radius)
    check_non_negative(sd=sd)
    place = torch.randint(modes, (n,), generator=generator)
    noise = torch.randn(n, 2, generator=generator)
    return narrowed(_centres(modes, radius)[place] + sd * noise.double(), torch.float32, "a point")


class ModeStatistics(NamedTuple):
    """How samples lie on a ring of Gaussians.

    Attributes:
        on: share of the samples near a mode.
        hit: number of modes with at least a quarter of their fair share of all samples near them.
        perplexity: exp of the entropy of the modes of the samples near one; the number of modes if
            all are equally frequent, and 0 if no sample is near one.
    """

    on: Tensor
    hit: Tensor
    perplexity: Tensor


def mode_statistics(
    samples: Tensor, *, modes: int = 8, radius: float = 1.5, within: float = 0.45
) -> ModeStatistics:
    """Count samples near the modes of `gaussian_ring`.

    Args:
        samples: (…, n, 2).
        modes: as in `gaussian_ring`.
        radius: as in `gaussian_ring`.
        within: how near to its nearest centre a sample must be.

    Returns:
        Three tensors, (…), in float64.

    Source: Srivastava et al., VEEGAN, 2017, arXiv:1705.07761, section 4.1, with another threshold.

    Example:
        >>> found = mode_statistics(torch.tensor([[1.5, 0.0], [0.0, 1.6], [0.0, 0.0], [1.5, 0.1]]))
        >>> [round(float(value), 3) for value in found]
        [0.75, 2.0, 1.89]
    """
    check_floating(samples=samples)
    check_count(modes=modes)
    check_positive(radius=radius, within=within)
    if samples.ndim < 2 or samples.shape[-1] != 2 or samples.numel() == 0:
        raise ValueError(f"samples must have shape (…, n, 2), got {tuple(samples.shape)}")
    check_finite(samples=samples)
    away = distances(
        samples.reshape(-1, 2) / radius, _centres(modes, 1.0).to(samples.device)
    ).reshape(*samples.shape[:-1], modes)
    nearest = away.argmin(-1, keepdim=True)
    near = torch.zeros_like(away).scatter_(
        -1, nearest, (away.amin(-1, keepdim=True) * radius < within).double()
    )
    shares = near.mean(-2)
    on = shares.sum(-1)
    law = shares / on.clamp_min(1 / samples.shape[-2])[..., None]
    entropy = -torch.xlogy(law, law).sum(-1)
    perplexity = torch.where(on > 0, entropy.exp(), 0)
    return ModeStatistics(on, (shares >= 0.25 / modes).sum(-1).double(), perplexity)


def energy_distance(x: Tensor, y: Tensor) -> Tensor:
    """Estimate 2E|x − y| − E|x − x'| − E|y − y'| from independent samples, without bias.

    It is 0 for equal laws and positive otherwise; the estimate may be slightly negative.

    Args:
        x: (n, d) with n ≥ 2.
        y: (m, d) with m ≥ 2, of the same dtype.

    Source: Székely and Rizzo, "Energy statistics", J. Statist. Plann. Inference 143, 2013.

    Example:
        >>> energy_distance(torch.tensor([[0.0], [2.0]]), torch.tensor([[5.0], [6.0]]))
        tensor(6.)
    """
    check_floating(x=x, y=y)
    for name, value in (("x", x), ("y", y)):
        if value.ndim != 2 or len(value) < 2:
            raise ValueError(f"{name} must be at least two points, got {tuple(value.shape)}")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"x and y must share d, got {x.shape[1]} and {y.shape[1]}")
    check_finite(x=x, y=y)
    within = [distances(a, a).mean() * (len(a) / (len(a) - 1)) for a in (x, y)]
    return narrowed(2 * distances(x, y).mean() - sum(within), x.dtype, "the distance")


class Recipe(NamedTuple):
    """How one GAN is trained.

    Attributes:
        rate: learning rate of both networks.
        beta1: Adam's memory of gradients; of no use for plain steps.
        adam: whether steps are Adam's (β₂ = 0.999), or plain gradient steps.
        r1: weight γ of the penalty γ/2 E|∇D(x)|² on data.
        alternating: the generator answers the critic after its step, not before it.
        falling: the rate falls to 0, linearly over the second half of the steps.
    """

    rate: float = 1e-3
    beta1: float = 0.5
    adam: bool = True
    r1: float = 0.0
    alternating: bool = False
    falling: bool = False


class Trained(NamedTuple):
    """What `train_gans` returns, in the order of the recipes.

    Attributes:
        generators: networks from noise to data.
        critics: networks from data to one value.
        samples: fakes of one fixed noise at the recorded steps, (records, recipes, n, d).
        steps: the number of steps done at each record.
    """

    generators: list[nn.Sequential]
    critics: list[nn.Sequential]
    samples: Tensor
    steps: list[int]


def train_gans(
    recipes: Sequence[Recipe],
    data: Sampler,
    *,
    seed: int,
    steps: int,
    generator_widths: Sequence[int] = (2, 64, 64, 2),
    critic_widths: Sequence[int] = (2, 64, 64, 1),
    batch: int = 128,
    loss: Loss = "logistic",
    record_every: int = 0,
    record_size: int = 500,
) -> Trained:
    """Train a generator and a critic for each recipe, all side by side on the same draws.

    The networks are made by `mlp`. Each recipe starts from the same weights and sees the same data
    and noise, so that recipes can be compared pair by pair; the pairs do not touch each other.

    Args:
        recipes: one for each pair of networks.
        data: `data(n, generator)`, n samples (n, d).
        seed: of weights, data and noise.
        steps: number of updates of both networks.
        generator_widths: of z, the hidden layers, and x.
        critic_widths: of x, the hidden layers, and 1.
        batch: samples in a step.
        loss: as in `critic_loss`.
        record_every: fakes are kept after each so many steps, and after the last; 0 keeps none.
        record_size: number of fakes kept.

    Raises:
        ValueError: for no recipe, numbers out of range, or widths that do not fit.
        TrainingDiverged: if the critic's values or the weights are no longer finite.

    Source: Goodfellow et al., 2014, arXiv:1406.2661; Adam: arXiv:1412.6980.

    Example:
        >>> made = train_gans([Recipe(), Recipe(r1=1.0)], gaussian_ring, seed=0, steps=2)
        >>> len(made.generators), made.generators[1](torch.zeros(3, 2)).shape
        (2, torch.Size([3, 2]))
    """
    _check_training(recipes, seed, steps, batch, record_every, record_size)
    check_choice(Loss, loss=loss)
    if generator_widths[-1] != critic_widths[0] or critic_widths[-1] != 1:
        raise ValueError(
            "critic_widths must start where generator_widths end, and end with 1, got "
            f"{tuple(generator_widths)} and {tuple(critic_widths)}"
        )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        g_net, d_net = mlp(*generator_widths), mlp(*critic_widths)
    game = _Game(recipes, g_net, d_net, loss, generator(seed), steps)
    fixed = torch.randn(record_size, generator_widths[0], generator=game.draws)
    kept, kept_at = [], []
    for step in range(1, steps + 1):
        game.play(data(batch, game.draws), step)
        if record_every and (step % record_every == 0 or step == steps):
            kept.append(game.G(fixed).detach())
            kept_at.append(step)
    if not all(bool(p.isfinite().all()) for p in [*game.G.parameters, *game.D.parameters]):
        raise TrainingDiverged(f"weights are not finite after step {steps}")
    nothing = torch.empty(0, len(recipes), record_size, generator_widths[-1])
    return Trained(
        game.G.split(g_net, game.G.parameters),
        game.D.split(d_net, game.D.parameters),
        torch.stack(kept) if kept else nothing,
        kept_at,
    )


class _Game:
    """Generators and critics of all recipes, and one update of them."""

    def __init__(
        self,
        recipes: Sequence[Recipe],
        g_net: nn.Sequential,
        d_net: nn.Sequential,
        loss: Loss,
        draws: torch.Generator,
        steps: int,
    ) -> None:
        self.loss, self.draws, self.steps = loss, draws, steps
        self.G, self.D = Copies(g_net, len(recipes)), Copies(d_net, len(recipes))
        self.g_step, self.d_step = (
            StackedAdam(
                net.parameters,
                [recipe.rate for recipe in recipes],
                beta1=[recipe.beta1 if recipe.adam else 0.0 for recipe in recipes],
                plain=[not recipe.adam for recipe in recipes],
            )
            for net in (self.G, self.D)
        )
        self.alternating = torch.tensor([[[recipe.alternating]] for recipe in recipes])
        self.falling = torch.tensor([recipe.falling for recipe in recipes])
        self.penalised = [i for i, recipe in enumerate(recipes) if recipe.r1 > 0]
        self.gamma = torch.tensor([recipes[i].r1 for i in self.penalised])
        self.noise_size = self.G.parameters[0].shape[1]

    def play(self, x: Tensor, step: int) -> None:
        z = torch.randn(len(x), self.noise_size, generator=self.draws)
        fake = self.G(z)
        values = self.D(x), self.D(fake.detach())
        if not all(bool(value.isfinite().all()) for value in values):
            raise TrainingDiverged(f"the critic's values are not finite at step {step}")
        cost = critic_loss(*values, self.loss).sum()
        if self.penalised:
            slopes = _mean_square_slope(self.D, self.D.parameters, x, self.penalised)
            cost = cost + (self.gamma / 2 * slopes).sum()
        rest = min(1.0, 2 * (1 - (step - 1) / self.steps))
        factor = torch.where(self.falling, rest, 1.0)
        before = [weight.detach().clone() for weight in self.D.parameters]
        self.d_step.step(torch.autograd.grad(cost, self.D.parameters), factor)
        weights = [
            torch.where(self.alternating, new.detach(), old)
            for new, old in zip(self.D.parameters, before, strict=True)
        ]
        answer = generator_loss(self.D.of(fake, weights), self.loss).sum()
        self.g_step.step(torch.autograd.grad(answer, self.G.parameters), factor)


class Copies:
    """Copies of one `mlp` as products of stacked matrices: W (K, in, out), b (K, 1, out).

    Args:
        net: an `mlp`.
        copies: their number K.
    """

    def __init__(self, net: nn.Sequential, copies: int) -> None:
        self.linear = [isinstance(layer, nn.Linear) for layer in net]
        self.layers = list(net)
        self.parameters = [
            (p.detach().T if p.ndim == 2 else p.detach()[None])
            .repeat(copies, 1, 1)
            .requires_grad_()
            for p in net.parameters()
        ]

    def of(self, x: Tensor, parameters: Sequence[Tensor], rows: list[int] | None = None) -> Tensor:
        """Values without a last axis of 1: (K, B) or (K, B, d). `rows` picks some of the copies."""
        copies = len(parameters[0]) if rows is None else len(rows)
        y = x if x.ndim == 3 else x.expand(copies, *x.shape)
        place = count(0, 2)
        for layer, linear in zip(self.layers, self.linear, strict=True):
            if linear:
                i = next(place)
                W, b = parameters[i], parameters[i + 1]
                y = torch.baddbmm(b, y, W) if rows is None else torch.baddbmm(b[rows], y, W[rows])
            else:
                y = layer(y)
        return y.squeeze(-1)

    def __call__(self, x: Tensor) -> Tensor:
        """Values with the own parameters."""
        return self.of(x, self.parameters)

    def split(self, net: nn.Sequential, parameters: Sequence[Tensor]) -> list[nn.Sequential]:
        """One network for each copy."""
        widths = [layer.in_features for layer in net if isinstance(layer, nn.Linear)]
        out = [layer.out_features for layer in net if isinstance(layer, nn.Linear)][-1]
        nets = []
        with torch.random.fork_rng(), torch.no_grad():
            for k in range(len(parameters[0])):
                own = mlp(*widths, out)
                for target, value in zip(own.parameters(), parameters, strict=True):
                    target.copy_(value[k].T if target.ndim == 2 else value[k, 0])
                nets.append(own.eval())
        return nets


def _mean_square_slope(D: Copies, weights: Sequence[Tensor], x: Tensor, rows: list[int]) -> Tensor:
    """E|∇D(x)|² of some copies, (len(rows),)."""
    points = x.expand(len(rows), *x.shape).clone().requires_grad_()
    return r1_penalty(D.of(points, weights, rows), points)


def _centres(modes: int, radius: float) -> Tensor:
    angle = 2 * torch.pi * torch.arange(modes, dtype=torch.float64) / modes
    return radius * torch.stack([angle.cos(), angle.sin()], -1)


def _unit(u: Tensor) -> Tensor:
    """Unit vectors along the last axis; 0 stays 0."""
    size = length(u, keepdim=True)
    return torch.where(size > 0, u / torch.where(size > 0, size, 1), 0)


def _tiny(x: Tensor) -> float:
    return torch.finfo(x.dtype).tiny


def _check_values(**values: Tensor) -> None:
    check_floating(**values)
    for name, value in values.items():
        if value.ndim < 1 or value.numel() == 0:
            raise ValueError(f"{name} must have shape (…, B) with B >= 1, got {tuple(value.shape)}")


def _check_training(
    recipes: Sequence[Recipe], seed: int, steps: int, batch: int, every: int, size: int
) -> None:
    if not recipes:
        raise ValueError("recipes must be at least one, got none")
    check_count(steps=steps, batch=batch, record_size=size)
    check_count(0, seed=seed, record_every=every)
    for recipe in recipes:
        check_positive(rate=recipe.rate)
        check_non_negative(r1=recipe.r1, beta1=recipe.beta1)
        if recipe.beta1 >= 1:
            raise ValueError(f"beta1 must be below 1, got {recipe.beta1}")
