"""`xattnres doctor`: every check finds what is broken and gives a hint, and a healthy machine has no problem."""

import importlib.metadata
import os
import shutil
import sys
from types import SimpleNamespace

import pytest
import torch

from nnunet_xattnres.cli import doctor
from nnunet_xattnres.cli.doctor import Level
from nnunet_xattnres.cli.main import main
from nnunet_xattnres.ops import dispatch
from nnunet_xattnres.training.lookup import look_up
from nnunet_xattnres.utils.paths import trainers_path

FOLDERS = ["nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"]


@pytest.fixture
def healthy(tmp_path, monkeypatch):
    """A machine without a problem, whatever device the tests run on."""
    for variable in FOLDERS:
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    monkeypatch.setenv("nnUNet_extTrainer", str(trainers_path()))
    for variable in ("XATTNRES_BACKEND", "XATTNRES_CHECKPOINT", "XATTNRES_ENCODER_WEIGHTS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(doctor, "check_device", lambda: iter([doctor.CheckResult(Level.OK, "device", "a device")]))


def broken(results):
    """The results that are broken; each has one line and a hint."""
    broken_results = [result for result in results if result.level is Level.BROKEN]
    assert all(result.hint and "\n" not in result.text for result in broken_results)
    return broken_results


def lines_at(level, output):
    return [line for line in output.splitlines() if line.startswith(level.value)]


def test_a_healthy_machine(healthy, capsys):
    assert main(["doctor"]) == 0
    output = capsys.readouterr().out
    assert not lines_at(Level.BROKEN, output)
    assert any(doctor.TRAINER in line for line in lines_at(Level.OK, output))


def test_every_check_runs(healthy, monkeypatch, capsys):
    """A problem of each check is counted, also if the check raises an exception."""

    def failing_check(*arguments):
        raise ImportError("No module named 'nnunetv2'\nand more")
        yield

    for name in ("versions", "environment", "trainers", "network", "device"):
        monkeypatch.setattr(doctor, f"check_{name}", failing_check)
    assert main(["doctor"]) == 1
    output = capsys.readouterr().out
    assert len(lines_at(Level.BROKEN, output)) == 5
    assert all("No module named 'nnunetv2' (" in line for line in lines_at(Level.BROKEN, output))
    assert "and more" not in output


class TestEnvironment:
    @pytest.mark.parametrize("variable", [*FOLDERS, "nnUNet_extTrainer"])
    def test_a_variable_that_is_not_set(self, healthy, monkeypatch, variable):
        monkeypatch.delenv(variable)
        (result,) = broken(doctor.check_environment())
        assert result.subject == variable
        assert result.hint.startswith(f"export {variable}=")

    @pytest.mark.parametrize("variable", FOLDERS)
    def test_a_folder_that_does_not_exist(self, healthy, monkeypatch, tmp_path, variable):
        monkeypatch.setenv(variable, str(tmp_path / "nowhere"))
        (result,) = broken(doctor.check_environment())
        assert result.subject == variable
        assert str(tmp_path / "nowhere") in result.text and str(tmp_path / "nowhere") in result.hint

    @pytest.mark.parametrize("variable", FOLDERS)
    @pytest.mark.parametrize(
        ("value", "named"),
        [("{file}", ""), ("'{folder}'", "{folder}"), ("{folder}\r", "{folder}"), ("{link}", "{target}"), (" ", "")],
    )
    def test_a_value_that_names_no_folder(self, healthy, monkeypatch, tmp_path, variable, value, named):
        """The hint names the folder that is meant."""
        paths = {"file": tmp_path / "file", "link": tmp_path / "link", "target": tmp_path / "nowhere"}
        paths["file"].touch()
        paths["link"].symlink_to(paths["target"])
        paths["folder"] = tmp_path / variable
        monkeypatch.setenv(variable, value.format(**paths))
        (result,) = broken(doctor.check_environment())
        assert result.subject == variable and named.format(**paths) in result.hint

    def test_a_home_folder_that_is_not_expanded(self, healthy, monkeypatch, tmp_path):
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("nnUNet_raw", "~/nnUNet_raw")
        (result,) = broken(doctor.check_environment())
        assert result.subject == "nnUNet_raw" and str(tmp_path / "nnUNet_raw") in result.hint

    @pytest.mark.parametrize("variable", [*FOLDERS, "nnUNet_extTrainer"])
    def test_a_relative_folder(self, healthy, monkeypatch, tmp_path, variable):
        """It works in this folder alone."""
        monkeypatch.chdir(tmp_path)
        shutil.copytree(trainers_path(), tmp_path / "trainers")
        monkeypatch.setattr(doctor, "trainers_path", lambda: tmp_path / "trainers")
        monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path / "trainers"))
        name = "trainers" if variable == "nnUNet_extTrainer" else variable
        monkeypatch.setenv(variable, name)
        assert not broken(doctor.check_environment())
        (result,) = (r for r in doctor.check_environment() if r.level is Level.WARNING)
        assert result.subject == variable and str(tmp_path / name) in result.hint

    def test_the_same_folder_twice(self, healthy, monkeypatch, tmp_path):
        monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "nnUNet_results/../nnUNet_raw"))
        (result,) = (r for r in doctor.check_environment() if r.level is Level.WARNING)
        assert "nnUNet_raw" in result.text and "nnUNet_preprocessed" in result.text

    @pytest.mark.parametrize("variable", ["nnUNet_def_n_proc", "nnUNet_n_proc_DA"])
    def test_a_number_of_processes_that_is_none(self, healthy, monkeypatch, variable):
        for value in ("", "all", "2.5"):
            monkeypatch.setenv(variable, value)
            (result,) = broken(doctor.check_environment())
            assert result.subject == variable
            with pytest.raises(ValueError):
                int(value)  # what nnU-Net does
        monkeypatch.setenv(variable, "4")
        assert not broken(doctor.check_environment())

    @pytest.mark.parametrize("entry", ["{file}", "{folder}x", "'{folder}'", "{folder} ", "~/trainers"])
    def test_entries_that_nnunet_passes_over(self, healthy, monkeypatch, entry):
        """nnU-Net's own search is the judge: it finds no trainer there, and does not say why."""
        entry = entry.format(folder=trainers_path(), file=trainers_path() / f"{doctor.TRAINER}.py")
        monkeypatch.setenv("nnUNet_extTrainer", entry)
        with pytest.raises(RuntimeError, match="Could not find requested"):
            look_up(doctor.TRAINER)
        (result,) = broken(doctor.check_environment())
        assert result.subject == "nnUNet_extTrainer"
        monkeypatch.setenv("nnUNet_extTrainer", f"{entry}{os.pathsep}{trainers_path()}")
        results = list(doctor.check_environment())
        assert not broken(results)
        (warning,) = (r for r in results if r.level is Level.WARNING)
        assert warning.subject == "nnUNet_extTrainer" and entry in warning.text and warning.hint

    def test_folders_of_trainers_without_this_package(self, healthy, monkeypatch, tmp_path):
        monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path))
        (result,) = broken(doctor.check_environment())
        assert result.subject == "nnUNet_extTrainer" and str(trainers_path()) in result.text
        monkeypatch.setenv("nnUNet_extTrainer", f"{tmp_path}{os.pathsep}{trainers_path()}")
        assert broken(doctor.check_environment()) == []

    def test_a_backend_that_does_not_exist(self, healthy, monkeypatch):
        monkeypatch.setenv("XATTNRES_BACKEND", "cudnn")
        (result,) = broken(doctor.check_environment())
        assert result.subject == "XATTNRES_BACKEND" and "cudnn" in result.text
        assert all(backend in result.hint for backend in dispatch.BACKENDS)

    def test_an_unknown_value_of_the_switch_for_checkpointing(self, healthy, monkeypatch):
        monkeypatch.setenv("XATTNRES_CHECKPOINT", "decoder")
        (result,) = broken(doctor.check_environment())
        assert result.subject == "XATTNRES_CHECKPOINT" and "decoder" in result.text

    def test_encoder_weights_that_are_no_file(self, healthy, monkeypatch, tmp_path):
        monkeypatch.setenv("XATTNRES_ENCODER_WEIGHTS", "/no/such/file")
        (result,) = broken(doctor.check_environment())
        assert result.subject == "XATTNRES_ENCODER_WEIGHTS" and "/no/such/file" in result.text
        (tmp_path / "weights.pth").touch()
        for valid in ("random", str(tmp_path / "weights.pth")):
            monkeypatch.setenv("XATTNRES_ENCODER_WEIGHTS", valid)
            assert broken(doctor.check_environment()) == []


