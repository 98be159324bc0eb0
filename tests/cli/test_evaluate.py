"""`xattnres evaluate`: scores in three forms that agree with nnU-Net's, and every problem in a line of its own."""

import csv
import io
import json
import multiprocessing
import multiprocessing.dummy
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from support.label_maps import damage, voxel, write_dataset_json, write_folders, write_label_map
from support.masks import PAIRS, blobs

from nnunet_xattnres.cli.main import main
from nnunet_xattnres.evaluation import METRICS, PROTOCOLS, compare

SPACING = (3.0, 0.75, 0.5)


def label_maps(seed):
    """Labels 1 and 2 in a pair of blobs."""
    return [np.where(mask, 1 + (np.arange(mask.shape[-1]) > 6), 0) for mask in blobs((8, 10, 12), seed)]


def without(label, array):
    return np.where(array == label, 0, array)


(A, A_REF), (B, B_REF), (C, C_REF), (D, D_REF) = map(label_maps, range(4))
CASES = {
    "a": (A, A_REF),
    "b": (without(2, B), without(2, B_REF)),
    "c": (without(2, C), C_REF),
    "d": (D, without(2, D_REF)),
}
"""Label 1 is in all of them, label 2 in both maps of `a` alone."""


@pytest.fixture
def folders(tmp_path):
    return write_folders(tmp_path, CASES, SPACING)


def evaluate(capsys, *arguments):
    """Exit code, standard output and error."""
    code = main(["evaluate", *map(str, arguments), "--workers", "1"])
    return (code, *capsys.readouterr())


def document(capsys, folders, *arguments):
    path = folders[0].parent / "scores.json"
    code, _, _ = evaluate(capsys, *folders, "--json", path, *arguments)
    assert code == 0
    return json.loads(path.read_text())


