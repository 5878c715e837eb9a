"""Diffusion models: schedules, samplers, variances and their exact solutions.

- `schedules`: noise levels over time
- `mixtures`: Gaussian mixtures, whose diffused densities, scores and denoisers are known
- `networks`: small networks on vectors, such as 8×8 digits
- `quality`: how good samples are, without a downloaded network
- `probability_flow`: Fokker–Planck on a grid, and the processes that share its solution
- `ddim`: the Gaussian reverse steps that keep the marginals, and their sampler
- `diffusion_ode`: the velocity that carries data to noise, how it is learnt, noise levels
- `samplers`: samplers without fresh noise, one function each, all with one signature
- `optimal_variance`: Analytic-DPM: the best variance of a reverse step
- `imperfect_mean`: the best variance when the denoiser is wrong, measured or learned
- `comparison`: all samplers on the same data, for the table that opens the series
- `unified`: any gradual corruption, and its two-stage sampler
- `tokens`: masks and edits, and the laws of their samplers by enumeration
- `poisson_flow`: data as charges, samples along their field lines
- `unet`: small U-Nets whose skips can be weighted, trained on digits
- `skip_tuning`: weights on a trained U-Net's skips, and what samplers of few steps lack
"""
