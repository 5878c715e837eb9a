"""Inputs at the ends of what floating-point numbers hold: huge, tiny, equal, far from 0."""

import torch
from hypothesis import strategies as st

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
KINDS = ("plain", "huge", "tiny", "subnormal", "equal", "far", "zeros", "mixed")

positive = st.sampled_from([1e-300, 1e-160, 1e-30, 1e-6, 0.3, 1.0, 7.0, 1e6, 1e30, 1e160, 1e300])
"""Positive numbers."""

numbers = st.one_of(st.just(0.0), positive, positive.map(lambda x: -x))
"""Numbers of either sign."""

shares = st.sampled_from([0.0, 1e-300, 1e-9, 0.3, 0.5, 1 - 1e-9, 1.0])
"""Numbers in [0, 1]."""

sizes = st.sampled_from([1, 2, 3, 17])
"""Lengths of axes."""


def filled(shape, kind, seed, dtype):
    """A tensor of a kind, all of whose entries are finite in the dtype."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    info = torch.finfo(dtype)
    values = {
        "plain": x,
        "huge": x.clamp(-3, 3) / 4 * info.max,
        "tiny": x * info.tiny * 8,
        "subnormal": x.sign() * info.smallest_normal * info.eps * 4,
        "equal": torch.full_like(x, 0.7),
        "far": 1000 + x,
        "zeros": torch.zeros_like(x),
        "mixed": x * torch.logspace(-4, 4, max(x.numel(), 1), dtype=x.dtype).reshape(x.shape),
    }[kind]
    return values.to(dtype)


class Inputs:
    """Draws the arguments of one call: tensors of one dtype, numbers, sizes."""

    def __init__(self, data, dtypes=DTYPES):
        self.draw = data.draw
        self.dtype = self.draw(st.sampled_from(dtypes))
        self.seed = self.draw(st.integers(0, 5))
        self.n, self.m, self.d = (self.draw(sizes) for _ in range(3))

    def tensor(self, *shape, kinds=KINDS):
        """Extreme entries of any sign."""
        self.seed += 1
        return filled(shape, self.draw(st.sampled_from(kinds)), self.seed, self.dtype)

    def positive(self, *shape):
        """Entries at least the dtype's smallest normal number."""
        x = self.tensor(*shape).abs()
        return x.clamp_min(torch.finfo(self.dtype).tiny)

    def law(self, *shape):
        """Probabilities over the last axis, some of them tiny."""
        exponents = filled(shape, "plain", self.seed, torch.float64) * self.draw(
            st.sampled_from([0.0, 1.0, 30.0])
        )
        return exponents.softmax(-1).to(self.dtype)

    def number(self):
        """A positive number."""
        return self.draw(positive)
