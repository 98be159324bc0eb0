"""Images are decoded upright and by their content, and masks of every type of numbers are read."""

import io

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps
from support import converted

from nnunet_xattnres.convert.pictures import decode, decode_mask, read_channels
from nnunet_xattnres.convert.problems import UnusableError
from nnunet_xattnres.convert.sources import SourceFile

RGB = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
MASK = np.zeros((20, 30), np.uint8)
MASK[2:9, 3:25] = 255


def save(array, path, orientation=None, **options):
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    Image.fromarray(array).save(path, exif=exif, **options)
    return SourceFile(path.name, path)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp"])
def test_orientation(tmp_path, ending, orientation):
    file = save(RGB, tmp_path / f"1.{ending}", orientation)
    picture = decode(file)
    with Image.open(file.path) as stored:
        expected = ImageOps.exif_transpose(stored)
    np.testing.assert_array_equal(np.asarray(picture.image), np.asarray(expected))
    assert picture.orientation == orientation and picture.image.size == ((20, 30) if orientation > 4 else (30, 20))


def test_broken_orientation(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    (tmp_path / "1.png").write_bytes(buffer.getvalue())
    picture = decode(SourceFile("1.png", tmp_path / "1.png"))
    np.testing.assert_array_equal(np.asarray(picture.image), RGB)


@pytest.mark.parametrize("ending", ["gif", "webp", "jp2", "ppm", "tga"])
def test_other_formats(tmp_path, ending):
    options = {"webp": {"lossless": True}}.get(ending, {})
    array = MASK if ending == "gif" else RGB
    file = save(array, tmp_path / f"1.{ending}", **options)
    np.testing.assert_array_equal(np.asarray(decode(file).image.convert("RGB" if array.ndim == 3 else "L")), array)
    assert read_channels(file) == (3 if array.ndim == 3 else 1)


@pytest.mark.parametrize(("ending", "lossy"), [("jpg", True), ("webp", True), ("png", False)])
def test_lossy_compression_is_told_by_the_content(tmp_path, ending, lossy):
    file = save(RGB, tmp_path / f"1.{ending}")
    renamed = file.path.rename(tmp_path / "renamed.png")
    assert decode(SourceFile("renamed.png", renamed)).lossy is lossy


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.int32, np.uint32, np.float32, np.float64])
def test_masks_of_other_numbers(tmp_path, dtype):
    values = np.array([[0, 300], [7, 1000]], dtype)
    tifffile.imwrite(tmp_path / "1.tif", values)
    mask = decode_mask(SourceFile("1.tif", tmp_path / "1.tif"))
    np.testing.assert_array_equal(np.asarray(mask.image), values)


def test_masks_that_are_not_finite(tmp_path):
    tifffile.imwrite(tmp_path / "1.tif", np.array([[0, np.nan]], np.float32))
    with pytest.raises(UnusableError) as error:
        decode_mask(SourceFile("1.tif", tmp_path / "1.tif"))
    assert error.value.problem.code == "not-finite"


class TestConversion:
    """The command on photographs and masks as cameras and tools write them."""

    @pytest.fixture
    def source(self, tmp_path):
        """Six images of 30 x 20 pixels with masks."""
        for n in range(6):
            for folder, array in (("images", RGB), ("masks", MASK)):
                (tmp_path / "s" / folder).mkdir(parents=True, exist_ok=True)
                save(array, tmp_path / "s" / folder / f"{n}.png")
        return tmp_path / "s"

    def test_a_photograph_and_its_upright_mask(self, convert, source):
        (source / "images" / "1.png").unlink()
        save(RGB, source / "images" / "1.jpg", 6)
        save(np.rot90(MASK, -1), source / "masks" / "1.png")
        save(MASK, source / "masks" / "2.png", 3)
        dataset = convert("folder", source, "--split", "1:0:0")
        expected = ImageOps.exif_transpose(Image.open(source / "images" / "1.jpg"))
        image = converted.read_array(dataset / "imagesTr" / "1_0000.png")
        np.testing.assert_array_equal(image, np.asarray(expected))
        for n, labels in ((1, np.rot90(MASK, -1)), (2, MASK[::-1, ::-1])):
            np.testing.assert_array_equal(converted.read_array(dataset / "labelsTr" / f"{n}.png"), labels > 0)
        changes = {n: record["changes"] for n, record in converted.records(dataset).items()}
        assert any("orientation" in change and "6" in change for change in changes["1"])
        assert any("orientation" in change and "3" in change for change in changes["2"])
        assert not any("orientation" in change for change in changes["0"])

    @pytest.mark.parametrize("exif", [True, False])
    @pytest.mark.parametrize("options", [(), ("--resize-masks",)])
    def test_a_turned_mask_is_not_resized(self, refuse, source, exif, options):
        if exif:
            save(RGB, source / "images" / "1.png", 6)
        else:
            save(np.rot90(MASK), source / "masks" / "1.png")
        (_, problem) = refuse("folder", source, *options)
        assert problem.strip().startswith("masks/1.png: size-mismatch: ")
        assert "--resize-masks" not in problem and ("EXIF" in problem) == exif

    def test_a_transparent_colour_makes_no_fourth_channel(self, convert, source):
        save(RGB, source / "images" / "1.png", transparency=tuple(RGB[0, 0].tolist()))
        dataset = convert("folder", source, "--split", "1:0:0")
        np.testing.assert_array_equal(converted.read_array(dataset / "imagesTr" / "1_0000.png"), RGB)

    @pytest.mark.parametrize("ending", ["png", "tif"])
    def test_labels_above_255(self, convert, source, ending):
        for path in (source / "masks").iterdir():
            path.unlink()
            save(MASK.astype(np.uint16) * 4, path.with_suffix(f".{ending}"))
        labels = [f"{value}=class {value}" for value in range(1, 301)] + ["1020=cell"]
        dataset = convert("folder", source, "--split", "1:0:0", "--labels", *labels)
        expected = (MASK > 0).astype(int) * 301
        np.testing.assert_array_equal(converted.read_array(dataset / "labelsTr" / "1.png"), expected)

    def test_a_probability_map(self, refuse, convert, source):
        for n, path in enumerate(sorted((source / "masks").iterdir())):
            path.unlink()
            save(MASK / np.float32(255) * (0.75 if n else 0.25), path.with_suffix(".tif"))
        assert "--threshold, such as 0.5" in refuse("folder", source)[1]
        dataset = convert("folder", source, "--split", "1:0:0", "--threshold", "0.5")
        np.testing.assert_array_equal(converted.read_array(dataset / "labelsTr" / "1.png"), MASK > 0)
        records = converted.records(dataset)
        assert [name for name in records if any("became empty" in c for c in records[name]["changes"])] == ["0"]

    def test_foreground_that_resizing_removes(self, convert, source):
        save((np.indices(MASK.shape).sum(0) == 0).astype(np.uint8), source / "masks" / "1.png")
        dataset = convert("folder", source, "--split", "1:0:0", "--size", "10", "15")
        records = converted.records(dataset)
        assert [name for name in records if any("became empty" in c for c in records[name]["changes"])] == ["1"]

    def test_a_size_that_is_too_large(self, refuse_line, source):
        assert "--size" in refuse_line("folder", source, "--size", "20000")

    def test_gif_masks(self, convert, source):
        for path in (source / "masks").iterdir():
            path.unlink()
            save(MASK, path.with_suffix(".gif"))
        dataset = convert("folder", source, "--split", "1:0:0")
        np.testing.assert_array_equal(converted.read_array(dataset / "labelsTr" / "1.png"), MASK > 0)
