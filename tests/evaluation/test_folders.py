"""Folders of label maps: what belongs together, what dataset.json says, and what is wrong with a file."""

import re

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from PIL import Image
from support.label_maps import damage, voxel, write_dataset_json, write_folders, write_label_map
from support.masks import PAIRS

from nnunet_xattnres.evaluation import PROTOCOLS, compare
from nnunet_xattnres.evaluation.folders import Evaluation, Labels, check_folders, find_dataset_json, pair, read_labels
from nnunet_xattnres.utils.errors import UserError

SHAPE, SPACING = (5, 6, 7), (5.0, 2.0, 0.5)


def evaluated(root, case="a", protocol="default", tolerance=1.0):
    """What an evaluation says of one case in the folders of `write_folders`."""
    labels = read_labels(root / "dataset.json")
    return Evaluation(root / "predictions", root / "labelsTs", labels, labels.regions, protocol, tolerance)(case)


@pytest.mark.parametrize(
    ("description", "regions", "known", "ignore"),
    [
        ({"background": 0, "liver": 1, "spleen": 2}, {"liver": (1,), "spleen": (2,)}, {0, 1, 2}, None),
        ({"background": "0", "liver": "1"}, {"liver": (1,)}, {0, 1}, None),
        ({"liver": 1, "nothing": 0}, {"liver": (1,)}, {0, 1}, None),
        ({"background": 0, "whole": [1, 2], "core": [2], "edge": 3}, {"whole": (1, 2), "core": (2,), "edge": (3,)},
         {0, 1, 2, 3}, None),
        ({"background": 0, "liver": 1, "ignore": 2}, {"liver": (1,)}, {0, 1, 2}, 2),
        ({"background": 0, "whole": [1, 2], "ignore": 3}, {"whole": (1, 2)}, {0, 1, 2, 3}, 3),
    ],
)  # fmt: skip
def test_labels(tmp_path, description, regions, known, ignore):
    expected = Labels(regions, frozenset(known), ignore, ".png")
    assert read_labels(write_dataset_json(tmp_path, description, ".png")) == expected


def test_labels_tell_the_reader(tmp_path):
    path = write_dataset_json(tmp_path, overwrite_image_reader_writer="NibabelIO")
    assert read_labels(path).reader == "NibabelIO"


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"labels": {"liver": 1}}', '{"file_ending": ".png"}', '{"file_ending": ".png", "labels": [1]}',
     '{"file_ending": ".png", "labels": {"0": "background", "1": "liver"}}',
     '{"file_ending": ".png", "labels": {"liver": null}}', '{"file_ending": ".png", "labels": {"liver": ["a"]}}',
     '{"file_ending": 3, "labels": {"liver": 1}}'],
)  # fmt: skip
def test_no_labels(tmp_path, content):
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(UserError, match=r"dataset.json cannot be read as nnU-Net's dataset.json") as error:
        read_labels(tmp_path / "dataset.json")
    assert "\n" not in str(error.value)


def test_the_nearest_dataset_json(tmp_path):
    places = tmp_path / "predictions", tmp_path / "Dataset1" / "labelsTs", tmp_path / "Dataset1"
    for folder in (*places[:2], tmp_path / "other"):
        folder.mkdir(parents=True)
    with pytest.raises(UserError, match=r"^no dataset.json in .*predictions, .*labelsTs or above .*labelsTs: name"):
        find_dataset_json(*places[:2])
    for folder in reversed(places):
        path = write_dataset_json(folder)
        assert find_dataset_json(*places[:2]) == path


