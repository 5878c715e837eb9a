"""Attention: its linear forms and what they keep of softmax attention.

- `linear_attention`: attention without softmax: recurrent, chunked, dense
"""
