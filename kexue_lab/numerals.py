"""How a computed number is written in a sentence: rounded, so that no noise of floats is seen."""

import math
import re
from decimal import Decimal
from fractions import Fraction
from typing import Any, Literal

_LONGEST_EXACT = 12
_DIGITS = 4
# Below and above these, a power of ten is easier to read than zeros.
_SMALL, _LARGE = 1e-4, 1e6


def decimals_of(error: float, digits: int) -> int:
    """Return the decimals that show a value down to so many digits of its error."""
    rounded = float(f"{error:.{digits - 1}e}")
    return max(0, digits - 1 - math.floor(math.log10(rounded)))


def fixed(value: float, decimals: int, sign: Literal["", "+"] = "") -> str:
    """Write a value with so many decimals; a zero that is left of float noise has no sign."""
    return minus(f"{round(value, decimals) + 0.0:{sign}.{decimals}f}")


def short(value: Any, finest: float = 0.0) -> str:
    """Write a number in at most four digits.

    Args:
        value: a real or complex number; `int` and `Fraction` stay exact while they are short.
        finest: what is smaller than this is noise and is not shown.
    """
    if isinstance(value, (int, Fraction)) and not isinstance(value, bool):
        return _exact(value)
    number = complex(value)
    if number.imag:
        return f"{_real(number.real, finest)} + ({_real(number.imag, finest)})i"
    return _real(number.real, finest)


def told_apart(left: float, right: float, digits: int = 3) -> tuple[str, str]:
    """Write two different numbers in so many digits, or in as many more as tell them apart."""
    while digits < 17 and _significant(left, digits) == _significant(right, digits):
        digits += 1
    return _significant(left, digits), _significant(right, digits)


def minus(text: str) -> str:
    """Return the text with the sign of minus for hyphens that begin a number."""
    return re.sub(r"(?<![\w.])-(?=\d)", "−", text)


def _exact(value: int | Fraction) -> str:
    text = str(value)
    if len(text) > _LONGEST_EXACT:
        top, bottom = Decimal(value.numerator), Decimal(value.denominator)
        text = f"{top / bottom:.{_DIGITS - 1}e}"
    return minus(text)


def _real(value: float, finest: float) -> str:
    if abs(value) <= finest or value == 0:
        return "0"
    decimals = _DIGITS - 1 - math.floor(math.log10(abs(value)))
    if finest:
        decimals = min(decimals, math.ceil(-math.log10(finest)))
    shown = round(value, decimals)
    if abs(shown) >= 10 ** (_DIGITS - decimals):  # 0.99996 has become 1.0000
        decimals -= 1
    if shown and not _SMALL <= abs(shown) < _LARGE:
        return minus(f"{shown:.{_DIGITS}g}")
    # Zeros at the end stay: another processor's 1.999 is to be read beside 2.000, not beside 2.
    return minus(f"{shown + 0.0:.{max(decimals, 0)}f}")


def _significant(value: float, digits: int) -> str:
    """The value with so many significant digits, zeros at the end included."""
    if value == 0:
        return "0"
    if not _SMALL <= abs(value) < _LARGE:
        return minus(f"{value:.{digits - 1}e}")
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    return minus(f"{value:.{max(decimals, 0)}f}")
