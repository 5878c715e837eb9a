"""Articles of 科学空间 (Scientific Spaces) as runnable, checkable mathematics.

What a notebook needs is offered here by name and loaded on first use:

- `Claims`: state what is proved, ruled out, quoted, measured or observed
- `exercise`: an exercise of an article, with instant feedback
- `fit`, `generator`, `pick_device`: the training loop, explicit randomness, the device
- `use_style`, `save_figure`: one plot style, and where pictures go

A figure with sliders is `kexue_lab.explore.explore`. Each series is a sub-package with one module
of plain mathematics per article: `help("kexue_lab.diffusion")` lists them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kexue_lab.claims import Claims
    from kexue_lab.exercises import exercise
    from kexue_lab.figures import save_figure, use_style
    from kexue_lab.training import fit, generator, pick_device

_HOMES = {
    "Claims": "claims",
    "exercise": "exercises",
    "fit": "training",
    "generator": "training",
    "pick_device": "training",
    "save_figure": "figures",
    "use_style": "figures",
}
__all__ = [
    "Claims",
    "exercise",
    "fit",
    "generator",
    "pick_device",
    "save_figure",
    "use_style",
]


def __getattr__(name: str) -> Any:
    # On first use, so that the command line does not wait for torch and sympy.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