class TestPairs:
    def test_unpaired(self, tmp_path):
        for name in ("predictions/b", "predictions/c", "predictions/a", "labels/c", "labels/e", "labels/b", "labels/d"):
            path = tmp_path / f"{name}.nii.gz"
            path.parent.mkdir(exist_ok=True)
            path.touch()
        for other in ("f.nii", "f.png", "f.nii.gz.part", ".f.nii.gz", "dataset.json"):
            (tmp_path / "predictions" / other).touch()
        assert pair(tmp_path / "predictions", tmp_path / "labels", ".nii.gz") == (
            ["b", "c"],
            [
                "d: a reference without a prediction",
                "e: a reference without a prediction",
                "a: a prediction without a reference",
            ],
        )

    @pytest.mark.parametrize("missing", ["predictions", "references"])
    def test_no_folder(self, tmp_path, missing):
        for name in {"predictions", "references"} - {missing}:
            (tmp_path / name).mkdir()
            (tmp_path / name / "a.png").touch()
        with pytest.raises(UserError, match=f"^the {missing} must be a folder, {tmp_path / missing} is none$"):
            check_folders(tmp_path / "predictions", tmp_path / "references")

    @pytest.mark.parametrize("empty", ["predictions", "references"])
    def test_an_empty_folder(self, tmp_path, empty):
        for name in ("predictions", "references"):
            (tmp_path / name).mkdir()
            (tmp_path / name / ("a.nii.gz" if name == empty else "a.png")).touch()
        with pytest.raises(UserError, match=rf"^no \*.png in {tmp_path / empty}: expected the {empty} .*CASE.png$"):
            pair(tmp_path / "predictions", tmp_path / "references", ".png")


class TestScores:
    @pytest.mark.parametrize("reader", [None, "SimpleITKIO", "NibabelIO", "NibabelIOWithReorient"])
    @pytest.mark.parametrize(
        ("there", "distance"),
        [((2, 1, 1), 5), ((1, 3, 1), 4), ((1, 1, 5), 2), ((3, 4, 1), 136**0.5)],
    )
    def test_spacing_follows_the_axes(self, tmp_path, there, distance, reader):
        others = {"overwrite_image_reader_writer": reader} if reader else {}
        write_folders(tmp_path, {"a": (voxel(SHAPE, (1, 1, 1)), voxel(SHAPE, there))}, SPACING, **others)
        for tolerance, surface_dice in ((0.99 * distance, 0), (1.01 * distance, 1)):
            scores = evaluated(tmp_path, tolerance=tolerance)["liver"]
            expected = pytest.approx(distance, rel=1e-6)
            assert scores == {"dice": 0, "iou": 0, "hd95": expected, "assd": expected, "surface_dice": surface_dice}

    @pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".mha", ".nrrd"])
    def test_volumes(self, tmp_path, ending):
        prediction, reference = (m.astype(int) for m in PAIRS["blobs 3-D"])
        prediction[:2], reference[:2, 3:] = 2, 2
        write_folders(tmp_path, {"a": (prediction, reference)}, SPACING, ending=ending)
        protocol = PROTOCOLS["default"]
        expected = compare(prediction, reference, {"liver": (1,), "spleen": (2,)}, SPACING, protocol, 1.0)
        result = evaluated(tmp_path)
        assert list(result) == ["liver", "spleen"]
        assert result == {name: pytest.approx(scores, rel=1e-6) for name, scores in expected.items()}
        assert 0 < result["liver"]["dice"] < 1

    @pytest.mark.parametrize("ending", [".png", ".nii.gz"])
    def test_images(self, tmp_path, ending):
        """A pixel of a PNG is one unit; NIfTI has a spacing in two dimensions, too."""
        write_folders(tmp_path, {"a": (voxel((9, 8), (1, 2)), voxel((9, 8), (5, 5)))}, (0.5, 2), ending=ending)
        distance = {".png": 5.0, ".nii.gz": 40**0.5}[ending]
        assert evaluated(tmp_path)["liver"]["hd95"] == pytest.approx(distance, rel=1e-6)
        assert evaluated(tmp_path, protocol="published")["liver"]["hd95"] == 5

    def test_regions_and_what_is_ignored(self, tmp_path):
        labels = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
        reference = np.array([[0, 1, 1, 3, 3], [0, 2, 2, 3, 3]])
        prediction = np.array([[1, 1, 2, 2, 2], [0, 2, 0, 1, 3]])
        write_folders(tmp_path, {"a": (prediction, reference)}, labels=labels, ending=".png")
        result = evaluated(tmp_path)
        assert {name: (s["dice"], s["iou"]) for name, s in result.items()} == {
            "whole": (2 * 3 / (4 + 4), 3 / 5),
            "core": (2 * 1 / (2 + 2), 1 / 3),
        }

    def test_the_protocol(self, tmp_path):
        write_folders(tmp_path, {"a": (voxel(SHAPE, (1, 1, 1)), voxel(SHAPE, (1, 1, 1), 2))}, SPACING)
        nothing, all_ = dict.fromkeys(("dice", "iou", "surface_dice"), 0), dict.fromkeys(("dice", "iou"), 1)
        undefined, none = dict.fromkeys(("hd95", "assd")), dict.fromkeys(("hd95", "assd"), 0)
        assert evaluated(tmp_path) == {"liver": nothing | undefined, "spleen": nothing | undefined}
        published = {"liver": nothing | all_ | none | {"surface_dice": 1}, "spleen": nothing | none}
        assert evaluated(tmp_path, protocol="published") == published

    def test_a_spacing_of_decimals(self, tmp_path):
        """NIfTI has 0.8 in single precision, which is more: a voxel beside is still within 0.8 mm."""
        write_folders(tmp_path, {"a": (voxel(SHAPE, (1, 1, 1)), voxel(SHAPE, (1, 2, 1)))}, (3.0, 0.8, 0.8))
        assert evaluated(tmp_path, tolerance=0.8)["liver"]["surface_dice"] == 1


