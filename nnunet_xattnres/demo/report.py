"""What the demo ends with: a table and its figures."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..utils.tables import format_table


@dataclass
class Result:
    """One trainer's run: Dice per class on the held-out cases, parameters, seconds of nnUNetv2_train and _predict."""

    name: str
    trainer: str
    dice: dict[str, float]
    parameters: int
    train_seconds: float
    predict_seconds: float

    @property
    def mean_dice(self) -> float:
        return float(np.nanmean(list(self.dice.values())))


def read_dice(summary: Path, labels: dict[str, int]) -> dict[str, float]:
    """Mean Dice over cases by class name, from the summary.json of nnUNetv2_evaluate_folder."""
    mean = json.loads(summary.read_text())["mean"]
    names = {str(value): name for name, value in labels.items()}
    return {names[label]: metrics["Dice"] for label, metrics in mean.items()}


def table(results: list[Result]) -> str:
    """The results as aligned text, one row per trainer."""
    classes = list(results[0].dice)
    rows = [["", *(f"Dice {c}" for c in classes), "Dice mean", "parameters", "train s", "predict s"]]
    for r in results:
        dice = [f"{100 * r.dice[c]:.2f}" for c in classes]
        rows.append(
            [r.name, *dice, f"{100 * r.mean_dice:.2f}", f"{r.parameters / 1e6:.2f} M",
             f"{r.train_seconds:.0f}", f"{r.predict_seconds:.0f}"]
        )  # fmt: skip
    return format_table(rows)


def save_json(results: list[Result], path: Path, **about) -> None:
    """The results and whatever is to be said `about` them, as JSON; a Dice that is not defined is null."""
    rows = [{**asdict(r), "mean_dice": r.mean_dice} for r in results]
    for row in rows:
        row["dice"] = {name: None if np.isnan(dice) else dice for name, dice in row["dice"].items()}
    path.write_text(json.dumps({**about, "results": rows}, indent=2) + "\n")
