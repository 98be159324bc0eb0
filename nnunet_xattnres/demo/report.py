"""What the demo ends with: a table and a picture."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..text import aligned


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
    return aligned(rows)


def save_json(results: list[Result], path: Path, **about) -> None:
    """The results and whatever is to be said `about` them, as JSON; a Dice that is not defined is null."""
    rows = [{**asdict(r), "mean_dice": r.mean_dice} for r in results]
    for row in rows:
        row["dice"] = {name: None if np.isnan(dice) else dice for name, dice in row["dice"].items()}
    path.write_text(json.dumps({**about, "results": rows}, indent=2) + "\n")


def picture(rows: list[tuple[str, list[np.ndarray]]], columns: list[str], labels: dict[str, int], path: Path) -> None:
    """Image, reference and each prediction side by side, one row per case.

    Args:
        rows: case name and its 2-D arrays: the image, then a label map per further column.
        columns: the titles of the columns.
        labels: class names and their values, for the legend.
        path: the PNG to write.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.colors import to_rgba
    from matplotlib.patches import Patch

    colours = ["#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#0072b2", "#f0e442"]  # told apart by most eyes
    foreground = {name: value for name, value in labels.items() if value != 0}
    paint = {value: np.array(to_rgba(colours[i % len(colours)])) for i, value in enumerate(foreground.values())}

    height, width = rows[0][1][0].shape
    figure, axes = plt.subplots(
        len(rows), len(columns), squeeze=False, figsize=(2.4 * len(columns), 2.4 * len(rows) * height / width + 0.6)
    )
    for (case, (image, *maps)), line in zip(rows, axes, strict=True):
        for axis, label_map in zip(line, [None, *maps], strict=True):
            axis.imshow(image, cmap="gray")
            if label_map is not None:
                overlay = np.zeros((*label_map.shape, 4))
                for value, colour in paint.items():
                    overlay[label_map == value] = colour * (1, 1, 1, 0.65)
                axis.imshow(overlay, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
        line[0].set_ylabel(case, fontsize=8)
    for axis, title in zip(axes[0], columns, strict=True):
        axis.set_title(title, fontsize=10)
    figure.legend(
        handles=[Patch(color=paint[value], label=name) for name, value in foreground.items()],
        loc="lower center", ncols=min(len(foreground), 4), fontsize=8, frameon=False,
    )  # fmt: skip
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)
