"""Types of command line arguments, for the argument `type` of argparse's `add_argument`."""

import argparse
import math


def positive_int(text: str) -> int:
    """Convert a whole number of at least 1.

    >>> positive_int("12")
    12

    Raises:
        argparse.ArgumentTypeError: if the text is anything else.
    """
    if not (text.isascii() and text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def positive_float(text: str) -> float:
    """Convert a finite number above 0.

    >>> positive_float("0.5")
    0.5

    Raises:
        argparse.ArgumentTypeError: if the text is anything else.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value
