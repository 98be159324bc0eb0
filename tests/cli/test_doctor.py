"""The doctor finds what is broken, names the cure, and says nothing is broken only when nothing is."""

import importlib.metadata
import shutil

import pytest
import torch

from nnunet_xattnres.cli import doctor
from nnunet_xattnres.cli.main import main
from nnunet_xattnres.ops import dispatch
from nnunet_xattnres.training.catalogue import catalogue
from nnunet_xattnres.utils.paths import trainers_path


@pytest.fixture
def healthy(tmp_path, monkeypatch):
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    monkeypatch.setenv("nnUNet_extTrainer", str(trainers_path()))
    # whatever machine the tests run on
    monkeypatch.setattr(doctor, "device", lambda: iter([doctor.Finding("ok", "a device")]))


def broken(findings):
    return [f for f in findings if f.level == "broken"]


def test_healthy(healthy, capsys):
    assert main(["doctor"]) == 0
    output = capsys.readouterr().out
    assert f"found by nnU-Net's look-up: {len(catalogue())}, listed by: xattnres trainers --list" in output
    assert "BROKEN" not in output


@pytest.mark.parametrize("variable", ["nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "nnUNet_extTrainer"])
def test_variable_not_set(healthy, monkeypatch, variable):
    monkeypatch.delenv(variable)
    (finding,) = broken(doctor.environment_variables())
    assert finding.text.startswith(f"{variable} is not set")
    assert finding.cure.startswith(f"export {variable}=")


@pytest.mark.parametrize("variable", ["nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"])
def test_folder_missing(healthy, monkeypatch, tmp_path, variable):
    monkeypatch.setenv(variable, str(tmp_path / "nowhere"))
    (finding,) = broken(doctor.environment_variables())
    assert finding.text == f"{variable}={tmp_path / 'nowhere'} is not a folder"


def test_trainers_of_someone_else(healthy, monkeypatch, tmp_path):
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path))
    (finding,) = broken(doctor.environment_variables())
    assert f"does not lead to {trainers_path()}" in finding.text
    monkeypatch.setenv("nnUNet_extTrainer", f"{tmp_path}:{trainers_path()}")
    assert broken(doctor.environment_variables()) == []


def test_one_broken_file_in_the_folder_is_reported(healthy, monkeypatch, tmp_path, capsys):
    folder = tmp_path / "trainers"
    shutil.copytree(trainers_path(), folder)
    (folder / "aaa_broken.py").write_text("raise OSError('this file is broken')")
    monkeypatch.setenv("nnUNet_extTrainer", str(folder))
    (finding,) = broken(doctor.trainers("nnUNetTrainerXAttnRes"))
    assert "this file is broken" in finding.text
    assert main(["doctor"]) == 1
    output = capsys.readouterr().out
    assert "nnU-Net's look-up finds none of them: OSError: this file is broken" in output
    assert "aaa_broken.py" in output


def test_unknown_trainer(healthy, capsys):
    assert main(["doctor", "--trainer", "nnUNetTrainerXAtnRes"]) == 1
    output = capsys.readouterr().out
    assert "Could not find requested nnunet trainer nnUNetTrainerXAtnRes" in output
    assert "did you mean nnUNetTrainerXAttnRes?" in output


def test_version_that_does_not_fit(monkeypatch):
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.1.0" if name == "nnunetv2" else real(name))
    (finding,) = broken(doctor.versions())
    assert finding.text.startswith("nnunetv2 2.1.0, but nnunetv2")
    assert finding.cure.startswith("pip install 'nnunetv2")


def test_package_that_is_missing(monkeypatch):
    real = importlib.metadata.version

    def version(name):
        if name in ("SimpleITK", "triton"):
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    (finding,) = broken(doctor.versions())
    assert (finding.text, finding.cure) == ("SimpleITK is not installed", "pip install SimpleITK")


def test_no_compiler_where_nnunet_compiles(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.delenv("nnUNet_compile", raising=False)
    (finding,) = broken(doctor.compiler())
    assert finding.text == "no C compiler, but nnU-Net compiles on CUDA"
    assert "export nnUNet_compile=f" in finding.cure
    monkeypatch.setenv("nnUNet_compile", "f")
    assert broken(doctor.compiler()) == []


def test_no_gpu_is_a_warning_and_not_a_failure(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    (finding,) = doctor.device()
    assert finding.level == "warning"


def test_not_installed_at_all(monkeypatch):
    def version(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    first, *_ = broken(doctor.versions())
    assert (first.text, first.cure) == ("nnunet-xattnres is not installed", "pip install . in the checkout")


def test_a_check_that_cannot_run_is_a_finding(healthy, monkeypatch, capsys):
    def check():
        raise ImportError("No module named 'nnunetv2'\nand more")
        yield

    monkeypatch.setattr(doctor, "network", check)
    assert main(["doctor"]) == 1
    output = capsys.readouterr().out
    assert "this check fails: ImportError: No module named 'nnunetv2' (" in output
    assert "and more" not in output
    assert "1 problem(s) found" in output


def test_network_finding_is_an_actual_step():
    (finding,) = doctor.network()
    assert finding.level == "ok"


def test_what_computes_on_cuda(monkeypatch):
    monkeypatch.delenv("XATTNRES_BACKEND", raising=False)
    monkeypatch.setattr(dispatch, "why_triton_unavailable", lambda device_type: None)
    assert [f.text for f in doctor.backend()] == ["XAttnRes is computed by Triton"]
    monkeypatch.setattr(dispatch, "why_triton_unavailable", lambda device_type: "a GeForce GTX 980 is too old for it")
    (finding,) = doctor.backend()
    assert finding.level == "warning"
    assert "PyTorch, slower: Triton cannot be used (a GeForce GTX 980 is too old for it)" in finding.text
    monkeypatch.setenv("XATTNRES_BACKEND", "torch")
    assert [f.text for f in doctor.backend()] == ["XAttnRes is computed by 'torch', as XATTNRES_BACKEND says"]


def test_a_backend_that_does_not_exist(healthy, monkeypatch):
    monkeypatch.setenv("XATTNRES_BACKEND", "cudnn")
    (finding,) = broken(doctor.environment_variables())
    assert finding.text == "XATTNRES_BACKEND=cudnn names no backend"
    assert finding.cure == "export XATTNRES_BACKEND=auto (or reference, torch, triton)"


def test_encoder_weights_that_are_no_file(healthy, monkeypatch, tmp_path):
    monkeypatch.setenv("XATTNRES_ENCODER_WEIGHTS", "/no/such/file")
    (finding,) = broken(doctor.environment_variables())
    assert finding.text == "XATTNRES_ENCODER_WEIGHTS=/no/such/file is no file"
    (tmp_path / "weights.pth").touch()
    for fine in ("random", str(tmp_path / "weights.pth")):
        monkeypatch.setenv("XATTNRES_ENCODER_WEIGHTS", fine)
        assert broken(doctor.environment_variables()) == []
