"""`xattnres plan`: which plans it reads, what it writes, and what it refuses."""

import json

import pytest
from support.plans_file import plans_dict, write_plans

from nnunet_xattnres.cli.main import main


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    """A preprocessed dataset of number 999 with nnUNetPlans, in nnU-Net's folders."""
    folders = {name: tmp_path / name for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    for variable, folder in folders.items():
        folder.mkdir()
        monkeypatch.setenv(variable, str(folder))
    folder = folders["nnUNet_preprocessed"] / "Dataset999_Test"
    folder.mkdir()
    plans = plans_dict()
    for configuration in plans["configurations"].values():
        dim = len(configuration["patch_size"])
        configuration |= {"patch_size": [32] * dim, "median_image_size_in_voxels": [48.0] * dim}
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(
        json.dumps({"channel_names": {"0": "a", "1": "b"}, "labels": {"background": 0, "x": 1}, "file_ending": ".png"})
    )
    return folder


def plan(capsys, *arguments):
    """Exit code and output of the command; an error is one line."""
    code = main(["plan", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert err.count("\n") <= 1 and bool(err) == bool(code)
    return code, out + err


def test_writes_new_plans_beside_the_old_ones(dataset, capsys):
    old = (dataset / "nnUNetPlans.json").read_bytes()
    assert plan(capsys, "-d", "999")[0] == 0
    new = json.loads((dataset / "nnUNetPlansXAttnRes.json").read_text())
    assert new["plans_name"] == "nnUNetPlansXAttnRes"
    classes = {c["architecture"]["network_class_name"] for c in new["configurations"].values()}
    assert classes == {f"nnunet_xattnres.networks.{name}" for name in ("XAttnResUNet", "XAttnResResidualEncoderUNet")}
    assert (dataset / "nnUNetPlans.json").read_bytes() == old
    assert sorted(p.name for p in dataset.iterdir()) == [
        "dataset.json", "nnUNetPlans.json", "nnUNetPlansXAttnRes.json",
    ]  # fmt: skip


def test_a_file_a_name_and_equal_sizes(dataset, capsys):
    file = dataset / "nnUNetPlans.json"
    assert plan(capsys, file, "--name", "Mine", "--keep-sizes", "-tr", "nnUNetTrainerXAttnResGated")[0] == 0
    new = json.loads((dataset / "Mine.json").read_text())
    assert new["configurations"]["2d"]["architecture"]["arch_kwargs"]["gate"] is True
    assert new["configurations"]["2d"]["patch_size"] == [32, 32]
    # plans that are there already, with the same content
    assert plan(capsys, file, "--name", "Mine", "--keep-sizes", "-tr", "nnUNetTrainerXAttnResGated")[0] == 0


def test_other_plans_of_the_name_are_kept(dataset, capsys):
    target = dataset / "nnUNetPlansXAttnRes.json"
    target.write_text('{"mine": 1}')
    code, text = plan(capsys, "-d", "999")
    assert code == 2 and str(target) in text and target.read_text() == '{"mine": 1}'
    assert plan(capsys, "-d", "999", "--overwrite")[0] == 0
    assert "configurations" in json.loads(target.read_text())


def test_dry_run_writes_nothing(dataset, capsys):
    code, text = plan(capsys, "-d", "999", "--dry-run")
    assert code == 0 and "3d_fullres" in text
    assert not (dataset / "nnUNetPlansXAttnRes.json").exists()


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        ([], ["-d"]),
        (["-d", "999", "-p", "nnUNetResEncUNetMPlans"], ["nnUNetResEncUNetMPlans.json", "nnUNetPlans"]),
        (["-d", "998"], ["998", "Dataset999_Test"]),
        (["-d", "999", "-tr", "nnUNetTrainerEMCAD"], ["nnUNetTrainerEMCAD"]),
        (["-d", "999", "--name", "nnUNetPlans"], ["nnUNetPlans"]),
        (["-d", "999", "--name", "a/b"], ["a/b"]),
        (["missing.json"], ["missing.json"]),
    ],
)
def test_bad_input_is_one_line(dataset, capsys, arguments, facts):
    before = sorted(dataset.iterdir())
    code, text = plan(capsys, *arguments)
    assert code == 2 and all(fact in text for fact in facts)
    assert sorted(dataset.iterdir()) == before


def test_plans_without_dataset_json(tmp_path, capsys):
    path = write_plans(tmp_path)
    code, text = plan(capsys, path)
    assert code == 2 and "dataset.json" in text and list(tmp_path.iterdir()) == [path]
