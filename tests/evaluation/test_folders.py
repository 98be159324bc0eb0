"""Two folders of label maps: pairing by name, the labels of dataset.json, scores, and problems with their codes."""

import re

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from PIL import Image
from support.label_maps import truncate, voxel, write_dataset_json, write_folders, write_label_map
from support.masks import PAIRS

from nnunet_xattnres.evaluation import PROTOCOLS, compare
from nnunet_xattnres.evaluation.folders import (
    CaseEvaluator,
    Labels,
    ScoringProblem,
    ScoringProblemCode,
    check_folders,
    find_dataset_json,
    pair_cases,
    read_labels,
)
from nnunet_xattnres.utils.errors import UserError

SHAPE, SPACING = (5, 6, 7), (5.0, 2.0, 0.5)


def evaluate(root, case="a", protocol="default", tolerance=1.0):
    """The scores, or the problem, of one case in the folders of `write_folders`."""
    labels = read_labels(root / "dataset.json")
    return CaseEvaluator(root / "predictions", root / "labelsTs", labels, labels.regions, protocol, tolerance)(case)


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
def test_labels_of_a_dataset_json(tmp_path, description, regions, known, ignore):
    expected = Labels(regions, frozenset(known), ignore, ".png")
    assert read_labels(write_dataset_json(tmp_path, description, ".png")) == expected


def test_the_reader_of_a_dataset_json(tmp_path):
    path = write_dataset_json(tmp_path, overwrite_image_reader_writer="NibabelIO")
    assert read_labels(path).reader == "NibabelIO"


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"labels": {"liver": 1}}', '{"file_ending": ".png"}', '{"file_ending": ".png", "labels": [1]}',
     '{"file_ending": ".png", "labels": {"0": "background", "1": "liver"}}',
     '{"file_ending": ".png", "labels": {"liver": null}}', '{"file_ending": ".png", "labels": {"liver": ["a"]}}',
     '{"file_ending": 3, "labels": {"liver": 1}}'],
)  # fmt: skip
def test_a_file_that_is_no_dataset_json(tmp_path, content):
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(UserError, match=f"^{tmp_path / 'dataset.json'} ") as error:
        read_labels(tmp_path / "dataset.json")
    assert "\n" not in str(error.value)


def test_the_order_in_which_dataset_json_is_searched(tmp_path):
    folders = tmp_path / "predictions", tmp_path / "Dataset1" / "labelsTs", tmp_path / "Dataset1"
    for folder in (*folders[:2], tmp_path / "other"):
        folder.mkdir(parents=True)
    with pytest.raises(UserError, match="--dataset-json") as error:
        find_dataset_json(*folders[:2])
    assert all(str(folder) in str(error.value) for folder in folders)
    for folder in reversed(folders):
        path = write_dataset_json(folder)
        assert find_dataset_json(*folders[:2]) == path


class TestPairs:
    def test_unpaired(self, tmp_path):
        for name in ("predictions/b", "predictions/c", "predictions/a", "labels/c", "labels/e", "labels/b", "labels/d"):
            path = tmp_path / f"{name}.nii.gz"
            path.parent.mkdir(exist_ok=True)
            path.touch()
        for other in ("f.nii", "f.png", "f.nii.gz.part", ".f.nii.gz", "dataset.json"):
            (tmp_path / "predictions" / other).touch()
        cases, problems = pair_cases(tmp_path / "predictions", tmp_path / "labels", ".nii.gz")
        assert cases == ["b", "c"]
        assert [(problem.code, problem.case) for problem in problems] == [
            (ScoringProblemCode.MISSING_PREDICTION, "d"),
            (ScoringProblemCode.MISSING_PREDICTION, "e"),
            (ScoringProblemCode.MISSING_REFERENCE, "a"),
        ]
        assert str(problems[0]).startswith("d: ")

    def test_folders_without_a_common_case(self, tmp_path):
        for name in ("predictions/a", "labels/b"):
            (tmp_path / name).parent.mkdir()
            (tmp_path / f"{name}.png").touch()
        with pytest.raises(UserError, match=rf"{tmp_path / 'predictions'} .*\ba\b.*{tmp_path / 'labels'} .*\bb\b"):
            pair_cases(tmp_path / "predictions", tmp_path / "labels", ".png")

    @pytest.mark.parametrize("missing", ["predictions", "references"])
    def test_a_folder_that_does_not_exist(self, tmp_path, missing):
        for name in {"predictions", "references"} - {missing}:
            (tmp_path / name).mkdir()
            (tmp_path / name / "a.png").touch()
        with pytest.raises(UserError, match=f"{missing}.*{tmp_path / missing}"):
            check_folders(tmp_path / "predictions", tmp_path / "references")

    @pytest.mark.parametrize("empty", ["predictions", "references"])
    def test_an_empty_folder(self, tmp_path, empty):
        for name in ("predictions", "references"):
            (tmp_path / name).mkdir()
            (tmp_path / name / ("a.nii.gz" if name == empty else "a.png")).touch()
        with pytest.raises(UserError, match=rf"\*.png.* {tmp_path / empty}: .*{empty}"):
            pair_cases(tmp_path / "predictions", tmp_path / "references", ".png")