@pytest.mark.parametrize(
    ("labels", "regions", "ignore"),
    [
        ({"background": 0, "liver": 1, "spleen": 2}, {"liver": 1, "spleen": 2}, None),
        ({"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}, {"whole": (1, 2), "core": (2,)}, 3),
    ],
)
def test_means_are_those_of_nnunet(capsys, tmp_path, monkeypatch, labels, regions, ignore):
    """With masks that are empty, too: nnU-Net leaves out what both have empty."""
    cases = {name: [array.copy() for array in pair] for name, pair in CASES.items()}
    if ignore:
        for _, reference in cases.values():
            reference[2:4, 5:] = ignore
    folders = write_folders(tmp_path, cases, SPACING, labels)
    settings = (None, SimpleITKIO(), ".nii.gz", [*regions.values()], ignore, 1)
    with monkeypatch.context() as patch:
        patch.setattr(multiprocessing, "get_context", lambda _: multiprocessing.dummy)  # a process takes 8 s to start
        theirs = compute_metrics_on_folder(str(folders[1]), str(folders[0]), *settings)
    result = document(capsys, folders)
    for region, values in regions.items():
        for metric, name in (("dice", "Dice"), ("iou", "IoU")):
            assert result["mean"][region][metric] == pytest.approx(theirs["mean"][values][name], rel=1e-12)
            assert 0 < result["mean"][region][metric] < 1
    assert result["overall"]["dice"] == pytest.approx(theirs["foreground_mean"]["Dice"], rel=1e-12)
    first, second = (result["mean"][region]["dice_n"] for region in regions)
    assert (first, second) == (4, 3)


def test_three_forms(capsys, folders, tmp_path):
    code, text, told = evaluate(capsys, *folders, "--json", tmp_path / "s.json", "--csv", tmp_path / "s.csv")
    assert (code, told) == (0, "")
    result = json.loads((tmp_path / "s.json").read_text())
    protocol, regions = PROTOCOLS["default"], {"liver": (1,), "spleen": (2,)}
    expected = {name: compare(*pair, regions, SPACING, protocol, 1.0) for name, pair in CASES.items()}
    assert result["cases"] == expected
    rows = list(csv.DictReader(io.StringIO((tmp_path / "s.csv").read_text())))
    assert [(r["case"], r["region"]) for r in rows] == [(c, r) for c in "abcd" for r in ("liver", "spleen")]
    assert [{m: float(r[m]) if r[m] else None for m in METRICS} for r in rows] == [
        scores for case in expected.values() for scores in case.values()
    ]
    lines = text.splitlines()
    liver = [result["mean"]["liver"][m] * (1 if m in ("hd95", "assd") else 100) for m in METRICS]
    assert lines[1].split() == ["liver", *(f"{v:.{d}f}" for v, d in zip(liver, (2, 2, 3, 3, 2), strict=True))]
    assert lines[2].split()[0] == "spleen"
    assert lines[2].count("(of 3)") == 3  # Dice, IoU and surface Dice
    assert lines[2].count("(of 1)") == 2
    assert "4 cases, protocol default; surface Dice at 1 mm, distances in mm." in lines
    assert lines[-1].startswith("Lowest Dice: 0.00 spleen of c, 0.00 spleen of d, ")
    about = {"protocol": "default", "unit": "mm", "tolerance": 1.0, "problems": []}
    assert about.items() <= result.items()
    assert [result["predictions"], result["references"]] == [str(f.resolve()) for f in folders]


def test_published(capsys, folders):
    result = document(capsys, folders, "--protocol", "published", "--tolerance", "2")
    protocol, regions = PROTOCOLS["published"], {"liver": (1,), "spleen": (2,)}
    assert result["cases"] == {name: compare(*p, regions, SPACING, protocol, 2.0) for name, p in CASES.items()}
    assert [result["cases"][case]["spleen"]["dice"] for case in "bcd"] == [0, 0, 1]
    assert result["mean"]["spleen"]["hd95_n"] == 4
    assert (result["protocol"], result["unit"], result["tolerance"]) == ("published", "voxels", 2)


@pytest.mark.parametrize(
    ("ending", "options", "unit", "distance"),
    [
        (".nii.gz", [], "mm", 8),
        (".nii.gz", ["--protocol", "published"], "voxels", 4),
        (".png", [], "voxels", 4),
        (".png", ["--protocol", "published"], "voxels", 4),
    ],
)
def test_unit(capsys, tmp_path, ending, options, unit, distance):
    folders = write_folders(tmp_path, {"a": (voxel((6, 7), (1, 1)), voxel((6, 7), (5, 1)))}, (2, 0.5), ending=ending)
    result = document(capsys, folders, *options)
    assert result["unit"] == unit
    assert result["cases"]["a"]["liver"]["hd95"] == pytest.approx(distance)
    code, text, _ = evaluate(capsys, *folders, *options)
    assert code == 0
    assert f"HD95 {unit}" in text
    assert f"surface Dice at 1 {unit}, distances in {unit}." in text


def test_unit_of_volumes_as_tif(capsys, tmp_path):
    """nnU-Net's reader of these has the spacing from a file beside each."""
    folders = write_folders(tmp_path, {}, ending=".tif", overwrite_image_reader_writer="Tiff3DIO")
    for folder, at in zip(folders, ((1, 1, 1), (3, 1, 1)), strict=True):
        tifffile.imwrite(folder / "a.tif", voxel((5, 6, 7), at))
        (folder / "a.json").write_text('{"spacing": [3, 1, 1]}')
    result = document(capsys, folders)
    assert (result["cases"]["a"]["liver"]["hd95"], result["unit"]) == (6, "mm")


@pytest.mark.parametrize(("tolerance", "expected"), [("0", 0), ("1.9", 0), ("2.1", 1), ("1e3", 1)])
def test_tolerance(capsys, tmp_path, tolerance, expected):
    folders = write_folders(tmp_path, {"a": (voxel((6, 7), (1, 1)), voxel((6, 7), (2, 1)))}, (2, 0.5))
    result = document(capsys, folders, "--tolerance", tolerance)
    assert result["mean"]["liver"]["surface_dice"] == expected
    assert result["tolerance"] == float(tolerance)


class TestRegion:
    def test_beside_the_labels(self, capsys, folders):
        options = ["--region", "whole organ=1,2", "--region", "x=y= 2 "]
        result = document(capsys, folders, *options)
        assert list(result["mean"]) == ["liver", "spleen", "whole organ", "x=y"]
        for name, pair in CASES.items():
            whole = [(array > 0).astype(int) for array in pair]
            expected = compare(*whole, {"x": (1,)}, SPACING, PROTOCOLS["default"], 1.0)["x"]
            assert result["cases"][name]["whole organ"] == expected
            assert result["cases"][name]["x=y"] == result["cases"][name]["spleen"]
        assert result["overall"] == document(capsys, folders)["overall"]

    def test_unknown_values(self, capsys, folders):
        told = "xattnres evaluate: --region names the values [3, 7], "
        code, text, error = evaluate(capsys, *folders, "--region", "a=1,7", "--region", "b=3")
        assert (code, text) == (2, "")
        assert error == f"{told}{folders[0].parent / 'dataset.json'} knows [0, 1, 2]\n"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        *((["--region", r], f"NAME=VALUE,VALUE such as tumour=1,2, got '{r}'") for r in
          ("a", "=1", "a=", "a=x", "a=1,,2", "a=1.5", "a=-1", "a=1;2")),
        *((["--tolerance", t], f"a distance of at least 0 mm, got '{t}'") for t in ("-1", "x", "nan", "inf", "")),
        *((["--workers", w], f"a whole number of at least 1, got '{w}'") for w in ("0", "x", "1.5", "-2")),
        (["--protocol", "strict"], "invalid choice: 'strict'"),
    ],
)  # fmt: skip
def test_arguments(capsys, folders, options, told):
    with pytest.raises(SystemExit) as error:
        main(["evaluate", *map(str, folders), *options])
    assert error.value.code == 2
    assert told in capsys.readouterr().err


