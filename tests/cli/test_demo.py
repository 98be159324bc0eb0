"""The arguments that `xattnres demo` rejects before it writes anything."""

import importlib.util

import pytest
import torch

from nnunet_xattnres.cli.main import main


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "xattnres_demo").exists()


def error_of(capsys, *arguments):
    """The one line on stderr of a call that fails with exit code 2."""
    assert main(["demo", *arguments]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    return output.err


def test_a_volume_configuration_needs_volumes(capsys):
    assert "--data" in error_of(capsys, "-c", "3d_fullres")


def test_a_folder_that_is_not_a_decathlon_task(capsys, tmp_path):
    error = error_of(capsys, "--data", str(tmp_path))
    assert str(tmp_path) in error and "dataset.json" in error


def test_a_folder_that_cannot_be_written(capsys):
    assert "/proc/demo" in error_of(capsys, "--out", "/proc/demo")


def test_a_package_that_is_missing(capsys, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "nilearn" else real(name))
    assert "nilearn" in error_of(capsys)


def test_a_device_that_does_not_exist(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "--device cuda" in error_of(capsys, "--device", "cuda")


def test_a_folder_with_other_files_is_not_deleted(capsys, tmp_path):
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    for extra in ([], ["--overwrite"]):
        assert str(out) in error_of(capsys, "--out", str(out), *extra)
    assert (out / "thesis.txt").read_text() == "years of work"


def test_a_number_of_epochs_that_nnunet_has_no_trainer_for():
    with pytest.raises(SystemExit) as error:
        main(["demo", "--epochs", "3"])
    assert error.value.code == 2
