"""Matplotlib figures that are only written to files, independent of the user's backend."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Item = TypeVar("Item")


def choose_evenly(items: Sequence[Item], count: int) -> list[Item]:
    """Choose at most `count` items at even distances, for the examples that a figure shows.

    >>> choose_evenly(range(40), 8)
    [2, 7, 12, 17, 22, 27, 32, 37]
    """
    count = min(count, len(items))
    return [items[len(items) * (2 * i + 1) // (2 * count)] for i in range(count)]


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure with constrained layout; width and height in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
