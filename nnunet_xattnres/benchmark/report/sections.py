"""A report's text: Markdown, and the pictures that it shows."""

import importlib.metadata
import platform
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import quote

from ... import __version__
from ...evaluation.metrics import METRICS
from ...utils.errors import UserError
from ..tasks import RunOptions, Train
from . import figures, tables
from .analysis import PairedComparison
from .overlay_cases import draw_cases
from .report_data import ReportData
from .results import MUST_AGREE, Results
from .statistics import ALPHA, FEWEST_CASES, LEVEL, RESAMPLES, TIE
from .tables import plain

_PAPER = ("Synapse", "ColonDB", "ClinicDB", "ISIC2017")
"""The paper's data sets, as its tables and `xattnres convert` call them."""

_PACKAGES = ("nnunetv2", "torch", "dynamic-network-architectures", "numpy", "scipy")


def markdown(content: ReportData, pictures: Path) -> str:
    """The whole report; draws its pictures into a folder."""
    parts = [f"# Benchmark: {' and '.join(content.grid.trainers[1:])} against {content.grid.baseline}", _short(content)]
    for results in content.results:
        parts += _setting(results, content, pictures)
    parts += [_missing(content), _fairness(content), _STATISTICS, _how(content)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _short(content: ReportData) -> str:
    lines = [f"**{plain(str(paired.results.experiment))}**: {paired.in_words()}" for paired in content.primary]
    compared = {(paired.results.experiment, paired.trainer) for paired in content.primary}
    for results in content.results:
        for trainer in results.trainers:
            if trainer != results.baseline and (results.experiment, trainer) not in compared:
                why = f"no fold is finished by both it and {results.baseline}"
                lines.append(f"**{plain(str(results.experiment))}**: nothing can be said of {trainer} yet: {why}.")
    if count := sum(len(results.missing) for results in content.results):
        lines.append(f"**Not complete**: {count} {'thing is' if count == 1 else 'things are'} [missing](#missing).")
    if any(" differ between trainings" in line for results in content.results for line in results.warnings):
        lines.append("**The sides differ** in what they should share: [see below](#fairness).")
    lines.append(
        "Figures are of validation cases. An interval over cases is about these trained networks; the one over folds, "
        "each a training of its own, is about the luck of a training as well."
    )
    return "\n".join(f"- {line}" for line in lines)


def _setting(results: Results, content: ReportData, pictures: Path) -> list[str]:
    title = f"## {plain(str(results.experiment))}"
    primary = [paired for paired in content.primary if paired.results is results]
    secondary = [paired for paired in content.secondary if paired.results is results]
    if results.shared():
        parts = [title, tables.means(results, content), _counted(results)]
    elif primary:
        parts = [title, "No fold is finished by all trainers that have any, so there are no means."]
    else:
        some = "No fold is finished by all trainers that have any." if results.trained else "Nothing is finished."
        return [title, some, *_test(results)]
    if primary:
        parts += ["### Case by case", tables.comparisons(primary, "Dice, mean over labels")]
        drawn = "Difference in Dice of every case, sorted"
        parts += [_picture(pictures, paired, "differences", figures.differences, drawn) for paired in primary]
    parts.append("### Label by label")
    if results.shared():
        parts.append(tables.by_label(results))
    for metric in ("dice", "hd95"):
        if some := [paired for paired in secondary if paired.metric == metric]:
            unit = "points" if metric == "dice" else results.unit
            parts.append(tables.comparisons(some, f"{METRICS[metric]}, {unit}"))
    parts.append(_picture(pictures, results, "boxes", figures.boxes, "Dice of every case by label"))
    if curves := _picture(pictures, results, "curves", figures.learning_curves, "Losses and pseudo Dice by epoch"):
        parts += ["### Learning curves", curves]
    for paired in primary:
        parts += [f"### Three cases: {paired.trainer}", _overlays(paired, content, pictures)]
    return parts + _test(results)


def _counted(results: Results) -> str:
    shared = results.shared()
    folds, repeats = len({fold for _, fold in shared}), len({repeat for repeat, _ in shared})
    trained = [t for t in results.of(results.trained[0].run.trainer) if (t.run.repeat, t.run.fold) in shared]
    cases = len({case for t in trained for case in t.scores})
    again = f", {repeats} trainings each" if repeats > 1 else ""
    return (
        f"{cases} validation cases of {folds} {'fold' if folds == 1 else 'folds'}{again}: means over labels of means "
        "over cases. GMACs: multiply-adds of convolutions, linear layers and projections for one patch. Seconds an "
        "epoch: median. Peak memory: of the GPU, else of the largest process, where `xattnres benchmark run` saw it."
    )


def _picture(pictures: Path, what: PairedComparison | Results, kind: str, draw: Callable, title: str) -> str:
    """Draw a picture, which is whole under its name; returns the Markdown that shows it, empty if there is nothing."""
    results, trainer = (what.results, f" {what.trainer}") if isinstance(what, PairedComparison) else (what, "")
    path = pictures / (re.sub(r"\W+", "_", f"{results.experiment}{trainer} {kind}") + ".png")
    part = path.with_suffix(".part.png")
    try:
        if draw(what, part) is False:
            return ""
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return f"![{title}](pictures/{quote(path.name)})"


def _overlays(paired: PairedComparison, content: ReportData, pictures: Path) -> str:
    title = "The cases with the lowest, the median and the highest difference"
    try:
        return _picture(pictures, paired, "cases", lambda p, path: draw_cases(p, content.folders, path), title)
    except (UserError, OSError, RuntimeError, ValueError, LookupError) as error:  # images may have been moved away
        return f"No picture: {next(iter(str(error).splitlines()), type(error).__name__)}"


def _test(results: Results) -> list[str]:
    """Test cases, and the paper's own figures beside them."""
    own_name = re.sub(r"^dataset\d+_(cvc-)?", "", results.experiment.dataset.lower())
    name = next((name for name in _PAPER if own_name == name.lower()), None)
    parts = []
    if own := tables.tested(results, "default", results.unit):
        parts = [
            "### Test cases",
            own,
            "Predicted by all folds together. Nothing is chosen by them, and no verdict is.",
        ]
    if not name:
        return parts
    if beside := tables.tested(results, "published", "voxels"):
        parts += ["### Test cases by the published protocol", beside]
    parts += [f"### Published for {name}", tables.printed(name)]
    note = "Printed in arXiv 2604.03297, of its test cases and trainings; HD95 in voxels."
    return [*parts, note if beside else f"{note} Validation cases may not stand beside it: run with `--test`."]


def _missing(content: ReportData) -> str:
    lines = [f"{results.experiment}: {line}" for results in content.results for line in results.missing]
    lines += [text for text in content.sizes.values() if isinstance(text, str)]
    lines = [f"- {plain(line)}" for line in lines]
    return "## Missing\n\n" + ("\n".join(lines) if lines else "Nothing.")


def _fairness(content: ReportData) -> str:
    lines = [f"- {plain(f'{results.experiment}: {line}')}" for results in content.results for line in results.warnings]
    compared = {(p.results.experiment, trainer) for p in content.primary for trainer in (p.trainer, p.results.baseline)}
    trained = [
        t for results in content.results for t in results.trained if (t.run.experiment, t.run.trainer) in compared
    ]
    if not trained:
        same = "Nothing is finished on both sides."
    elif all(all(getattr(t.debug, name) for name in MUST_AGREE) for t in trained):
        same = (
            "Plans, validation cases, epochs, iterations, batch size, device and PyTorch are the same on both sides, "
            "as each training's last process wrote them."
        )
    else:
        same = "What debug.json does not tell of the trainings cannot be compared."
    seeds = "nnU-Net sets no seed, so none is shared; repeats show what chance does."
    return "## Fairness\n\n" + ("\n".join(lines) if lines else same) + f"\n\n{seeds}"


_STATISTICS = f"""\
## What the figures mean

- **difference**: trainer - baseline, of the same case in the same fold; a case's Dice is the mean over its labels, and
  over repeats. Of a label that the reference lacks, the side that leaves it empty gets 1 and the other 0; where both
  do, it does not count. HD95 is compared where both sides have one.
- **seconds an epoch** depend on what else the machine did: they compare only where the trainings ran alike.
- **{100 * LEVEL:.0f} % over cases**: BCa bootstrap interval of the mean, {RESAMPLES} resamples.
- **over folds**: Student's interval of the folds' mean differences. It is rough: folds share training cases.
- **p**: Wilcoxon's signed-rank test over cases, zeros ranked (Pratt). **p (Holm)**: corrected for all rows of its kind.
  **both (Holm)**: the larger of p and that of Student's test over folds, corrected likewise.
- **effect**: matched-pairs rank-biserial correlation, zeros ranked, from -1 (always lower) to +1 (always higher).
- **tie**: a difference of at most {100 * TIE:g} points, or {TIE:g} of HD95's unit; **win**: higher Dice or lower HD95.
- **better** is said only of the mean Dice, if both corrected p are below {ALPHA:.2f}, neither interval holds zero,
  mean and effect have one sign, and it is more than a tie; **better with these trained networks** if only the cases
  show it. Below {FEWEST_CASES} cases nothing is said. Intervals are nominal: for few or very skewed differences they
  are too narrow; none is corrected. Single labels and HD95 are for looking at."""


def _how(content: ReportData) -> str:
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in _PACKAGES)
    lines = [f"This report: nnunet-xattnres {__version__}, {versions}, Python {platform.python_version()}"]
    trained = [t for results in content.results for t in results.trained]
    seen: dict[tuple, int] = {}
    for debug in (t.debug for t in trained):
        key = debug.epochs or "?", debug.iterations or "?", debug.device or "an unknown device", debug.host, debug.torch
        seen[key] = seen.get(key, 0) + 1
    for (epochs, iterations, device, host, torch), n in seen.items():
        where = f"{device} of {host}" if host else device
        count = "1 training" if n == 1 else f"{n} trainings"
        lines.append(f"{count} of {epochs} epochs of {iterations} iterations on {where}, PyTorch {torch or '?'}")
    if continued := sum(t.log.trainings > 1 for t in trained):
        lines.append(f"Interrupted, and continued or begun again: {continued}")
    text = "\n".join(f"- {line}" for line in lines)
    parts = ["## How it was run", text]
    if trained:
        commands = ['export nnUNet_extTrainer="$(xattnres trainers)"', *_commands(content)]
        parts.append("\n".join(["```bash", *commands, "```"]))
    return "\n\n".join(parts)


def _commands(content: ReportData) -> Iterable[str]:
    """What a person would type for these trainings."""
    for results in content.results:
        for trained in results.trained:
            device = trained.debug.device if trained.debug.device in ("cpu", "mps") else "cuda"
            before = f"nnUNet_results=$nnUNet_results/repeat_{trained.run.repeat} " if trained.run.repeat else ""
            yield before + " ".join(Train(trained.run).command(RunOptions(device)))
