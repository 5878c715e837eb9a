"""Attention: its linear forms, its synthetic ones, and what they keep of softmax attention.

- `linear_attention`: attention without softmax: recurrent, chunked, dense
- `synthesizer`: attention whose matrix does not come from comparing tokens
"""
