"""Finite in, finite out: every public function of the series on extreme inputs, or a refusal.

A refusal names what is wrong in a ValueError, TypeError or RuntimeError of our own; an
OverflowError, a ZeroDivisionError or "math domain error" is none. Lower precision agrees with
float64.
"""

import importlib
import inspect
import math
import pkgutil
import re
import warnings

import numpy as np
import pytest
import torch
from extremes import Inputs, numbers, positive, shares
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kexue_lab
from kexue_lab.attention import linear_attention as la
from kexue_lab.attention import low_rank_bottleneck as lrb
from kexue_lab.attention import relative_position as rp
from kexue_lab.attention import synthesizer as sy
from kexue_lab.diffusion import (
    ddim,
    diffusion_ode,
    imperfect_mean,
    optimal_variance,
    poisson_flow,
    probability_flow,
    quality,
    samplers,
    skip_tuning,
    unet,
    unified,
)
from kexue_lab.diffusion.mixtures import GaussianMixture
from kexue_lab.diffusion.schedules import NoiseSchedule
from kexue_lab.generative import adversarial as adv
from kexue_lab.generative import finite_scalar_quantization as fsq
from kexue_lab.generative import gan_reading_list as gan
from kexue_lab.generative import gumbel_softmax as gs
from kexue_lab.generative import idempotent_network as ign
from kexue_lab.generative import info_max as im
from kexue_lab.generative import vae_geometry as vae
from kexue_lab.losses import accuracy as acc
from kexue_lab.losses import batch as losses_batch
from kexue_lab.losses import cosent
from kexue_lab.losses import data as losses_data
from kexue_lab.losses import flat_nce as nce
from kexue_lab.losses import multi_task as mtl
from kexue_lab.losses import soft_top_k as stk
from kexue_lab.losses import total_variation as tv
from kexue_lab.mathematics import cross_counting as cc
from kexue_lab.mathematics import em, linear_ode
from kexue_lab.mathematics import random_sector as rs
from kexue_lab.optimization import amos, simsiam
from kexue_lab.optimization import gradient_clipping as gc
from kexue_lab.text import cur_retrieval as cur
from kexue_lab.text import (
    decoding,
    dialogue,
    endless_decoding,
    loaders,
    markov,
    p_tuning,
    transport,
)
from kexue_lab.text import geodesic_similarity as geo
from kexue_lab.text import word_movers as wm

SERIES = (
    "attention",
    "diffusion",
    "generative",
    "losses",
    "mathematics",
    "optimization",
    "text",
)
DIVERGENCES = ("kl", "reverse_kl", "chi2", "hellinger2", "gan")
SINGLE = (torch.float32, torch.float64)


def unit_row(x):
    """Rows are distributions."""
    tolerance = max(1e-6, 8 * torch.finfo(x.dtype).eps)
    assert bool((x >= 0).all())
    assert torch.allclose(x.double().sum(-1), torch.ones(x.shape[:-1]).double(), atol=tolerance)


def probability(x):
    assert bool(((torch.as_tensor(x) >= 0) & (torch.as_tensor(x) <= 1)).all())


def non_negative(x):
    assert bool((torch.as_tensor(x) >= 0).all())


def anything(_):
    pass


def mixture(i):
    """A mixture and points to see it from."""
    k = i.m
    weights = i.law(k).double()
    pair = GaussianMixture(
        weights / weights.sum(),
        i.tensor(k, i.d, kinds=("plain", "equal", "far", "zeros")).double(),
        torch.full((k,), 0.5, dtype=torch.float64),
    )
    return pair, i.tensor(i.n, i.d), i.draw(shares), 0.5


either_loss = st.sampled_from(["logistic", "wasserstein"])


flows = st.sampled_from(["stop_gradient", "full", "target_only"])


def slope_penalty(x, w):
    """Of a linear critic."""
    points = x.clone().requires_grad_()
    return adv.r1_penalty((points * w).sum(-1), points).detach()


def linear_flow(i):
    W, C, S = i.tensor(i.d, i.d), i.tensor(i.d, i.d), i.tensor(i.d, i.d)
    try:
        return ign.linear_ign_flow(W, C, S, n_steps=5)
    except FloatingPointError as error:
        raise ValueError(str(error)) from error


def seeded(i):
    return torch.Generator().manual_seed(i.seed)


def gmm(i):
    k = i.m
    means = i.tensor(k, i.d, kinds=("plain", "equal", "far", "zeros"))
    eye = torch.eye(i.d, dtype=i.dtype).expand(k, i.d, i.d)
    return i.tensor(i.n, i.d), i.law(k), means, eye


def batch(i):
    logits = i.tensor(i.n, i.d + 1)
    return logits, torch.randint(i.d + 1, (i.n,), generator=seeded(i))


def reduced(i):
    return i.draw(st.sampled_from(["mean", "sum", "none"]))


threshold_kinds = st.sampled_from(["sigmoid", "exp", "laplace", "gauss", "clip"])


def chosen(i):
    """Rows of scores and how many to take."""
    x = i.tensor(i.n, i.d + 1)
    return x, i.draw(st.integers(1, i.d))


def grad_norm_weights(slopes):
    x = torch.zeros(slopes.shape[1], dtype=slopes.dtype, requires_grad=True)
    return mtl.grad_norm_weights([(x * slope).sum() for slope in slopes], [x])


def ranked(i):
    scores = i.tensor(i.n)
    return scores, torch.randint(3, (i.n,), generator=seeded(i))


def problem(i):
    cost = i.tensor(i.n, i.m)
    return [1 / i.n] * i.n, [1 / i.m] * i.m, cost


def levels(i):
    return torch.tensor([i.number() for _ in range(3)]).double().sort(descending=True).values


