"""Files as nnU-Net writes them: datasets, plans, splits, trainings; and the processes of a test."""

import json
import pickle
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import torch

from nnunet_xattnres.benchmark.folders import NnUNetFolders
from nnunet_xattnres.benchmark.grid import ExperimentKey, Run
from nnunet_xattnres.utils.paths import PATH_VARIABLES

from .label_maps import write_dataset_json
from .plans_file import plans_dict

DATASET = "Dataset004_Organs"
EXPERIMENT = ExperimentKey(DATASET, "2d", "nnUNetPlans")
STARTED = datetime(2026, 11, 22, 2, 43, 26)


def make_folders(root: Path) -> NnUNetFolders:
    """nnU-Net's three folders, empty."""
    folders = [root / variable for variable in PATH_VARIABLES]
    for folder in folders:
        folder.mkdir()
    return NnUNetFolders(*folders)


def run_of(trainer="nnUNetTrainer_5epochs", fold=0, repeat=0, experiment=EXPERIMENT) -> Run:
    return Run(experiment, trainer, fold, repeat)


# datasets


def write_raw(
    folders: NnUNetFolders,
    cases: Iterable[str],
    tests: Iterable[str] = (),
    dataset: str = DATASET,
    ending: str = ".png",
) -> Path:
    """A raw dataset whose images and label maps are empty files."""
    folder = folders.raw / dataset
    for part, names in {"Tr": list(cases), "Ts": list(tests)}.items():
        if names:
            (folder / f"images{part}").mkdir(parents=True)
            (folder / f"labels{part}").mkdir()
        for case in names:
            (folder / f"images{part}" / f"{case}_0000{ending}").touch()
            (folder / f"labels{part}" / f"{case}{ending}").touch()
    write_dataset_json(folder, ending=ending)
    return folder


def write_plans(folders: NnUNetFolders, experiment: ExperimentKey = EXPERIMENT) -> Path:
    """Plans with the configurations 2d, 3d_fullres and one that inherits from 2d."""
    plans = plans_dict() | {"dataset_name": experiment.dataset, "plans_name": experiment.plans}
    for name, configuration in plans["configurations"].items():
        configuration["data_identifier"] = f"{experiment.plans}_{name}"
    plans["configurations"]["2d_bs4"] = {"inherits_from": "2d", "batch_size": 4}
    path = folders.plans(experiment)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(plans))
    return path


def write_data(folders: NnUNetFolders, cases: Iterable[str], experiment: ExperimentKey = EXPERIMENT) -> Path:
    """The folder of preprocessed cases, with files that have the names of real ones."""
    folder = folders.preprocessed_dataset(experiment) / f"{experiment.plans}_{experiment.configuration}"
    folder.mkdir(parents=True)
    for case in cases:
        (folder / f"{case}.b2nd").write_bytes(b"data")
        (folder / f"{case}_seg.b2nd").write_bytes(b"seg")
        (folder / f"{case}.pkl").write_bytes(pickle.dumps({"spacing": [999.0, 1.0, 1.0]}))
    return folder


def write_splits(folders: NnUNetFolders, folds: Sequence[Sequence[str]], dataset: str = DATASET) -> Path:
    """Splits with these validation cases; the others train."""
    every = [case for fold in folds for case in fold]
    splits = [{"train": [case for case in every if case not in fold], "val": list(fold)} for fold in folds]
    path = folders.preprocessed / dataset / "splits_final.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(splits, indent=4))
    return path


# trainings


def epoch_lines(
    number: int,
    train_loss: float | str = -0.3268,
    val_loss: float | str = -0.2774,
    dice: str = "[np.float32(0.5785), np.float32(0.517)]",
    seconds: float | str = 48.93,
) -> list[str]:
    """nnU-Net's log lines of an epoch."""
    return [
        "", f"Epoch {number}", "Current learning rate: 0.01", f"train_loss {train_loss}", f"val_loss {val_loss}",
        f"Pseudo dice {dice}", f"Epoch time: {seconds} s",
    ]  # fmt: skip


TRAINED = ["Yayy! New best EMA pseudo Dice: 0.14429999887943268", "Training done."]

