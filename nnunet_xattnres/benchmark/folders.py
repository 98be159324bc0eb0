"""Where nnU-Net keeps what a run reads and writes."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..utils.errors import UserError
from ..utils.paths import PATH_VARIABLES, trainers_path
from .grid import ExperimentKey, Run

_RAW, _PREPROCESSED, _RESULTS = PATH_VARIABLES


@dataclass(frozen=True)
class NnUNetFolders:
    """nnU-Net's three folders, and what lies in them."""

    raw: Path
    preprocessed: Path
    results: Path

    @classmethod
    def from_environment(cls) -> "NnUNetFolders":
        """The folders that nnU-Net's variables name.

        Raises:
            UserError: if one is not set, or no folder.
        """
        folders = []
        for variable in PATH_VARIABLES:
            value = os.environ.get(variable)
            if not value or not Path(value).is_dir():
                came = f"{variable}={value} is no folder" if value else f"{variable} is not set"
                raise UserError(f"{came}: export {variable}=/a/folder/of/yours, as for nnU-Net")
            folders.append(Path(value).resolve())
        return cls(*folders)

    def results_for(self, repeat: int) -> Path:
        """Where repeats lie: the first as always, the others in folders of their own."""
        return self.results / f"repeat_{repeat}" if repeat else self.results

    def environment(self, repeat: int = 0) -> dict[str, str]:
        """nnU-Net's variables for a run, with this package's trainers in its look-up."""
        folders = [folder for folder in os.environ.get("nnUNet_extTrainer", "").split(os.pathsep) if folder.strip()]
        if trainers_path() not in [Path(folder).resolve() for folder in folders]:
            folders.append(str(trainers_path()))
        return {
            _RAW: str(self.raw), _PREPROCESSED: str(self.preprocessed), _RESULTS: str(self.results_for(repeat)),
            "nnUNet_extTrainer": os.pathsep.join(folders),
        }  # fmt: skip

    def raw_dataset(self, experiment: ExperimentKey) -> Path:
        """The raw dataset."""
        return self.raw / experiment.dataset

    def preprocessed_dataset(self, experiment: ExperimentKey) -> Path:
        """The preprocessed dataset, with plans and splits."""
        return self.preprocessed / experiment.dataset

    def plans(self, experiment: ExperimentKey) -> Path:
        return self.preprocessed_dataset(experiment) / f"{experiment.plans}.json"

    def references(self, experiment: ExperimentKey) -> Path:
        """Label maps of the training cases."""
        return self.preprocessed_dataset(experiment) / "gt_segmentations"

    def model(self, run: Run) -> Path:
        """The folder of all folds of a trainer."""
        s = run.experiment
        return self.results_for(run.repeat) / s.dataset / f"{run.trainer}__{s.plans}__{s.configuration}"

    def fold(self, run: Run) -> Path:
        return self.model(run) / f"fold_{run.fold}"

    def validation(self, run: Run) -> Path:
        """Predictions of the fold's validation cases."""
        return self.fold(run) / "validation"

    def test_predictions(self, run: Run, folds: Sequence[int]) -> Path:
        """Predictions of the test cases, by these folds together."""
        return self.model(run) / f"test_folds_{'_'.join(map(str, folds))}"


def find_dataset(name: str, folders: NnUNetFolders) -> str:
    """The full name of a dataset given by number or name.

    Raises:
        UserError: if there is none, or more than one.
    """
    roots = (folders.raw, folders.preprocessed)
    known = {f.name for root in roots for f in root.glob("Dataset[0-9][0-9][0-9]_*") if f.is_dir()}
    if name in known:
        return name
    prefix = f"Dataset{int(name):03d}_" if name.isascii() and name.isdecimal() else None
    found = sorted(folder for folder in known if prefix and folder.startswith(prefix))
    if len(found) > 1:
        raise UserError(f"more than one dataset has the number {name}: {', '.join(found)}: give the full name")
    if not found:
        there = ", ".join(sorted(known)) or "nothing"
        raise UserError(f"no dataset {name} in {folders.raw} or {folders.preprocessed}, which hold {there}")
    return found[0]