def attention(i):
    return i.tensor(i.n, i.d), i.tensor(i.n, i.d), i.tensor(i.n, 2)


def logits_and_values(i):
    return i.tensor(i.d), i.tensor(i.d)


def edges(i):
    return np.linspace(0, 1, 5) * i.number()


def four(i):
    return (i.number(), i.number(), i.number(), i.number())


# Function: how to call it on inputs that are drawn, and the law of its result, which is finite.
TABLE = {
    la.elu_feature_map: (lambda i: la.elu_feature_map(i.tensor(i.n, i.d)), non_negative),
    la.normalized_taylor_feature_map: (
        lambda i: la.normalized_taylor_feature_map(i.tensor(i.n, i.d)),
        anything,
    ),
    la.efficient_attention: (lambda i: la.efficient_attention(*attention(i)), anything),
    lrb.minimal_key_size: (lambda i: lrb.minimal_key_size(i.law(i.n, i.m)), non_negative),
    lrb.low_rank_logits: (lambda i: lrb.low_rank_logits(i.law(i.n, i.m), i.d), anything),
    lrb.fit_low_rank_attention: (
        lambda i: lrb.fit_low_rank_attention(i.law(i.n, i.m), i.d, 1, 20, seeded(i)),
        anything,
    ),
    sy.dense_logits: (
        lambda i: sy.dense_logits(
            i.tensor(i.n, i.d), i.tensor(i.d, i.m), i.tensor(i.m), i.tensor(i.m, 3), i.tensor(3)
        ),
        anything,
    ),
    sy.factorized_dense_logits: (
        lambda i: sy.factorized_dense_logits(
            i.tensor(i.n, i.d),
            i.tensor(i.n, i.m),
            tiling=i.draw(st.sampled_from(["interleave", "repeat"])),
        ),
        anything,
    ),
    sy.toeplitz_logits: (lambda i: sy.toeplitz_logits(i.tensor(2 * i.n - 1), i.n), anything),
    sy.synthetic_attention: (
        lambda i: sy.synthetic_attention(
            i.tensor(i.n, i.n), i.tensor(i.n, i.d), is_causal=i.draw(st.booleans())
        ),
        anything,
    ),
    decoding.truncate_logits: (
        lambda i: decoding.truncate_logits(i.tensor(i.n, i.m), top_p=0.9).softmax(-1),
        unit_row,
    ),
    decoding.filter_logits: (
        lambda i: decoding.filter_logits(
            i.tensor(i.n, i.m), temperature=i.number(), top_k=2, top_p=0.9
        ).softmax(-1),
        unit_row,
    ),
    markov.truncate_rows: (
        lambda i: torch.from_numpy(markov.truncate_rows(i.law(i.n, i.m).double(), top_p=0.9)),
        unit_row,
    ),
    geo.knn_graph: (
        lambda i: geo.knn_graph(
            i.tensor(i.n + 2, i.d),
            i.draw(st.integers(1, i.n + 1)),
            metric=i.draw(st.sampled_from(["euclidean", "angular"])),
            mode=i.draw(st.sampled_from(["union", "mutual"])),
        ).toarray(),
        non_negative,
    ),
    geo.geodesic_distances: (
        lambda i: geo.geodesic_distances(i.tensor(i.n + 1, i.d), i.n),
        non_negative,
    ),
    geo.attach: (lambda i: geo.attach(i.tensor(i.d), i.tensor(i.n + 1, i.d), i.n), non_negative),
    geo.geodesic_scores: (
        lambda i: geo.geodesic_scores(i.tensor(i.n + 2, i.d), i.tensor(i.d), 1, eps=i.number()),
        non_negative,
    ),
    geo.smallest_connecting_k: (
        lambda i: geo.smallest_connecting_k(i.tensor(i.n + 1, i.d)),
        non_negative,
    ),
    geo.shortcut_edges: (
        lambda i: geo.shortcut_edges(i.tensor(i.n + 1, i.d), i.n, i.number()),
        anything,
    ),
    rp.toeplitz_bias: (lambda i: rp.toeplitz_bias(i.tensor(2 * i.n - 1), i.n), anything),
    rp.apply_rope: (lambda i: rp.apply_rope(i.tensor(i.n, 2 * i.d), base=i.number()), anything),
    rp.attention_weights: (
        lambda i: rp.attention_weights(
            i.tensor(i.n, i.m), i.draw(st.sampled_from(["softmax", "l2", "none"]))
        ),
        non_negative,
    ),
    rp.probe_floor: (lambda i: rp.probe_floor(i.n, "mse"), non_negative),
    ddim.posterior_coefficients: (
        lambda i: ddim.posterior_coefficients(*four(i), i.number()),
        anything,
    ),
    ddim.ddpm_sigma: (lambda i: ddim.ddpm_sigma(*four(i), i.draw(shares)), non_negative),
    ddim.ddim_step: (
        lambda i: ddim.ddim_step(
            i.tensor(i.n, i.d, kinds=("plain", "tiny", "zeros", "equal")),
            torch.zeros(i.n, i.d, dtype=i.dtype),
            i.draw(shares),
            i.draw(shares),
            NoiseSchedule.cosine(),
            eta=i.draw(shares),
        ),
        anything,
    ),
    ddim.gaussian_sample_variance: (
        lambda i: ddim.gaussian_sample_variance(
            i.number(), NoiseSchedule.linear(), [0.9, 0.5, 0.0], i.draw(shares)
        ),
        non_negative,
    ),
    diffusion_ode.sigma_grid: (
        lambda i: diffusion_ode.sigma_grid(i.n, i.number(), i.number(), rho=i.number()),
        non_negative,
    ),
    diffusion_ode.sample_ode: (
        lambda i: diffusion_ode.sample_ode(
            diffusion_ode.denoiser_score(lambda x, s: torch.zeros_like(x)),
            i.tensor(i.n, i.d),
            diffusion_ode.sigma_grid(4, 0.0, 80.0),
            method=i.draw(st.sampled_from(["euler", "heun", "rk4"])),
        ),
        anything,
    ),
    diffusion_ode.conditional_velocity: (
        lambda i: diffusion_ode.conditional_velocity(
            i.tensor(i.n, i.d), i.tensor(i.n, i.d), i.draw(shares), NoiseSchedule.linear()
        ),
        anything,
    ),
    **{
        sampler: (
            lambda i, sampler=sampler: sampler(
                lambda x, t: x.tanh(),
                NoiseSchedule.linear(),
                i.tensor(i.n, i.d),
                i.draw(st.sampled_from([[0.9, 0.5, 0.1, 0.0], [1.0, 1e-9], [1.0, 0.999, 0.3]])),
            ),
            anything,
        )
        for sampler in samplers.SAMPLERS.values()
    },
    imperfect_mean.residual_variance: (
        lambda i: imperfect_mean.residual_variance(i.tensor(i.n, i.d), i.tensor(i.n, i.d)),
        non_negative,
    ),
    imperfect_mean.analytic_error: (
        lambda i: imperfect_mean.analytic_error(i.tensor(i.n, i.d), i.tensor(i.n, i.d)),
        anything,
    ),
    imperfect_mean.sn_variance: (
        lambda i: imperfect_mean.sn_variance(i.positive(i.n), i.tensor(i.n)),
        non_negative,
    ),
    imperfect_mean.gaussian_excess: (
        lambda i: imperfect_mean.gaussian_excess(i.positive(i.n), i.positive(i.n)),
        non_negative,
    ),
    imperfect_mean.to_x0_variance: (
        lambda i: imperfect_mean.to_x0_variance(i.positive(i.n), i.number(), i.number()),
        non_negative,
    ),
    optimal_variance.variance_from_mean: (
        lambda i: optimal_variance.variance_from_mean(i.tensor(i.n, i.d), 0.0, i.number()),
        anything,
    ),
    optimal_variance.variance_from_noise: (
        lambda i: optimal_variance.variance_from_noise(i.tensor(i.n, i.d), i.number(), i.number()),
        anything,
    ),
    optimal_variance.optimal_reverse_variance: (
        lambda i: optimal_variance.optimal_reverse_variance(*four(i), 0.0, i.number()),
        non_negative,
    ),
    optimal_variance.linear_mmse: (
        lambda i: optimal_variance.linear_mmse(i.positive(i.d), i.number(), i.number()),
        non_negative,
    ),
    optimal_variance.kl_excess: (
        lambda i: optimal_variance.kl_excess(i.number(), i.number(), i.d),
        non_negative,
    ),
    poisson_flow.poisson_denoiser: (
        lambda i: poisson_flow.poisson_denoiser(
            i.tensor(i.n, i.d),
            i.number(),
            i.tensor(i.m, i.d),
            aug_dim=i.draw(st.sampled_from([1, 1e8, 1e300, math.inf])),
        ),
        anything,
    ),
    poisson_flow.poisson_field: (
        lambda i: poisson_flow.poisson_field(i.tensor(i.n, i.d), i.number(), i.tensor(i.m, i.d)),
        anything,
    ),
    poisson_flow.perturb: (
        lambda i: poisson_flow.perturb(i.tensor(i.n, i.d), i.number(), generator=seeded(i)),
        anything,
    ),
    poisson_flow.sample_prior: (
        lambda i: poisson_flow.sample_prior(i.n, i.d, i.number(), generator=seeded(i)),
        anything,
    ),
    poisson_flow.voigt_field: (
        lambda i: poisson_flow.voigt_field(
            i.draw(numbers), i.number(), [1.0], [i.draw(numbers)], [i.number()]
        ),
        anything,
    ),
    poisson_flow.prior_tv_constant: (
        lambda i: poisson_flow.prior_tv_constant(10 ** i.draw(st.integers(0, 18))),
        probability,
    ),
    probability_flow.fokker_planck_generator: (
        lambda i: probability_flow.fokker_planck_generator(edges(i), lambda x: -x, i.number()).data,
        anything,
    ),
    probability_flow.cell_averages: (
        lambda i: probability_flow.cell_averages(lambda x: np.exp(-np.abs(x)), edges(i)),
        probability,
    ),
    quality.frechet_distance: (
        lambda i: quality.frechet_distance(i.tensor(i.n + 1, i.d), i.tensor(i.m + 1, i.d)),
        non_negative,
    ),
    quality.nearest_distance: (
        lambda i: quality.nearest_distance(i.tensor(i.n, i.d), i.tensor(i.m, i.d)),
        non_negative,
    ),
    skip_tuning.karras_sigmas: (
        lambda i: skip_tuning.karras_sigmas(i.n, i.number(), i.number()),
        non_negative,
    ),
    unet.edm_denoise: (
        lambda i: unet.edm_denoise(
            lambda x, t, w: torch.zeros_like(x),
            i.tensor(i.n, 1, 2, 2),
            i.number(),
            sigma_data=i.number(),
        ),
        anything,
    ),
    skip_tuning.gaussian_gain: (
        lambda i: skip_tuning.gaussian_gain(i.number(), i.number(), i.number()),
        probability,
    ),
    skip_tuning.linear_unet_slopes: (
        lambda i: skip_tuning.linear_unet_slopes(
            i.positive(i.d),
            i.number(),
            [0.5],
            [i.d, 0],
            target=i.draw(st.sampled_from(["noise", "datum", "velocity"])),
        ),
        anything,
    ),
    skip_tuning.gaussian_path_variance: (
        lambda i: skip_tuning.gaussian_path_variance(
            i.positive(i.d), levels(i), method=i.draw(st.sampled_from(["euler", "heun"]))
        ),
        non_negative,
    ),
    unified.gaussian_mode_variance: (
        lambda i: unified.gaussian_mode_variance(
            i.number(),
            [i.number(), i.number(), 1.0],
            i.number(),
            i.draw(st.sampled_from(["naive", "improved", "sampled", "sampled_improved"])),
        ),
        non_negative,
    ),
    unified.dct_blur: (
        lambda i: unified.dct_blur(i.tensor(i.n, 3, 4), i.draw(shares), i.number()),
        anything,
    ),
    fsq.round_ste: (lambda i: fsq.round_ste(i.tensor(i.n)), anything),
    fsq.level_probabilities: (lambda i: fsq.level_probabilities(i.n + 1, i.number()), probability),
    fsq.lloyd_max: (lambda i: fsq.lloyd_max(i.n, tol=i.number()).mse, probability),
    fsq.codebook_usage: (lambda i: fsq.codebook_usage([i.n, 0], i.n + 1).perplexity, non_negative),
    gs.sample_gumbel: (
        lambda i: gs.sample_gumbel((1000,), generator=seeded(i), dtype=i.dtype),
        anything,
    ),
    gs.gumbel_max: (lambda i: gs.gumbel_max(i.tensor(i.n, i.d), generator=seeded(i)), non_negative),
    gs.gumbel_softmax: (
        lambda i: gs.gumbel_softmax(i.tensor(i.n, i.d), i.number(), generator=seeded(i)),
        unit_row,
    ),
    gs.exact_gradient: (lambda i: gs.exact_gradient(*logits_and_values(i)), anything),
    gs.score_function_variance: (
        lambda i: gs.score_function_variance(*logits_and_values(i)),
        non_negative,
    ),
    gs.optimal_baseline: (lambda i: gs.optimal_baseline(*logits_and_values(i)), anything),
    acc.accuracy: (lambda i: acc.accuracy(*batch(i)), probability),
    acc.expected_accuracy: (
        lambda i: acc.expected_accuracy(
            *batch(i), i.number(), noise=i.draw(st.sampled_from(["gaussian", "gumbel"])), n_nodes=16
        ),
        probability,
    ),
    acc.exact_loss: (lambda i: acc.exact_loss(*batch(i), i.number(), n_nodes=16), probability),
    acc.soft_accuracy_loss: (lambda i: acc.soft_accuracy_loss(*batch(i), i.number()), probability),
    cosent.cosent_loss: (lambda i: cosent.cosent_loss(*ranked(i), i.number()), non_negative),
    cosent.cosent_loss_sorted: (
        lambda i: cosent.cosent_loss_sorted(*ranked(i), i.number()),
        non_negative,
    ),
    cosent.ranknet_loss: (
        lambda i: cosent.ranknet_loss(
            *ranked(i), reduction=i.draw(st.sampled_from(["mean", "sum"]))
        ),
        non_negative,
    ),
    cosent.pair_weights: (lambda i: cosent.pair_weights(*ranked(i), i.number()), probability),
    cosent.best_threshold: (
        lambda i: cosent.best_threshold(i.tensor(i.n), batch(i)[1] > 0).accuracy,
        probability,
    ),
    cosent.half_log_ratio: (
        lambda i: cosent.half_log_ratio(i.law(i.n), i.law(i.n)),
        anything,
    ),
    tv.total_variation: (lambda i: tv.total_variation(i.law(i.n), i.law(i.n)), probability),
    tv.tailr_weight: (lambda i: tv.tailr_weight(i.law(i.n), i.draw(shares)), probability),
    tv.tailr_loss: (
        lambda i: tv.tailr_loss(*batch(i), i.draw(shares), min_weight=i.draw(shares)),
        non_negative,
    ),
    tv.tailr_potential_loss: (
        lambda i: tv.tailr_potential_loss(*batch(i), i.draw(shares)),
        non_negative,
    ),
    tv.generalized_cross_entropy: (
        lambda i: tv.generalized_cross_entropy(*batch(i), i.draw(shares)),
        non_negative,
    ),
    tv.tailr_minimizer: (lambda i: tv.tailr_minimizer(i.law(i.n, i.m), i.draw(shares)), unit_row),
    tv.noise_threshold: (lambda i: tv.noise_threshold(i.draw(shares), i.n + 1), non_negative),
    losses_data.expected_calibration_error: (
        lambda i: losses_data.expected_calibration_error(
            i.law(i.n, i.d + 1), batch(i)[1], bins=i.m
        ),
        probability,
    ),
    losses_batch.reduced: (
        lambda i: losses_batch.reduced(i.tensor(i.n), reduced(i), i.dtype),
        anything,
    ),
    nce.xi_log: (lambda i: nce.xi_log(*batch(i)), anything),
    nce.info_nce: (lambda i: nce.info_nce(*batch(i), reduction=reduced(i)), non_negative),
    nce.flat_nce: (lambda i: nce.flat_nce(*batch(i), reduction=reduced(i)), anything),
    nce.flat_nce_stopgrad: (
        lambda i: nce.flat_nce_stopgrad(*batch(i), reduction=reduced(i)),
        non_negative,
    ),
    nce.in_batch_scores: (
        lambda i: nce.in_batch_scores(
            i.tensor(i.n + 1, i.d), i.tensor(i.n + 1, i.d), i.draw(positive)
        ),
        anything,
    ),
    nce.min_xi: (lambda i: nce.min_xi(i.draw(positive), i.n + 1), non_negative),
    nce.critical_temperature: (
        lambda i: nce.critical_temperature(i.n + 1, i.dtype),
        non_negative,
    ),
    nce.mi_estimates: (lambda i: tuple(nce.mi_estimates(*batch(i)).values()), anything),
    nce.in_changing_light: (
        lambda i: nce.in_changing_light(
            i.tensor(i.n, 64), seeded(i), light=i.number(), noise=i.number()
        ),
        anything,
    ),
    mtl.combine_losses: (
        lambda i: mtl.combine_losses(
            i.positive(i.n), i.draw(st.sampled_from(["sum", "geometric"])), weights=i.law(i.n)
        ),
        anything,
    ),
    mtl.generalized_mean: (
        lambda i: mtl.generalized_mean(i.positive(i.n), i.draw(numbers)),
        non_negative,
    ),
    mtl.grad_norm_weights: (lambda i: grad_norm_weights(i.tensor(i.n, i.d)), non_negative),
    mtl.prior_loss_classification: (
        lambda i: mtl.prior_loss_classification(i.law(i.n)),
        non_negative,
    ),
    mtl.prior_loss_regression: (
        lambda i: mtl.prior_loss_regression(
            i.tensor(i.n, i.d), i.draw(st.sampled_from(["l2", "l1"]))
        ),
        non_negative,
    ),
    losses_data.pair_features: (
        lambda i: losses_data.pair_features(
            i.tensor(i.n, i.d, kinds=("plain", "tiny", "zeros")),
            i.tensor(i.n, i.d, kinds=("plain", "tiny", "zeros")),
        ),
        anything,
    ),
    stk.hard_top_k: (lambda i: stk.hard_top_k(*chosen(i)), probability),
    stk.grad_top_k: (lambda i: stk.grad_top_k(*chosen(i)), probability),
    stk.log_elementary_symmetric: (
        lambda i: stk.log_elementary_symmetric(*chosen(i)),
        anything,
    ),
    stk.threshold_top_k: (
        lambda i: stk.threshold_top_k(*chosen(i), i.draw(threshold_kinds)),
        probability,
    ),
    stk.threshold_jacobian: (
        lambda i: stk.threshold_jacobian(*chosen(i), i.draw(threshold_kinds)),
        anything,
    ),
    stk.iterative_top_k: (
        lambda i: stk.iterative_top_k(
            *chosen(i),
            i.draw(st.sampled_from(["scores", "weights", "subset"])),
            tau=i.number(),
        ),
        anything,
    ),
    acc.three_point_objective: (
        lambda i: acc.three_point_objective(i.draw(numbers), "gaussian", i.number()),
        probability,
    ),
    em.joint_kl: (
        lambda i: em.joint_kl(
            i.law(i.n), i.law(i.n, i.m), i.law(i.n * i.m).clamp_min(1e-7).reshape(i.n, i.m) / 2
        ),
        anything,
    ),
    em.gmm_e_step: (lambda i: em.gmm_e_step(*gmm(i))[0], unit_row),
    em.gmm_m_step: (lambda i: em.gmm_m_step(i.tensor(i.n, i.d), i.law(i.n, i.m)), anything),
    em.soft_kmeans_energy: (
        lambda i: em.soft_kmeans_energy(*gmm(i)[:3], i.number()),
        non_negative,
    ),
    em.fit_spherical_gmm: (
        lambda i: em.fit_spherical_gmm(*gmm(i)[:3], i.number(), 3),
        anything,
    ),
    em.plsa_em_step: (
        lambda i: em.plsa_em_step(i.positive(i.n, i.d), i.law(i.n, i.m), i.law(i.m, i.d)),
        unit_row,
    ),
    em.linkage_em_step: (
        lambda i: em.linkage_em_step(torch.tensor(i.draw(shares)).to(i.dtype), four(i)),
        probability,
    ),
    em.linkage_mle: (lambda i: em.linkage_mle(four(i)), probability),
    em.linkage_rate: (lambda i: em.linkage_rate(four(i)), probability),
    em.symmetric_mixture_step: (
        lambda i: em.symmetric_mixture_step(i.tensor(i.m), i.tensor(i.n)),
        anything,
    ),
    em.symmetric_mixture_population: (
        lambda i: em.symmetric_mixture_population(i.draw(numbers), i.draw(numbers)),
        anything,
    ),
    linear_ode.wedge: (
        lambda i: linear_ode.wedge(
            i.tensor(3, 2, kinds=("plain", "tiny", "equal", "far", "zeros"))
        ),
        anything,
    ),
    linear_ode.structured_generator: (
        lambda i: linear_ode.structured_generator(i.tensor(3, 2), i.tensor(3, 2), i.tensor(3)),
        anything,
    ),
    rs.max_gap_cdf: (
        lambda i: rs.max_gap_cdf(10 ** i.draw(st.integers(0, 12)), i.draw(numbers)),
        probability,
    ),
    rs.max_gap_tail: (
        lambda i: rs.max_gap_tail(10 ** i.draw(st.integers(0, 12)), i.draw(numbers)),
        probability,
    ),
    rs.same_sector_probability: (
        lambda i: rs.same_sector_probability(10 ** i.draw(st.integers(0, 9)), turn=i.number()),
        probability,
    ),
    rs.moving_apex_density: (
        lambda i: rs.moving_apex_density(i.draw(numbers), i.draw(shares)),
        non_negative,
    ),
    rs.square_pond_density: (lambda i: rs.square_pond_density(i.draw(numbers)), non_negative),
    rs.max_circular_gap: (lambda i: rs.max_circular_gap(i.tensor(i.n, i.d)), non_negative),
    rs.monte_carlo_same_sector: (
        lambda i: rs.monte_carlo_same_sector(i.n, 3.0, i.m, seeded(i)),
        probability,
    ),
    amos.decay_factor: (
        lambda i: amos.decay_factor(
            i.tensor(i.n).abs(), i.number(), i.draw(st.sampled_from(["inverse", "inverse_square"]))
        ),
        probability,
    ),
    amos.decay_factor_general: (
        lambda i: amos.decay_factor_general(
            i.tensor(i.n).abs(), i.draw(shares), i.draw(shares), i.number()
        ),
        probability,
    ),
    amos.kappa_for: (lambda i: amos.kappa_for(i.draw(shares), i.n), non_negative),
    amos.simulate_distance: (
        lambda i: torch.as_tensor(
            amos.simulate_distance(i.n + 1, i.draw(shares), i.draw(shares), 3)["distance"]
        ),
        non_negative,
    ),
    gc.clip_factor: (
        lambda i: gc.clip_factor(
            i.tensor(i.n).abs(), i.number(), i.draw(st.sampled_from(["hard", "soft"]))
        ),
        probability,
    ),
    gc.optimal_step_length: (
        lambda i: gc.optimal_step_length(i.tensor(i.n).abs(), i.number(), i.number()),
        non_negative,
    ),
    gc.clipped_gradient_descent: (
        lambda i: (
            gc.clipped_gradient_descent(
                lambda x: x / 2,
                i.tensor(i.n, kinds=("plain", "tiny", "far")),
                0.1,
                1.0,
                max_steps=2,
            ).grad_norms
        ),
        non_negative,
    ),
    rs.largest_margin: (
        lambda i: rs.largest_margin(
            i.tensor(i.n, i.d), 2 * torch.randint(2, (i.n,), generator=seeded(i)) - 1
        ),
        non_negative,
    ),
    cur.cur_decomposition: (
        lambda i: cur.cur_decomposition(
            i.tensor(i.n, i.m),
            range(min(i.n, 2)),
            range(min(i.m, 3)),
            middle=i.draw(st.sampled_from(["intersection", "optimal"])),
        ),
        anything,
    ),
    cur.select_anchors: (
        lambda i: cur.select_anchors(
            i.tensor(i.n, i.m),
            min(i.n, i.m, 2),
            method=i.draw(st.sampled_from(["random", "qr", "kmeans"])),
        ),
        non_negative,
    ),
    cur.recall_at_k: (
        lambda i: cur.recall_at_k(i.tensor(i.n, i.m), i.tensor(i.n, i.m), 1),
        probability,
    ),
    wm.emd: (lambda i: wm.emd(*problem(i)), anything),
    wm.word_movers_distance: (
        lambda i: wm.word_movers_distance(i.tensor(i.n, i.d), i.tensor(i.m, i.d)),
        non_negative,
    ),
    wm.word_rotators_distance: (
        lambda i: wm.word_rotators_distance(i.tensor(i.n, i.d), i.tensor(i.m, i.d)),
        non_negative,
    ),
    wm.centroid_lower_bound: (
        lambda i: wm.centroid_lower_bound(i.tensor(i.n, i.d), i.tensor(i.m, i.d), kind="wmd"),
        non_negative,
    ),
    wm.relaxed_lower_bound: (
        lambda i: wm.relaxed_lower_bound(i.tensor(i.n, i.d), i.tensor(i.m, i.d), kind="wmd"),
        non_negative,
    ),
    wm.sinkhorn_distance: (
        lambda i: wm.sinkhorn_distance(*problem(i), i.number(), max_iter=20),
        anything,
    ),
    wm.pairwise_distances: (
        lambda i: wm.pairwise_distances([i.tensor(i.n, i.d)], [i.tensor(i.m, i.d)], kind="wmd"),
        non_negative,
    ),
    endless_decoding.eos_floor: (
        lambda i: endless_decoding.eos_floor(
            10 ** i.draw(st.integers(0, 300)), abs(i.draw(numbers)), i.draw(numbers)
        ),
        probability,
    ),
    endless_decoding.greedy_stop_probability: (
        lambda i: endless_decoding.greedy_stop_probability(10 ** i.draw(st.integers(0, 9))),
        probability,
    ),
    endless_decoding.greedy_stop_bound: (
        lambda i: float(endless_decoding.greedy_stop_bound(i.draw(shares))),
        non_negative,
    ),
    endless_decoding.max_expected_length: (
        lambda i: endless_decoding.max_expected_length(i.draw(shares)),
        non_negative,
    ),
    endless_decoding.self_terminating_log_probs: (
        lambda i: endless_decoding.self_terminating_log_probs(
            i.tensor(i.m, i.n, i.d + 1), i.draw(shares), i.draw(st.sampled_from(["st", "nmst"]))
        ),
        lambda x: non_negative(-x),
    ),
    p_tuning.label_logits: (
        lambda i: p_tuning.label_logits(i.tensor(i.n, i.d + 1), (i.d, 0)),
        anything,
    ),
    p_tuning.prompt_loss: (
        lambda i: p_tuning.prompt_loss(*batch(i), range(i.d + 1), restrict=i.draw(st.booleans())),
        non_negative,
    ),
    wm.prepare_texts: (
        lambda i: wm.prepare_texts([i.tensor(i.n, i.d)], kind="wrd").centroids,
        anything,
    ),
    adv.critic_loss: (
        lambda i: adv.critic_loss(i.tensor(i.n), i.tensor(i.m), i.draw(either_loss)),
        anything,
    ),
    adv.generator_loss: (
        lambda i: adv.generator_loss(i.tensor(i.n), i.draw(either_loss)),
        anything,
    ),
    adv.r1_penalty: (lambda i: slope_penalty(i.tensor(i.n, i.d), i.tensor(i.d)), non_negative),
    adv.power_step: (
        lambda i: adv.power_step(i.tensor(i.n, i.d), i.tensor(i.n))[0].abs(),
        non_negative,
    ),
    adv.gaussian_ring: (
        lambda i: adv.gaussian_ring(i.n, seeded(i), radius=i.number(), sd=i.number()),
        anything,
    ),
    adv.mode_statistics: (
        lambda i: tuple(
            adv.mode_statistics(i.tensor(i.n, 2), radius=i.number(), within=i.number())
        ),
        non_negative,
    ),
    adv.energy_distance: (
        lambda i: adv.energy_distance(i.tensor(i.n + 1, i.d), i.tensor(i.m + 1, i.d)),
        anything,
    ),
    ign.linear_ign_gradient: (
        lambda i: ign.linear_ign_gradient(*(i.tensor(i.d, i.d) for _ in range(3))),
        anything,
    ),
    ign.linear_ign_flow: (linear_flow, anything),
    ign.scalar_fixed_points: (
        lambda i: ign.scalar_fixed_points(i.number(), i.number(), [i.number() for _ in range(3)]),
        anything,
    ),
    ign.idempotence_error: (
        lambda i: ign.idempotence_error(lambda y: y / 2, i.tensor(i.n, i.d)),
        non_negative,
    ),
    gan.wgan_gp_cycle: (lambda i: gan.wgan_gp_cycle(i.number(), i.number()), non_negative),
    gan.spectral_norm: (
        lambda i: gan.spectral_norm(i.tensor(i.n, 2, 2), i.tensor(i.n))[0].abs(),
        non_negative,
    ),
    gan.conv_operator_norm: (
        lambda i: gan.conv_operator_norm(i.tensor(2, 2, 2, 2), i.n + 1),
        non_negative,
    ),
    vae.gaussian_kl: (
        lambda i: vae.gaussian_kl(i.tensor(i.n, i.d), i.tensor(i.n, i.d), reduction="mean"),
        non_negative,
    ),
    vae.naive_penalty: (
        lambda i: vae.naive_penalty(i.tensor(i.n, i.d), i.tensor(i.n, i.d)),
        non_negative,
    ),
    vae.ppca: (lambda i: vae.ppca(torch.diag(i.positive(i.d)), i.d, i.number()).W, anything),
    vae.optimal_linear_encoder: (
        lambda i: vae.optimal_linear_encoder(i.tensor(i.n, i.d), i.number(), i.number())[1],
        probability,
    ),
    vae.linear_elbo: (
        lambda i: vae.linear_elbo(
            i.tensor(i.n, i.d),
            i.tensor(i.d, i.m),
            i.tensor(i.d),
            i.number(),
            i.tensor(i.m, i.d),
            i.positive(i.m),
        ),
        anything,
    ),
    vae.active_axes: (
        lambda i: float(vae.active_axes(i.positive(i.d), i.number(), i.number())),
        non_negative,
    ),
    vae.optimal_radius: (
        lambda i: vae.optimal_radius(i.positive(i.d), i.number(), i.number()),
        probability,
    ),
    vae.rate_split: (
        lambda i: (
            vae.rate_split(
                i.tensor(i.n, i.d), i.tensor(i.n, i.d), samples=2, generator=seeded(i)
            ).rate
        ),
        anything,
    ),
    im.mi_bound: (
        lambda i: im.mi_bound(
            i.tensor(i.n + 1, i.n + 1),
            i.draw(st.sampled_from(["infonce", "nwj", "dv", "jsd"])),
        ),
        anything,
    ),
    im.f_generator: (
        lambda i: im.f_generator(i.draw(st.sampled_from(DIVERGENCES)), i.positive(i.n)),
        anything,
    ),
    im.f_conjugate: (
        lambda i: im.f_conjugate(i.draw(st.sampled_from(DIVERGENCES)), -i.positive(i.n)),
        anything,
    ),
    im.retrieval_precision: (
        lambda i: im.retrieval_precision(
            i.tensor(i.n + 1, i.d),
            torch.arange(i.n + 1) % 2,
            1,
            i.draw(st.sampled_from(["cosine", "euclidean"])),
        ),
        probability,
    ),
    simsiam.toy_limit: (
        lambda i: simsiam.toy_limit(i.draw(numbers), i.draw(numbers), i.draw(flows)),
        anything,
    ),
    simsiam.mode_fixed_points: (
        lambda i: simsiam.mode_fixed_points(i.draw(positive), i.draw(positive)),
        anything,
    ),
    simsiam.simsiam_loss: (
        lambda i: simsiam.simsiam_loss(*(i.tensor(i.n, i.d) for _ in range(4))),
        anything,
    ),
    simsiam.collapse_metrics: (
        lambda i: simsiam.collapse_metrics(i.tensor(i.n + 1, i.d)),
        anything,
    ),
    dialogue.dialogue_loss: (
        lambda i: dialogue.dialogue_loss(
            i.tensor(i.m, i.n + 1, i.d + 1),
            torch.randint(i.d + 1, (i.m, i.n + 1), generator=seeded(i)),
            pad_id=-1,
            reduction=i.draw(st.sampled_from(["mean", "sum", "none"])),
        ),
        non_negative,
    ),
}