class TestDatasetJson:
    def test_another(self, capsys, folders, tmp_path):
        (tmp_path / "other").mkdir()
        path = write_dataset_json(tmp_path / "other", {"background": 0, "both": [1, 2]})
        assert list(document(capsys, folders, "--dataset-json", path)["mean"]) == ["both"]

    def test_beside_the_predictions(self, capsys, folders):
        write_dataset_json(folders[0], {"background": 0, "organ": 1, "other": 2})
        assert list(document(capsys, folders)["mean"]) == ["organ", "other"]

    def test_none(self, capsys, folders, tmp_path):
        (tmp_path / "dataset.json").unlink()
        places = f"{folders[0]}, {folders[1]} or above {folders[1]}"
        told = f"xattnres evaluate: no dataset.json in {places}: name it with --dataset-json\n"
        assert evaluate(capsys, *folders) == (2, "", told)

    @pytest.mark.parametrize("content", [None, "", "[]", "{}"])
    def test_no_such_thing(self, capsys, folders, tmp_path, content):
        path = tmp_path / "other.json"
        if content is not None:
            path.write_text(content)
        code, text, told = evaluate(capsys, *folders, "--dataset-json", path)
        assert (code, text, told.count("\n")) == (2, "", 1)
        assert told.startswith(f"xattnres evaluate: {path} cannot be read as nnU-Net's dataset.json")


def test_no_such_folder(capsys, folders, tmp_path):
    told = f"xattnres evaluate: the predictions must be a folder, {tmp_path / 'none'} is none\n"
    assert evaluate(capsys, tmp_path / "none", folders[1]) == (2, "", told)


def test_an_empty_folder(capsys, folders, tmp_path):
    (tmp_path / "empty").mkdir()
    code, text, told = evaluate(capsys, tmp_path / "empty", folders[1])
    assert (code, text, told.count("\n")) == (2, "", 1)
    assert told.startswith(f"xattnres evaluate: no *.nii.gz in {tmp_path / 'empty'}: ")


@pytest.mark.parametrize("option", ["--json", "--csv"])
def test_nowhere_to_write(capsys, folders, tmp_path, option):
    """Known before the work: what cannot be read is not looked at."""
    damage(folders[0] / "a.nii.gz")
    path = tmp_path / "none" / "scores"
    told = f"xattnres evaluate: {option} {path}: there is no folder {path.parent}: make it first\n"
    assert evaluate(capsys, *folders, option, path) == (2, "", told)
    assert not path.parent.exists()


