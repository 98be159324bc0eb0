"""Map files with the geometry of the image, whichever of nnU-Net's readers has read it."""

from pathlib import Path
from typing import Any

import numpy as np

from ..utils.files import replaced_file

PICTURE_ENDINGS = (".png", ".bmp")
"""Endings of images whose maps are pictures of 8 bits."""


def map_ending(file_ending: str) -> str:
    """The ending of the map files for images of an ending.

    >>> map_ending(".bmp"), map_ending(".nii.gz"), map_ending(".tif")
    ('.png', '.nii.gz', '.tif')
    """
    return ".png" if file_ending in PICTURE_ENDINGS else file_ending


def write_map(values: np.ndarray, path: Path, properties: dict[str, Any]) -> None:
    """Write a map beside its image.

    Pictures have 8 bits, in which a weight of 1 is 255 and integers are kept. Other formats keep the values.

    Args:
        values: (Z, H, W) in the order of nnU-Net's readers, float32 or uint8; a 2-D image has one slice.
        path: the file; it is replaced as a whole.
        properties: what nnU-Net's reader has said of the image.
    """
    with replaced_file(path) as temporary:  # the ending says the format
        _write(values, temporary, properties)


def _write(values: np.ndarray, path: Path, properties: dict[str, Any]) -> None:
    if path.suffix in PICTURE_ENDINGS:
        from PIL import Image

        pixels = values[0] if values.dtype == np.uint8 else np.rint(values[0].clip(0, 1) * 255).astype(np.uint8)
        Image.fromarray(pixels).save(path)
    elif "sitk_stuff" in properties:
        import SimpleITK as sitk  # noqa: N813

        geometry = properties["sitk_stuff"]
        image = sitk.GetImageFromArray(values[0] if len(geometry["spacing"]) == 2 else values)
        image.SetSpacing(geometry["spacing"])
        image.SetOrigin(geometry["origin"])
        image.SetDirection(geometry["direction"])
        if "original_orientation" in geometry:  # the reader has turned the image
            image = sitk.DICOMOrient(image, geometry["original_orientation"])
        sitk.WriteImage(image, str(path), True)
    elif "nibabel_stuff" in properties:
        import nibabel
        from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

        geometry = properties["nibabel_stuff"]
        original = geometry["original_affine"]
        reoriented = geometry.get("reoriented_affine")
        volume = nibabel.Nifti1Image(values.transpose(2, 1, 0), original if reoriented is None else reoriented)
        if reoriented is not None:
            volume = volume.as_reoriented(ornt_transform(axcodes2ornt("RAS"), io_orientation(original)))
        nibabel.save(volume, path)
    else:
        import tifffile

        tifffile.imwrite(path, values, compression="zlib", photometric="minisblack")