# Infinite or undefined where the docstring says so, or beyond what this table can say in a line.
ELSEWHERE = {
    "nan rows by their docstring; tests/attention": (la.linear_attention, la.attention_matrix),
    "state grows by what it is given": (la.linear_attention_step,),
    "infinite where exp overflows, as its formula": (
        la.random_softmax_features,
        gc.descent_upper_bound,
    ),
    "infinite beyond the dtype, by the module's docstring": (
        imperfect_mean.npr_loss,
        imperfect_mean.sn_loss,
        imperfect_mean.variance_nll,
        unet.edm_error,
        unet.edm_loss,
        diffusion_ode.conditional_score_loss,
        diffusion_ode.flow_matching_loss,
        em.gmm_log_joint,
        em.gmm_log_prior,
        acc.three_point_optimum,
        optimal_variance.variance_bounds,
        gs.concrete_log_prob,
    ),
    "a few numbers in a row": (
        skip_tuning.skip_weights,
        ddim.check_decreasing_times,
        samplers.steps_within,
    ),
    "whole numbers, exact": (
        sy.logit_parameter_count,
        cc.dominant_color,
        cc.arm_matrix,
        cc.count_crosses,
        cc.enumerate_crosses,
        cc.is_valid_cross,
        cc.symmetry_permutations,
        cc.count_orbits,
        cc.sample_crosses,
        lrb.attention_parameter_count,
        dialogue.encode_dialogue,
        dialogue.encode_batch,
    ),
    "laws of a few tokens; tests/text": (
        markov.nontermination_probability,
        markov.expected_length,
        markov.check_truncation,
        markov.nucleus_bound,
        endless_decoding.chain_step,
    ),
    "checks only; tests/losses": (losses_batch.check_batch,),
    "files": (loaders.load_dialogues, loaders.load_word_vectors, loaders.load_sentence_pairs),
    "unchecked, for the distances entered above": (transport.least_cost, transport.solver_unit),
    "quadrature; own tests": (
        gs.binary_relaxation_moments,
        rs.same_sector_probability_density,
        em.symmetric_mixture_rate,
    ),
}
# Each takes a model, a law or an equation; extreme ones are tested beside them.
OF_FUNCTIONS = frozenset(
    """
    sample sample_analytic sample_edm sample_family log_likelihood flow_velocity
    denoiser_score marginal_score family_drift quantile_map reverse_step cold_step mask_sample
    noise_model velocity_batch edm_batch digit_network train_digit_network
    digit_unet train_digit_unet
    fokker_planck_generator_2d cell_averages_2d solve_fokker_planck
    continuity_residual wedge_symbolic last_solution_symbolic complete_basis
    complete_basis_batched planar_variational_flow em_rate fit_gmm hessian_spectral_norm
    score_function_gradient mask_sampler_distribution edit_sampler_distribution
    noise_interpolation same_halfspace_probability separable_through_origin perceptron_separates
    power_function_l0 nearest_texts estimate_count greedy sample decode beam_search
    digit_pairs noisy_labels as_text check_alike checked_norms
    reply fact_model train_fact_model
    gap_logits hidden_states tune_prompt encode review_corpus pretraining_corpus
    counting_rule_accuracy train_reader stored_reader mlp train_gans
    single_loss_gan ign_losses ign_loss train_igns
    ring_setting digit_setting compare draw clock_times left_open
    toy_flow linear_flow noise_penalty jacobian_penalty fast_gradient_perturbation
    gradient_penalty_loss virtual_adversarial_direction virtual_adversarial_loss
    """.split()  # noqa: SIM905
)


