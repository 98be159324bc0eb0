"""Paths in nnU-Net's three folders."""

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
    """nnU-Net's three folders and the paths in them."""

    raw: Path
    preprocessed: Path
    results: Path

    @classmethod
    def from_environment(cls) -> "NnUNetFolders":
        """The folders from nnU-Net's environment variables.

        Raises:
            UserError: if a variable is not set or does not name a folder.
        """
        folders = []
        for variable in PATH_VARIABLES:
            value = os.environ.get(variable)
            if not value or not Path(value).is_dir():
                problem = f"{variable} is not set" if not value else f"{variable}={value} is no folder"
                problem += " (the shell replaces ~ only outside of quotes)" if value and value.startswith("~") else ""
                make = "make it, or " if value else ""
                raise UserError(f"{problem}: {make}export {variable}=/path/to/{variable}, as for nnU-Net")
            folders.append(Path(value).resolve())
        return cls(*folders)

    def results_for(self, repeat: int) -> Path:
        """The results folder of a repeat: nnU-Net's own for the first, repeat_1, repeat_2, ... in it for the others."""
        return self.results / f"repeat_{repeat}" if repeat else self.results

    def environment(self, repeat: int = 0) -> dict[str, str]:
        """nnU-Net's environment variables for a run; this package's trainers are added to nnUNet_extTrainer."""
        trainers = [path for path in os.environ.get("nnUNet_extTrainer", "").split(os.pathsep) if path.strip()]
        if trainers_path() not in [Path(path).resolve() for path in trainers]:
            trainers.append(str(trainers_path()))
        return {
            _RAW: str(self.raw), _PREPROCESSED: str(self.preprocessed), _RESULTS: str(self.results_for(repeat)),
            "nnUNet_extTrainer": os.pathsep.join(trainers),
        }  # fmt: skip

    def raw_dataset(self, experiment: ExperimentKey) -> Path:
        """The dataset in nnUNet_raw."""
        return self.raw / experiment.dataset

    def preprocessed_dataset(self, experiment: ExperimentKey) -> Path:
        """The dataset in nnUNet_preprocessed, with plans and splits."""
        return self.preprocessed / experiment.dataset

    def splits(self, dataset: str) -> Path:
        """The file with nnU-Net's folds."""
        return self.preprocessed / dataset / "splits_final.json"

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
        """Predictions of the validation cases."""
        return self.fold(run) / "validation"

    def test_predictions(self, run: Run, folds: Sequence[int]) -> Path:
        """Predictions of the test cases by the ensemble of these folds."""
        return self.model(run) / f"test_folds_{'_'.join(map(str, folds))}"


def find_dataset(name: str, folders: NnUNetFolders) -> str:
    """The full name of a dataset from its number or name.

    Raises:
        UserError: if no dataset, or more than one, has this number or name.
    """
    roots = (folders.raw, folders.preprocessed)
    known = {f.name for root in roots for f in root.glob("Dataset[0-9][0-9][0-9]_*") if f.is_dir()}
    if name in known:
        return name
    prefix = f"Dataset{int(name):03d}_" if name.isascii() and name.isdecimal() else None
    matching = sorted(folder for folder in known if prefix and folder.startswith(prefix))
    if len(matching) > 1:
        raise UserError(f"the number {name} is ambiguous: {', '.join(matching)}; give the full name")
    if not matching:
        existing = ", ".join(sorted(known)) or "no datasets"
        raise UserError(f"dataset {name} is not in {folders.raw} or {folders.preprocessed}, which hold {existing}")
    return matching[0]
