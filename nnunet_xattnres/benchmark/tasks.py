"""The tasks of a benchmark as nnU-Net's own commands: prepare, train, predict the test cases."""

import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ..utils.errors import UserError
from ..utils.files import read_json, write_atomic
from .folders import NnUNetFolders
from .grid import ExperimentKey, Grid, Run
from .state import CHECKPOINTS, is_checkpoint, read_experiment_plans, read_splits, read_state

_PLANNERS = {
    "nnUNetPlans": None,
    "nnUNetResEncUNetMPlans": "nnUNetPlannerResEncM",
    "nnUNetResEncUNetLPlans": "nnUNetPlannerResEncL",
    "nnUNetResEncUNetXLPlans": "nnUNetPlannerResEncXL",
}
"""nnU-Net's planners by the names of their plans."""


@dataclass(frozen=True)
class RunOptions:
    """Options of every command: device ("cuda", "cpu" or "mps"), GPUs per training, worker processes."""

    device: str = "cuda"
    num_gpus: int = 1
    processes: int = 8


class Task(ABC):
    """A unit of work that consists of nnU-Net commands.

    `commands` returns the remaining commands, as far as they are known; it is empty if the task is done. The first is
    run, then `commands` is called again. `begin` is called before every command and returns messages for the user,
    `end` after every one that succeeded. `depends_on` tells whether the task must wait for another, `consumes` whether
    it also reads its results. `folder` is locked while the task runs.
    """

    kind: ClassVar[str]
    uses_gpu: ClassVar[bool]

    @property
    def repeat(self) -> int:
        return 0

    @abstractmethod
    def __str__(self) -> str: ...

    @abstractmethod
    def depends_on(self, other: "Task") -> bool: ...

    @abstractmethod
    def consumes(self, other: "Task") -> bool: ...

    @abstractmethod
    def commands(self, folders: NnUNetFolders, options: RunOptions) -> list[list[str]]: ...

    @abstractmethod
    def begin(self, folders: NnUNetFolders) -> list[str]: ...

    @abstractmethod
    def end(self, folders: NnUNetFolders) -> None: ...

    @abstractmethod
    def folder(self, folders: NnUNetFolders) -> Path: ...


class _MarkedTask(Task):
    """A task with a marker file in its folder between begin and end, which shows that it was killed."""

    def _marker(self, folders: NnUNetFolders) -> Path:
        return self.folder(folders) / ".unfinished"

    def begin(self, folders: NnUNetFolders) -> list[str]:
        self._marker(folders).touch()
        return []

    def end(self, folders: NnUNetFolders) -> None:
        self._marker(folders).unlink(missing_ok=True)


