"""The figures as CSV and JSON are those of the results, all of them, and nothing that JSON does not have."""

import csv
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from support.finished import BASELINE, OTHER, in_memory, row

from nnunet_xattnres import __version__
from nnunet_xattnres.benchmark.folders import NnUNetFolders
from nnunet_xattnres.benchmark.grid import ExperimentKey, Grid
from nnunet_xattnres.benchmark.log import Log
from nnunet_xattnres.benchmark.report import statistics
from nnunet_xattnres.benchmark.report.export import cases_csv, document
from nnunet_xattnres.benchmark.report.report_data import ReportData, analyse
from nnunet_xattnres.benchmark.report.results import Results
from nnunet_xattnres.benchmark.report.sizes import Size
from nnunet_xattnres.evaluation import METRICS

LABELS = ("organ", 'tumour, "core"')
DICE = np.random.default_rng(0).uniform(0.3, 0.9, (2, 3, 4, 2))


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 200)


def results(dataset: str = "Dataset007_Cells", folds: int = 3) -> Results:
    """The last case has no second label."""
    trainings = {
        (trainer, fold): {
            f"{fold}{n}": {
                name: row(float(d), float(9 - 9 * d)) for name, d in zip(LABELS, DICE[i, fold, n], strict=True)
            }
            for n in range(4)
        }
        for i, trainer in enumerate((BASELINE, OTHER))
        for fold in range(folds)
    }
    trainings[OTHER, folds - 1][f"{folds - 1}3"][LABELS[1]] = row(0.0, None)
    found = in_memory(
        trainings, ExperimentKey(dataset, "2d", "nnUNetPlans"), log=Log({0: {"seconds": 1.5}, 1: {"seconds": 2.5}})
    )
    found.test = {
        protocol: {(OTHER, 0): {"t0": {name: row(dice, None) for name in LABELS}}}
        for protocol, dice in (("default", 0.5), ("published", 0.25))
    }
    return found


def content(*found: Results) -> ReportData:
    return analyse(
        Grid([r.experiment.dataset for r in found], (BASELINE, OTHER)), NnUNetFolders(*map(Path, "abc")), found
    )


def read(text: str) -> list[dict]:
    return list(csv.DictReader(io.StringIO(text)))


class TestCases:
    def test_every_score_has_its_place(self):
        one, two = results(), results("Dataset008_More", folds=2)
        rows = read(cases_csv(content(one, two)))
        expected = []
        for found in (one, two):
            of = [("validation", t.run.trainer, str(t.run.fold), t.scores) for t in found.trained]
            of.append(("test", OTHER, "together", found.test["default"][OTHER, 0]))
            for part, trainer, fold, scores in of:
                for case, labels in scores.items():
                    about = found.experiment.dataset, trainer, "0", fold, part, case
                    expected += [(*about, name, values) for name, values in labels.items()]
        keys = ("dataset", "trainer", "repeat", "fold", "part", "case", "region")
        read_back = [(*(r[key] for key in keys), {m: float(r[m]) if r[m] else None for m in METRICS}) for r in rows]
        assert read_back == expected
        assert {(r["configuration"], r["plans"]) for r in rows} == {("2d", "nnUNetPlans")}

    def test_repeats(self):
        found = in_memory({(OTHER, 0, repeat): {"x": {"organ": row(0.5)}} for repeat in (0, 1)})
        assert [r["repeat"] for r in read(cases_csv(content(found)))] == ["0", "1"]

    def test_nothing(self):
        text = cases_csv(content(in_memory({}, trainers=(BASELINE, OTHER))))
        assert text.count("\n") == 1 and text.startswith(
            "dataset,configuration,plans,trainer,repeat,fold,part,case,region,"
        )