class TestScores:
    @pytest.mark.parametrize("reader", [None, "SimpleITKIO", "NibabelIO", "NibabelIOWithReorient"])
    @pytest.mark.parametrize(
        ("position", "distance"),
        [((2, 1, 1), 5), ((1, 3, 1), 4), ((1, 1, 5), 2), ((3, 4, 1), 136**0.5)],
    )
    def test_spacing_follows_the_axes(self, tmp_path, position, distance, reader):
        others = {"overwrite_image_reader_writer": reader} if reader else {}
        write_folders(tmp_path, {"a": (voxel(SHAPE, (1, 1, 1)), voxel(SHAPE, position))}, SPACING, **others)
        for tolerance, surface_dice in ((0.99 * distance, 0), (1.01 * distance, 1)):
            scores = evaluate(tmp_path, tolerance=tolerance)["liver"]
            expected = pytest.approx(distance, rel=1e-6)
            assert scores == {"dice": 0, "iou": 0, "hd95": expected, "assd": expected, "surface_dice": surface_dice}

    @pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".mha", ".nrrd"])
    def test_volumes(self, tmp_path, ending):
        prediction, reference = (m.astype(int) for m in PAIRS["blobs 3-D"])
        prediction[:2], reference[:2, 3:] = 2, 2
        write_folders(tmp_path, {"a": (prediction, reference)}, SPACING, ending=ending)
        protocol = PROTOCOLS["default"]
        expected = compare(prediction, reference, {"liver": (1,), "spleen": (2,)}, SPACING, protocol, 1.0)
        result = evaluate(tmp_path)
        assert list(result) == ["liver", "spleen"]
        assert result == {name: pytest.approx(scores, rel=1e-6) for name, scores in expected.items()}
        assert 0 < result["liver"]["dice"] < 1

    @pytest.mark.parametrize("ending", [".png", ".nii.gz"])
    def test_images(self, tmp_path, ending):
        """The pixels of a PNG have a spacing of 1; a 2-D NIfTI file has its own spacing."""
        write_folders(tmp_path, {"a": (voxel((9, 8), (1, 2)), voxel((9, 8), (5, 5)))}, (0.5, 2), ending=ending)
        distance = {".png": 5.0, ".nii.gz": 40**0.5}[ending]
        assert evaluate(tmp_path)["liver"]["hd95"] == pytest.approx(distance, rel=1e-6)
        assert evaluate(tmp_path, protocol="published")["liver"]["hd95"] == 5

    def test_regions_and_the_ignore_label(self, tmp_path):
        labels = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
        reference = np.array([[0, 1, 1, 3, 3], [0, 2, 2, 3, 3]])
        prediction = np.array([[1, 1, 2, 2, 2], [0, 2, 0, 1, 3]])
        write_folders(tmp_path, {"a": (prediction, reference)}, labels=labels, ending=".png")
        result = evaluate(tmp_path)
        assert {name: (s["dice"], s["iou"]) for name, s in result.items()} == {
            "whole": (2 * 3 / (4 + 4), 3 / 5),
            "core": (2 * 1 / (2 + 2), 1 / 3),
        }

    def test_empty_masks_under_both_protocols(self, tmp_path):
        write_folders(tmp_path, {"a": (voxel(SHAPE, (1, 1, 1)), voxel(SHAPE, (1, 1, 1), 2))}, SPACING)
        zero_overlap, full_overlap = (dict.fromkeys(("dice", "iou", "surface_dice"), value) for value in (0, 1))
        undefined, zero_distance = dict.fromkeys(("hd95", "assd")), dict.fromkeys(("hd95", "assd"), 0)
        assert evaluate(tmp_path) == {"liver": zero_overlap | undefined, "spleen": zero_overlap | undefined}
        published = {
            "liver": full_overlap | zero_distance,
            "spleen": zero_overlap | zero_distance,
        }
        assert evaluate(tmp_path, protocol="published") == published

    def test_a_spacing_that_single_precision_rounds_up(self, tmp_path):
        """NIfTI stores 0.8 as a float32, which is slightly larger; the neighbouring voxel is within 0.8 mm."""
        write_folders(tmp_path, {"a": (voxel(SHAPE, (1, 1, 1)), voxel(SHAPE, (1, 2, 1)))}, (3.0, 0.8, 0.8))
        assert evaluate(tmp_path, tolerance=0.8)["liver"]["surface_dice"] == 1


