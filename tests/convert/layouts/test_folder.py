"""Folders of images and masks of every arrangement, split and kind of label."""

import json

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from PIL import Image
from skimage import io
from support import converted, downloads

from nnunet_xattnres.cli.main import main


def save(array, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def classes(n, values=(0, 128, 255)):
    return np.random.default_rng(n).choice(np.array(values, np.uint8), (12, 10))


def test_nuclei_as_they_are(convert, tmp_path):
    source = downloads.nuclei(tmp_path)
    dataset = convert("folder", source, "--name", "Nuclei", "--foreground", "nucleus")
    description = json.loads((dataset / "dataset.json").read_text())
    assert dataset.name == "Dataset007_Nuclei"
    assert description["labels"] == {"background": 0, "nucleus": 1}
    assert description["channel_names"] == {"0": "R", "1": "G", "2": "B"}
    parts = converted.split(dataset)
    assert {name: len(cases) for name, cases in parts.items()} == {"train": 16, "val": 2, "test": 2}
    for part, names in (("Tr", parts["train"] | parts["val"]), ("Ts", parts["test"])):
        for name in names:
            image = converted.content(dataset / f"images{part}" / f"{name}_0000.png")
            np.testing.assert_array_equal(image, io.imread(source / "images" / f"{name}.png"))
            label = converted.content(dataset / f"labels{part}" / f"{name}.png")
            np.testing.assert_array_equal(label, io.imread(source / "masks" / f"{name}.png") // 255)
    picture = io.imread(dataset / "preview.png")
    assert picture.shape[0] > 400 and picture.std() > 10


def test_grey_images_beside_their_masks_with_a_label_map(convert, tmp_path):
    for n in range(10):
        save(classes(n), tmp_path / "all" / f"scan{n}_img.png")
        save(classes(n), tmp_path / "all" / f"scan{n}_seg.png")
    (tmp_path / "all" / "notes.txt").write_text("not a picture")
    dataset = convert(
        "folder", tmp_path / "all", "--image-suffix", "_img", "--mask-suffix", "_seg",
        "--labels", "255=nucleus", "128=ignore", "0=background",
    )  # fmt: skip
    description = json.loads((dataset / "dataset.json").read_text())
    assert description["labels"] == {"background": 0, "nucleus": 1, "ignore": 2}
    assert description["channel_names"] == {"0": "grey"}
    names = converted.cases(dataset / "labelsTr")
    assert names < {f"scan{n}" for n in range(10)}
    for name in names:
        expected = np.select([(source := classes(int(name[4:]))) == 255, source == 128], [1, 2], 0)
        np.testing.assert_array_equal(converted.content(dataset / "labelsTr" / f"{name}.png"), expected)


def test_values_of_one_name_are_joined(convert, tmp_path):
    for n in range(10):
        save(classes(n), tmp_path / "s" / "imgs" / f"{n}.png")
        save(classes(n, (0, 1, 2, 7)), tmp_path / "s" / "gt" / f"{n}.png")
    dataset = convert("folder", tmp_path / "s", "--labels", "1=cell", "2=cell", "7=wall")
    label = converted.content(dataset / "labelsTr" / f"{(name := min(converted.cases(dataset / 'labelsTr')))}.png")
    source = classes(int(name), (0, 1, 2, 7))
    np.testing.assert_array_equal(label, np.select([(source == 1) | (source == 2), source == 7], [1, 2], 0))


@pytest.mark.parametrize("form", ["csv", "csv without head", "json"])
def test_split_file(convert, tmp_path, form):
    source = downloads.nuclei(tmp_path, 6)
    parts = {"train": ["1", "4"], "val": ["2"], "test": ["3", "5", "6"]}
    file = tmp_path / f"split.{form[:4].strip()}"
    lines = [f"{name},{split}" for split, names in parts.items() for name in names]
    head = ["case,split"] if form == "csv" else []
    file.write_text(json.dumps(parts) if form == "json" else "\n".join(head + lines))
    assert converted.split(convert("folder", source, "--split", file)) == {k: set(v) for k, v in parts.items()}


def test_folders_named_after_the_split(convert, tmp_path):
    for n, part in enumerate(["train", "train", "valid", "test"]):
        for kind in ("Images", "Masks"):
            save(classes(n, (0, 255)), tmp_path / "s" / part / kind / f"{n}.png")
    parts = converted.split(convert("folder", tmp_path / "s"))
    assert parts == {"train": {"0", "1"}, "val": {"2"}, "test": {"3"}}


def test_folders_that_tell_the_split_of_some(convert, tmp_path, capsys):
    for n, part in enumerate(["train", "test", "val_old"]):
        for kind in ("images", "masks"):
            save(classes(n, (0, 255)), tmp_path / "s" / part / kind / f"{n}.png")
    assert main(["convert", "folder", str(tmp_path / "s"), "--dataset-id", "7"]) == 2
    assert "some folders tell the split, but not val_old/images" in capsys.readouterr().err
    parts = converted.split(convert("folder", tmp_path / "s", "--split", "1:0:0"))
    assert parts == {"train": {"0", "1", "2"}, "val": set(), "test": set()}


def test_linked_folders(convert, tmp_path):
    source = downloads.nuclei(tmp_path, 4)
    (tmp_path / "links").mkdir()
    for kind in ("images", "masks"):
        (tmp_path / "links" / kind).symlink_to(source / kind)
    (tmp_path / "links" / "circle").symlink_to(tmp_path / "links")
    dataset = convert("folder", tmp_path / "links", "--split", "1:0:0")
    assert converted.cases(dataset / "imagesTr") == {"1", "2", "3", "4"}


def test_ratio(convert, tmp_path):
    source = downloads.nuclei(tmp_path, 10)
    parts = converted.split(convert("folder", source, "--split", "3:0:2"))
    assert {name: len(cases) for name, cases in parts.items()} == {"train": 6, "val": 0, "test": 4}


def test_volumes(convert, tmp_path):
    rng = np.random.default_rng(0)
    for n in range(5):
        for folder, array in (("images", rng.normal(size=(4, 5, 6))), ("masks", rng.integers(0, 2, (4, 5, 6)) * 255)):
            (tmp_path / "s" / folder).mkdir(parents=True, exist_ok=True)
            image = sitk.GetImageFromArray(array.astype(np.float32 if folder == "images" else np.uint8))
            image.SetSpacing((1, 2, 3))
            sitk.WriteImage(image, tmp_path / "s" / folder / f"{n}.nii.gz")
    dataset = convert("folder", tmp_path / "s", "--channel-name", "MRI", "--split", "4:0:1")
    name = min(converted.cases(dataset / "imagesTr"))
    new_image, new_label = (
        nibabel.load(dataset / f) for f in (f"imagesTr/{name}_0000.nii.gz", f"labelsTr/{name}.nii.gz")
    )
    image, label = (nibabel.load(tmp_path / "s" / f / f"{name}.nii.gz") for f in ("images", "masks"))
    np.testing.assert_array_equal(new_image.dataobj, image.dataobj)
    np.testing.assert_array_equal(new_label.dataobj, np.asarray(label.dataobj) // 255)
    np.testing.assert_array_equal(new_image.affine, image.affine)
    assert json.loads((dataset / "dataset.json").read_text())["channel_names"] == {"0": "MRI"}
