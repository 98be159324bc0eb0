"""The text of a report in Markdown, section by section, with the figures that it shows."""

import importlib.metadata
import platform
import re
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from urllib.parse import quote

from ... import __version__
from ...evaluation.metrics import METRICS
from ...utils.errors import UserError
from ...utils.files import replaced_file
from ..tasks import RunOptions, Train
from . import figures, tables
from .analysis import PairedComparison, ReportData, shared_scores
from .fairness import EQUAL_SETTINGS
from .results import Results
from .statistics import ALPHA, LEVEL, RESAMPLES, TIE
from .tables import escape
from .verdict import MIN_CASES

_PUBLISHED = ("Synapse", "ColonDB", "ClinicDB", "ISIC2017")
"""Data sets in the paper's tables, with the names that `xattnres convert` gives them."""

_PACKAGES = ("nnunetv2", "torch", "dynamic-network-architectures", "numpy", "scipy")


def markdown(data: ReportData, pictures: Path) -> str:
    """The whole report; its figures are drawn into the folder `pictures`."""
    parts = [f"# Benchmark: {' and '.join(data.grid.trainers[1:])} against {data.grid.baseline}", _summary(data)]
    for results in data.results:
        parts += _experiment(results, data, pictures)
    parts += [_missing(data), _fairness(data), _STATISTICS, _reproduction(data)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _plural(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _summary(data: ReportData) -> str:
    lines = [f"**{escape(str(paired.experiment))}**: {paired.describe()}" for paired in data.primary]
    compared = {(paired.experiment, paired.trainer) for paired in data.primary}
    for results in data.results:
        for trainer in results.trainers:
            if trainer != results.baseline and (results.experiment, trainer) not in compared:
                text = f"{trainer} cannot be compared with {results.baseline}, because no fold is finished for both."
                lines.append(f"**{escape(str(results.experiment))}**: {text}")
    if count := sum(len(results.missing) for results in data.results):
        lines.append(f"**Incomplete**: {_plural(count, 'problem')} listed under [Missing](#missing).")
    if any(finding.code.startswith("different ") for results in data.results for finding in results.warnings):
        lines.append("**Not trained alike**: settings that should be equal differ, see [Fairness](#fairness).")
    lines.append(
        "All figures are of validation cases unless stated otherwise. The interval over cases describes these trained "
        "networks. The interval over folds, each with a training of its own, includes the variation between trainings."
    )
    return _list(lines)


def _experiment(results: Results, data: ReportData, pictures: Path) -> list[str]:
    parts = [f"## {escape(str(results.experiment))}"]
    primary = [paired for paired in data.primary if paired.results is results]
    shared = results.shared_folds()
    if shared:
        parts += [tables.mean_table(results, data), _counts(results)]
    elif results.trained:
        parts.append("There are no means, because no fold is finished for all trainers.")
    else:
        parts.append("No training is finished.")
    if primary:
        parts += ["### Cases", tables.comparison_table(primary, "Dice, mean over labels")]
        title = "Difference in Dice for every case, sorted"
        parts += [_figure(pictures, paired, "differences", figures.draw_differences, title) for paired in primary]
    if shared or primary:
        parts.append("### Labels")
        if shared:
            parts.append(tables.label_tables(results))
        for metric, unit in (("dice", "points"), ("hd95", results.unit)):
            secondary = [p for p in data.secondary if p.results is results and p.metric == metric]
            if secondary:
                parts.append(tables.comparison_table(secondary, f"{METRICS[metric]}, {unit}"))
        parts.append(_figure(pictures, results, "boxes", figures.draw_boxes, "Dice of all cases by label"))
        title = "Losses and pseudo Dice by epoch"
        if curves := _figure(pictures, results, "curves", figures.draw_learning_curves, title):
            parts += ["### Learning curves", curves]
    for paired in primary:
        parts += [f"### Example cases: {paired.trainer}", _example_cases(paired, data, pictures)]
    return parts + _test_cases(results)


def _counts(results: Results) -> str:
    shared = results.shared_folds()
    n_folds, n_repeats = len({fold for _, fold in shared}), len({repeat for repeat, _ in shared})
    cases = _plural(shared_scores(results)["case"].nunique(), "validation case")
    repeats = f", {n_repeats} trainings each" if n_repeats > 1 else ""
    return (
        f"{cases} of {_plural(n_folds, 'fold')}{repeats}. Means over labels of means over cases. GMACs: "
        "multiply-accumulate operations of convolutions, linear layers and projections for one patch. Seconds per "
        "epoch: median. Peak memory: of the GPU, else of the largest process; only `xattnres benchmark run` records it."
    )


def _figure(pictures: Path, subject: PairedComparison | Results, kind: str, draw: Callable, title: str) -> str:
    """Draw a figure into a temporary file and rename it; the Markdown that shows it, empty if there is nothing."""
    name = str(subject.experiment)
    if isinstance(subject, PairedComparison):
        name += f" {subject.trainer}"
    path = pictures / (re.sub(r"\W+", "_", f"{name} {kind}") + ".png")
    with replaced_file(path) as temporary:
        if draw(subject, temporary) is False:
            return ""
    return f"![{title}](pictures/{quote(path.name)})"


def _example_cases(paired: PairedComparison, data: ReportData, pictures: Path) -> str:
    title = "The cases with the lowest, the median and the highest difference"
    try:
        return _figure(pictures, paired, "cases", partial(figures.draw_cases, data.folders), title)
    except (UserError, OSError, RuntimeError, ValueError, LookupError) as error:  # images may have been moved away
        return f"No figure: {escape(next(iter(str(error).splitlines()), type(error).__name__))}"


def _test_cases(results: Results) -> list[str]:
    """Test cases, and the paper's figures for the same data set."""
    parts = []
    if own := tables.table_of_test_cases(results, "default", results.unit):
        note = "Predicted by the ensemble of all folds. Test cases are not used for any verdict or selection."
        parts += ["### Test cases", own, note]
    dataset = re.sub(r"^dataset\d+_(cvc-)?", "", results.experiment.dataset.lower())
    name = next((name for name in _PUBLISHED if name.lower() == dataset), None)
    if not name:
        return parts
    note = "Printed in arXiv 2604.03297, for the authors' test cases and trainings; HD95 in voxels."
    if comparable := tables.table_of_test_cases(results, "published", "voxels"):
        parts += ["### Test cases by the published protocol", comparable]
    else:
        note += " They are not comparable with validation cases: predict the test cases with `--test`."
    return [*parts, f"### Published for {name}", tables.published_table(name), note]


def _missing(data: ReportData) -> str:
    lines = [f"{results.experiment}: {finding}" for results in data.results for finding in results.missing]
    lines += [reason for reason in data.sizes.values() if isinstance(reason, str)]
    return "## Missing\n\n" + (_list(map(escape, lines)) or "Nothing.")


def _fairness(data: ReportData) -> str:
    warnings = [escape(f"{results.experiment}: {finding}") for results in data.results for finding in results.warnings]
    compared = {(p.experiment, name) for p in data.primary for name in (p.trainer, p.results.baseline)}
    trained = [t for r in data.results for t in r.trained if (t.run.experiment, t.run.trainer) in compared]
    if warnings:
        text = _list(warnings)
    elif not trained:
        text = "No fold is finished for two trainers."
    elif all(getattr(t.debug, name) for t in trained for name in EQUAL_SETTINGS):
        text = (
            "Plans, validation cases, epochs, iterations, batch size, device and PyTorch are equal for all trainers, "
            "as recorded by the last process of each training."
        )
    else:
        text = "Settings that debug.json does not record cannot be compared."
    seeds = "nnU-Net does not fix random seeds, so trainers share none; repeats show the random variation."
    return f"## Fairness\n\n{text}\n\n{seeds}"


_STATISTICS = f"""\
## Statistics

- **difference**: trainer - baseline, for the same case in the same fold. The Dice of a case is the mean over its labels
  and over repeats. If the reference lacks a label, an empty prediction counts as Dice 1 where the other trainer
  predicts the label (Dice 0); the label is left out if both predictions are empty. HD95 is compared where both are
  defined.
- **seconds per epoch** depend on the load of the machine and are comparable only between trainings under equal load.
- **{100 * LEVEL:.0f} % over cases**: BCa bootstrap confidence interval of the mean ({RESAMPLES} resamples).
- **over folds**: {100 * LEVEL:.0f} % confidence interval of the mean difference of the folds (Student's t). It is
  approximate, because folds share training cases.
- **p**: Wilcoxon signed-rank test over cases, two-sided, zeros ranked (Pratt). **p (Holm)**: corrected for all
  comparisons of the same kind. **both (Holm)**: the maximum of p and the p-value of a t-test over folds, corrected
  likewise.
- **effect**: matched-pairs rank-biserial correlation, zeros ranked, from -1 (always lower) to +1 (always higher).
- **tie**: a difference of at most {100 * TIE:g} points, or {TIE:g} in the unit of HD95. **win**: higher Dice or lower
  HD95.
- **Verdicts** use the mean Dice only. A trainer is **better** if both corrected p-values are below {ALPHA:.2f}, neither
  interval includes zero, mean and effect have the same sign, and the mean difference is larger than a tie. It is
  **better for these trained networks** if this holds over cases but not over folds. There is no verdict below
  {MIN_CASES} cases. Confidence intervals are nominal, too narrow for few cases or very skewed differences, and not
  corrected for multiple comparisons. Single labels and HD95 are exploratory."""


def _reproduction(data: ReportData) -> str:
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in _PACKAGES)
    lines = [f"Report: nnunet-xattnres {__version__}, {versions}, Python {platform.python_version()}"]
    trained = [t for results in data.results for t in results.trained]
    kinds = Counter((t.debug.epochs, t.debug.iterations, t.debug.device, t.debug.host, t.debug.torch) for t in trained)
    for (epochs, iterations, device, host, torch), n in kinds.items():
        machine = (device or "an unknown device") + (f" of {host}" if host else "")
        length = f"{epochs or '?'} epochs of {iterations or '?'} iterations"
        lines.append(f"{_plural(n, 'training')} of {length} on {machine}, PyTorch {torch or '?'}")
    if interrupted := sum(t.log.trainings > 1 for t in trained):
        lines.append(f"Interrupted and continued or restarted: {_plural(interrupted, 'training')}")
    parts = ["## How to reproduce", _list(lines)]
    if trained:
        commands = ['export nnUNet_extTrainer="$(xattnres trainers)"', *_commands(data)]
        parts.append("\n".join(["```bash", *commands, "```"]))
    return "\n\n".join(parts)


def _commands(data: ReportData) -> Iterable[str]:
    """The nnU-Net commands of all trainings."""
    for trained in [t for results in data.results for t in results.trained]:
        device = trained.debug.device if trained.debug.device in ("cpu", "mps") else "cuda"
        repeat = f"nnUNet_results=$nnUNet_results/repeat_{trained.run.repeat} " if trained.run.repeat else ""
        yield repeat + " ".join(Train(trained.run).command(RunOptions(device)))
