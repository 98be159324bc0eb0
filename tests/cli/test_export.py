"""`xattnres export` on a model folder as nnU-Net writes it: files, the comparison with PyTorch, bad input."""

import importlib.util
import json

import numpy as np
import onnxruntime
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from support.trained_model import save_model

from nnunet_xattnres.cli.main import main
from nnunet_xattnres.utils.paths import trainers_path


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """A folder with a model and three cases in imagesTr of its data set in nnUNet_raw."""
    monkeypatch.setenv("nnUNet_extTrainer", str(trainers_path()))
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    save_model(tmp_path / "model")
    rng = np.random.default_rng(0)
    images = tmp_path / "raw" / "Dataset999_Test" / "imagesTr"
    images.mkdir(parents=True)
    for case in "abc":
        sitk.WriteImage(
            sitk.GetImageFromArray(rng.random((3, 20, 24), np.float32)), str(images / f"{case}_0000.nii.gz")
        )
    return tmp_path


def export(capsys, folders, *arguments, model="model"):
    """Exit code and output of the command."""
    code = main(["export", "-m", str(folders / model), "-o", str(folders / "out"), *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out + err


def test_graphs(folders, capsys):
    code, text = export(capsys, folders, "--formats", "onnx", "torchscript")
    assert code == 0 and "4 patches of 2 cases" in text
    out = folders / "out"
    assert {path.name for path in out.iterdir()} == {
        "network.json", "network.onnx", "network.torchscript.pt", "predict_onnx.py"
    }  # fmt: skip
    content = json.loads((out / "network.json").read_text())
    assert content["folds"] == ["0", "1"] and content["configuration"] == "2d"
    for file, facts in content["files"].items():
        assert facts["bytes"] == (out / file).stat().st_size
        assert facts["parity"]["batches"] == [[1, 1, 16, 16]] * 4 + [[2, 1, 8, 8]]
    image = np.random.default_rng(0).random((2, 1, 24, 16), np.float32)
    session = onnxruntime.InferenceSession(out / "network.onnx")
    (logits,) = session.run(None, {content["input"]["name"]: image})
    scripted = torch.jit.load(out / "network.torchscript.pt")(torch.from_numpy(image))
    np.testing.assert_allclose(logits, scripted.numpy(), rtol=1e-4, atol=1e-5)


def test_nothing_is_written_above_the_bound(folders, capsys):
    code, text = export(capsys, folders, "-f", "0", "--bound", "1e-12")
    line = text.splitlines()[-1]
    assert code == 1 and line.startswith("xattnres export: network.onnx differs") and "1e-12" in line
    assert not (folders / "out").exists()


def test_a_model_folder(folders, capsys):
    code, text = export(capsys, folders, "--model-folder", "-f", "1")
    assert code == 0 and "README.md" in text
    assert (folders / "out" / "fold_1" / "checkpoint_final.pth").is_file()
    assert not (folders / "out" / "fold_0").exists()


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (["-f", "4"], ["fold_4"]),
        (["-i", "nowhere"], ["-i nowhere"]),
        (["--previous-stage", "."], ["cascade", "--previous-stage"]),
        (["-i", "."], ["CASE_0000.nii.gz"]),
        (["--model-folder", "--bound", "1"], ["--bound", "--model-folder"]),
    ],
)
def test_bad_arguments_are_one_line(folders, capsys, arguments, facts):
    code, text = export(capsys, folders, *arguments)
    line = text.splitlines()[-1]
    assert code == 2 and line.startswith("xattnres export: ") and all(fact in line for fact in facts)
    assert not (folders / "out").exists()


@pytest.mark.parametrize("fault", ["no model", "no images", "two channels", "no onnxruntime"])
def test_bad_input_is_one_line(folders, capsys, monkeypatch, fault):
    options = {"model": "raw"} if fault == "no model" else {}
    facts = {"no model": "dataset.json", "no images": "-i", "two channels": "2 channels", "no onnxruntime": "pip"}
    images = folders / "raw" / "Dataset999_Test" / "imagesTr"
    if fault == "no images":
        monkeypatch.setenv("nnUNet_raw", str(folders / "elsewhere"))
    elif fault == "two channels":
        for case in "abc":
            (images / f"{case}_0001.nii.gz").write_bytes((images / f"{case}_0000.nii.gz").read_bytes())
    elif fault == "no onnxruntime":
        find_spec = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name: find_spec(name) if name != "onnxruntime" else None
        )
    code, text = export(capsys, folders, **options)
    line = text.splitlines()[-1]
    assert code == 2 and line.startswith("xattnres export: ") and facts[fault] in line
    assert not (folders / "out").exists()


def test_a_folder_with_content_is_kept(folders, capsys):
    (folders / "out").mkdir()
    (folders / "out" / "predict_onnx.py").write_text("mine")
    code, text = export(capsys, folders)
    assert code == 2 and "not an empty folder" in text.splitlines()[-1]
    assert [path.read_text() for path in (folders / "out").iterdir()] == ["mine"]
