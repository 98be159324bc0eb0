"""Matplotlib figures that are only written to files, independent of the user's backend."""

import warnings
from collections.abc import Sequence
from pathlib import Path
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


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a figure with the names that users give: without formulas, and characters that no font has as boxes."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        content = text.get_text()
        if "$" in content and "\\mathdefault" not in content:  # the latter is matplotlib's own, for logarithmic axes
            text.set_parse_math(False)
        if not content.isascii():
            text.set_text(content.encode(errors="backslashreplace").decode())  # file names may be no UTF-8
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(path, dpi=110)
