"""Two folders of label maps: pairing by name, the labels of dataset.json, scores, and problems with their codes."""

import gzip
import json
import os
import re

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import tifffile
from PIL import Image
from support.label_maps import truncate, voxel, write_dataset_json, write_folders, write_label_map
from support.masks import PAIRS

from nnunet_xattnres.evaluation import PROTOCOLS, compare
from nnunet_xattnres.evaluation.folders import CaseEvaluator, check_folders, pair_cases
from nnunet_xattnres.evaluation.labels import read_labels
from nnunet_xattnres.evaluation.problems import ScoringProblem, ScoringProblemCode
from nnunet_xattnres.utils.errors import UserError
from nnunet_xattnres.utils.readers import choose_reader

SHAPE, SPACING = (5, 6, 7), (5.0, 2.0, 0.5)


def evaluate(root, case="a", protocol="default", tolerance=1.0):
    """The scores, or the problem, of one case in the folders of `write_folders`."""
    labels = read_labels(root / "dataset.json")
    reader = choose_reader(labels.file_format(), [root / "labelsTs" / f"{case}{labels.ending}"])
    result = CaseEvaluator(
        root / "predictions", root / "labelsTs", labels, reader, labels.regions, protocol, tolerance
    )(case)
    return result if isinstance(result, ScoringProblem) else result.scores


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

    def test_a_folder_of_images(self, tmp_path):
        """imagesTs instead of labelsTs."""
        for name in ("predictions/a", "images/a_0000"):
            (tmp_path / name).parent.mkdir()
            (tmp_path / f"{name}.png").touch()
        with pytest.raises(UserError, match=rf"{tmp_path / 'images'} has images"):
            pair_cases(tmp_path / "predictions", tmp_path / "images", ".png")

    @pytest.mark.parametrize("empty", ["predictions", "references"])
    def test_an_empty_folder(self, tmp_path, empty):
        for name in ("predictions", "references"):
            (tmp_path / name).mkdir()
            (tmp_path / name / ("a.nii.gz" if name == empty else "a.png")).touch()
        with pytest.raises(UserError, match=rf"\*.png.* {tmp_path / empty}: .*{empty}.* .nii.gz$"):
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
        ("values", "listed"),
        [([3], "3"), ([7, 1, 5], "5, 7"), ([9, 8, 7, 6, 5, 4], "4, 5, 6, 7, 8 and 1 more"), ([255], "255")],
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
        numbers = re.findall(r"[\d.]+", problem.text.partition("): ")[2].partition(";")[0])
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

    @pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
    @pytest.mark.parametrize("reader", ["NibabelIO", "SimpleITKIO"])
    def test_a_mirrored_prediction_that_is_far_away(self, tmp_path, ending, reader):
        """Both readers' headers are compared, and the message has the numbers."""
        empty = voxel((4, 5, 6), -1)
        others = {} if ending == ".nii" else {"overwrite_image_reader_writer": reader}
        predictions, _ = write_folders(tmp_path, {"a": (empty, empty)}, ending=ending, **others)
        affine = np.diag([1.0, -1, 1, 1])
        affine[:3, 3] = 0, 200, 0
        nibabel.save(nibabel.Nifti1Image(empty.T, affine), predictions / f"a{ending}")
        problem = checked(evaluate(tmp_path))
        assert problem.code is ScoringProblemCode.DIRECTION
        assert "200, " in problem.text and "voxels" in problem.text


