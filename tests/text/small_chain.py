"""The chain of three tokens that the tests of decoding share."""

import numpy as np

CHAIN = np.array(
    [[0.3, 0.55, 0.05, 0.1], [0.5, 0.35, 0.1, 0.05], [0.25, 0.1, 0.05, 0.6], [0.3, 0.15, 0.5, 0.05]]
)
"""From a, b, c and <bos> to a, b, c and <eos>."""