def checked(problem) -> ScoringProblem:
    """A problem of the case `a` with a text of one line."""
    assert isinstance(problem, ScoringProblem)
    assert problem.case == "a"
    assert "\n" not in str(problem)
    return problem


class TestProblems:
    """A case that cannot be compared gives a problem with a code and one line that names the file."""

    def problem(
        self, root, folder_index, array, spacing=SPACING, ending=".nii.gz", **others
    ) -> tuple[ScoringProblem, str]:
        """The problem of a case with `array` in one of the folders, half a file for None; and the path of its file."""
        empty = voxel(SHAPE if ending == ".nii.gz" else SHAPE[1:], -1)
        folder = write_folders(root, {"a": (empty, empty)}, spacing, ending=ending, **others)[folder_index]
        path = folder / f"a{ending}"
        if array is None:
            truncate(path)
        else:
            write_label_map(path, array, spacing)
        return checked(evaluate(root)), str(path)

    @pytest.mark.parametrize("folder", [0, 1])
    @pytest.mark.parametrize(
        ("values", "listed"), [([3], "3"), ([7, 1, 5], "5, 7"), ([9, 8, 7, 6, 5, 4], "4, 5, 6, 7, 8"), ([255], "255")]
    )
    def test_unknown_values(self, tmp_path, folder, values, listed):
        array = voxel(SHAPE, -1)
        array[0, 0, : len(values)] = values
        problem, path = self.problem(tmp_path, folder, array)
        assert problem.code is ScoringProblemCode.UNKNOWN_VALUES
        assert problem.text.startswith(path) and problem.text.endswith("0, 1, 2")
        assert f" {listed}, but" in problem.text

    @pytest.mark.parametrize(
        ("value", "listed"), [(0.5, "0.5"), (-1, "-1"), (1.25, "1.25"), (np.nan, "nan"), (1e12, "1e+12")]
    )
    def test_values_that_are_no_labels(self, tmp_path, value, listed):
        array = np.zeros(SHAPE, np.float32)
        array[0, 0, 0] = value
        problem, path = self.problem(tmp_path, 0, array, overwrite_image_reader_writer="NibabelIO")  # ITK reads 0
        assert problem.code is ScoringProblemCode.UNKNOWN_VALUES
        assert problem.text.startswith(path) and f" {listed}, " in problem.text

    def test_unknown_values_beside_regions_and_the_ignore_label(self, tmp_path):
        labels = {"background": 0, "whole": [1, 4], "ignore": 6}
        array = np.arange(8).repeat(6)[: np.prod(SHAPE[1:])].reshape(SHAPE[1:])
        problem, _ = self.problem(tmp_path, 1, array, ending=".png", labels=labels)
        assert problem.code is ScoringProblemCode.UNKNOWN_VALUES
        assert " 2, 3, 5, " in problem.text and problem.text.endswith("0, 1, 4, 6")

    @pytest.mark.parametrize("shape", [(5, 6, 8), (5, 7, 6), (1, 6, 7)])
    def test_shapes_that_differ(self, tmp_path, shape):
        problem, _ = self.problem(tmp_path, 0, voxel(shape, -1))
        assert problem.code is ScoringProblemCode.SHAPE
        assert re.findall(r"\d+x\d+x\d+", problem.text) == [f"{shape[0]}x{shape[1]}x{shape[2]}", "5x6x7"]

    def test_spacings_that_differ(self, tmp_path):
        empty = voxel(SHAPE, -1)
        results = []
        for factor in (1.0001, 1.01):
            root = tmp_path / str(factor)
            predictions, _ = write_folders(root, {"a": (empty, empty)}, SPACING)
            write_label_map(predictions / "a.nii.gz", empty, (5.0, 2.0, 0.5 * factor))
            results.append(evaluate(root))
        assert isinstance(results[0], dict)
        problem = checked(results[1])
        assert problem.code is ScoringProblemCode.SPACING
        numbers = re.findall(r"[\d.]+", problem.text.partition("): ")[2])
        assert [float(n) for n in numbers] == pytest.approx([*SPACING[:2], 0.505, *SPACING])

    @pytest.mark.parametrize("folder", [0, 1])
    @pytest.mark.parametrize("ending", [".nii.gz", ".png"])
    def test_a_truncated_file(self, tmp_path, capfd, folder, ending):
        problem, path = self.problem(tmp_path, folder, None, ending=ending)
        assert problem.code is ScoringProblemCode.UNREADABLE
        assert problem.text.startswith(path)
        assert "Traceback" not in capfd.readouterr().err

    @pytest.mark.parametrize("ending", [".nii.gz", ".png", ".mha"])
    @pytest.mark.parametrize("content", [b"", b"no such thing", b"\x1f\x8b\x08\x00"])
    def test_a_file_of_another_format(self, tmp_path, capfd, content, ending):
        empty = voxel(SHAPE, -1)
        predictions, _ = write_folders(tmp_path, {"a": (empty, empty)}, ending=".nii.gz")
        write_dataset_json(tmp_path, ending=ending)
        (predictions / f"a{ending}").write_bytes(content)
        problem = checked(evaluate(tmp_path))
        assert problem.code is ScoringProblemCode.UNREADABLE
        assert problem.text.startswith(str(predictions / f"a{ending}"))
        assert "Traceback" not in capfd.readouterr().err

    def test_a_truncated_file_without_compression(self, tmp_path):
        empty = voxel(SHAPE, -1)
        predictions, _ = write_folders(tmp_path, {"a": (empty, empty)}, ending=".nii")
        path = predictions / "a.nii"
        path.write_bytes(path.read_bytes()[:-8])
        problem = checked(evaluate(tmp_path))
        assert problem.code is ScoringProblemCode.UNREADABLE
        assert problem.text.startswith(str(path)) and "truncated" in problem.text

    def test_rgb(self, tmp_path):
        empty = voxel((6, 7), -1)
        predictions, _ = write_folders(tmp_path, {"a": (empty, empty)}, ending=".png")
        Image.fromarray(np.zeros((6, 7, 3), np.uint8)).save(predictions / "a.png")
        problem = checked(evaluate(tmp_path))
        assert problem.code is ScoringProblemCode.CHANNELS
        assert problem.text.startswith(str(predictions / "a.png")) and " 3 " in problem.text

    def test_a_fourth_dimension(self, tmp_path):
        empty = voxel(SHAPE, -1)
        predictions, _ = write_folders(tmp_path, {"a": (empty, empty)})
        nibabel.save(nibabel.Nifti1Image(np.zeros((7, 6, 5, 2), np.uint8), np.eye(4)), predictions / "a.nii.gz")
        problem = checked(evaluate(tmp_path))
        assert problem.code is ScoringProblemCode.CHANNELS
        assert problem.text.startswith(str(predictions / "a.nii.gz")) and " 2 " in problem.text

    @pytest.mark.parametrize(
        ("code", "change"),
        [
            (ScoringProblemCode.ORIGIN, lambda image: image.SetOrigin((0, 0, 5))),
            (ScoringProblemCode.DIRECTION, lambda image: image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))),
        ],
    )
    def test_another_origin_or_direction(self, tmp_path, code, change):
        empty = voxel((4, 5, 6), -1)
        predictions, _ = write_folders(tmp_path, {"a": (empty, empty)}, (3.0, 2.0, 1.0))
        image = sitk.ReadImage(predictions / "a.nii.gz")
        change(image)
        sitk.WriteImage(image, predictions / "a.nii.gz")
        assert checked(evaluate(tmp_path)).code is code
