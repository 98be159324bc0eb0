"""Tables say what was counted, give no difference of unlike things, and read back as what was put in."""

import csv
import html.parser
import re
from importlib.resources import files
from pathlib import Path

import markdown
import numpy as np
import pytest
from support.finished import BASELINE, OTHER, in_memory, row

from nnunet_xattnres.benchmark.folders import NnUNetFolders
from nnunet_xattnres.benchmark.grid import Grid
from nnunet_xattnres.benchmark.log import Log
from nnunet_xattnres.benchmark.report import statistics, tables
from nnunet_xattnres.benchmark.report.analysis import PairedComparison, PairedScores
from nnunet_xattnres.benchmark.report.report_data import ReportData
from nnunet_xattnres.benchmark.report.results import Results
from nnunet_xattnres.benchmark.report.sizes import Size
from nnunet_xattnres.benchmark.report.statistics import Comparison, Interval


def rows(text: str) -> list[list[str]]:
    """Cells of a table without its rule."""
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines()]
    assert {cell.strip(" :-") for cell in lines[1]} == {""}
    return [[cell.strip() for cell in line] for line in (lines[0], *lines[2:])]


def content(results: Results, **sizes: Size | str) -> ReportData:
    grid = Grid((results.experiment.dataset,), tuple(results.trainers))
    folders = NnUNetFolders(Path("raw"), Path("preprocessed"), Path("results"))
    return ReportData(
        grid, folders, [results], sizes={(results.experiment, name): size for name, size in sizes.items()}
    )


VALUES = np.random.default_rng(0).uniform(0.3, 0.9, (2, 3, 4, 2))
"""Dice by trainer, fold, case and label; HD95 is 10 times what Dice lacks to 1."""


def two_labels(values: np.ndarray) -> dict:
    """Results with these Dice by trainer, fold, case and label."""
    return {
        (trainer, fold): {
            f"{fold}{case}": {
                name: row(*((None, None) if np.isnan(dice) else (float(dice), float(10 - 10 * dice))))
                for name, dice in zip(("organ", "tumour"), of_case, strict=True)
            }
            for case, of_case in enumerate(of_fold)
        }
        for trainer, of_trainer in zip((BASELINE, OTHER), values, strict=True)
        for fold, of_fold in enumerate(of_trainer)
    }


class Cells(html.parser.HTMLParser):
    """The text of the cells of an HTML table."""

    def __init__(self, page: str):
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        assert tag in ("table", "thead", "tbody", "tr", "th", "td")
        if tag in ("th", "td"):
            self.found.append("")

    def handle_data(self, data):
        if self.found:
            self.found[-1] += data.rstrip("\n")


class TestTable:
    def test_layout(self):
        text = tables.table(["", "Dice %"], [["a", "1.00"], ["b", "2.00"]])
        assert text == "|  | Dice % |\n| --- | ---: |\n| a | 1.00 |\n| b | 2.00 |"

    @pytest.mark.parametrize(
        "name",
        ["a|b", "a b", "<tumour>", "<b>core</b>", "<5 mm", "a & b", "&lt;", "a*b*c", "a_b_c", "__a__", "`a`", "[a](b)",
         "a\\b", "!a", "1. a"],
    )  # fmt: skip
    def test_names_stay_what_they_are(self, name):
        """In the page that is made of it."""
        page = markdown.markdown(tables.table(["", name], [[name, "1.00"]]), extensions=["tables"])
        assert Cells(page).found == ["", name, name, "1.00"]


