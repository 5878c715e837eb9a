"""Attention: its linear forms, its synthetic ones, positions, and what narrow heads lose.

- `linear_attention`: attention without softmax: recurrent, chunked, dense, and as heads
- `low_rank_bottleneck`: the key size that a pattern needs, its best fit with less, talking heads
- `relative_position`: biases by offset, rotations, weights by other norms, URPE, and the probe
- `synthesizer`: attention whose matrix does not come from comparing tokens
"""
