"""Label values that are stored as floating point numbers, and numbers in messages that show how values differ."""

from collections.abc import Iterable

import numpy as np

_TOLERANCE = 1e-3
"""Resampling and rescaling leave differences of single precision; a smaller tolerance would refuse intact label maps,
a larger one would accept probabilities."""


def snap_to_integers(values: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Round the values that are within 0.001 of an integer, and leave the others as they are.

    >>> snap_to_integers(np.array([0, 0.9999, 0.5]))
    (array([0. , 1. , 0.5]), ['values rounded to integers, such as 0.9999 to 1'])

    Args:
        values: label values of any shape and dtype. Integers are returned unchanged.

    Returns:
        The values in the same shape and dtype, and a description of the change, or an empty list if there is none.
    """
    if values.dtype.kind != "f":
        return values, []
    integers = np.rint(values)
    close = np.isclose(values, integers, rtol=0, atol=_TOLERANCE)  # False for NaN
    changed = close & (values != integers)
    if not changed.any():
        return values, []
    largest = np.argmax(np.where(changed, np.abs(values - integers), 0))
    example = f"{format_value(values.flat[largest])} to {integers.flat[largest]:.0f}"
    return np.where(close, integers + 0, values), [f"values rounded to integers, such as {example}"]


def format_value(value: float) -> str:
    """The shortest text of a number that shows how it differs from others.

    >>> format_value(3.0), format_value(np.float32(0.1)), format_value(0.9999999)
    ('3', '0.1', '0.9999999')
    """
    short = f"{value:g}"
    return short if float(short) == value or value != value else str(value)


def format_values(values: Iterable[float], limit: int = 5) -> str:
    """The first values in a message, and how many more there are.

    >>> format_values([0.5, 1, 2], limit=2)
    '0.5, 1 and 1 more'
    """
    texts = [format_value(value) for value in values]
    more = f" and {len(texts) - limit} more" if len(texts) > limit else ""
    return ", ".join(texts[:limit]) + more
