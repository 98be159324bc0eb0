"""The results of the demo as a table and as JSON."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..utils.files import write_atomic
from ..utils.tables import format_table


@dataclass
class Result:
    """The result of one trainer.

    Attributes:
        name: name of the method, for tables.
        trainer: name of the trainer class.
        dice: mean Dice over the held-out cases by class name, NaN if undefined.
        parameters: the number of parameters of the network.
        train_seconds: seconds of nnUNetv2_train.
        predict_seconds: seconds of nnUNetv2_predict.
    """

    name: str
    trainer: str
    dice: dict[str, float]
    parameters: int
    train_seconds: float
    predict_seconds: float

    @property
    def mean_dice(self) -> float:
        """The mean of the defined values of `dice`."""
        return float(np.nanmean(list(self.dice.values())))


def read_dice(summary: Path, labels: dict[str, int]) -> dict[str, float]:
    """Read the mean Dice over cases by class name from a summary.json of nnUNetv2_evaluate_folder.

    Args:
        summary: the file.
        labels: label values by class name.
    """
    mean = json.loads(summary.read_text(encoding="utf-8"))["mean"]
    names = {str(value): name for name, value in labels.items()}
    return {names[label]: metrics["Dice"] for label, metrics in mean.items()}


def format_results(results: list[Result]) -> str:
    """A table of the results, one row per trainer."""
    classes = list(results[0].dice)
    rows = [["", *(f"Dice {c}" for c in classes), "Dice mean", "parameters", "train s", "predict s"]]
    for r in results:
        dice = [f"{100 * r.dice[c]:.2f}" for c in classes]
        rows.append(
            [r.name, *dice, f"{100 * r.mean_dice:.2f}", f"{r.parameters / 1e6:.2f} M",
             f"{r.train_seconds:.0f}", f"{r.predict_seconds:.0f}"]
        )  # fmt: skip
    return format_table(rows)


def save_json(results: list[Result], path: Path, **metadata: object) -> None:
    """Write the results and metadata to a JSON file. An undefined Dice is null."""
    rows = []
    for result in results:
        dice = {name: None if np.isnan(value) else value for name, value in result.dice.items()}
        rows.append({**asdict(result), "dice": dice, "mean_dice": result.mean_dice})
    write_atomic(path, json.dumps({**metadata, "results": rows}, indent=2) + "\n")
