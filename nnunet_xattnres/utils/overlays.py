"""Label maps over their images, side by side."""

import glob
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from .errors import UserError
from .plotting import new_figure

COLOURS = (
    "#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#0072b2", "#f0e442",
    "#a020f0", "#7fff00", "#ff1493", "#8b4513", "#00ced1", "#fa8072",
)  # fmt: skip
"""Of labels; the first seven are told apart by most eyes."""


def slices(images: Path, folders: Sequence[Path], case: str, dataset: Mapping) -> list[np.ndarray]:
    """The image of a case and its label map from every folder; of a volume, the slice with the most of the first one.

    Args:
        images: nnU-Net's folder of images.
        folders: of label maps; the first are the references.
        case: its name.
        dataset: the content of dataset.json.

    Returns:
        The image (H, W), or (H, W, 3) where it has three channels, then label maps (H, W).

    Raises:
        UserError: if there is no image of it.
    """
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json as reader_for

    ending = dataset["file_ending"]
    files = sorted(map(str, images.glob(f"{glob.escape(case)}_[0-9][0-9][0-9][0-9]{ending}")))
    if not files:
        raise UserError(f"there is no image of {case} in {images}")
    reader = reader_for(dataset, files[0], verbose=False)()
    channels = reader.read_images(files)[0]
    maps = [reader.read_seg(str(folder / f"{case}{ending}"))[0][0] for folder in folders]
    best = int((maps[0] > 0).sum(axis=(1, 2)).argmax())
    image = channels[:, best]
    if len(image) == 3:
        image = (image - image.min()) / max(float(np.ptp(image)), 1e-9)
    return [np.moveaxis(image, 0, -1) if len(image) == 3 else image[0], *(volume[best] for volume in maps)]


def picture(
    rows: Sequence[tuple[str, Sequence[np.ndarray]]],
    columns: Sequence[str],
    labels: Mapping[str, int | Sequence[int]],
    path: Path,
) -> None:
    """Image, reference and each prediction side by side, one row per case.

    Args:
        rows: a text beside it and its arrays: the image, then a label map per further column.
        columns: the titles of the columns.
        labels: names and values, for the legend; of regions, the later lie over the earlier.
        path: the PNG to write.
    """
    from matplotlib.colors import to_rgba
    from matplotlib.patches import Patch

    foreground = {
        n: v if isinstance(v, list) else [v] for n, v in labels.items() if v not in (0, [0]) and n != "ignore"
    }
    paint = {name: np.array(to_rgba(COLOURS[i % len(COLOURS)])) for i, name in enumerate(foreground)}
    heights = [arrays[0].shape[0] / arrays[0].shape[1] for _, arrays in rows]
    figure = new_figure(2.4 * len(columns), 2.4 * sum(heights) + 0.6)
    axes = figure.subplots(len(rows), len(columns), squeeze=False, gridspec_kw={"height_ratios": heights})
    for (text, (image, *maps)), line in zip(rows, axes, strict=True):
        for axis, label_map in zip(line, [None, *maps], strict=True):
            axis.imshow(image, cmap="gray")
            if label_map is not None:
                overlay = np.zeros((*label_map.shape, 4))
                for name, values in foreground.items():  # as nnU-Net lays regions over each other
                    overlay[np.isin(label_map, values)] = paint[name] * (1, 1, 1, 0.65)
                axis.imshow(overlay, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
        line[0].set_ylabel(text, fontsize=8)
    for axis, title in zip(axes[0], columns, strict=True):
        axis.set_title(title, fontsize=10 if len(title) < 20 else 7)
    handles = [Patch(color=colour, label=name) for name, colour in paint.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 4), fontsize=8, frameon=False)
    figure.savefig(path, dpi=110)
