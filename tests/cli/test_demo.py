"""What `xattnres demo` refuses, before anything is written."""

import importlib.util

import pytest
import torch

from nnunet_xattnres.cli.main import main


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "xattnres_demo").exists()


def refusal(capsys, *arguments):
    assert main(["demo", *arguments]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    return output.err


def test_a_volume_configuration_needs_volumes(capsys):
    assert "-c 3d_fullres needs volumes: pass --data" in refusal(capsys, "-c", "3d_fullres")


def test_a_folder_that_is_not_a_decathlon_task(capsys, tmp_path):
    assert f"{tmp_path} has no dataset.json" in refusal(capsys, "--data", str(tmp_path))


def test_a_folder_that_cannot_be_written(capsys):
    assert "cannot write to /proc/demo (" in refusal(capsys, "--out", "/proc/demo")


def test_a_package_that_is_missing(capsys, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "nilearn" else real(name))
    assert "needs the package nilearn: pip install '.[demo]'" in refusal(capsys)


def test_a_device_that_is_not_there(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "finds no such device here; use --device cpu" in refusal(capsys, "--device", "cuda")


def test_a_folder_of_the_users_is_left_alone(capsys, tmp_path):
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    for extra in ([], ["--overwrite"]):
        assert "is not the folder of an earlier demo" in refusal(capsys, "--out", str(out), *extra)
    assert (out / "thesis.txt").read_text() == "years of work"


def test_a_length_without_a_stock_rival():
    with pytest.raises(SystemExit) as error:
        main(["demo", "--epochs", "3"])
    assert error.value.code == 2
