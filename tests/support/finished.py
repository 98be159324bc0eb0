"""Writes the files of a finished benchmark as nnU-Net's commands do, with synthetic predictions."""

import contextlib
import io
import json
import multiprocessing
import multiprocessing.dummy
import multiprocessing.pool  # imported before `summarise` replaces get_context, of which it keeps a reference
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder2

from nnunet_xattnres.benchmark.folders import NnUNetFolders
from nnunet_xattnres.benchmark.grid import ExperimentKey, Grid, Run
from nnunet_xattnres.benchmark.report.read import read_results
from nnunet_xattnres.benchmark.report.results import Results

from .label_maps import write_dataset_json, write_label_map
from .plans import arch_kwargs
from .plans_file import plans_dict
from .results import BASELINE, OTHER

SHORT = (f"{BASELINE}_1epoch", f"{OTHER}_1epoch")
LABELS = {"background": 0, "nucleus": 1, "cell wall": 2}
SPACING = (3.0, 0.5, 0.75)
CASES = tuple(f"case_{number:02d}" for number in range(15))
TEST_CASES = ("test_0", "test_1", "test_2")
EPOCH_SECONDS = {BASELINE: (10.0, 12.0), OTHER: (15.0, 18.0)}


@dataclass(frozen=True)
class Finished:
    """The folders and the grid of a finished benchmark."""

    root: Path
    folders: NnUNetFolders
    grid: Grid
    ending: str

    @property
    def experiment(self) -> ExperimentKey:
        return self.grid.experiments()[0]

    def run(self, trainer: str, fold: int, repeat: int = 0) -> Run:
        return Run(self.experiment, trainer, fold, repeat)

    def fold(self, trainer: str, fold: int, repeat: int = 0) -> Path:
        return self.folders.fold(self.run(trainer, fold, repeat))

    def fold_of(self, case: str) -> int:
        return next(fold for fold, cases in enumerate(self.validated) if case in cases)

    @property
    def validated(self) -> list[list[str]]:
        """Validation cases of every fold."""
        return [fold["val"] for fold in json.loads((self.preprocessed / "splits_final.json").read_text())]

    @property
    def preprocessed(self) -> Path:
        return self.folders.preprocessed_dataset(self.experiment)

    def predicted(self, trainer: str, case: str, repeat: int = 0) -> Path:
        return self.fold(trainer, self.fold_of(case), repeat) / "validation" / f"{case}{self.ending}"

    def reference(self, case: str) -> Path:
        return self.preprocessed / "gt_segmentations" / f"{case}{self.ending}"

    def results(self) -> Results:
        (results,) = read_results(self.grid, self.folders, 1)
        return results

    def copy(self, root: Path) -> "Finished":
        """A copy with the same modification times."""
        root.mkdir(exist_ok=True)
        folders = [getattr(self.folders, name) for name in ("raw", "preprocessed", "results")]
        for folder in folders:
            shutil.copytree(folder, root / folder.name)
        return replace(self, root=root, folders=NnUNetFolders(*(root / folder.name for folder in folders)))

    def use(self, monkeypatch) -> None:
        """Set nnU-Net's environment variables to these folders."""
        monkeypatch.delenv("nnUNet_extTrainer", raising=False)
        for variable, value in self.folders.environment().items():
            monkeypatch.setenv(variable, value)


