"""Generative models: reparameterisation, variational autoencoders, quantisation.

- `autoencoder`: the encoder and the decoder of the series
- `finite_scalar_quantization`: codes by rounding, codes by the nearest of a table
- `gumbel_softmax`: gradients of an expectation over a discrete variable
- `vae_geometry`: ellipses for samples, their price, and linear autoencoders exactly
"""
