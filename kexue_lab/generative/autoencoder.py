"""The encoder and the decoder of the series: small networks between data and code.

x is data, (B, d); z a code, (B, k); ε standard normal noise of a code's shape.
"""

from itertools import pairwise

from torch import nn

from kexue_lab.validation import check_count


def mlp(*widths: int) -> nn.Sequential:
    """Return linear layers of the given widths with SiLU between them.

    Args:
        widths: numbers of features, at least two: of the input, the hidden layers, the output.

    Source: Elfwing, Uchibe and Doya, "Sigmoid-Weighted Linear Units", 2018, arXiv:1702.03118.

    Example:
        >>> [tuple(layer.weight.shape) for layer in mlp(64, 128, 4) if hasattr(layer, "weight")]
        [(128, 64), (4, 128)]
    """
    if len(widths) < 2:
        raise ValueError(f"widths must be at least two numbers, got {widths}")
    for place, width in enumerate(widths):
        check_count(**{f"widths[{place}]": width})
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.SiLU()]
    return nn.Sequential(*layers[:-1])
