"""nnU-Net's logs and debug.json are read if they are complete, truncated, or from several processes."""

import json
from datetime import datetime
from types import MethodType, SimpleNamespace

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from support.benchmark import STARTED, TRAINED, epoch_lines, log_text, write_debug, write_log

from nnunet_xattnres.benchmark.log import Debug, read_debug, read_logs


def epochs(first, last, **values):
    return [line for number in range(first, last + 1) for line in epoch_lines(number, **values)]


def test_no_files(tmp_path):
    for folder in (tmp_path / "missing", tmp_path):
        log = read_logs(folder)
        assert (log.epochs, log.starts, log.last) == ({}, [], None)
        assert log.series("seconds") == ([], [])
        assert read_debug(folder) == Debug()


def test_a_training(tmp_path):
    lines = epoch_lines(0, 0.3341, 1.11, "[np.float32(0.0), np.float32(0.0628)]", 50.71)
    lines += epoch_lines(1, -0.0958, 2.6249, "[np.float32(0.25), np.float32(0.75)]", 55.95) + TRAINED
    write_log(tmp_path, lines, STARTED)
    log = read_logs(tmp_path)
    assert log.epochs == {
        0: {"train_loss": 0.3341, "val_loss": 1.11, "dice": 0.0314, "seconds": 50.71},
        1: {"train_loss": -0.0958, "val_loss": 2.6249, "dice": 0.5, "seconds": 55.95},
    }
    assert log.series("train_loss") == ([0, 1], [0.3341, -0.0958])
    assert log.starts == [STARTED]
    assert log.last == datetime(2026, 11, 22, 2, 43, 42)  # one line a second


class Trainer:
    """The attributes that nnU-Net's own functions need to write logs and debug.json."""

    local_rank, save_every, num_epochs, num_iterations_per_epoch = 0, 50, 1000, 250
    batch_size, device, _best_ema, disable_checkpointing = 24, torch.device("cpu"), 2.0, False

    def __init__(self, folder, values):
        self.output_folder, self.log_file, self.current_epoch = str(folder), str(folder / "training_log_1.txt"), 0
        self.configuration_manager = {"patch_size": [56, 40]}
        self.logger = SimpleNamespace(log=lambda *_: 0, get_value=lambda name, step: values[name], plot_progress_png=id)
        self.print_to_log_file = MethodType(nnUNetTrainer.print_to_log_file, self)
        self.optimizer = SimpleNamespace(param_groups=[{"lr": 0.01}])
        self.lr_scheduler = SimpleNamespace(step=lambda _: 0)
        self.network = SimpleNamespace(train=lambda: 0)


@pytest.mark.parametrize("number", [float, np.float32, np.float64])
def test_logs_that_nnunet_writes(tmp_path, number):
    values = {
        "train_losses": number(-0.00004), "val_losses": number(1234.5), "ema_fg_dice": 0.5,
        "dice_per_class_or_region": [number(0.5), number("nan"), number(0.25)],
        "epoch_start_timestamps": 1000.0, "epoch_end_timestamps": 1012.5,
    }  # fmt: skip
    trainer = Trainer(tmp_path, values)
    for _ in range(3):
        nnUNetTrainer.on_train_epoch_start(trainer)
        nnUNetTrainer.on_epoch_end(trainer)
    log = read_logs(tmp_path)
    assert sorted(log.epochs) == [0, 1, 2]
    assert log.epochs[2] == pytest.approx({"train_loss": 0, "val_loss": 1234.5, "dice": 0.375, "seconds": 12.5})
    assert len(log.starts) == 1 and log.starts[0] <= log.last


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("-0.3268", -0.3268), ("1.11", 1.11), ("2.0", 2.0), ("3", 3.0), ("-0.0", 0.0), ("1e-04", 1e-4),
        ("-5e-05", -5e-5), ("1.2e+16", 1.2e16), ("inf", float("inf")), ("-inf", -float("inf")), ("+0.5", 0.5),
    ],
)  # fmt: skip
def test_numbers(tmp_path, text, value):
    write_log(tmp_path, epoch_lines(7, text, text, f"[np.float32({text})]", text))
    values = read_logs(tmp_path).epochs[7]
    assert [values[name] for name in ("train_loss", "val_loss", "seconds")] == [value] * 3
    assert values["dice"] == value


def test_losses_that_are_nan(tmp_path):
    write_log(tmp_path, epoch_lines(0, "nan", "nan"))
    values = read_logs(tmp_path).epochs[0]
    assert str(values["train_loss"]) == str(values["val_loss"]) == "nan"


@pytest.mark.parametrize(
    ("dice", "mean"),
    [
        ("[np.float32(0.25), np.float32(0.75)]", 0.5),
        ("[np.float64(0.25), np.float64(0.75)]", 0.5),
        ("[0.25, 0.75]", 0.5),
        ("[0.25]", 0.25),
        ("[1.0, 0.0]", 0.5),
        ("[np.float32(0.5), np.float32(nan), np.float32(1e-04)]", 0.25005),
        ("[nan, 0.5, nan]", 0.5),
        ("[np.float32(nan)]", None),
        ("[nan, nan]", None),
        ("[]", None),
    ],
)
def test_mean_pseudo_dice(tmp_path, dice, mean):
    """nnU-Net's mean leaves out classes of which no voxel was seen or predicted."""
    write_log(tmp_path, epoch_lines(0, dice=dice))
    log = read_logs(tmp_path)
    assert log.epochs[0].get("dice") == mean
    assert log.series("dice") == (([], []) if mean is None else ([0], [mean]))


