"""Images and masks of the same folders and name are one case, and nothing is paired that might not belong together."""

from pathlib import Path

import pytest

from nnunet_xattnres.convert.layouts.pairing import name_cases, pair_images_with_masks
from nnunet_xattnres.convert.layouts.patterns import find_images_and_masks
from nnunet_xattnres.convert.sources import SourceFile
from nnunet_xattnres.utils.errors import UserError


def pair(*names):
    """The files of every case, and file and code of every problem."""
    found = find_images_and_masks([SourceFile(name, Path(name)) for name in names])
    pairs, problems = pair_images_with_masks(*found)
    cases = {name: tuple(match.file.name for match in matches) for name, matches in name_cases(pairs).items()}
    return cases, [(problem.file, problem.code.value) for problem in problems]


def test_the_same_name_in_another_folder_is_not_the_mask():
    """The mask of train/2 is missing. That of test/2 is the mask of another image, which is missing."""
    files = "train/images/1.png", "train/masks/1.png", "train/images/2.png", "test/masks/2.png"
    assert pair(*files) == (
        {"1": ("train/images/1.png", "train/masks/1.png")},
        [("train/images/2.png", "mask-missing"), ("test/masks/2.png", "image-missing")],
    )


def test_folders_that_have_nothing_in_common():
    assert pair("a/images/1.png", "b/masks/1.png") == ({"1": ("a/images/1.png", "b/masks/1.png")}, [])
    cases, problems = pair("a/images/1.png", "c/images/1.jpg", "b/masks/1.png")
    assert not cases and problems == [("a/images/1.png", "duplicate")]


def test_upper_and_lower_case():
    assert pair("images/A.PNG", "masks/a.png") == ({"A": ("images/A.PNG", "masks/a.png")}, [])
    both = pair("images/A.png", "images/a.png", "masks/A.png", "masks/a.png")
    assert both == ({n: (f"images/{n}.png", f"masks/{n}.png") for n in "Aa"}, [])


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["images/1", "images/2"], {"1", "2"}), (["a/images/1", "b/images/2"], {"1", "2"}),
        (["s/a/images/1", "s/b/images/1"], {"a/1", "b/1"}), (["s/images/1", "s/b/images/1"], {"1", "b/1"}),
        (["images/ab/1", "images/ac/1", "images/ac/2"], {"ab/1", "ac/1", "ac/2"}),
    ],
)  # fmt: skip
def test_names(files, names):
    cases, problems = pair(*(f"{file.replace('images', kind)}.png" for file in files for kind in ("images", "masks")))
    assert cases.keys() == names and not problems


def test_files_that_cannot_be_read():
    cases, problems = pair(
        "images/1.png", "masks/1.png", "images/1.json", "masks/1.npy",  # beside files that can be read
        "images/2.xcf", "masks/2.png", "images/3.png", "masks/3", "images/4.svg", "masks/4.xcf",  # of a case
        "images/5.dcm", "masks/6.nd2",  # known kinds of images
        "images/notes.txt", "masks/Makefile",
    )  # fmt: skip
    assert cases == {"1": ("images/1.png", "masks/1.png")}
    named = ["images/2.xcf", "images/4.svg", "images/5.dcm", "masks/3", "masks/4.xcf", "masks/6.nd2"]
    assert sorted(problems) == [(file, "ending") for file in named]


def test_nothing_fits():
    with pytest.raises(UserError, match=r"images/1_img\.png.*masks/1_mask\.png.*--masks") as error:
        pair("images/1_img.png", "masks/1_mask.png")
    assert "1 images" in str(error.value)
