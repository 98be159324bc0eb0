"""A picture of what was converted: do the masks lie on what they should?"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..utils.overlays import COLOURS
from ..utils.plotting import new_figure

COLUMNS, ROWS = 4, 2


def save_preview(
    cases: Sequence[tuple[str, np.ndarray, np.ndarray]], labels: Mapping[str, int], title: str, path: Path
) -> None:
    """Images with the outlines of their labels.

    Args:
        cases: name, image (H, W) or (H, W, 3), and label map (H, W) each; at most 8.
        labels: names and values, for the legend.
        title: above all.
        path: the PNG to write.
    """
    from matplotlib.lines import Line2D

    columns = min(COLUMNS, len(cases))
    rows = -(-len(cases) // columns)
    figure = new_figure(2.6 * columns, 2.6 * rows + 0.9)
    paint = {v: COLOURS[i % len(COLOURS)] for i, v in enumerate(v for v in labels.values() if v)}
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, (name, image, label_map) in zip(axes, cases, strict=False):
        axis.imshow(image, cmap="gray")
        for value in paint.keys() & set(np.unique(label_map).tolist()):
            mask = np.pad(label_map == value, 1)  # closed at the borders
            x, y = np.arange(-1, mask.shape[1] - 1), np.arange(-1, mask.shape[0] - 1)
            axis.contour(x, y, mask, levels=[0.5], colors=paint[value], linewidths=1)
        axis.set_title(name, fontsize=8)
    handles = [Line2D([], [], color=paint[v], label=name) for name, v in labels.items() if v]
    figure.suptitle(title, fontsize=10)
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 5), fontsize=8, frameon=False)
    figure.savefig(path, dpi=110)


def spread(names: Sequence[str]) -> list[str]:
    """At most as many as the picture holds, evenly over all."""
    count = min(COLUMNS * ROWS, len(names))
    return [names[len(names) * (2 * i + 1) // (2 * count)] for i in range(count)]
