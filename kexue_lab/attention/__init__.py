"""Attention: its linear forms, its synthetic ones, and what they keep of softmax attention.

- `linear_attention`: attention without softmax: recurrent, chunked, dense
- `low_rank_bottleneck`: the key size that a pattern needs, its best fit with less, talking heads
- `synthesizer`: attention whose matrix does not come from comparing tokens
"""
