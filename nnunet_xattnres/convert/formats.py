"""File endings and the intensity window, for the layouts, which must not import the readers on start."""

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
LOSSY_ENDINGS = (".jpg", ".jpeg")
VOLUME_ENDINGS = (".nii.gz", ".nii")

CT_WINDOW = (-125, 275)
"""The paper's clip window for abdominal CT, in HU."""
