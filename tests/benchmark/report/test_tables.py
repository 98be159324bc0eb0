"""Tables show how many scores a mean counts, and no difference between means over different scores."""

import csv
import html.parser
import re
from importlib.resources import files

import markdown
import numpy as np
import pytest
from support.results import BASELINE, OTHER, cases, from_dice, in_memory, report_data, row

from nnunet_xattnres.benchmark.log import Log
from nnunet_xattnres.benchmark.report import tables
from nnunet_xattnres.benchmark.report.analysis import PairedComparison
from nnunet_xattnres.benchmark.report.costs import NetworkSize
from nnunet_xattnres.benchmark.report.results import Results, score_table
from nnunet_xattnres.benchmark.report.statistics import Comparison, Interval

DICE = np.random.default_rng(0).uniform(0.3, 0.9, (2, 3, 4, 2))


def read_table(text: str) -> list[list[str]]:
    """The cells of a table without its rule."""
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines()]
    assert {cell.strip(" :-") for cell in lines[1]} == {""}
    return [[cell.strip() for cell in line] for line in (lines[0], *lines[2:])]


def mean_table(results: Results, **sizes: NetworkSize | str) -> list[list[str]]:
    data = report_data(results)
    data.sizes = {(results.experiment, trainer): size for trainer, size in sizes.items()}
    return read_table(tables.mean_table(results, data))


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


@pytest.mark.parametrize(
    "name",
    ["a|b", "a b", "<tumour>", "<b>core</b>", "<5 mm", "a & b", "&lt;", "a*b*c", "a_b_c", "__a__", "`a`", "[a](b)",
     "a\\b", "!a", "1. a"],
)  # fmt: skip
def test_names_are_literal_in_html(name):
    page = markdown.markdown(tables.format_markdown(["", name], [[name, "1.00"]]), extensions=["tables"])
    assert Cells(page).found == ["", name, name, "1.00"]


class TestMeanTable:
    def test_of_numpy(self):
        a, b = DICE.mean((1, 2, 3))
        iou = (DICE / (2 - DICE)).mean((1, 2, 3))
        head, *rows = mean_table(from_dice(DICE))
        assert head[:4] == ["", "Dice %", "HD95 mm", "IoU %"]
        assert [row[:4] for row in rows] == [
            [BASELINE, f"{100 * a:.2f}", f"{10 - 10 * a:.2f}", f"{100 * iou[0]:.2f}"],
            [OTHER, f"{100 * b:.2f}", f"{10 - 10 * b:.2f}", f"{100 * iou[1]:.2f}"],
            ["difference", f"{100 * (b - a):+.2f}", f"{10 * (a - b):+.2f}", f"{100 * (iou[1] - iou[0]):+.2f}"],
        ]

    @pytest.mark.parametrize(("undefined", "counts"), [([1, 1], [24, 22]), ([0, 1], [23, 23])])
    def test_undefined_distances(self, undefined, counts):
        """A cell shows how many scores it counts; means over different scores have no difference."""
        results = from_dice(DICE, unit="voxels")
        for number, trainer in enumerate(undefined):
            table = results.validation
            selected = (table.trainer == (BASELINE, OTHER)[trainer]) & (table.case == f"1{number}")
            table.loc[selected & (table.region == "tumour"), ["hd95", "assd"]] = np.nan
        head, *rows, difference = mean_table(results)
        assert head[2] == "HD95 voxels"
        for cells, counted in zip(rows, counts, strict=True):
            assert re.fullmatch(r"\d\.\d\d" + (rf" \({counted} of 24\)" if counted < 24 else ""), cells[2])
        assert difference[2] == "" != difference[1]

    def test_cases_that_one_side_lacks(self):
        """Each trainer lacks another case."""
        results = from_dice(DICE)
        table = results.validation
        lost = ((table.trainer == BASELINE) & (table.case == "00")) | ((table.trainer == OTHER) & (table.case == "01"))
        results.validation = table[~lost]
        a, b = np.delete(DICE.reshape(2, 12, 2), (0, 1), axis=1).mean((1, 2))
        assert mean_table(results)[-1][1] == f"{100 * (b - a):+.2f}"

    def test_undefined(self):
        results = in_memory({(t, 0): {"x": {"organ": row(None, None)}} for t in (BASELINE, OTHER)})
        assert [cells[1:4] for cells in mean_table(results)[1:]] == [["undefined"] * 3, ["undefined"] * 3, [""] * 3]

    def test_no_baseline(self):
        results = in_memory({(OTHER, 0): cases(x=0.5)}, trainers=(BASELINE, OTHER))
        assert [cells[0] for cells in mean_table(results)] == ["", OTHER]

    def test_costs(self):
        results = from_dice(DICE, log=Log({n: {"seconds": s} for n, s in enumerate([9, 1, 2.25])}))
        results.trained_by(OTHER)[0].attempts.append(
            {"peak_gpu_memory_bytes": 3 * 2**29, "peak_memory_bytes": 9 * 2**30}
        )
        sizes = {BASELINE: NetworkSize(7_766_828, 12_345_678_901), OTHER: "no network"}
        _, baseline, other_row, difference = mean_table(results, **sizes)
        assert baseline[4:] == ["7.77 M", "12.35", "2.2", "not recorded"]
        assert other_row[4:] == ["?", "?", "2.2", "1.50 GiB"]
        assert difference[4:] == [""] * 4

    def test_small_networks(self):
        sizes = {BASELINE: NetworkSize(121_999, 17_400_000), OTHER: NetworkSize(999_999, 1_000_000_000)}
        _, baseline, other_row, _ = mean_table(from_dice(DICE), **sizes)
        assert (baseline[4:6], other_row[4:6]) == (["0.122 M", "0.0174"], ["1 M", "1.00"])


