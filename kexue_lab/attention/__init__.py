"""Attention: its linear forms and what they keep of softmax attention.

- `linear_attention`: attention without softmax: recurrent, chunked, dense
- `relative_position`: biases by offset, rotations, weights by other norms, URPE, and the probe
"""
