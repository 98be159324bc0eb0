"""Folders of nnU-Net in which conversions are interrupted, and what the conversions leave there."""

import re
import shutil
from pathlib import Path

from .trees import contents, snapshot

NAME = "Dataset007_Killed"
ID = ("--dataset-id", "7", "--name", "Killed")


class Folders:
    """nnUNet_raw and nnUNet_preprocessed, for the dataset `NAME`."""

    def __init__(self, root: Path):
        self.raw, self.preprocessed = root / "nnUNet_raw", root / "nnUNet_preprocessed"
        for folder in (self.raw, self.preprocessed):
            folder.mkdir(parents=True)
        self.dataset = self.raw / NAME
        self.working_folder, self.backup_folder = (self.raw / f".{NAME}.{end}" for end in ("converting", "replaced"))

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables of nnU-Net."""
        return {"nnUNet_raw": str(self.raw), "nnUNet_preprocessed": str(self.preprocessed), "nnUNet_results": ""}

    @property
    def names(self) -> set[str]:
        """The names in nnUNet_raw."""
        return {path.name for path in self.raw.iterdir()}

    @property
    def finished_cases(self) -> set[str]:
        """The cases that are completely converted in the working folder."""
        return {path.stem for path in self.working_folder.glob("records/[!.]*.json")}

    def finished_files(self) -> dict[str, tuple]:
        """Modification times and bytes of the files of the finished cases, by their path in the dataset."""
        files = dataset_files(self.working_folder / "dataset")
        return {path: file for path, file in files.items() if re.split(r"[/_.]", path)[1] in self.finished_cases}

    def content(self, folder: Path | None = None) -> dict[str, bytes]:
        """The files of the dataset or of another folder, without the time in the manifest."""
        files = contents(folder or self.dataset)
        if "manifest.json" in files:
            files["manifest.json"] = re.sub(rb'"made_at": "[^"]*"', b"", files["manifest.json"])
        return files

    def clear(self) -> None:
        """Remove everything from the folders."""
        for folder in (self.raw, self.preprocessed):
            shutil.rmtree(folder)
            folder.mkdir()


def dataset_files(dataset: Path) -> dict[str, tuple]:
    """Modification times and bytes of all files of a dataset."""
    return {path: file for path, file in snapshot(dataset).items() if not file[1]}


def make_old_dataset(folder: Path) -> Path:
    """A dataset that is to be replaced."""
    for path in ("dataset.json", "imagesTr/1_0000.png", "labelsTr/1.png"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("old")
    return folder
