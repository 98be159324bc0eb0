"""Names of the folders of images and of masks that most 2-D data sets use."""

from collections.abc import Sequence

from ..sources import SourceFile

IMAGE_FOLDERS = {"images", "image", "imgs", "img", "original", "originals"}
MASK_FOLDERS = {"masks", "mask", "ground truth", "ground_truth", "groundtruth", "gt", "labels", "annotations"}


def in_folders(files: Sequence[SourceFile], folders: set[str]) -> list[SourceFile]:
    """The files whose innermost folder has one of these names, in upper or lower case."""
    return [file for file in files if file.folders and file.folders[-1].lower() in folders]
