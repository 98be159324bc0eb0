"""The verdict on a trainer: which claim the statistics of its Dice support, and the sentence that states it."""

from enum import Enum

from .statistics import ALPHA, LEVEL, TIE, Comparison, Interval

MIN_CASES = 6
"""With fewer cases, even a win in every case does not reach a p-value of 0.05."""


class Verdict(str, Enum):
    """What is claimed of b in comparison with a; the values are those of results.json."""

    BETTER = "better"
    WORSE = "worse"
    BETTER_HERE = "better here"
    """Better for these trained networks; not shown for new trainings."""
    WORSE_HERE = "worse here"
    NO_DIFFERENCE = "no difference shown"
    TOO_FEW_CASES = "too few cases"


def decide(comparison: Comparison, adjusted_p: float, adjusted_both: float) -> Verdict:
    """The strongest claim about b that the comparison supports.

    BETTER_HERE and WORSE_HERE need a significant corrected test over cases, an interval over cases that excludes zero,
    a mean difference larger than a tie, and a mean and a rank effect of the same sign. BETTER and WORSE need, in
    addition, significance and an interval that excludes zero over folds, with the same sign.

    Args:
        comparison: of b with a.
        adjusted_p: `comparison.p`, corrected for all comparisons.
        adjusted_both: `comparison.p_both`, corrected likewise.
    """
    c = comparison
    if c.n < MIN_CASES:
        return Verdict.TOO_FEW_CASES
    significant = adjusted_p < ALPHA and c.cases.excludes_zero()
    if not significant or abs(c.cases.mean) <= TIE or c.cases.mean * c.effect <= 0:
        return Verdict.NO_DIFFERENCE
    higher = c.cases.mean > 0
    if adjusted_both < ALPHA and c.folds.excludes_zero() and (c.folds.mean > 0) == higher:
        return Verdict.BETTER if higher else Verdict.WORSE
    return Verdict.BETTER_HERE if higher else Verdict.WORSE_HERE


def describe(comparison: Comparison, adjusted_p: float, adjusted_both: float, name: str, baseline: str) -> str:
    """State the verdict on the Dice of `name` in one or two sentences, with the figures that support it."""
    c, verdict = comparison, decide(comparison, adjusted_p, adjusted_both)
    cases = f"{c.n} case" if c.n == 1 else f"{c.n} cases"
    mean = f"mean difference {_points(c.cases.mean)} Dice points"
    if verdict is Verdict.TOO_FEW_CASES:
        return f"{cases} cannot show whether {name} differs from {baseline}: {mean}, at least {MIN_CASES} are needed."
    evidence = f"{mean} over {cases}, {100 * LEVEL:.0f} % confidence interval {_range(c.cases)}"
    if verdict is Verdict.NO_DIFFERENCE:
        reason = f", but {_reason(c, adjusted_p)}" if c.cases.excludes_zero() else ""
        return f"No difference between {name} and {baseline} is shown: {evidence}{reason}."
    claim = f"{name} is {verdict.value.split()[0]} than {baseline}"
    if verdict in (Verdict.BETTER, Verdict.WORSE):
        return f"{claim}: {evidence}; over the {c.n_folds} folds {_range(c.folds)}."
    if c.n_folds < 2:
        limit = "one fold does not show the variation between trainings"
    else:
        limit = f"the interval over the {c.n_folds} folds is {_range(c.folds)}"
    return f"{claim} for these trained networks: {evidence}. This may not hold for new trainings: {limit}."


def _reason(c: Comparison, adjusted_p: float) -> str:
    """Why an interval that excludes zero shows no difference."""
    if adjusted_p >= ALPHA:
        return f"the corrected Wilcoxon test is not significant (p = {adjusted_p:.3f})"
    if abs(c.cases.mean) <= TIE:
        return f"up to {100 * TIE:g} points count as a tie"
    return f"the ranks of the differences have the opposite sign (effect {c.effect:+.2f})"


def _points(difference: float) -> str:
    return f"{round(100 * difference, 2) + 0:+.2f}"  # + 0 turns -0.0 into 0.0


def _range(interval: Interval) -> str:
    return f"{_points(interval.low)} to {_points(interval.high)}"
