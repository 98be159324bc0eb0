"""Fixtures that run `xattnres convert` in this process, with empty folders of nnU-Net."""

from collections.abc import Callable
from pathlib import Path

import pytest
from support.trees import snapshot

from nnunet_xattnres.cli.main import main
from nnunet_xattnres.utils.paths import PATH_VARIABLES


@pytest.fixture
def real_preview() -> None:
    """Draw the real preview; without this fixture, a text file replaces it."""


@pytest.fixture(autouse=True)
def _plain_preview(request, monkeypatch) -> None:
    """Replace the preview by a text file, because drawing takes most of the time of a small conversion."""
    if "real_preview" not in request.fixturenames:
        target = "nnunet_xattnres.convert.dataset.save_preview"
        monkeypatch.setattr(target, lambda cases, labels, title, path: path.write_text(title))


@pytest.fixture
def folders(tmp_path, monkeypatch) -> dict[str, Path]:
    """nnU-Net's three folders by their variables, empty."""
    folders = {variable: tmp_path / variable for variable in PATH_VARIABLES}
    for variable, folder in folders.items():
        folder.mkdir()
        monkeypatch.setenv(variable, str(folder))
    return folders


@pytest.fixture
def run(folders) -> Callable[..., int]:
    """Run `xattnres convert ARGUMENTS` and return the exit code, argparse's too; the default --dataset-id is 7."""

    def run(*arguments) -> int:
        command = ["convert", *map(str, arguments), "--workers", "1"]
        try:
            return main(command if "--dataset-id" in command else [*command, "--dataset-id", "7"])
        except SystemExit as error:
            assert isinstance(error.code, int)
            return error.code

    return run


@pytest.fixture
def convert(run, folders) -> Callable[..., Path]:
    """Run a conversion that succeeds, and return the folder of the dataset."""

    def convert(*arguments, number=7) -> Path:
        assert run(*arguments, "--dataset-id", number) == 0
        (dataset,) = folders["nnUNet_raw"].glob(f"Dataset{number:03d}_*")
        return dataset

    return convert


@pytest.fixture
def refuse(run, folders, tmp_path, capsys) -> Callable[..., list[str]]:
    """Run a command that must fail and leave everything as it is; returns the lines that it prints to stderr."""

    def refuse(*arguments, code=2) -> list[str]:
        capsys.readouterr()
        before = snapshot(tmp_path, folders["nnUNet_raw"])
        assert run(*arguments) == code
        assert snapshot(tmp_path, folders["nnUNet_raw"]) == before
        out, err = capsys.readouterr()
        assert not out or "--dry-run" in arguments  # which prints the pairs
        assert "Traceback" not in err
        return err.splitlines()

    return refuse


@pytest.fixture
def refuse_line(refuse) -> Callable[..., str]:
    """Like `refuse`, for commands that print a single line; returns the line."""

    def refuse_line(*arguments, code=2) -> str:
        (line,) = refuse(*arguments, code=code)
        assert line.startswith("xattnres convert: ")
        return line

    return refuse_line
