"""Optimisation: step sizes, clipping and the dynamics of training."""
