"""The work of a benchmark as nnU-Net's own commands: prepare, train, predict the test cases."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..utils.errors import UserError
from ..utils.files import read_json, write_atomic
from .folders import NnUNetFolders
from .grid import ExperimentKey, Grid, Run
from .state import CHECKPOINTS, is_checkpoint, read_plans, read_splits, read_state

_PLANNERS = {
    "nnUNetPlans": None,
    "nnUNetResEncUNetMPlans": "nnUNetPlannerResEncM",
    "nnUNetResEncUNetLPlans": "nnUNetPlannerResEncL",
    "nnUNetResEncUNetXLPlans": "nnUNetPlannerResEncXL",
}
"""Planners of the plans that nnU-Net makes under names of its own."""


@dataclass(frozen=True)
class RunOptions:
    """What is the same for every command: device ("cuda", "cpu", "mps"), GPUs of a training, processes."""

    device: str = "cuda"
    num_gpus: int = 1
    processes: int = 8


class Task(Protocol):
    """Some work with one command at a time.

    `commands` says what is left, as far as can be known, so that it is empty when all is done; the first is run, and
    then it is asked again. `begin` is called before and `end` after each that ended well. `needs` says whether it must
    wait for another task, `uses` whether for what that makes.
    """

    kind: str
    uses_gpu: bool
    repeat: int

    def __str__(self) -> str: ...
    def depends_on(self, other: "Task") -> bool: ...
    def consumes(self, other: "Task") -> bool: ...
    def commands(self, folders: NnUNetFolders, options: RunOptions) -> list[list[str]]: ...
    def begin(self, folders: NnUNetFolders) -> list[str]: ...
    def end(self, folders: NnUNetFolders) -> None: ...
    def folder(self, folders: NnUNetFolders) -> Path: ...


class _Marked:
    """A task whose folder shows between begin and end that it is unfinished, so that a kill is noticed."""

    marker = ".unfinished"

    def _marker(self, folders: NnUNetFolders) -> Path:
        return self.folder(folders) / self.marker

    def begin(self, folders: NnUNetFolders) -> list[str]:
        self._marker(folders).touch()
        return []

    def end(self, folders: NnUNetFolders) -> None:
        self._marker(folders).unlink(missing_ok=True)


@dataclass(frozen=True)
class Prepare(_Marked):
    """Plan and preprocess a dataset, as far as nobody has."""

    dataset: str
    plans: str
    configurations: tuple[str, ...]
    kind = "prepare"
    uses_gpu = False
    repeat = 0

    def __str__(self) -> str:
        return f"prepare {self.dataset}, {self.plans}"

    def depends_on(self, other: Task) -> bool:
        return False

    consumes = depends_on

    def folder(self, folders: NnUNetFolders) -> Path:
        return folders.preprocessed / self.dataset

    @property
    def marker(self) -> str:
        return f".{self.plans}.unfinished"

    def _experiments(self) -> list[ExperimentKey]:
        return [ExperimentKey(self.dataset, configuration, self.plans) for configuration in self.configurations]

    def commands(self, folders: NnUNetFolders, options: RunOptions) -> list[list[str]]:
        number, n = str(int(self.dataset[7:10])), str(options.processes)
        planning = [] if self._is_planned(folders) else [self._plan(number, n)]
        left = [s.configuration for s in self._experiments() if planning or not self._is_preprocessed(s, folders)]
        if not left:
            return []
        preprocess = ["nnUNetv2_preprocess", "-d", number, "-plans_name", self.plans, "-c", *left]
        return [*planning, [*preprocess, "-np", *[n] * len(left)]]

    def _is_planned(self, folders: NnUNetFolders) -> bool:
        return folders.plans(self._experiments()[0]).exists()

    def _plan(self, number: str, processes: str) -> list[str]:
        if self.plans not in _PLANNERS:
            known = ", ".join(_PLANNERS)
            raise UserError(f"{self.dataset} has no plans {self.plans}: make them first, or choose of {known}")
        # without preprocessing, which would empty folders that these plans share with others
        command = ["nnUNetv2_plan_and_preprocess", "-d", number, "-npfp", processes, "--verify_dataset_integrity"]
        planner = _PLANNERS[self.plans]
        return [*command, "--no_pp", *(["-pl", planner] if planner else [])]

    def begin(self, folders: NnUNetFolders) -> list[str]:
        return super().begin(folders) if self._is_planned(folders) else []  # planning leaves no cases

    def _is_preprocessed(self, experiment: ExperimentKey, folders: NnUNetFolders) -> bool:
        folder = _preprocessed(experiment, folders)
        if not folder.is_dir() or not any(folder.iterdir()) or self._marker(folders).exists():
            return False  # nnU-Net preprocesses from the start whatever is there, and a kill leaves a file torn
        found = set(_identifiers(folder))
        whole = {case for case in found if (folder / f"{case}.pkl").exists()}  # which is written last
        return bool(found) and found == whole and found >= self._cases(folders)

    def _cases(self, folders: NnUNetFolders) -> set[str]:
        """Training cases of the raw dataset; none where only the preprocessed one is there."""
        from nnunetv2.utilities.utils import get_identifiers_from_splitted_dataset_folder

        raw = folders.raw / self.dataset
        if not (raw / "imagesTr").is_dir() or not (raw / "dataset.json").is_file():
            return set()
        description = read_json(raw / "dataset.json", "nnU-Net's dataset.json")
        if isinstance(listed := description.get("dataset"), dict):
            return set(listed)
        ending = str(description.get("file_ending"))
        return set(map(str, get_identifiers_from_splitted_dataset_folder(str(raw / "imagesTr"), ending)))


@dataclass(frozen=True)
class Train:
    """One training with its validation, from wherever it stands."""

    run: Run
    kind = "train"
    uses_gpu = True

    def __str__(self) -> str:
        return str(self.run)

    def depends_on(self, other: Task) -> bool:
        # plans share folders of cases, which nnU-Net empties before it fills them
        return isinstance(other, Prepare) and other.dataset == self.run.experiment.dataset

    def consumes(self, other: Task) -> bool:
        return self.depends_on(other) and other.plans == self.run.experiment.plans

    @property
    def repeat(self) -> int:
        return self.run.repeat

    def folder(self, folders: NnUNetFolders) -> Path:
        return folders.fold(self.run)

    def commands(self, folders: NnUNetFolders, options: RunOptions) -> list[list[str]]:
        stage = read_state(self.run, folders).stage
        if stage == "done":
            return []
        if stage == "different splits":
            fold = folders.fold(self.run)
            raise UserError(
                f"{fold} was validated on other cases than splits_final.json has for this fold, so it may have been "
                "trained on these: move it away to train it anew"
            )
        # without a checkpoint, --c starts anew; with the final one, it would write that again
        return [[*self.command(options), "--val" if stage == "to validate" else "--c"]]

    def command(self, options: RunOptions) -> list[str]:
        """The training from its start."""
        experiment = self.run.experiment
        command = ["nnUNetv2_train", experiment.dataset, experiment.configuration, str(self.run.fold)]
        command += ["-tr", self.run.trainer, "-p", experiment.plans, "-device", options.device]
        return command + (["-num_gpus", str(options.num_gpus)] if options.num_gpus > 1 else [])

    def begin(self, folders: NnUNetFolders) -> list[str]:
        """Set torn checkpoints aside, and make the splits, which two trainings at once would write over each other."""
        said = []
        for name in CHECKPOINTS:
            file = folders.fold(self.run) / name
            if file.exists() and not is_checkpoint(file):
                aside = next(p for n in range(1, 1000) if not (p := file.with_suffix(f".broken{n}")).exists())
                file.rename(aside)
                said.append(f"{file} is no whole checkpoint: set aside as {aside.name}")
        make_splits(self.run.experiment, folders)
        folds = len(read_splits(self.run.experiment, folders) or [])
        if self.run.fold >= folds:
            path = folders.preprocessed_dataset(self.run.experiment) / "splits_final.json"
            raise UserError(f"{path} has {folds} folds, no fold {self.run.fold}: nnU-Net would split at random")
        return said

    def end(self, folders: NnUNetFolders) -> None:
        pass


def make_splits(experiment: ExperimentKey, folders: NnUNetFolders) -> None:
    """Write nnU-Net's own five folds where there are none, with its own function."""
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    with _SPLITTING:
        if read_splits(experiment, folders) is not None:
            return
        folder = _preprocessed(experiment, folders)
        try:
            found = generate_crossval_split(sorted(_identifiers(folder)))
        except ValueError as error:
            raise UserError(f"{folder} cannot be split into five folds ({error}): write a splits_final.json") from None
        splits = [{part: [str(case) for case in fold[part]] for part in fold} for fold in found]
        write_atomic(
            folders.preprocessed_dataset(experiment) / "splits_final.json", json.dumps(splits, indent=4) + "\n"
        )


