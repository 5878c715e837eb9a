"""Texts and masses that the tests of transport and of word distances share."""

from collections.abc import Callable

import numpy as np
import torch
from hypothesis import strategies as st
from scipy.optimize import linprog
from torch import Tensor

F64 = torch.float64
seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 7)


def tensor(value: object) -> Tensor:
    return torch.as_tensor(value, dtype=F64)


def det(n: int, d: int, a: float) -> Tensor:
    i, c = np.arange(n)[:, None], np.arange(d)
    return tensor(np.sin(a * i + c) + 0.3 * np.cos(i * c + a))


X, Y, Z = det(4, 3, 1.0), det(6, 3, 0.7), det(5, 3, 1.9)
UNIFORM_X, UNIFORM_Y = torch.full((4,), 1 / 4, dtype=F64), torch.full((6,), 1 / 6, dtype=F64)


def random_text(rng: np.random.Generator, n: int, d: int = 3) -> Tensor:
    return tensor(rng.standard_normal((n, d)) * rng.uniform(0.2, 3, (n, 1)))


def by_linprog(p: np.ndarray, q: np.ndarray, cost: np.ndarray) -> float:
    m, n = cost.shape
    rows = np.kron(np.eye(m), np.ones(n))
    columns = np.kron(np.ones(m), np.eye(n))
    # One equality is redundant; without it rounding cannot make them contradict each other.
    equalities, masses = np.vstack([rows, columns])[:-1], np.concatenate([p, q])[:-1]
    return linprog(cost.ravel(), A_eq=equalities, b_eq=masses, method="highs").fun


def central_difference(f: Callable[[Tensor], Tensor], x: Tensor, step: float = 1e-6) -> Tensor:
    units = torch.eye(x.numel(), dtype=F64).reshape(-1, *x.shape) * step
    slopes = [(f(x + unit) - f(x - unit)).item() / (2 * step) for unit in units]
    return tensor(slopes).reshape(x.shape)