class TestMeans:
    def test_those_of_numpy(self):
        results = in_memory(two_labels(VALUES), unit="mm")
        ours, theirs = VALUES.mean((1, 2, 3))
        iou = (VALUES / (2 - VALUES)).mean((1, 2, 3))
        head, *lines = rows(tables.means(results, content(results)))
        assert head[:4] == ["", "Dice %", "HD95 mm", "IoU %"]
        assert [line[:4] for line in lines] == [
            [BASELINE, f"{100 * ours:.2f}", f"{10 - 10 * ours:.2f}", f"{100 * iou[0]:.2f}"],
            [OTHER, f"{100 * theirs:.2f}", f"{10 - 10 * theirs:.2f}", f"{100 * iou[1]:.2f}"],
            ["difference", f"{100 * (theirs - ours):+.2f}", f"{10 * (ours - theirs):+.2f}",
             f"{100 * (iou[1] - iou[0]):+.2f}"],
        ]  # fmt: skip

    def test_what_is_not_defined_for_all_has_no_difference(self):
        """And says how many it counts, of all labels of all cases."""
        trainings = two_labels(VALUES)
        trainings[OTHER, 1]["10"]["tumour"] = row(0.0, None)
        trainings[OTHER, 2]["20"]["tumour"] = row(0.0, None)
        results = in_memory(trainings, unit="voxels")
        head, ours, theirs, difference = rows(tables.means(results, content(results)))
        assert head[2] == "HD95 voxels"
        assert re.fullmatch(r"\d\.\d\d", ours[2])
        assert re.fullmatch(r"\d\.\d\d \(22 of 24\)", theirs[2])
        assert difference[2] == "" != difference[1]

    def test_the_same_number_of_others_has_no_difference(self):
        trainings = two_labels(VALUES)
        trainings[BASELINE, 0]["00"]["organ"] = trainings[OTHER, 0]["01"]["organ"] = row(0.0, None)
        results = in_memory(trainings)
        _, *lines = rows(tables.means(results, content(results)))
        assert [line[2].endswith("(23 of 24)") for line in lines] == [True, True, False]
        assert lines[2][2] == ""

    def test_other_cases_have_no_difference(self):
        """Each side lacks another case: two means of equally many that are not of the same."""
        trainings = two_labels(VALUES)
        del trainings[BASELINE, 0]["00"], trainings[OTHER, 0]["01"]
        results = in_memory(trainings)
        difference = rows(tables.means(results, content(results)))[-1]
        both = np.delete(VALUES.reshape(2, 12, 2), (0, 1), axis=1).mean((1, 2))
        assert difference[1] in ("", f"{100 * (both[1] - both[0]):+.2f}")

    def test_undefined(self):
        results = in_memory({(t, 0): {"x": {"organ": row(None, None)}} for t in (BASELINE, OTHER)})
        _, *lines = rows(tables.means(results, content(results)))
        assert [line[1:4] for line in lines] == [["undefined"] * 3, ["undefined"] * 3, [""] * 3]

    def test_no_baseline(self):
        trainings = {key: scores for key, scores in two_labels(VALUES).items() if key[0] == OTHER}
        results = in_memory(trainings, trainers=(BASELINE, OTHER))
        assert [line[0] for line in rows(tables.means(results, content(results)))] == ["", OTHER]

    def test_small_networks(self):
        results = in_memory(two_labels(VALUES))
        sizes = {BASELINE: Size(121_999, 17_400_000), OTHER: Size(999_999, 1_000_000_000)}
        _, ours, theirs, _ = rows(tables.means(results, content(results, **sizes)))
        assert (ours[4:6], theirs[4:6]) == (["0.122 M", "0.0174"], ["1 M", "1.00"])

    def test_costs(self):
        results = in_memory(two_labels(VALUES), log=Log({n: {"seconds": s} for n, s in enumerate([9, 1, 2.25])}))
        results.of(OTHER)[0].attempts.append({"peak_gpu_memory_bytes": 3 * 2**29, "peak_memory_bytes": 9 * 2**30})
        sizes = {BASELINE: Size(7_766_828, 12_345_678_901), OTHER: "no network"}
        head, ours, theirs, difference = rows(tables.means(results, content(results, **sizes)))
        assert head[4:] == ["parameters", "GMACs", "s an epoch", "peak memory"]
        assert ours[4:] == ["7.77 M", "12.35", "2.2", "not recorded"]
        assert theirs[4:] == ["?", "?", "2.2", "1.50 GiB"]
        assert difference[4:] == [""] * 4


def test_by_label():
    values = VALUES.copy()
    values[1, 0, 0, 1] = np.nan
    results = in_memory(two_labels(values), unit="mm")
    blocks = [rows(block) for block in tables.by_label(results).split("\n\n")]
    assert [block[0] for block in blocks] == [[t, "organ", "tumour"] for t in ("Dice %", "HD95 mm", "IoU %")]
    means = np.nanmean(values, (1, 2))
    for block, number in zip(blocks[:2], (100 * means, 10 - 10 * means), strict=True):
        assert block[1] == [BASELINE, *(f"{value:.2f}" for value in number[0])]
        assert block[2] == [OTHER, f"{number[1][0]:.2f}", f"{number[1][1]:.2f} (11 of 12)"]
        assert block[3] == ["difference", f"{number[1][0] - number[0][0]:+.2f}", ""]


def paired(metric: str, region: str | None = None, **others) -> PairedComparison:
    values = {
        "n": 20, "cases": Interval(0.0123, -0.004, 0.03), "folds": Interval(0.01, -0.02, 0.04), "n_folds": 5,
        "median": 0.01, "p": 0.0312, "p_folds": 0.2, "effect": 0.5, "wins": 12, "ties": 3, "losses": 5,
    }  # fmt: skip
    results = in_memory({(BASELINE, 0): {}, (OTHER, 0): {}})
    return PairedComparison(
        results, OTHER, metric, region, Comparison(**values | others), 0.0624, 0.4, PairedScores([], [], [], [])
    )