_SPLITTING = threading.Lock()  # trainings start in threads of one process


def _preprocessed(experiment: ExperimentKey, folders: NnUNetFolders) -> Path:
    """Where nnU-Net keeps the cases of a configuration, which may be those of another."""
    configurations = read_plans(experiment, folders)["configurations"]
    configuration = configurations[experiment.configuration]
    while "data_identifier" not in configuration and configuration.get("inherits_from") in configurations:
        configuration = configurations[configuration["inherits_from"]]
    return folders.preprocessed_dataset(experiment) / str(configuration.get("data_identifier"))


def _identifiers(folder: Path) -> list[str]:
    from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

    try:
        return infer_dataset_class(str(folder)).get_identifiers(str(folder))
    except AssertionError:
        raise UserError(f"{folder} has files that nnU-Net does not know: move them away") from None


@dataclass(frozen=True)
class Predict(_Marked):
    """The test cases, predicted by all folds of a trainer together."""

    runs: tuple[Run, ...]
    kind = "predict"
    uses_gpu = True

    def __str__(self) -> str:
        run = self.runs[0]
        return f"{run.experiment}: {run.trainer}, test cases{run.repeat_suffix}"

    def depends_on(self, other: Task) -> bool:
        if isinstance(other, Train):
            return other.run in self.runs
        return isinstance(other, Prepare) and other.dataset == self.runs[0].experiment.dataset

    def consumes(self, other: Task) -> bool:
        return self.depends_on(other) and (isinstance(other, Train) or other.plans == self.runs[0].experiment.plans)

    @property
    def repeat(self) -> int:
        return self.runs[0].repeat

    @property
    def folds(self) -> list[str]:
        return [str(run.fold) for run in self.runs]

    def folder(self, folders: NnUNetFolders) -> Path:
        return folders.test_predictions(self.runs[0], [run.fold for run in self.runs])

    def commands(self, folders: NnUNetFolders, options: RunOptions) -> list[list[str]]:
        run, folder = self.runs[0], self.folder(folders)
        experiment = run.experiment
        if self.is_done(folders) and not self.is_outdated(folders):
            return []
        images = folders.raw_dataset(experiment) / "imagesTs"
        command = ["nnUNetv2_predict", "-i", str(images), "-o", str(folder), "-d", experiment.dataset]
        command += ["-c", experiment.configuration, "-tr", run.trainer, "-p", experiment.plans, "-f", *self.folds]
        n = str(max(1, min(3, options.processes)))
        return [[*command, "-npp", n, "-nps", n, "-device", options.device]]

    def is_done(self, folders: NnUNetFolders) -> bool:
        """Whether every test case is predicted; where there is none, there is nothing to do."""
        files = self._files(folders)
        return not files or (not self._marker(folders).exists() and all(file.exists() for file in files))

    def is_outdated(self, folders: NnUNetFolders) -> bool:
        """Whether a fold has been trained since the test cases were predicted."""
        networks = [path for run in self.runs if (path := folders.fold(run) / "checkpoint_final.pth").exists()]
        trained = max((path.stat().st_mtime for path in networks), default=0.0)
        return any(file.stat().st_mtime < trained for file in self._files(folders))

    def _files(self, folders: NnUNetFolders) -> list[Path]:
        """The predictions of all test cases."""
        experiment, folder = self.runs[0].experiment, self.folder(folders)
        if not (cases := find_test_cases(experiment, folders)):
            return []
        ending = _ending(folders.raw_dataset(experiment))
        return [folder / f"{case}{ending}" for case in cases]


