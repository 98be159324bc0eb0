"""Types of command line arguments, for the argument `type` of argparse's `add_argument`."""

import argparse


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