class TestNotesAndReaders:
    """What nnU-Net's readers read is scored as nnU-Net does; what was replaced is noted."""

    @pytest.fixture
    def pair(self):
        return voxel((4, 5, 6), np.s_[1:3, 1:3, 1:4]), voxel((4, 5, 6), np.s_[1:3, 1:3, 2:5])

    def result(self, root, **others):
        """The Dice of the case `a` and its notes."""
        labels = read_labels(write_dataset_json(root, {"background": 0, "liver": 1}, **others))
        references = root / "labelsTs"
        reader = choose_reader(labels.file_format(), [references / f"a{labels.ending}"])
        result = CaseEvaluator(root / "predictions", references, labels, reader, labels.regions, "default", 1.0)("a")
        return result if isinstance(result, ScoringProblem) else (result.scores["liver"]["dice"], result.notes)

    def write_nibabel(self, root, pair, affine, kind=nibabel.Nifti1Image, ending=".nii.gz"):
        for folder, array in zip(("predictions", "labelsTs"), pair, strict=True):
            (root / folder).mkdir()
            nibabel.save(kind(array.T, affine), root / folder / f"a{ending}")

    def test_sheared_volumes(self, tmp_path, pair):
        affine = np.diag([1.0, 2, 3, 1])
        affine[0, 1] = 0.5
        self.write_nibabel(tmp_path, pair, affine)
        dice, notes = self.result(tmp_path)
        assert dice == pytest.approx(2 / 3)
        assert len(notes) == 2 and all("perpendicular" in note for note in notes)

    def test_nifti_2(self, tmp_path, pair):
        self.write_nibabel(tmp_path, pair, np.diag([1.0, 2, 3, 1]), nibabel.Nifti2Image)
        assert self.result(tmp_path) == (pytest.approx(2 / 3), ())

    def test_one_sheared_volume_among_others(self, tmp_path, pair):
        """nnU-Net reads all files of a dataset with one reader: the message says how to choose another."""
        affine = np.diag([1.0, 2, 3, 1])
        self.write_nibabel(tmp_path, pair, affine)
        affine[0, 1] = 0.5
        nibabel.save(nibabel.Nifti1Image(pair[0].T, affine), tmp_path / "predictions" / "a.nii.gz")
        problem = checked(self.result(tmp_path))
        assert problem.code is ScoringProblemCode.UNREADABLE
        assert '"overwrite_image_reader_writer": "NibabelIO"' in problem.text

    def test_an_uncompressed_file_named_gz(self, tmp_path, pair):
        """ITK reads it; nibabel does not, and the message says how to rename it."""
        self.write_nibabel(tmp_path, pair, np.eye(4), ending=".nii")
        for folder in ("predictions", "labelsTs"):
            (tmp_path / folder / "a.nii").rename(tmp_path / folder / "a.nii.gz")
        assert self.result(tmp_path) == (pytest.approx(2 / 3), ())
        problem = checked(self.result(tmp_path, overwrite_image_reader_writer="NibabelIO"))
        assert problem.code is ScoringProblemCode.UNREADABLE and problem.text.endswith("compress it with gzip")

    def test_a_compressed_file_without_gz(self, tmp_path, pair):
        """No reader of nnU-Net's reads it."""
        self.write_nibabel(tmp_path, pair, np.eye(4), ending=".nii")
        path = tmp_path / "predictions" / "a.nii"
        path.write_bytes(gzip.compress(path.read_bytes()))
        problem = checked(self.result(tmp_path, ending=".nii"))
        assert problem.code is ScoringProblemCode.UNREADABLE and "rename it to a.nii.gz" in problem.text

    def test_both_endings_in_one_folder(self, tmp_path, pair):
        """ITK reads the voxels of a.nii where it is asked for a.nii.gz; nibabel does not."""
        self.write_nibabel(tmp_path, pair, np.eye(4))
        sitk.WriteImage(sitk.GetImageFromArray(pair[1] * 0), tmp_path / "predictions" / "a.nii")
        assert not sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / "predictions" / "a.nii.gz")).any()
        problem = checked(self.result(tmp_path))
        assert problem.code is ScoringProblemCode.UNREADABLE and "a.nii," in problem.text
        assert self.result(tmp_path, overwrite_image_reader_writer="NibabelIO") == (pytest.approx(2 / 3), ())

    def write_tif(self, root, pair, spacing=None):
        for folder, array in zip(("predictions", "labelsTs"), pair, strict=True):
            (root / folder).mkdir()
            tifffile.imwrite(root / folder / "a.tif", array, photometric="minisblack")
            if spacing:
                (root / folder / "a.json").write_text(json.dumps({"spacing": spacing}))

    def test_volumes_as_tif(self, tmp_path, pair, capfd):
        self.write_tif(tmp_path, [np.pad(array, ((0, 1), (0, 0), (0, 0))) for array in pair], (5, 1, 1))
        assert self.result(tmp_path, ending=".tif") == (pytest.approx(2 / 3), ())
        (tmp_path / "labelsTs" / "a.json").unlink()
        problem = checked(self.result(tmp_path, ending=".tif"))
        assert problem.code is ScoringProblemCode.SPACING and "a.json is missing" in problem.text
        (tmp_path / "predictions" / "a.json").unlink()
        dice, notes = self.result(tmp_path, ending=".tif")
        assert dice == pytest.approx(2 / 3)
        assert len(notes) == 2 and all("a.json is missing" in note for note in notes)
        assert capfd.readouterr() == ("", "")  # nnU-Net prints tracebacks and warnings here

    def test_volumes_as_tif_that_are_taken_for_colours(self, tmp_path, pair):
        """nnU-Net's first reader takes 3 or 4 slices for channels; dataset.json may name the other one."""
        self.write_tif(tmp_path, pair, (5, 1, 1))
        problem = checked(self.result(tmp_path, ending=".tif"))
        assert problem.code is ScoringProblemCode.CHANNELS and "Tiff3DIO" in problem.text
        others = {"ending": ".tif", "overwrite_image_reader_writer": "Tiff3DIO"}
        assert self.result(tmp_path, **others) == (pytest.approx(2 / 3), ())

    def test_values_beside_integers(self, tmp_path, pair):
        self.write_nibabel(tmp_path, [array * np.float32(0.9999999) for array in pair], np.eye(4))
        dice, notes = self.result(tmp_path)
        assert dice == pytest.approx(2 / 3)
        assert len(notes) == 2 and notes[0].startswith(str(tmp_path / "predictions" / "a.nii.gz"))
        assert notes[0].endswith(" to 1")

    def test_probabilities_are_no_labels(self, tmp_path, pair):
        self.write_nibabel(tmp_path, [array * np.float32(0.99) for array in pair], np.eye(4))
        problem = checked(self.result(tmp_path))
        assert problem.code is ScoringProblemCode.UNKNOWN_VALUES and " 0.99, but" in problem.text

    def test_a_fourth_dimension_of_size_one(self, tmp_path, pair):
        self.write_nibabel(tmp_path, pair, np.diag([1.0, 2, 3, 1]))
        image = nibabel.Nifti1Image(pair[0].T[..., None], np.diag([1.0, 2, 3, 1]))
        nibabel.save(image, tmp_path / "predictions" / "a.nii.gz")
        assert self.result(tmp_path) == (pytest.approx(2 / 3), ())

    @pytest.mark.parametrize("value", [0, np.nan])
    @pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIO"])
    def test_no_spacing_in_the_header(self, tmp_path, pair, value, reader, capfd):
        """Readers take 1 mm instead, which is noted; nibabel does not do this for NaN."""
        self.write_nibabel(tmp_path, pair, np.eye(4), ending=".nii")
        for folder in ("predictions", "labelsTs"):
            content = bytearray((tmp_path / folder / "a.nii").read_bytes())
            content[80:84] = np.float32(value).tobytes()  # pixdim[1]
            content[252:256] = bytes(4)  # no affine
            (tmp_path / folder / "a.nii").unlink()
            (tmp_path / folder / "a.nii.gz").write_bytes(gzip.compress(content))
        result = self.result(tmp_path, overwrite_image_reader_writer=reader)
        if reader == "NibabelIO" and np.isnan(value):
            assert checked(result).code is ScoringProblemCode.SPACING
            assert "nan" in result.text
        else:
            assert result[0] == pytest.approx(2 / 3)
            assert len(result[1]) == 2 and f"{value:g} x 1 x 1" in result[1][0]
        assert capfd.readouterr() == ("", "")  # nibabel logs a warning here

    @pytest.mark.parametrize("folder", ["predictions", "labelsTs"])
    def test_no_position_in_the_header(self, tmp_path, pair, folder):
        self.write_nibabel(tmp_path, pair, np.eye(4), ending=".nii")
        path = tmp_path / folder / "a.nii"
        content = bytearray(path.read_bytes())
        content[292:296] = np.float32(np.nan).tobytes()  # srow_x[3], the origin
        path.write_bytes(content)
        result = self.result(tmp_path, file_ending=".nii", overwrite_image_reader_writer="NibabelIO")
        assert checked(result).code is ScoringProblemCode.ORIGIN
        assert str(path) in result.text and "affine" in result.text

    @pytest.mark.parametrize(("shift", "accepted"), [(0.004, True), (0.1, True), (0.2, False), (200, False)])
    def test_the_tolerance_of_positions(self, tmp_path, pair, shift, accepted):
        """A quarter of a voxel, here of 0.5 mm."""
        affine = np.diag([0.5, 0.5, 3, 1])
        self.write_nibabel(tmp_path, pair, affine)
        affine[1, 3] = shift
        nibabel.save(nibabel.Nifti1Image(pair[0].T, affine), tmp_path / "predictions" / "a.nii.gz")
        result = self.result(tmp_path)
        assert accepted or checked(result).code is ScoringProblemCode.ORIGIN
        assert not accepted or result[0] == pytest.approx(2 / 3)

    @pytest.mark.parametrize("ending", [".nii.gz", ".png"])
    def test_names_that_are_no_utf_8(self, tmp_path, ending):
        """ITK would abort the process; PNG files are read."""
        pair = [voxel((5, 6) if ending == ".png" else (4, 5, 6), -1)] * 2
        name = os.fsdecode(b"caf\xe9")
        for folder in write_folders(tmp_path, {"b": pair}, ending=ending):
            (folder / f"b{ending}").rename(folder / f"{name}{ending}")
        result = evaluate(tmp_path, name)
        if ending == ".png":
            assert isinstance(result, dict)
        else:
            assert result.code is ScoringProblemCode.UNREADABLE and "UTF-8" in result.text
