"""`xattnres evaluate`: scores as table, JSON and CSV that agree with nnU-Net's, and one line for every problem."""

import csv
import io
import json
import multiprocessing
import multiprocessing.dummy
import multiprocessing.pool
import os
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from support.label_maps import truncate, voxel, write_dataset_json, write_folders, write_label_map
from support.masks import PAIRS, blobs

from nnunet_xattnres.cli.main import main
from nnunet_xattnres.evaluation import METRICS, PROTOCOLS, compare

SPACING = (3.0, 0.75, 0.5)


def label_maps(seed):
    """A prediction and a reference with the labels 1 and 2."""
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
"""(prediction, reference) by case. All have label 1; only in case `a`, both label maps have label 2."""


@pytest.fixture
def folders(tmp_path):
    return write_folders(tmp_path, CASES, SPACING)


def evaluate(capsys, *arguments):
    """The exit code, the standard output and the standard error."""
    code = main(["evaluate", *map(str, arguments), "--workers", "1"])
    return (code, *capsys.readouterr())


def json_output(capsys, folders, *arguments):
    """What `--json` writes."""
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
    """Both leave out a label that is neither in the prediction nor in the reference."""
    cases = {name: [array.copy() for array in pair] for name, pair in CASES.items()}
    if ignore:
        for _, reference in cases.values():
            reference[2:4, 5:] = ignore
    folders = write_folders(tmp_path, cases, SPACING, labels)
    settings = (None, SimpleITKIO(), ".nii.gz", [*regions.values()], ignore, 1)
    with monkeypatch.context() as patch:
        patch.setattr(multiprocessing, "get_context", lambda _: multiprocessing.dummy)  # fast to start
        theirs = compute_metrics_on_folder(str(folders[1]), str(folders[0]), *settings)
    result = json_output(capsys, folders)
    for region, values in regions.items():
        for metric, name in (("dice", "Dice"), ("iou", "IoU")):
            assert result["mean"][region][metric] == pytest.approx(theirs["mean"][values][name], rel=1e-12)
            assert 0 < result["mean"][region][metric] < 1
    assert result["overall"]["dice"] == pytest.approx(theirs["foreground_mean"]["Dice"], rel=1e-12)
    first, second = (result["mean"][region]["dice_n"] for region in regions)
    assert (first, second) == (4, 3)


def test_table_json_and_csv_have_the_same_scores(capsys, folders, tmp_path):
    code, text, messages = evaluate(capsys, *folders, "--json", tmp_path / "s.json", "--csv", tmp_path / "s.csv")
    assert (code, messages) == (0, "")
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
    summary = "\n".join(lines[4:])
    assert all(fact in summary for fact in ("4 cases", "default", "1 mm"))
    assert "0.00 spleen of c, 0.00 spleen of d, " in summary  # the lowest Dice
    metadata = {
        "protocol": "default", "unit": "mm", "tolerance": 1.0, "reader": "SimpleITKIO", "problems": [], "notes": []
    }  # fmt: skip
    assert metadata.items() <= result.items()
    assert [result["predictions"], result["references"]] == [str(f.resolve()) for f in folders]


def test_protocol_published(capsys, folders):
    result = json_output(capsys, folders, "--protocol", "published", "--tolerance", "2")
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
def test_unit_of_distances(capsys, tmp_path, ending, options, unit, distance):
    folders = write_folders(tmp_path, {"a": (voxel((6, 7), (1, 1)), voxel((6, 7), (5, 1)))}, (2, 0.5), ending=ending)
    result = json_output(capsys, folders, *options)
    assert result["unit"] == unit
    assert result["cases"]["a"]["liver"]["hd95"] == pytest.approx(distance)
    code, text, _ = evaluate(capsys, *folders, *options)
    assert code == 0
    assert f"HD95 {unit}" in text
    assert f"1 {unit}" in text


def test_unit_of_tif_volumes(capsys, tmp_path):
    """nnU-Net's Tiff3DIO reads the spacing from a JSON file beside each image."""
    folders = write_folders(tmp_path, {}, ending=".tif", overwrite_image_reader_writer="Tiff3DIO")
    for folder, position in zip(folders, ((1, 1, 1), (3, 1, 1)), strict=True):
        tifffile.imwrite(folder / "a.tif", voxel((5, 6, 7), position))
        (folder / "a.json").write_text('{"spacing": [3, 1, 1]}')
    result = json_output(capsys, folders)
    assert (result["cases"]["a"]["liver"]["hd95"], result["unit"]) == (6, "mm")


@pytest.mark.parametrize(("tolerance", "expected"), [("0", 0), ("1.9", 0), ("2.1", 1), ("1e3", 1)])
def test_tolerance(capsys, tmp_path, tolerance, expected):
    folders = write_folders(tmp_path, {"a": (voxel((6, 7), (1, 1)), voxel((6, 7), (2, 1)))}, (2, 0.5))
    result = json_output(capsys, folders, "--tolerance", tolerance)
    assert result["mean"]["liver"]["surface_dice"] == expected
    assert result["tolerance"] == float(tolerance)


