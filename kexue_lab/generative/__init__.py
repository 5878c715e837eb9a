"""Generative models: reparameterisation, variational autoencoders, quantisation.

- `gumbel_softmax`: gradients of an expectation over a discrete variable
"""
