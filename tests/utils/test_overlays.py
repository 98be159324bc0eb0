"""Figures of label maps over images, and the slices that they show."""

import numpy as np
import pytest
import SimpleITK
from skimage.io import imread, imsave

from nnunet_xattnres.utils.errors import UserError
from nnunet_xattnres.utils.overlays import draw_overlays, read_slices


def test_labels_are_coloured_and_images_are_grey(tmp_path):
    image = np.tile(np.linspace(0, 1, 40), (40, 1))
    labels = np.zeros((40, 40), int)
    labels[:20], labels[20:] = 1, 2
    titles = ["image", "reference", "one", "two"]
    draw_overlays(
        [("case", [image, labels, labels * 0, labels])], titles, {"background": 0, "a": 1, "b": 2}, tmp_path / "p.png"
    )
    pixels = imread(tmp_path / "p.png")[..., :3].astype(int)
    coloured = np.ptp(pixels, axis=2) > 40
    share = [column.mean() for column in np.array_split(coloured, 4, axis=1)]
    # the second and the fourth column have labels; the image and the empty prediction are grey
    assert min(share[1], share[3]) > 0.3
    assert max(share[0], share[2]) < 0.05


@pytest.fixture
def dataset(tmp_path):
    """A volume whose middle slice has the most foreground, and a colour image."""
    for folder in ("images", "labels", "predictions"):
        (tmp_path / folder).mkdir()
    volume, mask = np.random.default_rng(0).random((3, 6, 8), np.float32), np.zeros((3, 6, 8), np.uint8)
    mask[0, 0], mask[1, :3], mask[2, 0, 0] = 1, 2, 1
    for folder, name, array in (("images", "a_0000", volume), ("labels", "a", mask), ("predictions", "a", mask * 0)):
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), tmp_path / folder / f"{name}.nii.gz")
    colours = np.random.default_rng(1).integers(0, 256, (6, 8, 3), np.uint8)
    imsave(tmp_path / "images/b_0000.png", colours, check_contrast=False)
    imsave(tmp_path / "labels/b.png", mask[1], check_contrast=False)
    return tmp_path, volume, mask, colours


def test_the_slice_with_the_most_foreground_is_read(dataset):
    folder, volume, mask, _ = dataset
    description = {"file_ending": ".nii.gz", "channel_names": {"0": "MR"}}
    maps = [folder / "labels", folder / "predictions"]
    image, reference, prediction = read_slices(folder / "images", maps, "a", description)
    assert (image == volume[1]).all() and (reference == mask[1]).all() and not prediction.any()


def test_three_channels_are_read_as_rgb(dataset):
    folder, _, mask, colours = dataset
    description = {"file_ending": ".png", "channel_names": {"0": "R", "1": "G", "2": "B"}}
    image, reference = read_slices(folder / "images", [folder / "labels"], "b", description)
    assert image.shape == (6, 8, 3) and image.min() == 0 and image.max() == 1
    assert np.argmax(image) == np.argmax(colours) and (reference == mask[1]).all()


def test_a_case_without_an_image(dataset):
    with pytest.raises(UserError, match=r"\bc\b.*images"):
        read_slices(dataset[0] / "images", [], "c", {"file_ending": ".png"})