class TestTrainers:
    def test_a_broken_trainer_file(self, healthy, monkeypatch, tmp_path):
        folder = tmp_path / "trainers"
        shutil.copytree(trainers_path(), folder)
        (folder / "aaa_broken.py").write_text("raise OSError('this file is broken')")
        monkeypatch.setenv("nnUNet_extTrainer", str(folder))
        (result,) = broken(doctor.check_trainers())
        assert result.subject == doctor.TRAINER
        assert "this file is broken" in result.text and "aaa_broken.py" in result.text

    def test_a_misspelt_trainer(self, healthy, capsys):
        (result,) = broken(doctor.check_trainers("nnUNetTrainerXAtnRes"))
        assert result.subject == "nnUNetTrainerXAtnRes"
        assert "nnUNetTrainerXAttnRes?" in result.hint

    def test_a_named_trainer(self, healthy):
        (result,) = doctor.check_trainers("nnUNetTrainerEMCADXAttnRes_PaperBinary_1epoch")
        assert result.level is Level.OK
        assert result.subject == "nnUNetTrainerEMCADXAttnRes_PaperBinary_1epoch"


class TestVersions:
    def test_a_version_that_is_not_supported(self, monkeypatch):
        version = importlib.metadata.version
        monkeypatch.setattr(
            importlib.metadata, "version", lambda name: "2.1.0" if name == "nnunetv2" else version(name)
        )
        (result,) = broken(doctor.check_versions())
        assert result.subject == "nnunetv2" and "2.1.0" in result.text
        assert result.hint.startswith("pip install 'nnunetv2")

    def test_a_package_that_is_not_installed(self, monkeypatch):
        """Triton is optional: it is not installed on machines without CUDA."""
        version = importlib.metadata.version

        def without_two(name):
            if name in ("SimpleITK", "triton"):
                raise importlib.metadata.PackageNotFoundError(name)
            return version(name)

        monkeypatch.setattr(importlib.metadata, "version", without_two)
        (result,) = broken(doctor.check_versions())
        assert (result.subject, result.hint) == ("SimpleITK", "pip install SimpleITK")

    def test_nothing_is_installed(self, monkeypatch):
        def version(name):
            raise importlib.metadata.PackageNotFoundError(name)

        monkeypatch.setattr(importlib.metadata, "version", version)
        first, *_ = broken(doctor.check_versions())
        assert first.subject == "nnunet-xattnres"