class TestWhatIsWrong:
    """A text of one line that names the case; what is compared with it is fine."""

    def told(self, root, which, array, spacing=SPACING, ending=".nii.gz", **others):
        fine = voxel(SHAPE if ending == ".nii.gz" else SHAPE[1:], -1)
        folder = write_folders(root, {"a": (fine, fine)}, spacing, ending=ending, **others)[which]
        if array is None:
            damage(folder / f"a{ending}")
        else:
            write_label_map(folder / f"a{ending}", array, spacing)
        result = evaluated(root)
        assert isinstance(result, str)
        assert "\n" not in result
        return result.replace(f"{folder}/", "")

    @pytest.mark.parametrize("which", [0, 1])
    @pytest.mark.parametrize(
        ("values", "told"), [([3], "3"), ([7, 1, 5], "5, 7"), ([9, 8, 7, 6, 5, 4], "4, 5, 6, 7, 8"), ([255], "255")]
    )
    def test_unknown_values(self, tmp_path, which, values, told):
        array = voxel(SHAPE, -1)
        array[0, 0, : len(values)] = values
        assert self.told(tmp_path, which, array) == f"a: a.nii.gz has the values {told}; dataset.json knows 0, 1, 2"

    @pytest.mark.parametrize(
        ("value", "told"), [(0.5, "0.5"), (-1, "-1"), (1.25, "1.25"), (np.nan, "nan"), (1e12, "1e+12")]
    )
    def test_values_that_are_no_labels(self, tmp_path, value, told):
        array = np.zeros(SHAPE, np.float32)
        array[0, 0, 0] = value
        result = self.told(tmp_path, 0, array, overwrite_image_reader_writer="NibabelIO")  # ITK reads NaN as 0
        assert result == f"a: a.nii.gz has the values {told}; dataset.json knows 0, 1, 2"

    def test_unknown_values_beside_regions_and_ignore(self, tmp_path):
        labels = {"background": 0, "whole": [1, 4], "ignore": 6}
        array = np.arange(8).repeat(6)[: np.prod(SHAPE[1:])].reshape(SHAPE[1:])
        told = self.told(tmp_path, 1, array, ending=".png", labels=labels)
        assert told == "a: a.png has the values 2, 3, 5; dataset.json knows 0, 1, 4, 6"

    @pytest.mark.parametrize("shape", [(5, 6, 8), (5, 7, 6), (1, 6, 7)])
    def test_sizes(self, tmp_path, shape):
        told = self.told(tmp_path, 0, voxel(shape, -1))
        assert told == f"a: sizes differ (z, y, x): {shape[0]}x{shape[1]}x{shape[2]} predicted, 5x6x7 in the reference"

    def test_spacings(self, tmp_path):
        fine = voxel(SHAPE, -1)
        for factor, is_fine in ((1.0001, True), (1.01, False)):
            root = tmp_path / str(factor)
            predictions, _ = write_folders(root, {"a": (fine, fine)}, SPACING)
            write_label_map(predictions / "a.nii.gz", fine, (5.0, 2.0, 0.5 * factor))
            result = evaluated(root)
            assert isinstance(result, dict) is is_fine
        assert result.startswith("a: spacings differ (z, y, x): ")
        numbers = re.findall(r"[\d.]+", result.partition("): ")[2])
        assert [float(n) for n in numbers] == pytest.approx([*SPACING[:2], 0.505, *SPACING])

    @pytest.mark.parametrize("which", [0, 1])
    @pytest.mark.parametrize("ending", [".nii.gz", ".png"])
    def test_half_a_file(self, tmp_path, capfd, which, ending):
        assert self.told(tmp_path, which, None, ending=ending).startswith(f"a: a{ending} cannot be read (")
        assert "Traceback" not in capfd.readouterr().err

    @pytest.mark.parametrize("ending", [".nii.gz", ".png", ".mha"])
    @pytest.mark.parametrize("content", [b"", b"no such thing", b"\x1f\x8b\x08\x00"])
    def test_something_else(self, tmp_path, capfd, content, ending):
        fine = voxel(SHAPE, -1)
        predictions, _ = write_folders(tmp_path, {"a": (fine, fine)}, ending=".nii.gz")
        write_dataset_json(tmp_path, ending=ending)
        (predictions / f"a{ending}").write_bytes(content)
        result = evaluated(tmp_path)
        assert result.startswith(f"a: {predictions / f'a{ending}'} cannot be read (")
        assert "\n" not in result
        assert "Traceback" not in capfd.readouterr().err

    def test_a_truncated_stream_that_is_compressed_in_full(self, tmp_path):
        fine = voxel(SHAPE, -1)
        predictions, _ = write_folders(tmp_path, {"a": (fine, fine)}, ending=".nii")
        path = predictions / "a.nii"
        path.write_bytes(path.read_bytes()[:-8])
        assert evaluated(tmp_path).startswith(f"a: {path} cannot be read (truncated")

    def test_colours(self, tmp_path):
        fine = voxel((6, 7), -1)
        predictions, _ = write_folders(tmp_path, {"a": (fine, fine)}, ending=".png")
        Image.fromarray(np.zeros((6, 7, 3), np.uint8)).save(predictions / "a.png")
        assert evaluated(tmp_path) == f"a: {predictions / 'a.png'} has 3 channels, a label map has one"

    def test_a_sequence(self, tmp_path):
        fine = voxel(SHAPE, -1)
        predictions, _ = write_folders(tmp_path, {"a": (fine, fine)})
        nibabel.save(nibabel.Nifti1Image(np.zeros((7, 6, 5, 2), np.uint8), np.eye(4)), predictions / "a.nii.gz")
        assert evaluated(tmp_path) == f"a: {predictions / 'a.nii.gz'} has 2 channels, a label map has one"


@pytest.mark.parametrize("which", ["origin", "direction"])
def test_a_prediction_that_lies_elsewhere(tmp_path, which):
    fine = voxel((4, 5, 6), -1)
    predictions, references = write_folders(tmp_path, {"a": (fine, fine)}, (3.0, 2.0, 1.0))
    image = sitk.ReadImage(predictions / "a.nii.gz")
    if which == "origin":
        image.SetOrigin((0, 0, 5))
    else:
        image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    sitk.WriteImage(image, predictions / "a.nii.gz")
    labels = read_labels(write_dataset_json(tmp_path))
    evaluation = Evaluation(predictions, references, labels, labels.regions, "default", 1.0)
    assert evaluation("a") == f"a: prediction and reference do not lie in one place: their {which}s differ"