def write_finished(
    root: Path,
    *,
    dataset: str = "Dataset007_Cells",
    ending: str = ".png",
    labels: Mapping = LABELS,
    trainers: Sequence[str] = (BASELINE, OTHER),
    folds: int = 3,
    repeats: int = 1,
    tested: bool = False,
) -> Finished:
    """Write a benchmark with 15 cases; later entries of `trainers` have better predictions.

    Args:
        root: nnU-Net's three folders are created here.
        dataset, labels, trainers: names.
        ending: ".png" for images and configuration 2d, ".nii.gz" for anisotropic volumes and 3d_fullres.
        folds, repeats: trainings of every trainer.
        tested: whether there are test cases, predicted by all folds.
    """
    folders = [root / name for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")]
    for folder in folders:
        folder.mkdir(parents=True)
    configuration = "2d" if ending == ".png" else "3d_fullres"
    grid = Grid((dataset,), tuple(trainers), (configuration,), folds=tuple(range(folds)), repeats=repeats)
    finished = Finished(root, NnUNetFolders(*folders), grid, ending)
    _write_dataset(finished, labels, folds, tested)
    plans = json.loads(finished.folders.plans(finished.experiment).read_text())["configurations"][configuration]
    for run in grid.runs():
        _write_training(finished, run, plans)
        if tested and run.fold == folds - 1:  # after all networks
            folder = finished.folders.test_predictions(run, grid.folds)
            folder.mkdir()
            for number, case in enumerate(TEST_CASES, len(CASES)):
                write_label_map(folder / f"{case}{ending}", prediction(finished, run, number), _spacing(ending))
    return finished


def _spacing(ending: str) -> Sequence[float] | None:
    return None if ending == ".png" else SPACING


def reference(number: int, ending: str) -> np.ndarray:
    """An ellipse or ellipsoid far from the border; its halves have labels 1 and 2."""
    shape = (24, 28) if ending == ".png" else (7, 20, 22)
    rng = np.random.default_rng(number)
    centre = np.array(shape) / 2 + rng.uniform(-1, 1, len(shape))
    radius = np.array(shape) * rng.uniform(0.24, 0.3, len(shape))
    places = np.moveaxis(np.indices(shape), 0, -1)
    inside = (((places - centre) / radius) ** 2).sum(-1) < 1
    return np.where(inside, 1 + (places[..., -1] > centre[-1]), 0)


def prediction(finished: Finished, run: Run, number: int) -> np.ndarray:
    """The reference, shifted by fewer pixels for a better trainer."""
    best = len(finished.grid.trainers) - 1
    steps = 1 + 2 * (best - finished.grid.trainers.index(run.trainer)) - (number + run.repeat) % 2
    return np.roll(reference(number, finished.ending), steps, axis=-1)


def _write_dataset(finished: Finished, labels: Mapping, folds: int, tested: bool) -> None:
    raw, preprocessed, ending = (
        finished.folders.raw_dataset(finished.experiment),
        finished.preprocessed,
        finished.ending,
    )
    parts = {"Tr": CASES} | ({"Ts": TEST_CASES} if tested else {})
    number = 0
    for part, cases in parts.items():
        images, maps = raw / f"images{part}", raw / f"labels{part}"
        images.mkdir(parents=True)
        maps.mkdir()
        for case in cases:
            array = reference(number, ending)
            image = 80 * array + np.random.default_rng(number).integers(0, 40, array.shape)
            write_label_map(images / f"{case}_0000{ending}", image, _spacing(ending))
            write_label_map(maps / f"{case}{ending}", array, _spacing(ending))
            number += 1
    shutil.copytree(raw / "labelsTr", preprocessed / "gt_segmentations")
    for folder in (raw, preprocessed):
        write_dataset_json(folder, labels, ending)
    plans = plans_dict() | {"dataset_name": raw.name}
    plans["configurations"]["3d_fullres"] |= {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "patch_size": [8, 16, 16],
        "spacing": list(SPACING),
        "architecture": plans["configurations"]["2d"]["architecture"]
        | {"arch_kwargs": arch_kwargs("plain 3d anisotropic")},
    }
    (preprocessed / "nnUNetPlans.json").write_text(json.dumps(plans))
    data = preprocessed / plans["configurations"][finished.experiment.configuration]["data_identifier"]
    data.mkdir()
    for case in CASES:
        for name in (f"{case}.b2nd", f"{case}_seg.b2nd", f"{case}.pkl"):
            (data / name).touch()
    parts = [[case for case in CASES if CASES.index(case) % folds == fold] for fold in range(folds)]
    splits = [{"train": [case for case in CASES if case not in part], "val": part} for part in parts]
    (preprocessed / "splits_final.json").write_text(json.dumps(splits))


def _write_training(finished: Finished, run: Run, plans: dict) -> None:
    folders, ending = finished.folders, finished.ending
    model, fold, validation = folders.model(run), folders.fold(run), folders.validation(run)
    validation.mkdir(parents=True)
    for name in ("dataset.json", "nnUNetPlans.json"):
        shutil.copyfile(finished.preprocessed / name, model / name.replace("nnUNetPlans", "plans"))
    for name in ("checkpoint_final.pth", "checkpoint_best.pth"):
        torch.save({"network_weights": {"weight": torch.zeros(2)}, "current_epoch": 2}, fold / name)
    (fold / "debug.json").write_text(json.dumps(debug(plans), indent=4))
    write_log(fold, EPOCH_SECONDS.get(run.trainer, EPOCH_SECONDS[BASELINE]))
    for case in finished.validated[run.fold]:
        array = prediction(finished, run, CASES.index(case))
        write_label_map(validation / f"{case}{ending}", array, _spacing(ending))
    summarise(finished, run)


def summarise(finished: Finished, run: Run) -> None:
    """nnU-Net's own summary.json of a validation."""
    folders, model = finished.folders, finished.folders.model(run)
    # a process takes seconds to start
    threads = mock.patch.object(multiprocessing, "get_context", lambda _: multiprocessing.dummy)
    with threads, contextlib.redirect_stdout(io.StringIO()):
        compute_metrics_on_folder2(
            str(folders.references(run.experiment)), str(folders.validation(run)), str(model / "dataset.json"),
            str(model / "plans.json"), num_processes=1, chill=True,
        )  # fmt: skip


def debug(plans: Mapping, **others: str) -> dict[str, str]:
    """Some entries of nnU-Net's debug.json, where all values are strings."""
    entries = {"batch_size": "2", "configuration_manager": str(plans), "device": "cpu", "hostname": "node7"}
    entries |= {"num_epochs": "2", "num_iterations_per_epoch": "250", "torch_version": "2.7.0"}
    return entries | others


def change_debug(fold: Path, **others: str) -> None:
    path = fold / "debug.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | others))


def write_log(fold: Path, seconds: Iterable[float], start: int = 0, day: int = 1, loss: float = -0.25) -> Path:
    """A log file of nnU-Net with one epoch for each entry of `seconds`, from `start` on, and a validation."""
    lines = ["", "#" * 71, "Please cite the following paper when using nnU-Net:", "#" * 71, " "]
    time = f"2026-01-{day:02d} 09:00:00.123456"
    lines += [f"{time}: do_dummy_2d_data_aug: False ", "", "This is the configuration used by this training:"]
    for epoch, duration in enumerate(seconds, start):
        lines += [
            f"{time}:  ", f"{time}: Epoch {epoch} ", f"{time}: Current learning rate: 0.01 ",
            f"{time}: train_loss {loss - 0.125 * epoch} ", f"{time}: val_loss {loss - 0.0625 * epoch} ",
            f"{time}: Pseudo dice [np.float32(0.5), np.float32({0.75 + epoch / 16})] ",
            f"{time}: Epoch time: {duration} s ",
        ]  # fmt: skip
    lines += [f"{time}: predicting case_00 ", f"{time}: Validation complete ", f"{time}: Mean Validation Dice:  0.8 "]
    path = fold / f"training_log_2026_1_{day}_09_00_00.txt"
    path.write_text("\n".join(lines) + "\n")
    return path