def _ending(dataset: Path) -> str:
    return str(read_json(dataset / "dataset.json", "nnU-Net's dataset.json").get("file_ending"))


def find_test_cases(experiment: ExperimentKey, folders: NnUNetFolders) -> list[str]:
    """Cases of imagesTs that have a reference in labelsTs."""
    folder = folders.raw_dataset(experiment)
    if not (folder / "labelsTs").is_dir() or not (folder / "imagesTs").is_dir():
        return []
    ending = _ending(folder)
    images = folder / "imagesTs"
    cases = {file.name.removesuffix(ending) for file in (folder / "labelsTs").glob(f"[!.]*{ending}")}
    return sorted(case for case in cases if (images / f"{case}_0000{ending}").exists())


def prepare_tasks(grid: Grid) -> Iterator[Prepare]:
    for dataset in grid.datasets:
        for plans in grid.plans:
            yield Prepare(dataset, plans, tuple(grid.configurations))


def train_tasks(grid: Grid) -> Iterator[Train]:
    for run in grid.runs():
        yield Train(run)


def predict_tasks(grid: Grid) -> Iterator[Predict]:
    models: dict[tuple, list[Run]] = {}
    for run in grid.runs():
        models.setdefault((run.experiment, run.trainer, run.repeat), []).append(run)
    for runs in models.values():
        yield Predict(tuple(runs))
