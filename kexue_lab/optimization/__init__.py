"""Optimisation: step sizes, clipping and the dynamics of training.

- `gradient_clipping`: clipping as the step that (L0, L1)-smooth functions ask for
"""
