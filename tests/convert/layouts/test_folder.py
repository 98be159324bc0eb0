"""Folders of images and masks in every arrangement, with every kind of split and of labels."""

import json

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from PIL import Image
from skimage import io
from support import converted, downloads, faults


def save(array, path):
    """Save an image, and make its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def classes(n, values=(0, 128, 255)):
    """A random mask with these values."""
    return np.random.default_rng(n).choice(np.array(values, np.uint8), (12, 10))


def test_nuclei(convert, real_preview, tmp_path):
    source = downloads.nuclei(tmp_path)
    dataset = convert("folder", source, "--name", "Nuclei", "--foreground", "nucleus")
    description = json.loads((dataset / "dataset.json").read_text())
    assert dataset.name == "Dataset007_Nuclei"
    assert description["labels"] == {"background": 0, "nucleus": 1}
    assert description["channel_names"] == {"0": "R", "1": "G", "2": "B"}
    splits = converted.cases_by_split(dataset)
    assert {name: len(cases) for name, cases in splits.items()} == {"train": 16, "val": 2, "test": 2}
    for part, names in (("Tr", splits["train"] | splits["val"]), ("Ts", splits["test"])):
        for name in names:
            image = converted.read_array(dataset / f"images{part}" / f"{name}_0000.png")
            np.testing.assert_array_equal(image, io.imread(source / "images" / f"{name}.png"))
            label = converted.read_array(dataset / f"labels{part}" / f"{name}.png")
            np.testing.assert_array_equal(label, io.imread(source / "masks" / f"{name}.png") // 255)
    preview = io.imread(dataset / "preview.png")
    assert preview.shape[0] > 400 and preview.std() > 10


def test_grey_images_beside_their_masks_with_a_label_map(convert, tmp_path):
    for n in range(10):
        save(classes(n), tmp_path / "all" / f"scan{n}_img.png")
        save(classes(n), tmp_path / "all" / f"scan{n}_seg.png")
    (tmp_path / "all" / "notes.txt").write_text("not an image")
    dataset = convert(
        "folder", tmp_path / "all", "--images", "*_img.png", "--masks", "*_seg.png",
        "--labels", "255=nucleus", "128=ignore", "0=background",
    )  # fmt: skip
    description = json.loads((dataset / "dataset.json").read_text())
    assert description["labels"] == {"background": 0, "nucleus": 1, "ignore": 2}
    assert description["channel_names"] == {"0": "grey"}
    names = converted.case_names(dataset / "labelsTr")
    assert names < {f"scan{n}" for n in range(10)}
    for name in names:
        source = classes(int(name[4:]))
        expected = np.select([source == 255, source == 128], [1, 2], 0)
        np.testing.assert_array_equal(converted.read_array(dataset / "labelsTr" / f"{name}.png"), expected)


def test_names_of_labels_that_nnunet_reserves(convert, tmp_path):
    """nnU-Net knows `ignore` in lower case only, and would learn `Ignore` as a class."""
    for n in range(6):
        save(classes(n), tmp_path / "s" / "imgs" / f"{n}.png")
        save(classes(n), tmp_path / "s" / "gt" / f"{n}.png")
    dataset = convert("folder", tmp_path / "s", "--labels", "0=Background", "255=Ignore", "128=Cell")
    labels = LabelManager(json.loads((dataset / "dataset.json").read_text())["labels"], None)
    assert labels.ignore_label == 2 and labels.all_labels == [0, 1]


def test_patterns_as_paths_from_the_working_folder(convert, tmp_path, monkeypatch):
    for folder in ("a", "old/a"):
        save_pair(tmp_path / "s" / folder / "1.png", tmp_path / "s" / folder / "1_m.png")
    monkeypatch.chdir(tmp_path)
    dataset = convert("folder", "s", "--images", "s/a/*.png", "--masks", tmp_path / "s/a/*_m.png", "--split", "1:0:0")
    assert paired(dataset) == {"1": ("a/1.png", "a/1_m.png")}


def test_values_with_the_same_name_become_one_class(convert, tmp_path):
    for n in range(10):
        save(classes(n), tmp_path / "s" / "imgs" / f"{n}.png")
        save(classes(n, (0, 1, 2, 7)), tmp_path / "s" / "gt" / f"{n}.png")
    dataset = convert("folder", tmp_path / "s", "--labels", "1=cell", "2=cell", "7=wall")
    name = min(converted.case_names(dataset / "labelsTr"))
    label = converted.read_array(dataset / "labelsTr" / f"{name}.png")
    source = classes(int(name), (0, 1, 2, 7))
    np.testing.assert_array_equal(label, np.select([(source == 1) | (source == 2), source == 7], [1, 2], 0))


@pytest.mark.parametrize("form", ["csv", "csv without header", "json"])
def test_split_file(convert, tmp_path, form):
    source = downloads.nuclei(tmp_path, 6)
    splits = {"train": ["1", "4"], "val": ["2"], "test": ["3", "5", "6"]}
    file = tmp_path / f"split.{form[:4].strip()}"
    lines = [f"{name},{split}" for split, names in splits.items() for name in names]
    header = ["case,split"] if form == "csv" else []
    file.write_text(json.dumps(splits) if form == "json" else "\n".join(header + lines))
    assert converted.cases_by_split(convert("folder", source, "--split", file)) == {
        k: set(v) for k, v in splits.items()
    }


def test_folders_named_after_the_split(convert, tmp_path):
    for n, part in enumerate(["train", "train", "valid", "test"]):
        for kind in ("Images", "Masks"):
            save(classes(n, (0, 255)), tmp_path / "s" / part / kind / f"{n}.png")
    splits = converted.cases_by_split(convert("folder", tmp_path / "s"))
    assert splits == {"train": {"0", "1"}, "val": {"2"}, "test": {"3"}}


def test_only_some_folders_are_named_after_a_split(convert, refuse_line, tmp_path):
    for n, part in enumerate(["train", "test", "val_old"]):
        for kind in ("images", "masks"):
            save(classes(n, (0, 255)), tmp_path / "s" / part / kind / f"{n}.png")
    line = refuse_line("folder", tmp_path / "s")
    assert "val_old/images" in line and "--split" in line
    splits = converted.cases_by_split(convert("folder", tmp_path / "s", "--split", "1:0:0"))
    assert splits == {"train": {"0", "1", "2"}, "val": set(), "test": set()}


def save_pair(image, mask, n=0):
    """Save a grey image and a mask of 0 and 255, whose pixels tell them from others."""
    rng = np.random.default_rng([7, n])
    save(rng.integers(0, 255, (12, 10), np.uint8), image)
    save(rng.choice(np.array([0, 255], np.uint8), (12, 10)), mask)


def paired(dataset):
    """The source files of every case; their content is compared with what was written."""
    return {
        name: tuple(file["file"] for file in record["source"]) for name, record in converted.records(dataset).items()
    }


LAYOUTS = {
    "mmsegmentation": (
        {"t1": ("img_dir/train/t1.png", "ann_dir/train/t1.png"), "v1": ("img_dir/val/v1.png", "ann_dir/val/v1.png")}, ()
    ),
    "split above, names repeat": (
        {f"{part}_0": (f"{part}/images/0.png", f"{part}/masks/0.png") for part in ("train", "val", "test")}, ()
    ),
    "split below, names repeat": (
        {f"{part}_0": (f"images/{part}/0.png", f"gt/{part}/0.png") for part in ("train", "Validation", "testing")}, ()
    ),
    "names repeat in some folders below the same ones": (
        {f"{c}_{n}": (f"d/set/{c}/images/{n}.png", f"d/set/{c}/masks/{n}.png") for c, n in ("a1", "b1", "b2")},
        ("--split", "1:0:0"),
    ),
    "two endings in one folder": (
        {n: (f"{n}.bmp", f"{n}.png") for n in ("001", "002")}, ("--images", "*.bmp", "--masks", "*.png")
    ),
    "the first of two observers": (
        {n: (f"{n}.png", f"{n}_1stHO.png") for n in ("01L", "01R")}, ("--images", "*[LR].png", "--masks", "*_1stHO.png")
    ),
    "masks of one observer below the folder of masks": (
        {"1": ("images/1.png", "masks/observer1/1.png")}, ("--masks", "masks/observer1", "--split", "1:0:0")
    ),
    "names around the case": (
        {"21": ("training/images/21_training.png", "training/1st_manual/21_manual1.png")},
        ("--images", "images/{case}_*", "--masks", "1st_manual/{case}_*"),
    ),
    "split in the name of a folder": (
        {f"{part}_0": (f"{part}_images/0.png", f"{part}_masks/0.png") for part in ("train", "test")},
        ("--images", "{split}_images", "--masks", "{split}_masks"),
    ),
    "wildcards in the names of folders": (
        {p: (f"{p}/{p}_photo/{p}.bmp", f"{p}/{p}_lesion/{p}_lesion.bmp") for p in ("I1", "I2")},
        ("--images", "*_photo", "--masks", "{case}_lesion/{case}_lesion", "--split", "1:0:0"),
    ),
    "one folder per patient": (
        {p: (f"{p}/image.png", f"{p}/mask.png") for p in ("p1", "p2")},
        ("--images", "image.png", "--masks", "mask.png", "--split", "1:0:0"),
    ),
    "the ending of the image in the name of the mask": (
        {"1": ("img/1.png", "gt/1.png.png")},
        ("--images", "img/{case}.png", "--masks", "gt/{case}.png.png", "--split", "1:0:0"),
    ),
    "upper and lower case": ({"IMG_1": ("Images/IMG_1.PNG", "Masks/img_1.png")}, ("--split", "1:0:0")),
    "other folders of images and masks": ({"1": ("a/images/1.png", "b/masks/1.png")}, ("--split", "1:0:0")),
}  # fmt: skip
"""The files of every case, in layouts that public data sets have, and the options for them."""

OTHER_OBSERVER = {
    "the first of two observers": "01L_2ndHO.png",
    "masks of one observer below the folder of masks": "masks/observer2/1.png",
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(convert, tmp_path, layout):
    cases, options = LAYOUTS[layout]
    for n, (image, mask) in enumerate(cases.values()):
        save_pair(tmp_path / "s" / image, tmp_path / "s" / mask, n)
    if layout in OTHER_OBSERVER:
        save(classes(0, (0, 255)), tmp_path / "s" / OTHER_OBSERVER[layout])
    dataset = convert("folder", tmp_path / "s", *options)
    assert paired(dataset) == cases
    for name, (image, mask) in cases.items():
        part = "Ts" if "test" in image else "Tr"
        np.testing.assert_array_equal(
            io.imread(dataset / f"images{part}/{name}_0000.png"), io.imread(tmp_path / "s" / image)
        )
        np.testing.assert_array_equal(
            io.imread(dataset / f"labels{part}/{name}.png"), io.imread(tmp_path / "s" / mask) // 255
        )


def test_archives_named_images_masks_and_train(convert, tmp_path):
    for n in range(3):
        save_pair(tmp_path / "a" / "images" / f"{n}.png", tmp_path / "a" / "masks" / f"{n}.png", n)
        save_pair(tmp_path / "b" / "x" / f"{n}.png", tmp_path / "b" / "y" / f"{n}.png", n)
    archives = [downloads.zipped(tmp_path / "a" / name, tmp_path / f"{name}.zip") for name in ("images", "masks")]
    assert paired(convert("folder", *archives, "--split", "1:0:0")).keys() == set("012")
    archives = [downloads.zipped(tmp_path / "b", tmp_path / name) for name in ("train.zip", "val.ZIP")]
    dataset = convert("folder", *archives, "--images", "x", "--masks", "y", number=8)
    splits = converted.cases_by_split(dataset)
    assert {split: len(names) for split, names in splits.items()} == {"train": 3, "val": 3, "test": 0}


def test_test_images_without_masks(convert, refuse, tmp_path):
    for part, n in (("train", 1), ("train", 2), ("test", 1)):
        save_pair(tmp_path / "s" / part / "images" / f"{n}.png", tmp_path / "s" / part / "masks" / f"{n}.png", n)
    (tmp_path / "s" / "test" / "masks" / "1.png").unlink()
    dataset = convert("folder", tmp_path / "s")
    assert paired(dataset)["test_1"] == ("test/images/1.png",)
    assert not list((dataset / "labelsTs").iterdir()) and len(list((dataset / "labelsTr").iterdir())) == 2
    assert any("1 test images" in note for note in converted.read_manifest(dataset)["notes"])
    # if other test images have masks, a mask is missing
    save_pair(tmp_path / "s" / "test" / "images" / "2.png", tmp_path / "s" / "test" / "masks" / "2.png")
    lines = refuse("folder", tmp_path / "s", "--dataset-id", "8")
    faults.check_listed(lines, [("test/images/1.png", "mask-missing")])


def test_ratio(convert, tmp_path):
    source = downloads.nuclei(tmp_path, 10)
    splits = converted.cases_by_split(convert("folder", source, "--split", "3:0:2"))
    assert {name: len(cases) for name, cases in splits.items()} == {"train": 6, "val": 0, "test": 4}


def test_volumes(convert, tmp_path):
    rng = np.random.default_rng(0)
    for n in range(5):
        for folder, array in (("images", rng.normal(size=(4, 5, 6))), ("masks", rng.integers(0, 2, (4, 5, 6)) * 255)):
            (tmp_path / "s" / folder).mkdir(parents=True, exist_ok=True)
            image = sitk.GetImageFromArray(array.astype(np.float32 if folder == "images" else np.uint8))
            image.SetSpacing((1, 2, 3))
            sitk.WriteImage(image, tmp_path / "s" / folder / f"{n}.nii.gz")
    dataset = convert("folder", tmp_path / "s", "--channel-name", "MRI", "--split", "4:0:1")
    name = min(converted.case_names(dataset / "imagesTr"))
    new_image, new_label = (
        nibabel.load(dataset / f) for f in (f"imagesTr/{name}_0000.nii.gz", f"labelsTr/{name}.nii.gz")
    )
    image, label = (nibabel.load(tmp_path / "s" / f / f"{name}.nii.gz") for f in ("images", "masks"))
    np.testing.assert_array_equal(new_image.dataobj, image.dataobj)
    np.testing.assert_array_equal(new_label.dataobj, np.asarray(label.dataobj) // 255)
    np.testing.assert_array_equal(new_image.affine, image.affine)
    assert json.loads((dataset / "dataset.json").read_text())["channel_names"] == {"0": "MRI"}


class TestProblems:
    @pytest.fixture
    def nuclei(self, tmp_path):
        return downloads.nuclei(tmp_path, 6)

    def test_a_split_file_that_does_not_match_the_source(self, refuse, nuclei, tmp_path):
        file = tmp_path / "split.csv"
        file.write_text("".join(f"{n},train\n" for n in (1, 2, 4, 5, 6, 7)))
        expected = [("images/3.png", "no-split", str(file)), (str(file), "incomplete", "7")]
        faults.check_listed(refuse("folder", nuclei, "--split", file), expected)

    def test_a_mask_that_jpeg_has_changed(self, refuse, nuclei):
        faults.save_as(faults.mask(nuclei, 3), "jpg", quality=60)
        lines = refuse("folder", nuclei, "--labels", "255=nucleus", "128=cell")
        faults.check_listed(lines, [("masks/3.jpg", "unknown-label", "JPEG")])

    def test_a_value_that_the_label_map_does_not_have(self, refuse, nuclei):
        faults.save(faults.DISC * np.uint8(7), faults.mask(nuclei, 3))
        lines = refuse("folder", nuclei, "--labels", "255=nucleus")
        faults.check_listed(lines, [("masks/3.png", "unknown-label", "7", "0, 255")])

    def test_an_rgb_image_among_grey_ones(self, refuse, nuclei):
        for n in (1, 2, 4, 5, 6):
            faults.save(faults.GREY, faults.image(nuclei, n))
        faults.check_listed(refuse("folder", nuclei, "--channels", "grey"), [("images/3.png", "channels")])

    @pytest.mark.parametrize(
        ("options", "texts"),
        [
            (["--images", "none"], ["--images none", "images (6)"]), (["--masks", "m/*"], ["--masks m/*", "masks (6)"]),
            (["--labels", "1=cell", "1=nucleus"], ["--labels"]),
            (["--labels", "0=cell", "1=nucleus"], ["--labels", "0=cell"]),
            (["--labels", "0=background"], ["--labels"]), (["--labels", "9=ignore"], ["--labels"]),
            (["--labels", "cell=1"], ["VALUE=NAME", "'cell=1'"]), (["--labels", "1="], ["VALUE=NAME", "'1='"]),
            (["--labels", "1=cell", "--threshold", "3"], ["--labels", "--threshold"]),
            (["--labels", "1=cell", "--foreground", "a"], ["--labels", "--foreground"]),
            (["--foreground", "background"], ["--foreground", "'background'"]),
            (["--foreground", ""], ["--foreground"]),
            (["--channels", "CMYK"], ["--channels", "CMYK"]), (["--split", "8:1"], ["--split 8:1"]),
            (["--split", "8:inf:1"], ["--split 8:inf:1"]), (["--split", "0:1:1"], ["--split 0:1:1"]),
        ],
        ids=lambda values: " ".join(values),
    )  # fmt: skip
    def test_invalid_options(self, refuse, nuclei, options, texts):
        *_, line = refuse("folder", nuclei, *options)
        assert all(text in line for text in texts), line

    def test_options_of_images_for_volumes(self, refuse_line, tmp_path):
        assert "--size" in refuse_line("folder", downloads.scans(tmp_path), "--size", "8")

    def test_images_and_volumes(self, refuse_line, tmp_path):
        source = downloads.scans(tmp_path)
        faults.save(faults.RGB, faults.image(source, 9))
        faults.save(faults.DISC, faults.mask(source, 9))
        refuse_line("folder", source)

    def test_files_with_an_unknown_ending(self, refuse, convert, nuclei):
        """They are named if they belong to a case. Others are counted."""
        for name in ("images/1.png", "images/2.png", "masks/2.png"):
            (nuclei / name).rename((nuclei / name).with_suffix(".heic"))
        (nuclei / "images" / "3").write_text("of a viewer")
        (nuclei / "images" / "scan.dcm").touch()
        (nuclei / "masks" / "8.json").write_text("{}")
        expected = [(f"{name}.heic", "ending", ".heic") for name in ("images/1", "images/2", "masks/2")]
        expected.append(("images/scan.dcm", "ending", "dcm2niix"))
        faults.check_listed(refuse("folder", nuclei), expected)
        manifest = converted.read_manifest(convert("folder", nuclei, "--skip-bad", "--split", "1:0:0"))
        assert "2 other files are ignored: 1 no ending, 1 .json" in manifest["notes"]

    def test_no_mask_has_a_known_ending(self, refuse_line, nuclei):
        for mask in (nuclei / "masks").iterdir():
            mask.rename(mask.with_suffix(".xcf"))
        line = refuse_line("folder", nuclei)
        assert ".xcf" in line and ".png" in line and "masks" in line and "6 files" in line

    def test_two_observers_without_a_choice(self, refuse, nuclei):
        for observer in "ab":
            save(classes(0, (0, 255)), nuclei / "masks" / observer / "1.png")
        (nuclei / "masks" / "1.png").unlink()
        lines = refuse("folder", nuclei, "--masks", "masks/**/{case}.png", "--images", "images/{case}.png")
        assert [faults.parse_problem(line)[:2] for line in lines[1:]] == [("masks/a/1.png", "duplicate")]
        assert "--masks" in lines[1]

    @pytest.mark.parametrize(
        ("options", "texts"),
        [
            (["--images", "*.png", "--masks", "*.png"], ["--images *.png", "other pattern"]),
            (["--images", "{patient}/*"], ["{patient}", "{case}"]), (["--masks", ""], ["''"]),
            (["--images", "{split}/{case}"], ["'images'", "train, val or test"]),
        ],
        ids=lambda values: " ".join(values),
    )  # fmt: skip
    def test_invalid_patterns(self, refuse_line, nuclei, options, texts):
        line = refuse_line("folder", nuclei, *options)
        assert all(text in line for text in texts), line

    def test_no_images(self, refuse_line, tmp_path):
        (tmp_path / "some").mkdir()
        (tmp_path / "some" / "a.txt").write_text("hello")
        assert "--masks" in refuse_line("folder", tmp_path / "some")
