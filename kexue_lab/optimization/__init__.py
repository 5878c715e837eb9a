"""Optimisation: step sizes, clipping and the dynamics of training.

- `gradient_clipping`: clipping as the step that (L0, L1)-smooth functions ask for
- `simsiam`: why a network that follows itself does not collapse
- `generalization`: noise, penalties and adversaries as one idea at several orders
- `amos`: steps, weight decay and schedules in units of a parameter's own scale, and Amos
"""
