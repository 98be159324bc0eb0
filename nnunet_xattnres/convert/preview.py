"""A picture of some converted cases, which shows whether the masks fit their images."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..utils.overlays import COLOURS
from ..utils.plotting import new_figure, save_figure

COLUMNS, ROWS = 4, 2


def save_preview(
    cases: Sequence[tuple[str, np.ndarray, np.ndarray]], labels: Mapping[str, int], title: str, path: Path
) -> None:
    """Draw images with the outlines of their labels.

    Args:
        cases: at most 8 of (name, image (H, W) or (H, W, 3), label map (H, W)).
        labels: label by name, for the legend.
        title: title of the picture.
        path: the PNG file to write.
    """
    from matplotlib.lines import Line2D

    columns = min(COLUMNS, len(cases))
    rows = -(-len(cases) // columns)
    figure = new_figure(2.6 * columns, 2.6 * rows + 0.9)
    foreground = {name: label for name, label in labels.items() if label}
    colours = {label: COLOURS[i % len(COLOURS)] for i, label in enumerate(foreground.values())}
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, (name, image, label_map) in zip(axes, cases, strict=False):
        axis.imshow(image, cmap="gray")
        for label in colours.keys() & set(np.unique(label_map).tolist()):
            mask = np.pad(label_map == label, 1)  # closes the outlines at the borders
            x, y = np.arange(-1, mask.shape[1] - 1), np.arange(-1, mask.shape[0] - 1)
            axis.contour(x, y, mask, levels=[0.5], colors=colours[label], linewidths=1)
        axis.set_title(name, fontsize=8)
    handles = [Line2D([], [], color=colours[label], label=name) for name, label in foreground.items()]
    figure.suptitle(title, fontsize=10)
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 5), fontsize=8, frameon=False)
    save_figure(figure, path)
