"""What the exercises of mathematics/em check."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kexue_lab.exercises import Exercise, Mistake
from kexue_lab.mathematics.em import em_rate, gmm_m_step, linkage_em_step, linkage_mle

Inputs = Iterator[tuple[Any, ...]]


def _tensor(values: Any) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


def _points_far_out(rng: np.random.Generator) -> Inputs:
    yield _tensor([60.0, 0.3]), _tensor([0.4, 0.6]), _tensor([-1.0, 1.0])
    for k in (2, 3, 5):
        x = np.append(3 * rng.standard_normal(6), [-300.0, 300.0])
        yield _tensor(x), _tensor(rng.dirichlet(np.ones(k))), _tensor(2 * rng.standard_normal(k))


def _responsibilities(x: Tensor, weights: Tensor, means: Tensor) -> Tensor:
    return torch.softmax(weights.log() - 0.5 * (x[:, None] - means) ** 2, 1)


def _by_densities(x: Tensor, weights: Tensor, means: Tensor) -> Tensor:
    joint = weights * torch.exp(-0.5 * (x[:, None] - means) ** 2)
    return joint / joint.sum(1, keepdim=True)


def _tiny_number_added(x: Tensor, weights: Tensor, means: Tensor) -> Tensor:
    joint = weights * torch.exp(-0.5 * (x[:, None] - means) ** 2) + 1e-300
    return joint / joint.sum(1, keepdim=True)


def _tiny_number_in_the_density(x: Tensor, weights: Tensor, means: Tensor) -> Tensor:
    joint = weights * (torch.exp(-0.5 * (x[:, None] - means) ** 2) + 1e-300)
    return joint / joint.sum(1, keepdim=True)


def _tiny_number_below(x: Tensor, weights: Tensor, means: Tensor) -> Tensor:
    joint = weights * torch.exp(-0.5 * (x[:, None] - means) ** 2)
    return joint / (joint.sum(1, keepdim=True) + 1e-300)


def _responsibilities_unweighted(x: Tensor, weights: Tensor, means: Tensor) -> Tensor:
    return torch.softmax(-0.5 * (x[:, None] - means) ** 2, 1)


def _over_the_data(x: Tensor, weights: Tensor, means: Tensor) -> Tensor:
    return torch.softmax(weights.log() - 0.5 * (x[:, None] - means) ** 2, 0)


def _weighted_data(rng: np.random.Generator) -> Inputs:
    x = _tensor([[-2.0], [-1.0], [0.0], [1.0], [3.0], [4.0]])
    old = _tensor([[-1.0], [3.0]])
    yield x, _responsibilities(x[:, 0], _tensor([0.5, 0.5]), old[:, 0]), old
    for d, k in ((2, 2), (3, 4)):
        resp = rng.dirichlet(np.ones(k), 12)
        yield _tensor(rng.standard_normal((12, d))), _tensor(resp), _tensor(rng.random((k, d)))
    far = rng.standard_normal((20, 2)) + 1e5
    yield _tensor(far), _tensor(rng.dirichlet(np.ones(2), 20)), _tensor(far[:2])


def _covariances(x: Tensor, resp: Tensor, old_means: Tensor) -> Tensor:
    return gmm_m_step(x, resp)[2]


def _covariances_about(x: Tensor, resp: Tensor, means: Tensor) -> Tensor:
    deviation = x[:, None] - means
    scatter = torch.einsum("nk,nki,nkj->kij", resp, deviation, deviation)
    return scatter / resp.sum(0)[:, None, None]


def _covariances_over_n(x: Tensor, resp: Tensor, old_means: Tensor) -> Tensor:
    return _covariances(x, resp, old_means) * resp.mean(0)[:, None, None]


def _mass_minus_one(x: Tensor, resp: Tensor, old_means: Tensor) -> Tensor:
    mass = resp.sum(0)[:, None, None]
    return _covariances(x, resp, old_means) * mass / (mass - 1)


def _second_moments_minus_means(x: Tensor, resp: Tensor, old_means: Tensor) -> Tensor:
    mass = resp.sum(0)
    means = resp.T @ x / mass[:, None]
    second = torch.einsum("nk,ni,nj->kij", resp, x, x) / mass[:, None, None]
    return second - means[:, :, None] * means[:, None, :]


def _counts_and_rates(rng: np.random.Generator) -> Inputs:
    for rates in ((1.0, 6.0), (2.0, 5.0), (1.0, 4.0, 12.0)):
        x = _tensor(rng.poisson(rng.choice(rates, 30)))
        weights, guess = _tensor(rng.dirichlet(np.full(len(rates), 5.0))), _tensor(rates)
        for _ in range(3):
            yield x, weights, guess
            weights, guess = _poisson_step(x, weights, guess)


def _poisson_responsibilities(x: Tensor, weights: Tensor, rates: Tensor) -> Tensor:
    # x! is the same for all components and drops out.
    return torch.softmax(weights.log() + x[:, None] * rates.log() - rates, 1)


def _poisson_step(x: Tensor, weights: Tensor, rates: Tensor) -> tuple[Tensor, Tensor]:
    resp = _poisson_responsibilities(x, weights, rates)
    return resp.mean(0), x @ resp / resp.sum(0)


def _poisson_unweighted(x: Tensor, weights: Tensor, rates: Tensor) -> tuple[Tensor, Tensor]:
    resp = _poisson_responsibilities(x, weights, rates)
    return resp.mean(0), x.mean().expand(len(rates))


def _without_exponential(x: Tensor, weights: Tensor, rates: Tensor) -> tuple[Tensor, Tensor]:
    resp = torch.softmax(weights.log() + x[:, None] * rates.log(), 1)
    return resp.mean(0), x @ resp / resp.sum(0)


def _masses_for_weights(x: Tensor, weights: Tensor, rates: Tensor) -> tuple[Tensor, Tensor]:
    resp = _poisson_responsibilities(x, weights, rates)
    return resp.sum(0), x @ resp / resp.sum(0)


def _poisson_over_n(x: Tensor, weights: Tensor, rates: Tensor) -> tuple[Tensor, Tensor]:
    resp = _poisson_responsibilities(x, weights, rates)
    return resp.mean(0), x @ resp / len(x)


def _poisson_unnormalised(
    x: Tensor, weights: Tensor, rates: Tensor, *, factorial: bool = False
) -> tuple[Tensor, Tensor]:
    logs = weights.log() + x[:, None] * rates.log() - rates
    joint = (logs - torch.lgamma(x[:, None] + 1) * factorial).exp()
    return joint.mean(0), x @ joint / joint.sum(0)


def _linkage_counts(rng: np.random.Generator) -> Inputs:
    yield 125, 18, 20, 34
    for _ in range(4):
        a, b, c, d = (int(v) for v in rng.integers(10, 100, 4))
        yield a + 60, b, c, d


def _linkage_rate(a: int, b: int, c: int, d: int) -> float:
    counts = (a, b, c, d)
    return em_rate(lambda theta: linkage_em_step(theta, counts), _tensor([linkage_mle(counts)]))


def _linkage_map(theta: float, a: int, b: int, c: int, d: int) -> float:
    return float(linkage_em_step(_tensor(theta), (a, b, c, d)))


def _iterates(steps: int, counts: tuple[int, int, int, int]) -> list[float]:
    found = [0.5]
    for _ in range(steps):
        found.append(_linkage_map(found[-1], *counts))
    return found


def _error_ratio(k: int) -> Callable[[int, int, int, int], float]:
    """How step k + 1 shrinks the error."""

    def ratio(a: int, b: int, c: int, d: int) -> float:
        star, (*_, old, new) = linkage_mle((a, b, c, d)), _iterates(k + 1, (a, b, c, d))
        return (new - star) / (old - star)

    return ratio


def _step_ratio(k: int) -> Callable[[int, int, int, int], float]:
    """The length of step k + 1 in units of that of step k."""

    def ratio(a: int, b: int, c: int, d: int) -> float:
        *_, old, middle, new = _iterates(k + 1, (a, b, c, d))
        return (new - middle) / (middle - old)

    return ratio


def _slope_after(k: int) -> Callable[[int, int, int, int], float]:
    """The slope of the map after k steps."""

    def slope(a: int, b: int, c: int, d: int) -> float:
        place = _tensor(_iterates(k, (a, b, c, d))[-1:])
        return em_rate(lambda theta: linkage_em_step(theta, (a, b, c, d)), place)

    return slope


def _observed_share(a: int, b: int, c: int, d: int) -> float:
    return 1 - _linkage_rate(a, b, c, d)


def _small_mixtures(rng: np.random.Generator) -> Inputs:
    for n, k in ((6, 2), (10, 2), (15, 3)):
        x = 2 * rng.standard_normal(n)
        yield _tensor(x), _tensor(rng.dirichlet(np.full(k, 5.0))), _tensor(rng.choice(x, k, False))


def _incremental(
    x: Tensor,
    weights: Tensor,
    means: Tensor,
    *,
    likelihood: bool,
    frozen: bool = False,
    full: bool = False,
    first: bool = False,
    entropy: bool = True,
) -> Tensor:
    def log_joint() -> Tensor:
        constant = 0.5 * math.log(2 * math.pi)
        return weights.log() - 0.5 * (x[:, None] - means) ** 2 - constant

    resp, values = torch.softmax(log_joint(), 1), []
    for n in range(len(x)):
        if first:
            weights, means = resp.mean(0), x @ resp / resp.sum(0)
        fresh = torch.softmax(log_joint(), 1)
        resp = fresh if full else resp.index_copy(0, torch.tensor([n]), fresh[n : n + 1])
        if not first and (not frozen or n == len(x) - 1):
            weights, means = resp.mean(0), x @ resp / resp.sum(0)
        if likelihood:
            values.append(-torch.logsumexp(log_joint(), 1).mean())
        else:
            values.append((torch.xlogy(resp, resp) * entropy - resp * log_joint()).sum(1).mean())
    return torch.stack(values)


def _joint_objective(x: Tensor, weights: Tensor, means: Tensor) -> Tensor:
    return _incremental(x, weights, means, likelihood=False)


def _minus_likelihood(x: Tensor, weights: Tensor, means: Tensor) -> Tensor:
    return _incremental(x, weights, means, likelihood=True)


def _m_step_first(x: Tensor, weights: Tensor, means: Tensor) -> Tensor:
    resp = torch.softmax(weights.log() - 0.5 * (x[:, None] - means) ** 2, 1)
    return _joint_objective(x, resp.mean(0), x @ resp / resp.sum(0))


def _one_m_step_per_sweep(x: Tensor, weights: Tensor, means: Tensor) -> Tensor:
    return _incremental(x, weights, means, likelihood=False, frozen=True)


EXERCISES = (
    Exercise(
        "responsibilities in log space",
        solution=_responsibilities,
        inputs=_points_far_out,
        mistakes=(
            Mistake(
                "densities",
                _by_densities,
                "far out every density underflows to 0, and 0/0 is nan: use softmax of the logs.",
            ),
            Mistake(
                "no weights",
                _responsibilities_unweighted,
                "Bayes' rule normalises the joint: add log π_k to the log density.",
            ),
            Mistake(
                "weights without a logarithm",
                lambda x, weights, means: torch.softmax(
                    weights - 0.5 * (x[:, None] - means) ** 2, 1
                ),
                "weight times density: in logarithms that is log π_k, not π_k, that is added.",
            ),
            Mistake(
                "no half in the exponent",
                lambda x, weights, means: torch.softmax(
                    weights.log() - (x[:, None] - means) ** 2, 1
                ),
                "the density with variance 1 has the exponent −(x − μ)²/2.",
            ),
            Mistake(
                "over the data",
                _over_the_data,
                "the components share each point: normalise over k, not over n.",
            ),
            Mistake(
                "a tiny number added",
                _tiny_number_added,
                "a tiny number avoids nan, but far out it decides the shares, not the densities: "
                "use softmax of the logs.",
                variants=(_tiny_number_in_the_density, _tiny_number_below),
            ),
        ),
    ),
    Exercise(
        "covariances of the M-step",
        solution=_covariances,
        inputs=_weighted_data,
        mistakes=(
            Mistake(
                "old means",
                _covariances_about,
                "take the scatter about the new means; the old ones are not needed.",
            ),
            Mistake(
                "over N",
                _covariances_over_n,
                "divide by the component's mass Σ_n r_nk, not by N.",
            ),
            Mistake(
                "second moment minus square",
                _second_moments_minus_means,
                "right on paper, but far from the origin this difference of two nearly equal "
                "numbers loses its digits: subtract the means before you square.",
                within=1e-3,
            ),
            Mistake(
                "second moments",
                lambda x, resp, old: _covariances_about(x, resp, torch.zeros_like(old)),
                "this is the second moment about 0: subtract the new means first.",
            ),
            Mistake(
                "mass minus one",
                _mass_minus_one,
                "the maximum of the likelihood divides by the mass itself; subtracting 1 is for "
                "unbiased samples.",
            ),
        ),
        rtol=1e-8,
    ),
    Exercise(
        "EM for a mixture of Poissons",
        solution=_poisson_step,
        inputs=_counts_and_rates,
        mistakes=(
            Mistake(
                "the unweighted mean",
                _poisson_unweighted,
                "each rate is the mean of x with its own responsibilities as weights.",
            ),
            Mistake(
                "over N",
                _poisson_over_n,
                "a weighted mean divides by the sum of its weights Σ_n r_nk, not by N.",
            ),
            Mistake(
                "without e^(−λ)",
                _without_exponential,
                "the factor e^(−λ_k) differs between the components: it does not drop out, x! "
                "does.",
            ),
            Mistake(
                "weights not normalised",
                _masses_for_weights,
                "the weights are shares of the data: divide the masses by N.",
            ),
            Mistake(
                "the joint for the responsibilities",
                _poisson_unnormalised,
                "this is the joint weight × probability; a responsibility is its share of the sum "
                "over the components.",
                variants=(lambda *a: _poisson_unnormalised(*a, factorial=True),),
            ),
        ),
    ),
    Exercise(
        "the rate for other linkage counts",
        solution=_linkage_rate,
        inputs=_linkage_counts,
        mistakes=(
            Mistake(
                "the ratio of the first errors",
                _error_ratio(1),
                "this is how an early step shrank the error; the rate is the slope at θ* itself.",
                variants=(_error_ratio(0),),
            ),
            Mistake(
                "the ratio of the first steps",
                _step_ratio(1),
                "this compares the first two steps; the rate is the slope at θ* itself.",
            ),
            Mistake(
                "the observed share",
                _observed_share,
                "this is I_obs/I_c, the share that is known; the rate is the missing one.",
            ),
            Mistake(
                "the slope at one half",
                _slope_after(0),
                "this is M' at the start ½; the rate is the slope at the fixed point θ*.",
            ),
            Mistake(
                "the ratio after some steps",
                _error_ratio(3),
                "this ratio still changes from step to step; the rate is its limit, the slope at"
                " θ*.",
                variants=tuple(_error_ratio(k) for k in (2, 4))
                + tuple(_step_ratio(k) for k in (2, 3, 4)),
            ),
            Mistake(
                "the slope after some steps",
                _slope_after(3),
                "after these steps θ is still on its way, and so is the slope there: the rate is "
                "the slope at the fixed point θ* itself.",
                variants=tuple(_slope_after(k) for k in (1, 2, 4)),
            ),
        ),
    ),
    Exercise(
        "incremental EM",
        solution=_joint_objective,
        inputs=_small_mixtures,
        mistakes=(
            Mistake(
                "minus the likelihood",
                _minus_likelihood,
                "this is -L, which may rise under partial E-steps: use the present r in G.",
            ),
            Mistake(
                "no entropy",
                lambda *a: _incremental(*a, likelihood=False, entropy=False),
                "G has two terms: the mean of −log joint under r, and the term r log r.",
            ),
            Mistake(
                "one M-step per sweep",
                _one_m_step_per_sweep,
                "redo the M-step after each point, from all responsibilities.",
            ),
            Mistake(
                "a full E-step each time",
                lambda *a: _incremental(*a, likelihood=False, full=True),
                "only the responsibilities of the one point n are renewed; the others keep their"
                " old values.",
            ),
            Mistake(
                "the M-step first",
                _m_step_first,
                "renew r_n first, from the parameters before the step, then the parameters.",
                variants=(lambda *a: _incremental(*a, likelihood=False, first=True),),
            ),
        ),
    ),
)