def public_functions():
    for series in SERIES:
        package = importlib.import_module(f"{kexue_lab.__name__}.{series}")
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            if module.name.endswith("_exercises"):
                continue
            for name, value in vars(importlib.import_module(module.name)).items():
                own = inspect.isfunction(value) and value.__module__ == module.name
                if own and not name.startswith("_"):
                    yield value


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_an_index_predicts_finite_scores(data):
    inputs = Inputs(data)
    try:
        index = cur.AnnCur(
            inputs.tensor(inputs.n, 5),
            [0, 3],
            ridge=inputs.draw(st.sampled_from([0.0, 1e-300, 1.0])),
        )
        found = index.scores(inputs.tensor(inputs.m, 2))
    except ValueError as error:
        if not is_refusal(error):
            raise
        return
    assert bool(found.isfinite().all())


def test_every_public_function_is_entered():
    listed = {function for functions in ELSEWHERE.values() for function in functions}
    entered = {function.__name__ for function in set(TABLE) | listed} | OF_FUNCTIONS
    assert {function.__name__ for function in public_functions()} == entered


def is_refusal(error):
    """Whether an error is one of ours: it says what must hold, or what a solver met."""
    return bool(re.search(r"must|not |lost|became|beyond|give exactly", str(error)))


def all_finite(value):
    if isinstance(value, tuple | list):
        return all(all_finite(part) for part in value)
    if isinstance(value, torch.Tensor):
        return bool(value.isfinite().all())
    return bool(np.isfinite(np.asarray(value, dtype=float)).all())