class TestRegion:
    def test_is_scored_besides_the_labels(self, capsys, folders):
        options = ["--region", "whole organ=1,2", "--region", "x=y= 2 "]
        result = json_output(capsys, folders, *options)
        assert list(result["mean"]) == ["liver", "spleen", "whole organ", "x=y"]
        for name, pair in CASES.items():
            organ_masks = [(array > 0).astype(int) for array in pair]
            expected = compare(*organ_masks, {"x": (1,)}, SPACING, PROTOCOLS["default"], 1.0)["x"]
            assert result["cases"][name]["whole organ"] == expected
            assert result["cases"][name]["x=y"] == result["cases"][name]["spleen"]
        assert result["overall"] == json_output(capsys, folders)["overall"]

    def test_unknown_values(self, capsys, folders):
        code, text, error = evaluate(capsys, *folders, "--region", "a=1,7", "--region", "b=3")
        assert (code, text, error.count("\n")) == (2, "", 1)
        assert all(
            fact in error for fact in ("--region", "[3, 7]", str(folders[0].parent / "dataset.json"), "[0, 1, 2]")
        )

    @pytest.mark.parametrize("regions", [["a=1", "a=2"], ["liver=1"]])
    def test_a_name_that_is_already_used(self, capsys, folders, regions):
        code, _, error = evaluate(capsys, *folders, *(text for region in regions for text in ("--region", region)))
        assert (code, error.count("\n")) == (2, 1)
        assert "--region" in error and "liver" in error


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("--region", region) for region in ("a", "=1", "a=", "a=x", "a=1,,2", "a=1.5", "a=-1", "a=1;2")),
        *(("--tolerance", tolerance) for tolerance in ("-1", "x", "nan", "inf", "")),
        *(("--workers", workers) for workers in ("0", "x", "1.5", "-2")),
        ("--protocol", "strict"),
    ],
)
def test_values_that_the_parser_rejects(capsys, folders, option, value):
    with pytest.raises(SystemExit) as error:
        main(["evaluate", *map(str, folders), option, value])
    assert error.value.code == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert option in message and f"'{value}'" in message


class TestDatasetJson:
    def test_given_by_the_option(self, capsys, folders, tmp_path):
        (tmp_path / "other").mkdir()
        path = write_dataset_json(tmp_path / "other", {"background": 0, "both": [1, 2]})
        assert list(json_output(capsys, folders, "--dataset-json", path)["mean"]) == ["both"]

    def test_in_the_folder_of_predictions(self, capsys, folders):
        write_dataset_json(folders[0], {"background": 0, "organ": 1, "other": 2})
        assert list(json_output(capsys, folders)["mean"]) == ["organ", "other"]

    def test_that_does_not_exist(self, capsys, folders, tmp_path):
        (tmp_path / "dataset.json").unlink()
        code, text, error = evaluate(capsys, *folders)
        assert (code, text, error.count("\n")) == (2, "", 1)
        assert all(fact in error for fact in (*map(str, folders), "--dataset-json"))

    @pytest.mark.parametrize("content", [None, "", "[]", "{}"])
    def test_that_is_none(self, capsys, folders, tmp_path, content):
        path = tmp_path / "other.json"
        if content is not None:
            path.write_text(content)
        code, text, error = evaluate(capsys, *folders, "--dataset-json", path)
        assert (code, text, error.count("\n")) == (2, "", 1)
        assert error.startswith(f"xattnres evaluate: {path} ")


def test_a_folder_that_does_not_exist(capsys, folders, tmp_path):
    code, text, error = evaluate(capsys, tmp_path / "none", folders[1])
    assert (code, text, error.count("\n")) == (2, "", 1)
    assert str(tmp_path / "none") in error


def test_an_empty_folder(capsys, folders, tmp_path):
    (tmp_path / "empty").mkdir()
    code, text, error = evaluate(capsys, tmp_path / "empty", folders[1])
    assert (code, text, error.count("\n")) == (2, "", 1)
    assert "*.nii.gz" in error and str(tmp_path / "empty") in error


@pytest.mark.parametrize("option", ["--json", "--csv"])
def test_an_output_in_a_folder_that_does_not_exist(capsys, folders, tmp_path, option):
    """Reported before the evaluation starts: the damaged file is not mentioned."""
    truncate(folders[0] / "a.nii.gz")
    path = tmp_path / "none" / "scores"
    code, text, error = evaluate(capsys, *folders, option, path)
    assert (code, text, error.count("\n")) == (2, "", 1)
    assert option in error and str(path.parent) in error
    assert not path.parent.exists()


