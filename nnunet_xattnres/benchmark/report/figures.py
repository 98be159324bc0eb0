"""The pictures of a report."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ...utils.overlays import COLOURS
from ...utils.plotting import new_figure
from .analysis import PairedComparison, PairedScores, regions
from .results import Results
from .statistics import TIE

_BASELINE, _OTHERS = "#555555", [colour for colour in COLOURS if colour != "#f0e442"]  # yellow is hard to read


def colours(results: Results) -> dict[str, str]:
    """A colour for every trainer, grey for the baseline."""
    others = [name for name in results.trainers if name != results.baseline]
    return {results.baseline: _BASELINE} | {n: _OTHERS[i % len(_OTHERS)] for i, n in enumerate(others)}


def learning_curves(results: Results, path: Path) -> bool:
    """Losses and nnU-Net's pseudo Dice over epochs: every training thin, their mean thick.

    Args:
        results: with the logs.
        path: the PNG to write.

    Returns:
        Whether there was anything to draw.
    """
    from matplotlib.ticker import MaxNLocator

    panels = {"train_loss": "training loss", "val_loss": "validation loss", "dice": "pseudo Dice (mean over labels)"}
    if not any(t.log.epochs for t in results.trained):
        return False
    figure = new_figure(11, 3.4)
    for axis, (name, title) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        for trainer, colour in colours(results).items():
            series = [t.log.series(name) for t in results.of(trainer)]
            if not any(epochs for epochs, _ in series):
                continue
            for epochs, values in series:
                axis.plot(epochs, values, color=colour, linewidth=0.6, alpha=0.4)
            epochs, means = mean_curve(series)
            axis.plot(epochs, means, color=colour, linewidth=2, marker="o" if len(epochs) < 10 else None, markersize=3)
            axis.plot([], [], color=colour, linewidth=2, label=trainer)
        axis.set(title=title, xlabel="epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
    handles, names = axis.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(len(names), 3), frameon=False)
    figure.savefig(path, dpi=110)
    return True


def mean_curve(series: Sequence[tuple[Sequence[int], Sequence[float]]]) -> tuple[list[int], list[float]]:
    """Mean over trainings at every epoch that all of them have."""
    shared = sorted(set.intersection(*(set(epochs) for epochs, _ in series if epochs)))
    found = [dict(zip(epochs, values, strict=True)) for epochs, values in series if epochs]
    return shared, [float(np.mean([values[epoch] for values in found])) for epoch in shared]


def differences(paired: PairedComparison, path: Path) -> None:
    """Every case's difference in Dice to the baseline, sorted, with the mean and its interval."""
    d = np.sort(100 * by_case(paired.pairs))
    figure = new_figure(8, 3.2)
    axis = figure.subplots()
    places = np.arange(len(d))
    mean = paired.comparison.cases
    for keep, colour, text in (
        (d > 100 * TIE, "#009e73", f"{paired.comparison.wins} higher"),
        (np.abs(d) <= 100 * TIE, "#999999", f"{paired.comparison.ties} within {100 * TIE:g}"),
        (d < -100 * TIE, "#d55e00", f"{paired.comparison.losses} lower"),
    ):
        if keep.any():
            axis.bar(places[keep], d[keep], width=1.0, color=colour, label=text)
    axis.axhline(0, color="black", linewidth=0.8)
    axis.axhline(100 * mean.mean, color="#0072b2", linewidth=1.5, label=f"mean {100 * mean.mean:+.2f}")
    if np.isfinite((mean.low, mean.high)).all():
        axis.axhspan(100 * mean.low, 100 * mean.high, color="#0072b2", alpha=0.2, linewidth=0, label="95 % interval")
    axis.set(
        xlabel=f"{len(d)} cases, sorted", ylabel="difference in Dice, points", xlim=(-0.5, len(d) - 0.5),
        title=f"{paired.trainer} - {paired.results.baseline}",
    )  # fmt: skip
    axis.title.set_fontsize(10)
    figure.legend(loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    figure.savefig(path, dpi=110)


def by_case(pairs: PairedScores) -> np.ndarray:
    """Difference of every case, mean over repeats."""
    grouped: dict[str, list[float]] = {}
    for case, a, b in zip(pairs.cases, pairs.a, pairs.b, strict=True):
        grouped.setdefault(case, []).append(b - a)
    return np.array([np.mean(values) for values in grouped.values()])


def boxes(results: Results, path: Path) -> bool:
    """Dice of every case by region and trainer: median, quartiles, whiskers at 1.5 of their distance, outliers.

    Returns:
        Whether there was anything to draw.
    """
    from matplotlib.patches import Patch

    if not results.shared():
        return False
    names, paint = regions(results), {n: c for n, c in colours(results).items() if results.of(n)}
    figure = new_figure(max(7, 0.6 * len(names) * len(paint) + 2), 3.6)
    axis = figure.subplots()
    width = 0.8 / len(paint)
    shared = results.shared()
    for index, (trainer, colour) in enumerate(paint.items()):
        for at, region in enumerate(names):
            values = [
                100 * dice
                for trained in results.of(trainer)
                if (trained.run.repeat, trained.run.fold) in shared
                for case in trained.scores.values()
                if (dice := case[region]["dice"]) is not None
            ]
            if values:
                axis.boxplot(
                    values, positions=[at + (index - (len(paint) - 1) / 2) * width], widths=0.85 * width,
                    patch_artist=True, boxprops={"facecolor": colour, "alpha": 0.7}, medianprops={"color": "black"},
                    flierprops={"markersize": 2, "alpha": 0.5}, manage_ticks=False,
                )  # fmt: skip
    axis.set_xticks(range(len(names)), names)
    axis.set(ylabel="Dice, %", xlim=(-0.5, len(names) - 0.5))
    axis.grid(axis="y", alpha=0.3)
    handles = [Patch(color=colour, alpha=0.7, label=name) for name, colour in paint.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 2), fontsize=8, frameon=False)
    figure.savefig(path, dpi=110)
    return True


def chosen_cases(paired: PairedComparison) -> Mapping[str, tuple[str, tuple[int, int], float]]:
    """The cases with the lowest, the median and the highest difference: case, (repeat, fold) and difference.

    Of several repeats the first is shown.
    """
    pairs, first = paired.pairs, {}
    for case, a, b, training in zip(pairs.cases, pairs.a, pairs.b, pairs.trainings, strict=True):
        first.setdefault(case, (case, training, b - a))
    ranked = sorted(first.values(), key=lambda entry: entry[2])
    places = {"lowest": 0, "median": (len(ranked) - 1) // 2, "highest": len(ranked) - 1}
    return {name: ranked[index] for name, index in places.items()}
