"""Figures of label maps over their images."""

import glob
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .errors import UserError
from .plotting import new_figure, save_figure
from .quiet import silence_libraries
from .readers import choose_reader

COLOURS = (
    "#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#0072b2", "#f0e442",
    "#a020f0", "#7fff00", "#ff1493", "#8b4513", "#00ced1", "#fa8072",
)  # fmt: skip
"""Colours of the labels. The first seven are Okabe's and Ito's, which colour-blind people can tell apart."""


def read_slices(
    images: Path,
    label_folders: Sequence[Path],
    case: str,
    dataset_json: Mapping[str, Any],
    plans: Mapping[str, Any] | None = None,
) -> list[np.ndarray]:
    """Read one slice of a case: its image and its label map from every folder.

    Of a volume, this is the slice with the most foreground in the first label map.

    Args:
        images: folder of images under nnU-Net's names.
        label_folders: folders of label maps. The first one has the references.
        case: the name of the case.
        dataset_json: the content of dataset.json.
        plans: the content of the plans, which name the reader.

    Returns:
        The image (H, W), or (H, W, 3) if it has three channels, then the label maps (H, W).

    Raises:
        UserError: if the case has no image.
    """
    ending = dataset_json["file_ending"]
    files = sorted(map(str, images.glob(f"{glob.escape(case)}_[0-9][0-9][0-9][0-9]{ending}")))
    if not files:
        raise UserError(f"no image of {case} in {images}: expected {case}_0000{ending}")
    reader = choose_reader(dataset_json, map(Path, files[:1]), plans)()
    with silence_libraries():
        channels = reader.read_images(files)[0]
        label_maps = [reader.read_seg(str(folder / f"{case}{ending}"))[0][0] for folder in label_folders]
    index = int((label_maps[0] > 0).sum(axis=(1, 2)).argmax())
    image = channels[:, index]
    if len(image) == 3:
        image = (image - image.min()) / max(float(np.ptp(image)), 1e-9)
    return [np.moveaxis(image, 0, -1) if len(image) == 3 else image[0], *(volume[index] for volume in label_maps)]


def draw_overlays(
    rows: Sequence[tuple[str, Sequence[np.ndarray]]],
    column_titles: Sequence[str],
    labels: Mapping[str, int | Sequence[int]],
    path: Path,
) -> None:
    """Draw images and label maps over them into a PNG file: one row per case, one column per label map.

    Args:
        rows: the text beside each row, and its arrays: the image, then one label map for every further column.
        column_titles: the titles of the columns.
        labels: label values by name, for the legend. Of overlapping regions, the later ones are drawn over the earlier.
        path: the PNG file.
    """
    from matplotlib.colors import to_rgba
    from matplotlib.patches import Patch

    foreground = {
        name: value if isinstance(value, list) else [value]
        for name, value in labels.items()
        if value not in (0, [0]) and name != "ignore"
    }
    colours = {name: np.array(to_rgba(COLOURS[i % len(COLOURS)])) for i, name in enumerate(foreground)}
    heights = [arrays[0].shape[0] / arrays[0].shape[1] for _, arrays in rows]
    figure = new_figure(2.4 * len(column_titles), 2.4 * sum(heights) + 0.6)
    axes = figure.subplots(len(rows), len(column_titles), squeeze=False, gridspec_kw={"height_ratios": heights})
    for (text, (image, *label_maps)), row_axes in zip(rows, axes, strict=True):
        for axis, label_map in zip(row_axes, [None, *label_maps], strict=True):
            axis.imshow(image, cmap="gray")
            if label_map is not None:
                overlay = np.zeros((*label_map.shape, 4))
                for name, values in foreground.items():  # later regions replace earlier ones, as in nnU-Net
                    overlay[np.isin(label_map, values)] = colours[name] * (1, 1, 1, 0.65)
                axis.imshow(overlay, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
        row_axes[0].set_ylabel(text, fontsize=8)
    fontsize = 10 if max(map(len, column_titles)) < 20 else 7  # one size for all columns
    for axis, title in zip(axes[0], column_titles, strict=True):
        axis.set_title(title, fontsize=fontsize)
    handles = [Patch(color=tuple(colour), label=name) for name, colour in colours.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 4), fontsize=8, frameon=False)
    save_figure(figure, path)