_CITATION = f"""
{"#" * 71}
Please cite the following paper when using nnU-Net:
Isensee, F., Jaeger, P. F., Kohl, S. A., Petersen, J., & Maier-Hein, K. H. (2021). nnU-Net: a self-configuring method \
for deep learning-based biomedical image segmentation. Nature methods, 18(2), 203-211.
{"#" * 71}
"""
_PLANS = [
    "\nThis is the configuration used by this training:\nConfiguration name: 2d\n",
    "{'data_identifier': 'nnUNetPlans_2d', 'batch_size': 24, 'patch_size': [56, 40], 'spacing': [1.0, 1.0]}",
    "\n", "\nThese are the global plan.json settings:\n", "{'dataset_name': 'Dataset004_Organs'}", "\n",
]  # fmt: skip


def log_text(lines: Iterable[str], start: datetime = STARTED) -> str:
    """A log of nnU-Net with these lines after its introduction, one a second."""
    time = start + timedelta(microseconds=970904)
    text = f"{_CITATION} \n{time}: do_dummy_2d_data_aug: False \n{' '.join(_PLANS)} \n"
    for number, line in enumerate(lines, 1):
        text += f"{time + timedelta(seconds=number)}: {line} \n"
    return text


def write_log(fold: Path, lines: Iterable[str], start: datetime = STARTED) -> Path:
    fold.mkdir(parents=True, exist_ok=True)
    # the format of nnUNetTrainer.__init__, which leaves the zeros of month and day out
    parts = (start.year, start.month, start.day, start.hour, start.minute, start.second)
    path = fold / ("training_log_%d_%d_%d_%02.0d_%02.0d_%02.0d.txt" % parts)  # noqa: UP031
    path.write_text(log_text(lines, start))
    return path


def write_debug(fold: Path, **others) -> Path:
    """debug.json, whose values are all strings."""
    fold.mkdir(parents=True, exist_ok=True)
    content = {
        "_best_ema": "None", "batch_size": "24", "configuration_manager": "{'patch_size': [56, 40]}",
        "cudnn_version": "None", "current_epoch": "0", "device": "cpu", "hostname": "node1", "num_epochs": "5",
        "num_iterations_per_epoch": "250", "torch_version": "2.7.1+cpu",
    }  # fmt: skip
    path = fold / "debug.json"
    path.write_text(json.dumps({key: str(value) for key, value in (content | others).items()}, indent=4))
    return path


def write_checkpoint(path: Path, epoch: int = 5) -> Path:
    """A checkpoint as nnU-Net saves it, of a very small network."""
    path.parent.mkdir(parents=True, exist_ok=True)
    network = torch.nn.Conv2d(1, 2, 3)
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.99, nesterov=True)
    content = {
        "network_weights": network.state_dict(), "optimizer_state": optimizer.state_dict(), "grad_scaler_state": None,
        "logging": {"train_losses": [0.3] * epoch}, "_best_ema": 0.1443, "current_epoch": epoch,
        "init_args": {"fold": 0, "configuration": "2d"}, "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1),
    }  # fmt: skip
    torch.save(content, path)
    return path


def write_summary(folders: NnUNetFolders, run: Run, cases: Iterable[str], ending: str = ".nii.gz") -> Path:
    folder = folders.validation(run)
    folder.mkdir(parents=True, exist_ok=True)
    metrics = {"Dice": 0.5, "FN": 2, "FP": 4, "IoU": 0.3333, "TN": 55, "TP": 3, "n_pred": 7, "n_ref": 5}
    content = {
        "foreground_mean": metrics,
        "mean": {"1": metrics},
        "metric_per_case": [
            {
                "metrics": {"1": metrics},
                "prediction_file": str(folder / f"{case}{ending}"),
                "reference_file": str(folders.references(run.experiment) / f"{case}{ending}"),
            }
            for case in cases
        ],
    }
    path = folder / "summary.json"
    path.write_text(json.dumps(content, indent=4))
    return path


def finish(folders: NnUNetFolders, run: Run, cases: Iterable[str], epochs: int = 5) -> Path:
    """A finished training with all of its files."""
    fold = folders.fold(run)
    write_log(fold, [line for number in range(epochs) for line in epoch_lines(number)] + TRAINED)
    write_debug(fold, num_epochs=epochs)
    for name in ("checkpoint_best.pth", "checkpoint_final.pth"):
        write_checkpoint(fold / name, epochs)
    write_summary(folders, run, cases)
    return fold


# processes


def eventually(condition: Callable[[], bool]) -> bool:
    """Whether a condition becomes true within a minute."""
    end = time.monotonic() + 60
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def alive(entry: str) -> dict[int, str]:
    """Command lines, by process id, of the processes with NAME=VALUE in their environment."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if entry.encode() in (folder / "environ").read_bytes().split(b"\0"):
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:  # ended meanwhile, or another user's
            continue
    return found
