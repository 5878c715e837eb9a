"""Generative models: reparameterisation, variational autoencoders, quantisation.

- `adversarial`: generator against critic: losses, R1, one training loop, a ring of Gaussians
- `autoencoder`: the encoder and the decoder of the series
- `finite_scalar_quantization`: codes by rounding, codes by the nearest of a table
- `gan_reading_list`: a GAN of two parameters by eigenvalues, and norms of matrices and convolutions
- `gumbel_softmax`: gradients of an expectation over a discrete variable
- `idempotent_network`: a network that is its own critic, and its linear dynamics
- `info_max`: mutual information from telling true pairs from shuffled ones, and its features
- `vae_geometry`: ellipses for samples, their price, and linear autoencoders exactly
"""
