"""Loss functions: what they optimise, and what that does to a classifier.

- `accuracy`: accuracy as a differentiable objective
- `batch`: what every loss does with a batch
- `cosent`: a ranking loss that sees only the order of the labels
- `data`: pairs of digits, labels with noise, calibration
- `flat_nce`: InfoNCE and FlatNCE, contrastive losses in floating point
- `multi_task`: weights of several losses, and which changes of the losses they do not see
- `soft_top_k`: which k of n are the largest, with gradients
- `total_variation`: between cross entropy and total variation, and what it does to wrong labels
"""