@dataclass(frozen=True)
class Prepare(_MarkedTask):
    """Plan and preprocess a dataset, as far as this is not done."""

    dataset: str
    plans: str
    configurations: tuple[str, ...]
    kind = "prepare"
    uses_gpu = False

    def __str__(self) -> str:
        return f"prepare {self.dataset}, {self.plans}"

    def depends_on(self, other: Task) -> bool:
        return False

    consumes = depends_on

    def folder(self, folders: NnUNetFolders) -> Path:
        return folders.preprocessed / self.dataset

    def _marker(self, folders: NnUNetFolders) -> Path:
        return self.folder(folders) / f".{self.plans}.unfinished"  # plans share this folder

    def _experiments(self) -> list[ExperimentKey]:
        return [ExperimentKey(self.dataset, configuration, self.plans) for configuration in self.configurations]

    def commands(self, folders: NnUNetFolders, options: RunOptions) -> list[list[str]]:
        number, n = str(int(self.dataset[7:10])), str(options.processes)
        planning = [] if self._is_planned(folders) else [self._plan(number, n)]
        todo = [e.configuration for e in self._experiments() if planning or not self._is_preprocessed(e, folders)]
        if not todo:
            return []
        preprocess = ["nnUNetv2_preprocess", "-d", number, "-plans_name", self.plans, "-c", *todo]
        return [*planning, [*preprocess, "-np", *[n] * len(todo)]]

    def _is_planned(self, folders: NnUNetFolders) -> bool:
        return folders.plans(self._experiments()[0]).exists()

    def _plan(self, number: str, processes: str) -> list[str]:
        if self.plans not in _PLANNERS:
            known = ", ".join(_PLANNERS)
            raise UserError(f"{self.dataset} has no plans {self.plans}: create them first, or choose one of {known}")
        # without preprocessing, which would empty folders that other plans use as well
        command = ["nnUNetv2_plan_and_preprocess", "-d", number, "-npfp", processes, "--verify_dataset_integrity"]
        planner = _PLANNERS[self.plans]
        return [*command, "--no_pp", *(["-pl", planner] if planner else [])]

    def begin(self, folders: NnUNetFolders) -> list[str]:
        return super().begin(folders) if self._is_planned(folders) else []  # planning writes no cases

    def _is_preprocessed(self, experiment: ExperimentKey, folders: NnUNetFolders) -> bool:
        folder = _preprocessed(experiment, folders)
        if not folder.is_dir() or not any(folder.iterdir()) or self._marker(folders).exists():
            return False  # a killed preprocessing leaves an incomplete file, and nnU-Net always starts from scratch
        existing = set(_identifiers(folder))
        complete = {case for case in existing if (folder / f"{case}.pkl").exists()}  # the file that is written last
        return bool(existing) and existing == complete and existing >= self._cases(folders)

    def _cases(self, folders: NnUNetFolders) -> set[str]:
        """Training cases of the raw dataset; empty if there is only a preprocessed one."""
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
class Train(Task):
    """One training with its validation, from the last checkpoint on."""

    run: Run
    kind = "train"
    uses_gpu = True

    def __str__(self) -> str:
        return str(self.run)

    def depends_on(self, other: Task) -> bool:
        # plans share folders of preprocessed cases, which nnU-Net empties before it fills them
        return isinstance(other, Prepare) and other.dataset == self.run.experiment.dataset

    def consumes(self, other: Task) -> bool:
        return self.depends_on(other) and isinstance(other, Prepare) and other.plans == self.run.experiment.plans

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
                f"{fold} was validated on other cases than splits_final.json has for this fold and may have been "
                "trained on these: move it away to train again"
            )
        # without a checkpoint, --c starts from scratch; with the final one, --c would write it again
        return [[*self.command(options), "--val" if stage == "to validate" else "--c"]]

    def command(self, options: RunOptions) -> list[str]:
        """The command that trains from scratch."""
        experiment = self.run.experiment
        command = ["nnUNetv2_train", experiment.dataset, experiment.configuration, str(self.run.fold)]
        command += ["-tr", self.run.trainer, "-p", experiment.plans, "-device", options.device]
        return command + (["-num_gpus", str(options.num_gpus)] if options.num_gpus > 1 else [])

    def begin(self, folders: NnUNetFolders) -> list[str]:
        """Rename incomplete checkpoints, and write the splits, which parallel trainings would all write at once."""
        messages = []
        for name in CHECKPOINTS:
            file = folders.fold(self.run) / name
            if file.exists() and not is_checkpoint(file):
                renamed = next(p for n in range(1, 1000) if not (p := file.with_suffix(f".broken{n}")).exists())
                file.rename(renamed)
                messages.append(f"{file} is incomplete: renamed to {renamed.name}")
        make_splits(self.run.experiment, folders)
        folds = len(read_splits(self.run.experiment, folders) or [])
        if self.run.fold >= folds:
            path = folders.splits(self.run.experiment.dataset)
            raise UserError(
                f"{path} has {folds} folds, not fold {self.run.fold}: nnU-Net would train it on a random split"
            )
        return messages

    def end(self, folders: NnUNetFolders) -> None:
        pass


def make_splits(experiment: ExperimentKey, folders: NnUNetFolders) -> None:
    """Write nnU-Net's default five folds, with nnU-Net's own function, if there are none."""
    with _SPLITS_LOCK:
        if read_splits(experiment, folders) is not None:
            return
        from nnunetv2.utilities.crossval_split import generate_crossval_split

        folder = _preprocessed(experiment, folders)
        try:
            folds = generate_crossval_split(sorted(_identifiers(folder)))
        except ValueError as error:
            raise UserError(f"{folder} cannot be split into five folds ({error}): write a splits_final.json") from None
        splits = [{part: [str(case) for case in fold[part]] for part in fold} for fold in folds]
        write_atomic(folders.splits(experiment.dataset), json.dumps(splits, indent=4) + "\n")


_SPLITS_LOCK = threading.Lock()  # trainings start in threads of one process


def _preprocessed(experiment: ExperimentKey, folders: NnUNetFolders) -> Path:
    """The folder of a configuration's preprocessed cases, which may be inherited from another configuration."""
    configurations = read_experiment_plans(experiment, folders)["configurations"]
    configuration = configurations[experiment.configuration]
    while "data_identifier" not in configuration and configuration.get("inherits_from") in configurations:
        configuration = configurations[configuration["inherits_from"]]
    return folders.preprocessed_dataset(experiment) / str(configuration.get("data_identifier"))


def _identifiers(folder: Path) -> list[str]:
    from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

    try:
        return infer_dataset_class(str(folder)).get_identifiers(str(folder))
    except AssertionError:
        raise UserError(f"{folder} has files that nnU-Net cannot read: move them away") from None


@dataclass(frozen=True)
class Predict(_MarkedTask):
    """Predict the test cases with the ensemble of all folds of a trainer."""

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
        return self.depends_on(other) and not (
            isinstance(other, Prepare) and other.plans != self.runs[0].experiment.plans
        )

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
        """Whether every test case is predicted; also if there are none."""
        files = self._files(folders)
        return not files or (not self._marker(folders).exists() and all(file.exists() for file in files))

    def is_outdated(self, folders: NnUNetFolders) -> bool:
        """Whether a fold was trained after the test cases were predicted."""
        checkpoints = [path for run in self.runs if (path := folders.fold(run) / "checkpoint_final.pth").exists()]
        trained = max((path.stat().st_mtime for path in checkpoints), default=0.0)
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
    """Cases of imagesTs with a reference in labelsTs."""
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
