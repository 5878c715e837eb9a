"""What an answer makes of its inputs, as plain data; this part runs in the forked child."""

import copy
import inspect
import linecache
import sysconfig
import traceback
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import sympy as sp

from kexue_lab.diagnosis import numbers
from kexue_lab.feedback import as_text, clipped

Answer = Callable[..., Any]
Observer = Callable[..., Any]
FORMULA = (sp.Basic, sp.MatrixBase)
_LARGEST = 10_000_000
_FOREIGN = (
    str(Path(__file__).parent),
    *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")),
)


@dataclass(frozen=True)
class Opaque:
    """Stands for an object that is no plain data: its type and its text."""

    type_name: str
    text: str

    def __repr__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Trial:
    """What an answer made of one input, as plain data.

    Attributes:
        value: the result.
        problem: the error that was raised instead, in lines; empty if none was.
        changed: positions of the arguments that are not as they were.
    """

    value: Any = None
    problem: tuple[str, ...] = ()
    changed: tuple[int, ...] = ()


def plain(value: Any) -> Any:
    """The value as numbers, text, arrays, tensors on the CPU, formulas, and lists of them.

    It can be pickled, and looking at it runs no code of its maker.
    """
    if value is None or value is ... or isinstance(value, (np.generic, *FORMULA)):
        return value
    if _size(value) > _LARGEST:
        raise ValueError(f"it has {_size(value)} entries, too many to be compared")
    if type(value) in (bool, int, float, complex, str, Fraction, np.ndarray):
        return [plain(v) for v in value] if _holds_objects(value) else value
    if hasattr(value, "detach"):
        return _plain_tensor(value)
    if isinstance(value, tuple):
        return tuple(plain(v) for v in value)
    if isinstance(value, Mapping):
        return {plain(k): plain(v) for k, v in value.items()}
    if isinstance(value, Set):
        return {plain(v) for v in value}
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [plain(v) for v in value]
    for method in ("toarray", "__array__"):  # a sparse matrix, an array of another library
        if hasattr(value, method) and not isinstance(value, type):
            return np.array(getattr(value, method)())
    if hasattr(value, "__float__") and not isinstance(value, type):  # Decimal, mpmath's numbers
        return float(value)
    return Opaque(type(value).__name__, clipped(as_text(value, repr)))


def _size(value: Any) -> int:
    if isinstance(value, (np.ndarray, Sequence, Set, Mapping)):
        return value.size if isinstance(value, np.ndarray) else len(value)
    return int(value.numel()) if hasattr(value, "numel") else 1


def _holds_objects(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == object


def _plain_tensor(value: Any) -> Any:
    import torch

    # Of a subclass, the plain tensor; of a view, only its own entries.
    return value.detach().cpu().as_subclass(torch.Tensor).to_dense().clone()


def _error_lines(error: BaseException, function: Answer, given: int) -> tuple[str, ...]:
    """The error, the line of the student's own code that raised it, and what may help."""
    lines = [f"your code raised {type(error).__name__}: {clipped(as_text(error, str))}"]
    place = _own_line(error.__traceback__)
    if place is not None:
        lines.append(f"in line {place.lineno}: {place.line}")
    if isinstance(error, NameError):
        lines.append(
            "hint: a name that is not defined: is it a slip of the pen? In a fresh kernel, first "
            "run the cells above (Run → Run All Above Selected Cell)."
        )
    elif isinstance(error, TypeError) and not _takes(function, given):
        lines.append(f"hint: the function is called with {given} arguments.")
    return tuple(lines)


def _own_line(trace: TracebackType | None) -> traceback.FrameSummary | None:
    """The innermost line that belongs neither to the course nor to a library."""
    own = [
        frame
        for frame in traceback.extract_tb(trace)
        if not frame.filename.startswith(_FOREIGN) and linecache.getline(frame.filename, 1)
    ]
    return own[-1] if own else None


def _takes(function: Answer, count: int) -> bool:
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError:
        return False
    except ValueError:  # some built-in functions have no signature
        return True
    return True


def _changed(before: Sequence[Any], after: Sequence[Any]) -> tuple[int, ...]:
    return tuple(
        i for i, (a, b) in enumerate(zip(before, after, strict=True)) if not _unchanged(a, b)
    )


def _unchanged(before: Any, after: Any) -> bool:
    if isinstance(before, (list, tuple)):
        return len(before) == len(after) and all(map(_unchanged, before, after))
    if isinstance(before, Mapping):
        return before.keys() == after.keys() and all(_unchanged(before[k], after[k]) for k in after)
    a, b = numbers(before), numbers(after)
    if a is not None and b is not None:
        return bool(np.array_equal(a, b, equal_nan=True))
    # Objects that cannot be compared count as unchanged.
    comparable = any("__eq__" in vars(kind) for kind in type(before).__mro__[:-1])
    return not comparable or bool(before == after)


def attempt(function: Answer, arguments: tuple[Any, ...], observe: Observer | None) -> Trial:
    """Call the function with copies of the arguments; whatever it raises becomes a problem."""
    private = copy.deepcopy(arguments)
    try:
        result = function(*private)
    except BaseException as error:
        return Trial(problem=_error_lines(error, function, len(arguments)))
    try:
        value = plain(observed(result, private, observe))
    except BaseException as error:
        return Trial(problem=_unreadable(result, error))
    return Trial(value, changed=_changed(arguments, private))


def observed(result: Any, arguments: tuple[Any, ...], observe: Observer | None) -> Any:
    """What is to be compared of a result: itself, or what `observe` makes of it."""
    if observe is None or result is ... or result is None:
        return result
    return observe(result, *arguments)


def _unreadable(result: Any, error: BaseException) -> tuple[str, ...]:
    place = _own_line(error.__traceback__)
    where = () if place is None else (f"in line {place.lineno}: {place.line}",)
    why = f"{type(error).__name__}: {clipped(as_text(error, str))}"
    return (f"the result, a {type(result).__name__}, is of the wrong kind ({why})", *where)
