"""The figures of a report, as PNG files."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ...utils.errors import UserError
from ...utils.files import read_json
from ...utils.overlays import COLOURS, draw_overlays, read_slices
from ...utils.plotting import new_figure, save_figure
from ..folders import NnUNetFolders
from ..grid import Run
from ..state import read_experiment_plans
from .analysis import PairedComparison
from .results import Results
from .statistics import LEVEL, TIE

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

_BASELINE, _OTHERS = "#555555", [colour for colour in COLOURS if colour != "#f0e442"]  # yellow lines are hard to see


def trainer_colours(results: Results) -> dict[str, str]:
    """A colour for every trainer; the baseline is grey."""
    others = [name for name in results.trainers if name != results.baseline]
    return {results.baseline: _BASELINE} | {name: _OTHERS[i % len(_OTHERS)] for i, name in enumerate(others)}


def draw_learning_curves(results: Results, path: Path) -> bool:
    """Losses and nnU-Net's pseudo Dice by epoch: a thin line for every training, a thick one for their mean.

    Returns:
        Whether there are logs to draw.
    """
    from matplotlib.ticker import MaxNLocator

    panels = {"train_loss": "training loss", "val_loss": "validation loss", "dice": "pseudo Dice (mean over labels)"}
    if not any(t.log.epochs for t in results.trained):
        return False
    figure = new_figure(11, 3.4)
    for axis, (name, title) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        for trainer, colour in trainer_colours(results).items():
            curves = [curve for t in results.trained_by(trainer) if (curve := t.log.series(name))[0]]
            if not curves:
                continue
            for epochs, values in curves:
                axis.plot(epochs, values, color=colour, linewidth=0.6, alpha=0.4)
            epochs, values = mean_curve(curves)
            axis.plot(epochs, values, color=colour, linewidth=2, marker="o" if len(epochs) < 10 else None, markersize=3)
            axis.plot([], [], color=colour, linewidth=2, label=trainer)
        axis.set(title=title, xlabel="epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
    _save(figure, path, axis.get_legend_handles_labels()[0], columns=3)
    return True


def _save(figure: "Figure", path: Path, handles: Sequence["Artist"], columns: int) -> None:
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)
    save_figure(figure, path)


def mean_curve(curves: Sequence[tuple[Sequence[int], Sequence[float]]]) -> tuple[list[int], list[float]]:
    """Mean over trainings at every epoch that all of them have.

    >>> mean_curve([([0, 1, 2], [1.0, 2.0, 3.0]), ([1, 2, 3], [4.0, 5.0, 9.0])])
    ([1, 2], [3.0, 4.0])
    """
    table = pd.concat([pd.Series(values, index=epochs) for epochs, values in curves], axis=1, join="inner").sort_index()
    return table.index.tolist(), table.mean(axis=1, skipna=False).tolist()


def draw_differences(paired: PairedComparison, path: Path) -> None:
    """A bar for the difference of every case in Dice, sorted, with the mean and its interval."""
    d = np.sort(100 * differences_by_case(paired.pairs))
    c = paired.comparison
    figure = new_figure(8, 3.2)
    axis = figure.subplots()
    positions = np.arange(len(d))
    for selected, colour, label in (
        (d > 100 * TIE, "#009e73", f"{c.wins} higher"),
        (np.abs(d) <= 100 * TIE, "#999999", f"{c.ties} within {100 * TIE:g}"),
        (d < -100 * TIE, "#d55e00", f"{c.losses} lower"),
    ):
        if selected.any():
            axis.bar(positions[selected], d[selected], width=1.0, color=colour, label=label)
    axis.axhline(0, color="black", linewidth=0.8)
    low, mean, high = 100 * c.cases.low, 100 * c.cases.mean, 100 * c.cases.high
    axis.axhline(mean, color="#0072b2", linewidth=1.5, label=f"mean {mean:+.2f}")
    if np.isfinite((low, high)).all():
        label = f"{100 * LEVEL:.0f} % confidence interval"
        axis.axhspan(low, high, color="#0072b2", alpha=0.2, linewidth=0, label=label)
    axis.set(xlabel=f"{len(d)} cases, sorted", ylabel="difference in Dice, points", xlim=(-0.5, len(d) - 0.5))
    axis.set_title(f"{paired.trainer} - {paired.results.baseline}", fontsize=10)
    _save(figure, path, axis.get_legend_handles_labels()[0], columns=5)


def differences_by_case(pairs: pd.DataFrame) -> np.ndarray:
    """Difference of every case, mean over repeats."""
    return (pairs["b"] - pairs["a"]).groupby(pairs["case"]).mean().to_numpy()


def draw_boxes(results: Results, path: Path) -> bool:
    """Box plot of the Dice of all cases by region and trainer, for the folds that all trainers have finished.

    Boxes show median and quartiles, whiskers reach 1.5 interquartile ranges, points are outliers.

    Returns:
        Whether there are such folds.
    """
    from matplotlib.patches import Patch

    table, shared = results.validation, results.shared_folds()
    table = table[[key in shared for key in zip(table["repeat"], table["fold"], strict=True)]]
    if table.empty:
        return False
    regions, trainers = results.regions, results.finished_trainers
    colours = trainer_colours(results)
    figure = new_figure(max(7, 0.6 * len(regions) * len(trainers) + 2), 3.6)
    axis = figure.subplots()
    width = 0.8 / len(trainers)
    for number, trainer in enumerate(trainers):
        dice = table[table["trainer"] == trainer].groupby("region")["dice"]
        axis.boxplot(
            [100 * dice.get_group(region).dropna().to_numpy() for region in regions],
            positions=np.arange(len(regions)) + (number - (len(trainers) - 1) / 2) * width, widths=0.85 * width,
            patch_artist=True, boxprops={"facecolor": colours[trainer], "alpha": 0.7}, medianprops={"color": "black"},
            flierprops={"markersize": 2, "alpha": 0.5}, manage_ticks=False,
        )  # fmt: skip
    axis.set_xticks(range(len(regions)), regions)
    axis.set(ylabel="Dice, %", xlim=(-0.5, len(regions) - 0.5))
    axis.grid(axis="y", alpha=0.3)
    _save(figure, path, [Patch(color=colours[t], alpha=0.7, label=t) for t in trainers], columns=2)
    return True


def select_cases(pairs: pd.DataFrame) -> dict[str, pd.Series]:
    """The cases with the lowest, the median and the highest difference; of several repeats, the first is taken."""
    first = pairs.drop_duplicates("case")
    ranked = first.assign(difference=first["b"] - first["a"]).sort_values("difference", kind="stable")
    rows = {"lowest": 0, "median": (len(ranked) - 1) // 2, "highest": -1}
    return {name: ranked.iloc[row] for name, row in rows.items()}


def draw_cases(folders: NnUNetFolders, paired: PairedComparison, path: Path) -> None:
    """Image, reference and both predictions of the selected cases.

    Raises:
        UserError: if the images no longer exist.
    """
    experiment, trainers = paired.experiment, (paired.results.baseline, paired.trainer)
    images = folders.raw_dataset(experiment) / "imagesTr"
    if not images.is_dir():
        raise UserError(f"the folder {images} does not exist")
    file = folders.preprocessed_dataset(experiment) / "dataset.json"
    dataset = read_json(file, "nnU-Net's dataset.json")
    if missing := [key for key in ("labels", "file_ending") if key not in dataset]:
        raise UserError(f"{file} has no {' and no '.join(missing)}")
    plans, rows = read_experiment_plans(experiment, folders), []
    for name, row in select_cases(paired.pairs).items():
        runs = [Run(experiment, trainer, row["fold"], row["repeat"]) for trainer in trainers]
        label_maps = [folders.references(experiment), *(folders.validation(run) for run in runs)]
        text = f"{name}\n{row['case']}\n{100 * row['difference']:+.2f} points"
        rows.append((text, read_slices(images, label_maps, row["case"], dataset, plans)))
    draw_overlays(rows, ["image", "reference", *trainers], dataset["labels"], path)