@pytest.mark.parametrize("function", TABLE, ids=lambda f: f.__name__)
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_finite_in_finite_out(function, data):
    call, law = TABLE[function]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            result = call(Inputs(data))
        except (ValueError, TypeError, RuntimeError) as error:
            if not is_refusal(error):
                raise
            return
    assert all_finite(result), result
    if isinstance(result, tuple):
        for part in result:
            law(part)
    else:
        law(result)


NAMES = ("log_prob", "score", "noise", "posterior_mean", "posterior_cov")


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_mixtures_are_finite_and_agree_with_float64(name, data):
    inputs = Inputs(data)
    pair, x, alpha, beta = mixture(inputs)
    try:
        value = getattr(pair, name)(x, alpha, beta)
    except ValueError as error:
        if not is_refusal(error):
            raise
        return
    exact = getattr(pair, name)(x.double(), alpha, beta)
    assert bool(value.isfinite().all())
    assert torch.allclose(value.double(), exact, rtol=2 * torch.finfo(x.dtype).eps, atol=1e-7)


@pytest.mark.parametrize("shift", [0.0, 1000.0])
@settings(max_examples=10, deadline=None, derandomize=True)
@given(scale=positive)
def test_distances_are_symmetric(shift, scale):
    x, y = (torch.randn(4, 3, generator=torch.Generator().manual_seed(s)).double() for s in (1, 2))
    x, y = (x + shift) * scale, (y + shift) * scale
    for function in (wm.word_movers_distance, wm.word_rotators_distance):
        assert function(x, y).item() == pytest.approx(function(y, x).item(), rel=1e-9)
        assert function(x, x).item() == pytest.approx(0, abs=1e-12 * scale)
