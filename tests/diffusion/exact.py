"""What the tests of this series share: one mixture, one schedule, its exact noise."""

from tensors import t64

from kexue_lab.diffusion.mixtures import GaussianMixture
from kexue_lab.diffusion.schedules import NoiseSchedule

MIXTURE = GaussianMixture(t64(0.3, 0.7), t64([-1.5], [1.0]), t64(0.09, 0.25))
"""Weights 0.3 and 0.7, means −1.5 and 1, standard deviations 0.3 and 0.5."""

COSINE = NoiseSchedule.cosine(0)


def exact_noise(mixture, schedule=COSINE):
    """The ideal noise network of a mixture."""
    return lambda x, t: mixture.noise(x, schedule.alpha_bar(t), schedule.beta_bar(t))