class TestProblems:
    @pytest.fixture
    def problems(self, folders):
        """Six, in five cases and one more; returns their lines, which name files."""
        predictions, references = folders
        (predictions / "a.nii.gz").unlink()
        damage(references / "b.nii.gz")
        for name, array in (("e", A), ("f", A + 1), ("g", A[:, :-1]), ("h", A)):
            write_label_map(predictions / f"{name}.nii.gz", array, SPACING if name != "h" else (3.0, 0.75, 0.6))
        for name in "fgh":
            write_label_map(references / f"{name}.nii.gz", A_REF, SPACING)
        return [
            "a: a reference without a prediction",
            "e: a prediction without a reference",
            f"b: {references / 'b.nii.gz'} cannot be read (truncated",
            f"f: {predictions / 'f.nii.gz'} has the values 3; dataset.json knows 0, 1, 2",
            "g: sizes differ (z, y, x): 8x9x12 predicted, 8x10x12 in the reference",
            "h: spacings differ (z, y, x): ",
        ]

    def test_all_are_told(self, capsys, folders, problems, tmp_path):
        outputs = tmp_path / "s.json", tmp_path / "s.csv"
        code, text, told = evaluate(capsys, *folders, "--json", outputs[0], "--csv", outputs[1])
        assert (code, text) == (2, "")
        head, *lines = told.splitlines()
        assert head == "xattnres evaluate: 6 of the cases cannot be compared: mend them, or pass --skip-bad"
        for line, expected in zip(lines, problems, strict=True):
            assert line.startswith(f"  {expected}")
        assert not any(path.exists() for path in outputs)

    def test_the_others(self, capsys, folders, problems, tmp_path):
        path = tmp_path / "s.json"
        code, text, told = evaluate(capsys, *folders, "--skip-bad", "--json", path)
        assert code == 0
        assert "2 cases, protocol default" in text
        result = json.loads(path.read_text())
        assert list(result["cases"]) == ["c", "d"]
        assert result["mean"]["liver"]["dice_n"] == 2
        for line, recorded, expected in zip(told.splitlines(), result["problems"], problems, strict=True):
            assert recorded.startswith(expected)
            assert line == f"left out: {recorded}"

    def test_two_workers_say_the_same(self, capsys, folders, problems, tmp_path):
        told = []
        for workers in ("1", "2"):
            path = tmp_path / f"{workers}.json"
            options = ["--skip-bad", "--json", str(path), "--workers", workers]
            assert main(["evaluate", *map(str, folders), *options]) == 0
            told.append((path.read_bytes(), capsys.readouterr()))
        assert told[0] == told[1]

    @pytest.mark.parametrize("ending", [".nii.gz", ".png"])
    def test_nothing_is_left(self, capsys, tmp_path, ending):
        pair = PAIRS["blobs 2-D"]
        predictions, references = write_folders(tmp_path, {"a": pair, "b": (None, pair[1])}, ending=ending)
        damage(predictions / f"a{ending}")
        code, text, told = evaluate(capsys, predictions, references, "--skip-bad", "--json", tmp_path / "s.json")
        assert (code, text) == (2, "")
        head, *lines = told.splitlines()
        assert head == "xattnres evaluate: 2 of the cases cannot be compared: nothing is left to evaluate"
        assert lines[0] == "  b: a reference without a prediction"
        assert lines[1].startswith(f"  a: {predictions / f'a{ending}'} cannot be read (")
        assert len(lines) == 2
        assert not (tmp_path / "s.json").exists()


def test_help_needs_no_libraries():
    program = """
import sys
from nnunet_xattnres.cli.main import main
try:
    main(["evaluate", "--help"])
except SystemExit as exit:
    assert exit.code == 0
heavy = {"torch", "nnunetv2", "scipy", "SimpleITK"} & set(sys.modules)
assert not heavy, heavy
"""
    result = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert "xattnres evaluate predictions $nnUNet_raw/Dataset501_Nuclei/labelsTs" in result.stdout


@pytest.mark.parametrize("regions", [["a=1", "a=2"], ["liver=1"]])
def test_a_region_of_a_name_that_is_taken(capsys, folders, regions):
    options = [text for region in regions for text in ("--region", region)]
    assert main(["evaluate", *map(str, folders), *options]) == 2
    assert "--region needs names of its own, each once, got liver, " in capsys.readouterr().err
