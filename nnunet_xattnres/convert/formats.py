"""File endings and the intensity window, for the layouts, which must not import the readers on start."""

IMAGE_ENDINGS = (
    ".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp", ".jp2", ".ppm", ".pgm", ".pbm", ".tga",
)  # fmt: skip
"""Endings of 2-D images that Pillow reads."""

VOLUME_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".gipl", ".mgz")
"""Endings of 3-D volumes in one file that SimpleITK or nibabel read."""

_TWO_FILES = "header and data are two files; save them as .nii.gz"
_AS_PNG = "save it as .png"
UNREAD_ENDINGS = {
    ".mhd": _TWO_FILES, ".nhdr": _TWO_FILES, ".hdr": _TWO_FILES, ".img": _TWO_FILES,
    ".dcm": "DICOM; convert the series to .nii.gz with dcm2niix",
    ".heic": _AS_PNG, ".avif": _AS_PNG, ".psd": _AS_PNG, ".svs": _AS_PNG, ".ndpi": _AS_PNG, ".czi": _AS_PNG,
    ".nd2": _AS_PNG, ".npy": _AS_PNG, ".mat": _AS_PNG,
}  # fmt: skip
"""Endings of images that are known but not read, and what to do about each."""

CT_WINDOW = (-125, 275)
"""The paper's clip window for abdominal CT, in HU."""
