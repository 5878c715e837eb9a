"""Attention: its linear forms and what they keep of softmax attention."""
