"""Generative models: reparameterisation, variational autoencoders, quantisation.

- `autoencoder`: the encoder and the decoder of the series
- `gumbel_softmax`: gradients of an expectation over a discrete variable
- `vae_geometry`: ellipses for samples, their price, and linear autoencoders exactly
"""
