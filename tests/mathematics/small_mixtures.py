"""Data and starts that the tests of mixtures and of EM share."""

import torch
from sklearn.datasets import load_iris
from torch import Tensor

from kexue_lab.mathematics.gaussian_mixture import Mixture, gmm_log_joint

F64 = torch.float64


def t(values: object) -> Tensor:
    return torch.tensor(values, dtype=F64)


def line() -> Tensor:
    """Six points on a line."""
    return t([[-2.0], [-1.0], [0.0], [1.0], [3.0], [4.0]])


def line_start(
    means: tuple[float, float] = (-1.0, 3.0), variances: tuple[float, float] = (1.0, 1.0)
) -> Mixture:
    return Mixture(t([0.5, 0.5]), t(means)[:, None], t(variances)[:, None, None])


def iris() -> Tensor:
    return t(load_iris().data)


def iris_start() -> Mixture:
    weights, covariances = torch.full((3,), 1 / 3, dtype=F64), torch.eye(4).to(F64)
    return Mixture(weights, iris()[[0, 50, 100]], covariances.repeat(3, 1, 1))


def q_value(x: Tensor, resp: Tensor, mixture: Mixture) -> Tensor:
    return (resp * gmm_log_joint(x, *mixture)).sum(-1).mean()