def test_nnunet_does_not_compile_on_windows(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(doctor, "os", SimpleNamespace(name="nt", environ={}))
    (result,) = doctor.check_compiler()
    assert result.level is Level.OK


def test_no_compiler_where_nnunet_compiles(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.delenv("nnUNet_compile", raising=False)
    (result,) = [f for f in broken(doctor.check_compiler()) if f.subject != "triton"]
    assert result.subject == "compiler"
    assert "export nnUNet_compile=f" in result.hint
    monkeypatch.setenv("nnUNet_compile", "f")
    assert broken(doctor.check_compiler()) == []


def test_no_gpu_is_a_warning(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(dispatch, "why_cpp_unavailable", lambda device_type: None)
    device, backend = doctor.check_device()
    assert device.level is Level.WARNING
    assert backend.level is Level.OK and backend.subject == "backend"


def test_the_network_has_gradients():
    (result,) = doctor.check_network()
    assert result.level is Level.OK


@pytest.mark.parametrize(
    ("device", "backend", "question", "reason"),
    [
        ("cuda", "triton", "why_triton_unavailable", "a GeForce GTX 980 is too old for it"),
        ("cpu", "cpp", "why_cpp_unavailable", "there is no C++ compiler"),
    ],
)
def test_the_backend(monkeypatch, device, backend, question, reason):
    monkeypatch.delenv("XATTNRES_BACKEND", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(dispatch, question, lambda device_type: None)
    dispatch._resolve.cache_clear()
    (result,) = doctor.check_backend(device)
    assert result.level is Level.OK and backend in result.text
    monkeypatch.setattr(dispatch, question, lambda device_type: reason)
    dispatch._resolve.cache_clear()
    (result,) = doctor.check_backend(device)
    assert result.level is Level.WARNING
    assert "torch" in result.text and reason in result.text
    monkeypatch.setenv("XATTNRES_BACKEND", backend)
    (result,) = doctor.check_backend(device)
    assert result.level is Level.WARNING and reason in result.text
    monkeypatch.setenv("XATTNRES_BACKEND", "reference")
    (result,) = doctor.check_backend(device)
    assert result.level is Level.OK and "XATTNRES_BACKEND=reference" in result.text
    # it is named by another check
    monkeypatch.setenv("XATTNRES_BACKEND", "cudnn")
    assert list(doctor.check_backend(device)) == []
    dispatch._resolve.cache_clear()
