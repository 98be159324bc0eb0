"""What the stored values of masks mean is decided once for a whole data set, and never file by file."""

import numpy as np
import pytest
from PIL import Image
from support import converted

BLACK, WHITE, RED, GREY = (0, 0, 0), (255, 255, 255), (255, 0, 0), (128, 128, 128)
CELLS = np.zeros((16, 16), np.uint8)
CELLS[2:8, 2:8] = 1
BOTH = CELLS.copy()
BOTH[10:14, 4:12] = 2


def indexed(values, *palette):
    image = Image.fromarray(values)
    image.putpalette([channel for colour in palette for channel in colour])
    return image


def one_bit(values):
    """A PNG of 1 bit, as optimisers write masks of two values."""
    return Image.fromarray(values > 0)


def with_alpha(colour, alpha):
    return Image.fromarray(np.dstack([np.full((*alpha.shape, 3), colour, np.uint8), alpha]))


@pytest.fixture
def source(tmp_path):
    """A function that writes grey images with these masks."""

    def write(*masks):
        for n, mask in enumerate(masks):
            for folder in ("images", "masks"):
                (tmp_path / "source" / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.arange(n, n + 256, dtype=np.uint8).reshape(16, 16)).save(
                tmp_path / "source" / "images" / f"{n}.png"
            )
            mask.save(tmp_path / "source" / "masks" / f"{n}.png")
        return tmp_path / "source"

    return write


@pytest.fixture
def check(source, convert, capsys):
    """Convert masks, and check their label maps and the note."""

    def check(masks, expected, *options, note=None):
        dataset = convert("folder", source(*masks), "--split", "1:0:0", *options)
        for n, labels in enumerate(expected):
            np.testing.assert_array_equal(converted.read_array(dataset / "labelsTr" / f"{n}.png"), labels)
        if note:
            assert [line for line in converted.read_manifest(dataset)["notes"] if note in line]
            assert note in capsys.readouterr().out

    return check


CLASSES = ("--labels", "1=cell", "2=nucleus")


@pytest.mark.parametrize("more", [(), ("255=ignore",)], ids=["", "ignore"])
def test_a_mask_without_the_coloured_class(check, more):
    masks = [indexed(BOTH, BLACK, WHITE, RED), indexed(CELLS, BLACK, WHITE)]
    check(masks, [BOTH, CELLS], *CLASSES, *more, note="their indices")


def test_grey_palettes_have_the_values_that_the_label_map_knows(check):
    masks = [indexed(BOTH, BLACK, GREY, WHITE), indexed(CELLS, BLACK, GREY)]
    check(masks, [BOTH, CELLS], *CLASSES, note="their indices")


def test_grey_values_of_palettes_and_of_one_bit(check):
    grey = np.array([0, 128, 255], np.uint8)[BOTH]
    masks = [Image.fromarray(grey), indexed(CELLS, BLACK, WHITE), one_bit(CELLS)]
    expected = [BOTH, CELLS * 2, CELLS * 2]
    check(masks, expected, "--labels", "128=cell", "255=nucleus", note="their grey values")


def test_one_bit_beside_colours(check):
    check([indexed(BOTH, BLACK, WHITE, RED), one_bit(CELLS)], [BOTH, CELLS], *CLASSES)


@pytest.mark.parametrize("labels", [("1=cell", "255=ignore"), ("1=cell", "255=nucleus")])
def test_both_readings_are_possible(refuse_line, check, source, labels):
    masks = [indexed(CELLS, BLACK, WHITE), one_bit(CELLS)]
    assert "--palette" in refuse_line("folder", source(*masks), "--labels", *labels)
    check(masks, [CELLS, CELLS], "--labels", *labels, "--palette", "indices")


def test_a_background_of_another_index(refuse_line, check, source):
    masks = [indexed(1 - CELLS, WHITE, BLACK)] * 2
    assert "--palette" in refuse_line("folder", source(*masks))
    check(masks, [CELLS, CELLS], "--palette", "grey", note="their grey values")


def test_palettes_that_contradict_each_other(refuse, check, source):
    masks = [indexed(BOTH, BLACK, WHITE, RED)] * 2 + [indexed(CELLS, BLACK, RED)]
    (_, problem) = refuse("folder", source(*masks), *CLASSES)
    assert "masks/2.png: palette: " in problem and str(RED) in problem and str(WHITE) in problem
    check(masks, [BOTH, BOTH, CELLS], *CLASSES, "--palette", "indices")


def test_grey_values_of_colours(refuse_line, source):
    assert "--palette" in refuse_line("folder", source(indexed(BOTH, BLACK, WHITE, RED)), "--palette", "grey")


def test_an_empty_mask_in_the_alpha_channel(check):
    masks = [with_alpha(WHITE, CELLS * 255), with_alpha(WHITE, CELLS * 0)]
    check(masks, [CELLS, CELLS * 0], note="alpha")


def test_one_mask_in_the_alpha_channel(refuse, source):
    coloured = np.dstack([np.repeat(CELLS[..., None] * 255, 3, 2), np.full_like(CELLS, 255)])
    masks = [Image.fromarray(coloured), with_alpha(WHITE, CELLS * 255)]
    (_, problem) = refuse("folder", source(*masks))
    assert problem.strip().startswith("masks/1.png: mask-colours: ")
