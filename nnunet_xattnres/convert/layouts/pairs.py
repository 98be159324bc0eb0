"""Folders of pictures and folders of masks, as most 2-D data sets come."""

from collections.abc import Sequence

from ..sources import File

IMAGE_FOLDERS = {"images", "image", "imgs", "img", "original", "originals"}
MASK_FOLDERS = {"masks", "mask", "ground truth", "ground_truth", "groundtruth", "gt", "labels", "annotations"}


def in_folders(files: Sequence[File], folders: set[str]) -> list[File]:
    """Files whose folder has one of these names, in whatever case."""
    return [file for file in files if file.folders and file.folders[-1].lower() in folders]
