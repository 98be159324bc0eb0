"""`convert(...)` runs the command in nnU-Net's folders of a test's own."""

from pathlib import Path

import pytest

from nnunet_xattnres.cli.main import main
from nnunet_xattnres.utils.paths import PATH_VARIABLES


@pytest.fixture
def folders(tmp_path, monkeypatch) -> dict[str, Path]:
    """nnU-Net's three folders, empty."""
    made = {variable: tmp_path / variable for variable in PATH_VARIABLES}
    for variable, folder in made.items():
        folder.mkdir()
        monkeypatch.setenv(variable, str(folder))
    return made


@pytest.fixture
def convert(folders):
    """Run `xattnres convert LAYOUT SOURCE ... --dataset-id 7`; returns the dataset's folder."""

    def run(layout: str, *arguments, number=7) -> Path:
        command = ["convert", layout, *map(str, arguments), "--dataset-id", str(number), "--workers", "1"]
        assert main(command) == 0
        (dataset,) = folders["nnUNet_raw"].glob(f"Dataset{number:03d}_*")
        return dataset

    return run