def test_logs_are_sorted_by_time(tmp_path):
    """Month and day have no leading zeros in the names, so that as text October comes before September."""
    starts = [datetime(2026, 9, 30, 23, 59, 59), datetime(2026, 10, 2, 1), datetime(2026, 10, 11), datetime(2027, 1, 1)]
    for number, start in enumerate(starts):
        write_log(tmp_path, epochs(number, number + 1, train_loss=number), start)
    assert (tmp_path / "training_log_2026_9_30_23_59_59.txt").exists()
    log = read_logs(tmp_path)
    assert log.series("train_loss") == ([0, 1, 2, 3, 4], [0, 1, 2, 3, 3])
    assert log.starts == starts


def test_repeated_epochs(tmp_path):
    """After a kill in epoch 73 the training continues from the checkpoint after epoch 49."""
    write_log(tmp_path, [*epochs(0, 72, train_loss=1.0), "", "Epoch 73"], datetime(2026, 1, 1))
    assert max(read_logs(tmp_path).epochs) == 72
    write_log(tmp_path, [], datetime(2026, 1, 2))  # it has not begun an epoch yet
    assert max(read_logs(tmp_path).epochs) == 72
    write_log(tmp_path, ["", "Epoch 50"], datetime(2026, 1, 3))
    assert list(read_logs(tmp_path).epochs) == list(range(50))
    write_log(tmp_path, epochs(50, 52, train_loss=2.0), datetime(2026, 1, 4))
    log = read_logs(tmp_path)
    assert log.series("train_loss") == (list(range(53)), [1.0] * 50 + [2.0] * 3)
    assert len(log.starts) == 4


def test_a_training_that_was_restarted(tmp_path):
    write_log(tmp_path, epochs(0, 9, train_loss=1.0) + TRAINED, datetime(2026, 1, 1))
    write_log(tmp_path, epochs(0, 1, train_loss=2.0), datetime(2026, 1, 2))
    assert read_logs(tmp_path).series("train_loss") == ([0, 1], [2.0, 2.0])


def test_a_validation_alone_changes_no_epoch(tmp_path):
    write_log(tmp_path, epochs(0, 4) + TRAINED, datetime(2026, 1, 1))
    before = read_logs(tmp_path).epochs
    write_log(tmp_path, ["predicting a", "Validation complete", "Mean Validation Dice:  0.53"], datetime(2026, 1, 2))
    assert read_logs(tmp_path).epochs == before


def test_other_files(tmp_path):
    (tmp_path / "training_log_2026_1_1_00_00_00.txt.swp").write_text(log_text(epochs(0, 1)))
    (tmp_path / "log.txt").write_text(log_text(epochs(0, 1)))
    assert read_logs(tmp_path).epochs == {}


def test_bytes_that_are_not_text(tmp_path):
    path = write_log(tmp_path, epochs(0, 1))
    path.write_bytes(path.read_bytes() + b"\xff\xfe\n\0\0\0\0" + log_text(epochs(2, 2)).encode())
    assert sorted(read_logs(tmp_path).epochs) == [0, 1, 2]


@pytest.mark.parametrize("first", ["Epoch 9", pytest.param("", marks=pytest.mark.soak)])
def test_a_log_that_is_cut_off_anywhere(tmp_path, first):
    """A truncated line must not be read as epoch 1 instead of 10, or as a loss without its last digits."""
    path = write_log(tmp_path, epochs(9, 11, train_loss=-0.3268, val_loss=12.345, seconds=148.93))
    text = path.read_text()
    complete = read_logs(tmp_path).epochs
    assert sorted(complete) == [9, 10, 11]
    counts = []
    for end in range(max(0, text.index(first) - 3), len(text)):
        path.write_text(text[:end])
        partial = read_logs(tmp_path).epochs
        assert all(values.items() <= complete[number].items() for number, values in partial.items()), text[:end][-60:]
        counts.append(len(partial))
    assert counts == sorted(counts)


def test_debug(tmp_path):
    write_debug(tmp_path, num_epochs=50)
    assert read_debug(tmp_path) == Debug(50, 250, "24", "cpu", "2.7.1+cpu", "node1", "{'patch_size': [56, 40]}")
    write_debug(tmp_path, device="cuda:0", gpu_name="NVIDIA H200")
    assert read_debug(tmp_path).device == "NVIDIA H200"


def test_debug_that_nnunet_writes(tmp_path):
    nnUNetTrainer._save_debug_information(Trainer(tmp_path, {}))
    debug = read_debug(tmp_path)
    assert (debug.epochs, debug.iterations, debug.batch_size, debug.device) == (1000, 250, "24", "cpu")
    assert (debug.torch, debug.configuration) == (torch.__version__, "{'patch_size': [56, 40]}")


@pytest.mark.parametrize("content", [b"", b"[1]", b"null", b'"a"', b"\xff\xfe", b"{", b"{}"])
def test_unreadable_debug(tmp_path, content):
    (tmp_path / "debug.json").write_bytes(content)
    assert read_debug(tmp_path) == Debug()


def test_debug_that_is_cut_off_anywhere(tmp_path):
    path = write_debug(tmp_path)
    text, complete = path.read_text(), read_debug(tmp_path)
    for end in range(len(text)):
        path.write_text(text[:end])
        assert read_debug(tmp_path) == Debug()
    path.write_text(text)
    assert read_debug(tmp_path) == complete != Debug()


@pytest.mark.parametrize("value", ["None", "-1", "1.5", "five", "", [5], None])
def test_lengths_that_are_not_numbers(tmp_path, value):
    path = write_debug(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_epochs": value}))
    assert read_debug(tmp_path).epochs is None
    assert read_debug(tmp_path).iterations == 250


def test_a_folder_named_debug(tmp_path):
    (tmp_path / "debug.json").mkdir()
    assert read_debug(tmp_path) == Debug()