def finite(value) -> bool:
    if isinstance(value, dict | list):
        return all(map(finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


class TestDocument:
    def test_comes_back(self):
        found = document(content(results(), results("Dataset008_More", 1)))
        text = json.dumps(found, allow_nan=False)
        assert json.loads(text) == json.loads(json.dumps(found)) and finite(json.loads(text))
        assert "NaN" not in text and "Infinity" not in text

    def test_means(self):
        """Those of numpy, and how many they count."""
        (experiment,) = document(content(results()))["settings"]
        assert [experiment[k] for k in ("dataset", "configuration", "plans")] == [
            "Dataset007_Cells",
            "2d",
            "nnUNetPlans",
        ]
        ours, theirs = (experiment["trainers"][name] for name in (BASELINE, OTHER))
        assert ours["mean"]["dice"] == pytest.approx(DICE[0].mean())
        assert ours["regions"]["organ"]["dice"] == pytest.approx(DICE[0, ..., 0].mean())
        assert ours["regions"]["organ"]["hd95"] == pytest.approx((9 - 9 * DICE[0, ..., 0]).mean())
        rest = np.delete(DICE[1, ..., 1].ravel(), 11)
        second = theirs["regions"][LABELS[1]]
        assert (second["dice_n"], second["hd95_n"]) == (12, 11)
        assert second["hd95"] == pytest.approx((9 - 9 * rest).mean())
        assert second["dice"] == pytest.approx(rest.sum() / 12)
        assert ours["seconds_per_epoch"] == theirs["seconds_per_epoch"] == 2.0

    def test_costs(self):
        found = content(results())
        found.sizes = {
            (found.results[0].experiment, BASELINE): Size(12, 34),
            (found.results[0].experiment, OTHER): "none",
        }
        found.results[0].of(OTHER)[0].attempts.append({"peak_memory_bytes": 5})
        trainers = document(found)["settings"][0]["trainers"]
        costs = [[trainers[t][k] for k in ("parameters", "macs", "peak_memory_bytes")] for t in (BASELINE, OTHER)]
        assert costs == [[12, 34, None], [None, None, 5]]

    def test_comparisons(self):
        """The mean over labels has a verdict, labels have none."""
        found = content(results())
        compared = document(found)["comparisons"]
        assert [(c["metric"], c["region"]) for c in compared] == [
            ("dice", None), *(("dice", name) for name in LABELS), *(("hd95", name) for name in LABELS)]  # fmt: skip
        assert [c["verdict"] is None for c in compared] == [False, True, True, True, True]
        d = DICE[1] - DICE[0]
        d[2, 3, 1] = -DICE[0, 2, 3, 1]
        first = compared[0]
        (paired,) = found.primary
        assert [first[k] for k in ("verdict", "adjusted_p", "adjusted_both")] == [
            paired.verdict, paired.adjusted_p, paired.adjusted_both]  # fmt: skip
        assert (first["n"], first["n_folds"], first["trainer"], first["baseline"]) == (12, 3, OTHER, BASELINE)
        assert first["cases"]["mean"] == pytest.approx(d.mean())
        assert first["median"] == pytest.approx(np.median(d.mean(-1)))
        assert first["wins"] + first["ties"] + first["losses"] == 12
        assert compared[4]["n"] == 11
        assert compared[4]["cases"]["mean"] == pytest.approx(
            -9 * np.delete(DICE[1] - DICE[0], 23).reshape(-1)[1::2].mean()
        )

    def test_what_nothing_is_known_of_is_null(self):
        """The interval over one fold."""
        first = document(content(results(folds=1)))["comparisons"][0]
        assert first["n_folds"] == 1
        assert (first["folds"]["low"], first["folds"]["high"]) == (None, None)
        assert first["folds"]["mean"] is not None

    def test_the_rest(self):
        found = results()
        found.missing.append("a")
        found.warnings.append("b")
        whole = document(content(found))
        assert whole["version"] == __version__
        assert whole["grid"]["trainers"] == [BASELINE, OTHER]
        (experiment,) = whole["settings"]
        assert (experiment["missing"], experiment["warnings"]) == (["a"], ["b"])
        assert experiment["test"]["published"][OTHER]["dice"] == 0.25
        assert experiment["test"]["default"][OTHER]["hd95"] is None

    def test_nothing(self):
        (experiment,) = document(content(in_memory({}, trainers=(BASELINE, OTHER))))["settings"]
        assert experiment["trainers"] == {}