def test_label_tables():
    dice = DICE.copy()
    dice[1, 0, 0, 1] = np.nan
    blocks = [read_table(block) for block in tables.label_tables(from_dice(dice)).split("\n\n")]
    assert [block[0] for block in blocks] == [[t, "organ", "tumour"] for t in ("Dice %", "HD95 mm", "IoU %")]
    means = np.nanmean(dice, (1, 2))
    for block, (a, b) in zip(blocks[:2], (100 * means, 10 - 10 * means), strict=True):
        assert block[1] == [BASELINE, *(f"{value:.2f}" for value in a)]
        assert block[2] == [OTHER, f"{b[0]:.2f}", f"{b[1]:.2f} (11 of 12)"]
        assert block[3] == ["difference", f"{b[0] - a[0]:+.2f}", ""]


def paired(metric: str = "dice", region: str | None = None, **changes) -> PairedComparison:
    values = {
        "n": 20, "cases": Interval(0.0123, -0.004, 0.03), "folds": Interval(0.01, -0.02, 0.04), "n_folds": 5,
        "median": 0.01, "p": 0.0312, "p_folds": 0.2, "effect": 0.5, "wins": 12, "ties": 3, "losses": 5,
    }  # fmt: skip
    results = in_memory({(BASELINE, 0): {}, (OTHER, 0): {}})
    comparison = Comparison(**values | changes)
    return PairedComparison(results, OTHER, metric, region, comparison, 0.0624, 0.4, score_table([]))


class TestComparisonTable:
    def cells(self, comparison: PairedComparison) -> list[str]:
        head, cells = read_table(tables.comparison_table([comparison], "title"))
        assert (head[0], head[3], len(head)) == ("title", "95 % over cases", len(cells))
        return cells

    def test_dice(self):
        assert self.cells(paired()) == [
            OTHER, "20", "+1.23", "-0.40 to +3.00", "-2.00 to +4.00", "0.031", "0.062", "0.400", "+0.50", "12 / 3 / 5",
        ]  # fmt: skip

    def test_a_lower_distance_wins(self):
        """A distance is printed in mm or voxels, not in points."""
        distance = paired("hd95", "tumour", cases=Interval(-1.5, -2.25, 0.5), folds=Interval(-1.5, -3, 0))
        name, _, *differences, _, _, _, _, counts = self.cells(distance)
        assert (name, counts) == (f"{OTHER}, tumour", "5 / 3 / 12")
        assert differences == ["-1.50", "-2.25 to +0.50", "-3.00 to +0.00"]

    def test_one_fold(self):
        cells = self.cells(paired(folds=Interval(0.01, -np.inf, np.inf), n_folds=1))
        assert (cells[4], cells[7]) == ("unknown", "unknown")

    @pytest.mark.parametrize(("p", "text"), [(1, "1.000"), (0.05, "0.050"), (0.001, "0.001"), (9e-4, "< 0.001")])
    def test_p(self, p, text):
        assert self.cells(paired(p=p))[5] == text


class TestTestCases:
    def results(self, scores: dict) -> Results:
        results = in_memory({}, trainers=(BASELINE, OTHER))
        results.test["default"] = score_table((t, repeat, "together", found) for (t, repeat), found in scores.items())
        return results

    def test_means_over_repeats(self):
        x = {"organ": row(0.5, 4.0), "tumour": row(0.25, 8.0)}
        y = {"organ": row(1.0, 0.0), "tumour": row(0.75, 0.0)}
        scores = {(OTHER, 0): {"x": x, "y": y}, (OTHER, 1): {"x": y, "y": y}, (BASELINE, 0): {"x": x, "y": y}}
        head, baseline, other_row = read_table(tables.table_of_test_cases(self.results(scores), "default", "voxels"))
        assert head == ["", "Dice %", "HD95 voxels", "IoU %", "Dice organ", "Dice tumour"]
        assert [baseline[i] for i in (0, 1, 2, 4, 5)] == [BASELINE, "62.50", "3.00", "75.00", "50.00"]
        assert [other_row[i] for i in (0, 1, 2, 4, 5)] == [OTHER, "75.00", "1.50", "87.50", "62.50"]

    def test_a_case_that_one_side_lacks(self):
        scores = {(BASELINE, 0): cases(x=0.5, y=0.5), (OTHER, 0): cases(x=0.5)}
        _, baseline, other_row = read_table(tables.table_of_test_cases(self.results(scores), "default", "mm"))
        assert (baseline[1], other_row[1], other_row[4]) == ("50.00", "50.00 (1 of 2)", "50.00 (1 of 2)")

    def test_nothing(self):
        assert tables.table_of_test_cases(from_dice(DICE), "default", "mm") == ""
        assert tables.table_of_test_cases(self.results({(BASELINE, 0): {}}), "default", "mm") == ""


@pytest.mark.parametrize(("name", "number"), [("Synapse", 1), ("ColonDB", 2), ("ClinicDB", 2), ("ISIC2017", 2)])
def test_published_table(name, number):
    """The paper's table without the other data sets."""
    head, *rows = read_table(tables.published_table(name))
    text = (files("nnunet_xattnres.paper") / "tables" / f"table{number}.csv").read_text()
    printed_rows = {cells[0]: dict(zip(head[1:], cells[1:], strict=True)) for cells in rows}
    for printed in csv.DictReader(text.splitlines()):
        expected = {key.removeprefix(f"{name} "): value for key, value in printed.items() if key.startswith(f"{name} ")}
        values = printed_rows[f"{printed['method']} (Table {number})"]
        assert expected and {key: value for key, value in values.items() if key in expected} == expected
    others = {"Synapse", "ColonDB", "ClinicDB", "ISIC2017", "average"} - {name}
    assert not any(other in title for other in others for title in head)
