"""2-D images of every kind are decoded as another library decodes them, and others are refused.

Faults of whole sources are in test_dataset.py.
"""

import io

import numpy as np
import pytest
from PIL import Image
from skimage import io as skio
from support import converted, downloads, faults

from nnunet_xattnres.convert.case import SourceCase
from nnunet_xattnres.convert.images import ImageReader
from nnunet_xattnres.convert.labels import BinaryMask
from nnunet_xattnres.convert.mask_encoding import MaskEncoding, decide_encoding, survey_mask
from nnunet_xattnres.convert.pictures import Picture, count_channels, decode, decode_mask
from nnunet_xattnres.convert.problems import UnusableError
from nnunet_xattnres.convert.sources import SourceFile

MASK = np.zeros((20, 30), bool)
MASK[4:16, 8:24] = True
RGB = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)


def source_file(path):
    return SourceFile(path.name, path)


def read_image(path):
    return ImageReader(BinaryMask("polyp"), 3).read(SourceCase("1", "train", (source_file(path),)))


@pytest.mark.parametrize("flavour", downloads.FLAVOURS)
def test_values_of_masks(tmp_path, flavour):
    file = source_file(tmp_path / f"m{downloads.ending(flavour)}")
    downloads.save_mask(MASK, file.path, flavour)
    encoding, _ = decide_encoding([survey_mask(file)], BinaryMask("polyp"))
    mask = decode_mask(file)
    labels, _ = BinaryMask("polyp").apply(encoding.read_values(mask, file), file.name, mask.lossy)
    np.testing.assert_array_equal(labels, MASK)


def test_a_mask_in_the_alpha_channel(tmp_path):
    file = source_file(tmp_path / "m.png")
    faults.save(np.dstack([np.full((20, 30, 3), 200, np.uint8), MASK * np.uint8(255)]), file.path)
    np.testing.assert_array_equal(MaskEncoding(alpha=True).read_values(decode_mask(file), file), MASK * 255)


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "jpg"])
def test_images_as_skimage_reads_them(tmp_path, ending):
    path = tmp_path / f"1.{ending}"
    faults.save(RGB, path)
    data = read_image(path)
    np.testing.assert_array_equal(np.asarray(data.image), skio.imread(path))
    assert data.labels is None and data.counts == {}


def test_palettes_and_alpha(tmp_path):
    with_palette = Image.fromarray(RGB).quantize(16)
    with_palette.save(tmp_path / "p.png")
    faults.save(np.dstack([RGB, np.full((20, 30), 255, np.uint8)]), tmp_path / "a.png")
    for name, expected in (("p.png", np.asarray(with_palette.convert("RGB"))), ("a.png", RGB)):
        np.testing.assert_array_equal(np.asarray(read_image(tmp_path / name).image), expected)
    assert count_channels(Picture(Image.fromarray(RGB[..., 0]).quantize(16), 8)) == 1


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp"])
@pytest.mark.parametrize("kept", [0.9, 0.3])
def test_truncated_images(tmp_path, ending, kept):
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, {"jpg": "JPEG"}.get(ending, ending))
    path = tmp_path / f"1.{ending}"
    path.write_bytes(buffer.getvalue()[: int(kept * len(buffer.getvalue()))])
    with pytest.raises(UnusableError) as error:
        decode(source_file(path))
    assert error.value.problem.code in ("damaged", "not-an-image")


class TestConversion:
    """The command on 2-D images."""

    @pytest.fixture
    def frames(self, tmp_path):
        """Images of 28 x 24 pixels (width x height), with a mask in every flavour."""
        source = downloads.clinicdb(tmp_path, "flat", range(1, len(downloads.FLAVOURS) + 1))
        for n, flavour in enumerate(downloads.FLAVOURS, 1):
            path = source / "masks" / f"{n}.png"
            mask = skio.imread(path) > 0
            np.save(source / f"{n}.npy", mask)
            path.unlink()
            downloads.save_mask(mask, path.with_suffix(downloads.ending(flavour)), flavour)
        return source

    def test_every_flavour_of_masks(self, convert, frames):
        dataset = convert("folder", frames, "--split", "1:0:0")
        for n in range(1, len(downloads.FLAVOURS) + 1):
            label_map = converted.read_array(dataset / "labelsTr" / f"{n}.png")
            np.testing.assert_array_equal(label_map, np.load(frames / f"{n}.npy"))

    def test_a_mask_of_another_size(self, convert, frames):
        mask = np.load(frames / "1.npy").repeat(2, 0).repeat(2, 1)
        faults.save(mask, frames / "masks" / "1.png")
        dataset = convert("folder", frames, "--split", "1:0:0", "--resize-masks")
        np.testing.assert_array_equal(converted.read_array(dataset / "labelsTr" / "1.png"), mask[::2, ::2])
        changes = converted.records(dataset)["1"]["changes"]
        assert [change for change in changes if "56x48" in change and "28x24" in change]

    def test_size(self, convert, frames):
        dataset = convert("folder", frames, "--split", "1:0:0", "--size", 12, 14)
        image, labels = (converted.read_array(dataset / f) for f in ("imagesTr/1_0000.png", "labelsTr/1.png"))
        assert image.shape == (12, 14, 3) and labels.shape == (12, 14)
        assert set(np.unique(labels)) == {0, 1}
        average = skio.imread(frames / "images" / "1.png").reshape(12, 2, 14, 2, 3).mean((1, 3))
        assert np.abs(image - average).mean() < 8  # of smoothed images of half the size; random colours differ by 30
