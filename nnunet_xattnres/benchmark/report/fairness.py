"""Checks whether all trainers were trained with the same settings and compared on the same cases."""

import ast

from .results import Finding, Results

EQUAL_SETTINGS = {
    "epochs": "epochs",
    "iterations": "iterations per epoch",
    "batch_size": "batch size",
    "configuration": "the plans' configuration (patch size, network, ...)",
    "device": "device",
    "torch": "PyTorch",
}
"""Attributes of `Debug` that must be equal in the same fold, and their names in the report."""

_MIN_DICE = 0.01
"""A network whose best label has a lower Dice has learned nothing in this case."""


def find_warnings(results: Results) -> list[Finding]:
    """Everything in which trainings differ although they should not, or that makes their comparison meaningless."""
    return [
        *_different_settings(results),
        *_incomplete_logs(results),
        *_unequal_trainings(results),
        *_duplicate_cases(results),
        *_not_learned(results),
    ]


def _different_settings(results: Results) -> list[Finding]:
    findings = []
    for name, title in EQUAL_SETTINGS.items():
        trainers: dict[str, set[str]] = {}
        by_fold: dict[tuple[int, int], set[str]] = {}
        for trained in results.trained:
            value = str(getattr(trained.debug, name) or "unknown")
            trainers.setdefault(value, set()).add(trained.run.trainer)
            by_fold.setdefault(trained.key, set()).add(value)
        if any(len(values) > 1 for values in by_fold.values()):
            shown = _differing_entries(list(trainers)) if name == "configuration" else {}
            values = [f"{shown.get(v, v)} ({', '.join(sorted(names))})" for v, names in sorted(trainers.items())]
            findings.append(Finding(f"different {name}", f"{title} differ between trainings: {'; '.join(values)}"))
    return findings


def _differing_entries(configurations: list[str]) -> dict[str, str]:
    """Map the text of each configuration to its entries that are not equal in all of them."""
    try:
        parsed = [ast.literal_eval(text) for text in configurations]
        keys = sorted({key for one in parsed for key in one if any(other.get(key) != one[key] for other in parsed)})
        return {
            text: ", ".join(f"{key} {one.get(key)}" for key in keys)
            for text, one in zip(configurations, parsed, strict=True)
        }
    except (ValueError, SyntaxError, AttributeError):
        return {text: text if len(text) <= 40 else text[:37] + "..." for text in configurations}


def _incomplete_logs(results: Results) -> list[Finding]:
    findings = []
    for trained in results.trained:
        logged, expected = len(trained.log.series("train_loss")[0]), trained.debug.epochs
        if expected and logged < expected:
            text = f"{trained.run.short_name}: the logs have {logged} of {expected} epochs"
            findings.append(Finding("incomplete log", text))
    return findings


def _unequal_trainings(results: Results) -> list[Finding]:
    counts = {trainer: len(results.trained_by(trainer)) for trainer in results.finished_trainers}
    if len(set(counts.values())) <= 1:
        return []
    numbers = ", ".join(f"{trainer} {count}" for trainer, count in counts.items())
    text = (
        f"the trainers have different numbers of trainings ({numbers}): means use the folds that all of them have "
        "finished, each comparison uses the folds that both trainers have finished"
    )
    return [Finding("unequal trainings", text)]


def _duplicate_cases(results: Results) -> list[Finding]:
    folds = results.validation.groupby(["trainer", "repeat", "case"])["fold"].nunique()
    cases = folds[folds > 1].index.unique("case")
    if cases.empty:
        return []
    text = f"validation cases in more than one fold: {len(cases)}; each counts once, with the mean of its scores"
    return [Finding("duplicate cases", text)]


def _not_learned(results: Results) -> list[Finding]:
    findings = []
    best = results.validation.groupby(["trainer", "repeat", "fold", "case"])["dice"].max().dropna()
    for trainer in results.finished_trainers:
        dice = best[best.index.get_level_values("trainer") == trainer]
        missed = int((dice < _MIN_DICE).sum())
        if missed > len(dice) / 2:
            text = f"{trainer}: Dice below {100 * _MIN_DICE:g} % in {missed} of {len(dice)} cases; train longer"
            findings.append(Finding("not learned", text))
    return findings