class TestProblems:
    @pytest.fixture
    def problems(self, folders):
        """Six cases with a problem each, and the beginning of the line for each, which names a damaged file."""
        predictions, references = folders
        (predictions / "a.nii.gz").unlink()
        truncate(references / "b.nii.gz")
        for name, array in (("e", A), ("f", A + 1), ("g", A[:, :-1]), ("h", A)):
            write_label_map(predictions / f"{name}.nii.gz", array, SPACING if name != "h" else (3.0, 0.75, 0.6))
        for name in "fgh":
            write_label_map(references / f"{name}.nii.gz", A_REF, SPACING)
        return [
            "a: ",
            "e: ",
            f"b: {references / 'b.nii.gz'} ",
            f"f: {predictions / 'f.nii.gz'} ",
            "g: ",
            "h: ",
        ]

    def test_all_are_listed_and_nothing_is_written(self, capsys, folders, problems, tmp_path):
        outputs = tmp_path / "s.json", tmp_path / "s.csv"
        code, text, messages = evaluate(capsys, *folders, "--json", outputs[0], "--csv", outputs[1])
        assert (code, text) == (2, "")
        head, *lines = messages.splitlines()
        assert head.startswith("xattnres evaluate: 6 ") and "--skip-bad" in head
        for line, expected in zip(lines, problems, strict=True):
            assert line.startswith(f"  {expected}")
        assert not any(path.exists() for path in outputs)

    def test_skip_bad_evaluates_the_others(self, capsys, folders, problems, tmp_path):
        path = tmp_path / "s.json"
        code, text, messages = evaluate(capsys, *folders, "--skip-bad", "--json", path)
        assert code == 0
        assert "2 cases" in text
        result = json.loads(path.read_text())
        assert list(result["cases"]) == ["c", "d"]
        assert result["mean"]["liver"]["dice_n"] == 2
        for line, recorded, expected in zip(messages.splitlines(), result["problems"], problems, strict=True):
            assert recorded.startswith(expected)
            assert line.endswith(recorded)

    def test_two_workers_give_the_same_output(self, capsys, folders, problems, tmp_path):
        outputs = []
        for workers in ("1", "2"):
            path = tmp_path / f"{workers}.json"
            options = ["--skip-bad", "--json", str(path), "--workers", workers]
            assert main(["evaluate", *map(str, folders), *options]) == 0
            outputs.append((path.read_bytes(), capsys.readouterr()))
        assert outputs[0] == outputs[1]

    @pytest.mark.parametrize("ending", [".nii.gz", ".png"])
    def test_no_case_can_be_compared(self, capsys, tmp_path, ending):
        pair = PAIRS["blobs 2-D"]
        predictions, references = write_folders(tmp_path, {"a": pair, "b": (None, pair[1])}, ending=ending)
        truncate(predictions / f"a{ending}")
        code, text, messages = evaluate(capsys, predictions, references, "--skip-bad", "--json", tmp_path / "s.json")
        assert (code, text) == (2, "")
        head, *lines = messages.splitlines()
        assert head.startswith("xattnres evaluate: 2 ")
        assert len(lines) == 2
        assert lines[0].startswith("  b: ")
        assert lines[1].startswith(f"  a: {predictions / f'a{ending}'} ")
        assert not (tmp_path / "s.json").exists()


def test_rounded_values_are_noted(capsys, tmp_path):
    """The first notes are printed, all are in the JSON file."""
    pair = [voxel((3, 4, 5), (1, 1, 1)).astype(np.float32)] * 2
    folders = write_folders(tmp_path, {name: [array * np.float32(0.9999999) for array in pair] for name in "abcd"})
    path = tmp_path / "s.json"
    code, text, messages = evaluate(capsys, *folders, "--json", path)
    assert code == 0 and text.splitlines()[1].split()[:2] == ["liver", "100.00"]
    notes = json.loads(path.read_text())["notes"]
    assert len(notes) == 8 and all(note.endswith(" to 1") for note in notes)
    lines = messages.splitlines()
    assert lines[:-1] == [f"note: {note}" for note in notes[:5]] and lines[-1].startswith("note: 3 more")


def test_the_reader_of_the_plans(capsys, folders):
    """nnUNetv2_predict stores the plans beside its predictions."""
    assert json_output(capsys, folders)["reader"] == "SimpleITKIO"
    (folders[0] / "plans.json").write_text('{"image_reader_writer": "NibabelIO"}')
    result = json_output(capsys, folders)
    assert result["reader"] == "NibabelIO"
    (folders[0] / "plans.json").write_text('{"image_reader_writer": "OwnIO"}')
    code, text, error = evaluate(capsys, *folders)
    assert (code, text, error.count("\n")) == (2, "", 1) and "OwnIO" in error


def test_names_beyond_the_locale(tmp_path):
    """File names of another encoding, and a terminal and a locale without the characters of the labels."""
    labels = {"background": 0, "\N{LATIN CAPITAL LETTER A WITH DIAERESIS}dern": 1}
    pair = [voxel((5, 6), (1, 1))] * 2
    folders = write_folders(tmp_path, {"a": pair}, labels=labels, ending=".png")
    for folder in folders:
        (folder / "a.png").rename(folder / os.fsdecode(b"caf\xe9.png"))
    command = [sys.executable, "-m", "nnunet_xattnres", "evaluate", *folders, "--csv", tmp_path / "s.csv"]
    environment = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    result = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert "\\xc4dern" in result.stdout
    (row,) = csv.DictReader(io.StringIO((tmp_path / "s.csv").read_text(encoding="utf-8")))
    assert (row["case"], row["region"]) == ("caf\\udce9", list(labels)[1])