class TestComparisons:
    def test_a_row(self):
        head, line = rows(tables.comparisons([paired("dice")], "Dice, points"))
        title = "Dice, points|cases|mean difference|95 % over cases|over folds|p|p (Holm)|both (Holm)|effect"
        assert head == [*title.split("|"), "win / tie / loss"]
        expected = [
            OTHER,
            "20",
            "+1.23",
            "-0.40 to +3.00",
            "-2.00 to +4.00",
            "0.031",
            "0.062",
            "0.400",
            "+0.50",
            "12 / 3 / 5",
        ]
        assert line == expected

    def test_a_lower_distance_wins(self):
        """In its own unit."""
        distance = paired("hd95", "tumour", cases=Interval(-1.5, -2.25, 0.5), folds=Interval(-1.5, -3, 0))
        _, line = rows(tables.comparisons([distance], "HD95, mm"))
        assert [line[0], *line[2:5], line[-1]] == [
            f"{OTHER}, tumour", "-1.50", "-2.25 to +0.50", "-3.00 to +0.00", "5 / 3 / 12"]  # fmt: skip

    def test_one_fold_tells_nothing_of_others(self):
        alone = paired("dice", folds=Interval(0.01, -np.inf, np.inf), n_folds=1)
        assert rows(tables.comparisons([alone], ""))[1][4] == "unknown"

    @pytest.mark.parametrize(("p", "text"), [(1, "1.000"), (0.05, "0.050"), (0.001, "0.001"), (9e-4, "< 0.001")])
    def test_p(self, p, text):
        assert rows(tables.comparisons([paired("dice", p=p)], ""))[1][5] == text

    def test_the_level_is_that_of_the_statistics(self):
        assert f"{100 * statistics.LEVEL:g} % over cases" in tables.comparisons([], "")


class TestTested:
    def test_means_of_all_repeats(self):
        results = in_memory({}, trainers=(BASELINE, OTHER))
        cases = {
            "x": {"organ": row(0.5, 4.0), "tumour": row(0.25, 8.0)},
            "y": {"organ": row(1.0, 0.0), "tumour": row(0.75, 0.0)},
        }
        better = {"x": cases["y"], "y": cases["y"]}
        results.test["default"] = {(OTHER, 0): cases, (OTHER, 1): better, (BASELINE, 0): cases}
        head, ours, theirs = rows(tables.tested(results, "default", "mm"))
        assert head == ["", "Dice %", "HD95 mm", "IoU %", "Dice organ", "Dice tumour"]
        assert [ours[i] for i in (0, 1, 2, 4, 5)] == [BASELINE, "62.50", "3.00", "75.00", "50.00"]
        assert [theirs[i] for i in (0, 1, 2, 4, 5)] == [OTHER, "75.00", "1.50", "87.50", "62.50"]
        assert rows(tables.tested(results, "default", "voxels"))[0][2] == "HD95 voxels"

    def test_a_case_that_one_side_lacks(self):
        results = in_memory({}, trainers=(BASELINE, OTHER))
        cases = {case: {"organ": row(0.5, 4.0)} for case in "xy"}
        results.test["default"] = {(BASELINE, 0): cases, (OTHER, 0): {"x": cases["x"]}}
        _, ours, theirs = rows(tables.tested(results, "default", "mm"))
        assert (ours[1], theirs[1], theirs[4]) == ("50.00", "50.00 (1 of 2)", "50.00 (1 of 2)")

    def test_nobody_has_predicted(self):
        results = in_memory(two_labels(VALUES))
        assert tables.tested(results, "default", "mm") == ""
        results.test["default"] = {(BASELINE, 0): {}}
        assert tables.tested(results, "default", "mm") == ""


@pytest.mark.parametrize(("name", "tables_of"), [("Synapse", 1), ("ColonDB", 2), ("ClinicDB", 2), ("ISIC2017", 2)])
def test_what_the_paper_prints(name, tables_of):
    """As its table has it, of this data set alone."""
    head, *lines = rows(tables.printed(name))
    text = (files("nnunet_xattnres.paper") / "tables" / f"table{tables_of}.csv").read_text()
    found = {line[0]: dict(zip(head[1:], line[1:], strict=True)) for line in lines}
    for printed in csv.DictReader(text.splitlines()):
        own = {key.removeprefix(f"{name} "): value for key, value in printed.items() if key.startswith(f"{name} ")}
        values = found[f"{printed['method']} (Table {tables_of})"]
        assert {key: value for key, value in values.items() if key in own} == own
    others = {"Synapse", "ColonDB", "ClinicDB", "ISIC2017", "average"} - {name}
    assert not any(other in title for other in others for title in head)
