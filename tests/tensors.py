"""Short words for what most tests build."""

import torch


def t64(*values):
    """A float64 tensor of these values."""
    return torch.tensor(values, dtype=torch.float64)


def seeded(seed=0):
    """A random generator of its own."""
    return torch.Generator().manual_seed(seed)
