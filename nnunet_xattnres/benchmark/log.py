"""What nnU-Net writes about a training while it runs: its logs and debug.json."""

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
    """The epochs of a training, whichever process trained them.

    Attributes:
        epochs: of every finished epoch, by its number: train_loss, val_loss, dice (nnU-Net's mean pseudo Dice) and
            seconds, as far as they were written.
        starts: when training processes started; more than one where it was continued.
        last: when the last line was written.
        trainings: how many of the processes trained, rather than validated alone.
    """

    epochs: dict[int, dict[str, float]] = field(default_factory=dict)
    starts: list[datetime] = field(default_factory=list)
    last: datetime | None = None
    trainings: int = 0

    def series(self, name: str) -> tuple[list[int], list[float]]:
        """Epochs, and what they have under a name."""
        pairs = sorted((epoch, values[name]) for epoch, values in self.epochs.items() if name in values)
        return [epoch for epoch, _ in pairs], [value for _, value in pairs]


def read_logs(fold: Path) -> Log:
    """All logs of a fold; an epoch that was trained again after an interruption counts as it was at last."""
    log = Log()
    for file in sorted(fold.glob("training_log_*.txt"), key=_started):
        _read(file, log)
    return log


def _started(file: Path) -> list[int]:
    # nnU-Net leaves the zeros of month and day out
    return [int(number) for number in re.findall(r"\d+", file.stem)]


def _read(file: Path, log: Log) -> None:
    epoch = None
    first = True
    whole_lines, _, _ = file.read_text(errors="replace").rpartition("\n")
    for line in whole_lines.splitlines():
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
    """What debug.json says of a training; empty where it is not there.

    Attributes:
        epochs, iterations: of the whole training, of an epoch; None if unknown.
        batch_size, device, torch, host: as nnU-Net writes them.
        configuration: of the plans; all as they were when the training was started last.
    """

    epochs: int | None = None
    iterations: int | None = None
    batch_size: str = ""
    device: str = ""
    torch: str = ""
    host: str = ""
    configuration: str = ""


def read_debug(fold: Path) -> Debug:
    """The fold's debug.json, as far as it can be read."""
    try:
        content = json.loads((fold / "debug.json").read_text())
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
