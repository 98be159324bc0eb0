"""nnU-Net's logs and debug.json of a training."""

import json
import re
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

_NUMBER = r"[-+]?(?:\d+\.?\d*(?:e[-+]?\d+)?|nan|inf)"
_TIME = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)")
_EPOCH = re.compile(r": Epoch (\d+)\s*$")
_VALUES = {
    "train_loss": re.compile(rf": train_loss ({_NUMBER})"),
    "val_loss": re.compile(rf": val_loss ({_NUMBER})"),
    "seconds": re.compile(rf": Epoch time: ({_NUMBER}) s"),
}
_DICE = re.compile(r": Pseudo dice \[(.*)\]")
_FLOAT = re.compile(rf"(?<![\w.])({_NUMBER})(?![\w.])")


@dataclass
class Log:
    """The epochs of a training, from the logs of all processes that trained it.

    Attributes:
        epochs: by epoch number: train_loss, val_loss, dice (nnU-Net's mean pseudo Dice) and seconds, as far as logged.
        starts: start time of every process; more than one where the training was continued.
        last: time of the last line.
        trainings: number of processes that trained; the others only validated.
    """

    epochs: dict[int, dict[str, float]] = field(default_factory=dict)
    starts: list[datetime] = field(default_factory=list)
    last: datetime | None = None
    trainings: int = 0

    def series(self, name: str) -> tuple[list[int], list[float]]:
        """Epoch numbers, and the values with this name."""
        pairs = sorted((epoch, values[name]) for epoch, values in self.epochs.items() if name in values)
        return [epoch for epoch, _ in pairs], [value for _, value in pairs]


def read_logs(fold: Path) -> Log:
    """All logs of a fold; of an epoch that was repeated after an interruption, the last values count."""
    log = Log()
    for file in sorted(fold.glob("training_log_*.txt"), key=_started):
        _read(file, log)
    return log


def _started(file: Path) -> list[int]:
    # nnU-Net writes month and day without leading zeros
    return [int(number) for number in re.findall(r"\d+", file.stem)]


def _read(file: Path, log: Log) -> None:
    epoch = None
    first = True
    complete_lines, _, _ = file.read_text(encoding="utf-8", errors="replace").rpartition("\n")
    for line in complete_lines.splitlines():
        if time := _TIME.match(line):
            log.last = datetime.fromisoformat(time[1])
            if first:
                log.starts.append(log.last)
                first = False
        if number := _EPOCH.search(line):
            log.trainings += epoch is None
            epoch = int(number[1])
            # a continued training starts from its last checkpoint
            log.epochs = {n: values for n, values in log.epochs.items() if n < epoch}
        if epoch is None:
            continue
        for name, pattern in _VALUES.items():
            if value := pattern.search(line):
                log.epochs.setdefault(epoch, {})[name] = float(value[1])
        if dice := _DICE.search(line):
            values = [float(value) for value in _FLOAT.findall(dice[1])]
            values = [value for value in values if value == value]
            if values:
                log.epochs.setdefault(epoch, {})["dice"] = sum(values) / len(values)


@dataclass(frozen=True)
class Debug:
    """The entries of debug.json at the last start of a training; defaults where they are missing.

    Attributes:
        epochs: number of epochs of the training.
        iterations: number of iterations per epoch.
        batch_size: the batch size, as nnU-Net writes it.
        device: the device, as nnU-Net writes it.
        torch: the version of PyTorch.
        host: the name of the computer.
        configuration: the configuration in the plans.
    """

    epochs: int | None = None
    iterations: int | None = None
    batch_size: str = ""
    device: str = ""
    torch: str = ""
    host: str = ""
    configuration: str = ""


def read_debug(fold: Path) -> Debug:
    """The fold's debug.json; empty if it cannot be read."""
    try:
        content = json.loads((fold / "debug.json").read_bytes())
    except (OSError, ValueError):
        return Debug()
    if not isinstance(content, dict):
        return Debug()
    text = {key: str(value) for key, value in content.items()}
    return Debug(
        epochs=_whole(text.get("num_epochs")),
        iterations=_whole(text.get("num_iterations_per_epoch")),
        batch_size=text.get("batch_size", ""),
        device=text.get("gpu_name") or text.get("device", ""),
        torch=text.get("torch_version", ""),
        host=text.get("hostname", ""),
        configuration=text.get("configuration_manager", ""),
    )


def _whole(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None
