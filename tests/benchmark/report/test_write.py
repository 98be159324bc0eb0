"""A report is complete and consistent, keeps the user's other files, and is written in spite of damaged input."""

import base64
import csv
import errno
import html.parser
import io
import itertools
import json
import math
import os
import re
import shutil
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from matplotlib.figure import Figure
from nnunetv2.evaluation.evaluate_predictions import load_summary_json
from skimage.io import imread, imsave
from support.finished import LABELS, SPACING, Finished, change_debug, write_finished
from support.label_maps import truncate, write_label_map
from support.results import BASELINE, OTHER, cases, from_dice, in_memory, report_data, row
from support.trees import contents

from nnunet_xattnres import __version__
from nnunet_xattnres.benchmark.grid import ExperimentKey
from nnunet_xattnres.benchmark.log import Log
from nnunet_xattnres.benchmark.report import figures, statistics
from nnunet_xattnres.benchmark.report.analysis import analyse
from nnunet_xattnres.benchmark.report.costs import NetworkSize
from nnunet_xattnres.benchmark.report.results import Finding, Results, score_table
from nnunet_xattnres.benchmark.report.write import cases_csv, html_page, results_json, write_report
from nnunet_xattnres.evaluation import METRICS
from nnunet_xattnres.utils.errors import UserError

FILES = ("cases.csv", "results.json", "report.md", "report.html")
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def analyse_all(finished: Finished):
    return analyse(finished.grid, finished.folders, [finished.results()])


@pytest.fixture(scope="module")
def out(scored, tmp_path_factory) -> Path:
    """A report with all its figures."""
    folder = tmp_path_factory.mktemp("out") / "report"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "RESAMPLES", 200)
        scored.use(patch)
        assert write_report(analyse_all(scored), folder) == folder / "report.html"
    return folder


@pytest.fixture
def simple_figures(monkeypatch):
    """Replace the drawing of figures, which takes most of the time."""
    for kind in ("differences", "boxes", "learning_curves", "cases"):
        monkeypatch.setattr(figures, f"draw_{kind}", lambda *arguments: arguments[-1].write_bytes(PIXEL) and None)


class Page(html.parser.HTMLParser):
    """The elements and texts of a page, in which every element must be closed."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "br", "hr"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert tag in ("meta", "img", "br", "hr") or self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", data.strip()))

    def all(self, tag: str, attribute: str) -> list[str | None]:
        return [attributes.get(attribute) for name, attributes in self.elements if name == tag]

    def pictures(self) -> list[bytes]:
        return [base64.b64decode(source.removeprefix("data:image/png;base64,")) for source in self.all("img", "src")]


TEXT = """\
# Benchmark: A & B against C, Größe, 脳

- **one**: *better*, [see](#below)
- a < b

## Below

| Dice % | a\\|b |
| --- | ---: |
| x | 1.00 |

```bash
nnUNetv2_train 7 2d 0 && echo "<done>" src="pictures/none.png"
```
"""


class TestHtmlPage:
    def test_elements(self, tmp_path):
        text = html_page(TEXT, tmp_path)
        page = Page(text)
        title = "Benchmark: A & B against C, Größe, 脳"
        assert text.startswith("<!doctype html>\n")
        assert ("title", title) in page.texts and ("h1", title) in page.texts
        assert [text for tag, text in page.texts if tag in ("th", "td")] == ["Dice %", "a|b", "x", "1.00"]
        assert ("code", 'nnUNetv2_train 7 2d 0 && echo "<done>" src="pictures/none.png"') in page.texts
        assert ("li", "a < b") in page.texts
        assert (page.all("meta", "charset"), page.all("html", "lang")) == (["utf-8"], ["en"])
        assert page.all("a", "href") == ["#below"] and "below" in page.all("h2", "id")

    def test_pictures_are_embedded(self, tmp_path):
        """The page can be moved without the pictures, whatever their names, and loads nothing else."""
        (tmp_path / "pictures").mkdir()
        names = ["a_b.png", "Größe_2d.png", "a b.png", "100%.png", "a&b.png", "脳.png"]
        for seed, name in enumerate(names):
            pixels = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
            imsave(tmp_path / "pictures" / name, pixels, check_contrast=False)
        text = html_page(TEXT + "".join(f"\n![{name} & more](pictures/{quote(name)})\n" for name in names), tmp_path)
        page = Page(text)
        assert page.pictures() == [(tmp_path / "pictures" / name).read_bytes() for name in names]
        assert page.all("img", "alt") == [f"{name} & more" for name in names]
        assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in page.elements}
        for _, attributes in page.elements:
            for name in ("src", "href", "data", "srcset", "poster"):
                assert attributes.get(name, "#").startswith(("#", "data:"))
        assert not re.search(r"url\(|@import|https?://", text)


DICE = np.random.default_rng(0).uniform(0.3, 0.9, (2, 3, 4, 2))
REGIONS = ("organ", 'tumour, "core"')


def make_results(dataset: str = "Dataset007_Cells", folds: int = 3) -> Results:
    """The last prediction lacks the second label: Dice 0 and no HD95."""
    log = Log({0: {"seconds": 1.5}, 1: {"seconds": 2.5}})
    results = from_dice(DICE[:, :folds], REGIONS, experiment=ExperimentKey(dataset, "2d", "nnUNetPlans"), log=log)
    table = results.validation
    last = (table.trainer == OTHER) & (table.case == f"{folds - 1}3") & (table.region == REGIONS[1])
    table.loc[last, list(METRICS)] = list(row(0.0, np.nan).values())
    for protocol, dice in (("default", 0.5), ("published", 0.25)):
        scores = {"t0": {name: row(dice, None) for name in REGIONS}}
        results.test[protocol] = score_table([(OTHER, 0, "together", scores)])
    return results


class TestCasesCsv:
    def rows(self, *results: Results) -> list[dict]:
        return list(csv.DictReader(io.StringIO(cases_csv(report_data(*results)))))

    def test_every_score(self):
        one, two = make_results(), make_results("Dataset008_More", folds=2)
        rows = self.rows(one, two)
        expected = []
        for results, folds in ((one, 3), (two, 2)):
            for (i, trainer), fold, n, (j, region) in itertools.product(
                enumerate((BASELINE, OTHER)), range(folds), range(4), enumerate(REGIONS)
            ):
                lost = (i, fold, n, j) == (1, folds - 1, 3, 1)
                dice, hd95 = (0.0, None) if lost else (DICE[i, fold, n, j], 10 - 10 * DICE[i, fold, n, j])
                key = (results.experiment.dataset, trainer, "0", str(fold), "validation", f"{fold}{n}", region)
                expected.append((*key, pytest.approx(row(dice, hd95))))
            for region in REGIONS:
                key = (results.experiment.dataset, OTHER, "0", "together", "test", "t0", region)
                expected.append((*key, pytest.approx(row(0.5, None))))
        keys = ("dataset", "trainer", "repeat", "fold", "part", "case", "region")
        actual = [(*(r[key] for key in keys), {m: float(r[m]) if r[m] else None for m in METRICS}) for r in rows]
        assert actual == expected
        assert {(r["configuration"], r["plans"]) for r in rows} == {("2d", "nnUNetPlans")}

    def test_repeats(self):
        results = in_memory({(OTHER, 0, repeat): cases(x=0.5) for repeat in (0, 1)})
        assert [r["repeat"] for r in self.rows(results)] == ["0", "1"]

    def test_nothing(self):
        text = cases_csv(report_data(in_memory({}, trainers=(BASELINE, OTHER))))
        assert text == f"dataset,configuration,plans,trainer,repeat,fold,part,case,region,{','.join(METRICS)}\n"


class TestResultsJson:
    def test_numbers_are_numbers(self, out):
        """JSON has neither NaN nor infinity; intervals over one fold are null."""

        def refuse(name):
            raise AssertionError(name)

        text = (out / "results.json").read_text()
        assert json.dumps(json.loads(text, parse_constant=refuse), indent=1, allow_nan=False) + "\n" == text
        first = results_json(report_data(make_results(folds=1)))["comparisons"][0]
        assert (first["n_folds"], first["folds"]["low"], first["folds"]["high"]) == (1, None, None)
        assert math.isfinite(first["folds"]["mean"])

    def test_means(self):
        (setting,) = results_json(report_data(make_results()))["settings"]
        assert [setting[k] for k in ("dataset", "configuration", "plans")] == ["Dataset007_Cells", "2d", "nnUNetPlans"]
        baseline, other = (setting["trainers"][name] for name in (BASELINE, OTHER))
        assert baseline["mean"]["dice"] == pytest.approx(DICE[0].mean())
        assert baseline["regions"]["organ"]["dice"] == pytest.approx(DICE[0, ..., 0].mean())
        assert baseline["regions"]["organ"]["hd95"] == pytest.approx((10 - 10 * DICE[0, ..., 0]).mean())
        rest = np.delete(DICE[1, ..., 1].ravel(), 11)
        second = other["regions"][REGIONS[1]]
        assert (second["dice_n"], second["hd95_n"]) == (12, 11)
        assert second["hd95"] == pytest.approx((10 - 10 * rest).mean())
        assert second["dice"] == pytest.approx(rest.sum() / 12)
        assert baseline["seconds_per_epoch"] == other["seconds_per_epoch"] == 2.0

    def test_costs(self):
        data = report_data(make_results())
        experiment = data.results[0].experiment
        data.sizes = {(experiment, BASELINE): NetworkSize(12, 34), (experiment, OTHER): "none"}
        data.results[0].trained_by(OTHER)[0].attempts.append({"peak_memory_bytes": 5})
        trainers = results_json(data)["settings"][0]["trainers"]
        costs = [[trainers[t][k] for k in ("parameters", "macs", "peak_memory_bytes")] for t in (BASELINE, OTHER)]
        assert costs == [[12, 34, None], [None, None, 5]]

    def test_comparisons(self):
        """The mean over labels has a verdict, single labels have none."""
        data = report_data(make_results())
        compared = results_json(data)["comparisons"]
        kinds = [("dice", None), *itertools.product(("dice", "hd95"), REGIONS)]
        assert [(c["metric"], c["region"]) for c in compared] == kinds
        assert [c["verdict"] is None for c in compared] == [False, True, True, True, True]
        d = DICE[1] - DICE[0]
        d[2, 3, 1] = -DICE[0, 2, 3, 1]
        first, (paired,) = compared[0], data.primary
        p = [first[k] for k in ("verdict", "adjusted_p", "adjusted_both")]
        assert p == [paired.verdict, paired.adjusted_p, paired.adjusted_both]
        assert (first["n"], first["n_folds"], first["trainer"], first["baseline"]) == (12, 3, OTHER, BASELINE)
        assert first["cases"]["mean"] == pytest.approx(d.mean())
        assert first["median"] == pytest.approx(np.median(d.mean(-1)))
        assert first["wins"] + first["ties"] + first["losses"] == 12
        distances = -10 * np.delete(DICE[1] - DICE[0], 23).reshape(-1)[1::2]
        assert (compared[4]["n"], compared[4]["cases"]["mean"]) == (11, pytest.approx(distances.mean()))

    def test_other_entries(self):
        results = make_results()
        results.missing.append(Finding("to train", "a"))
        results.warnings.append(Finding("different epochs", "b"))
        document = json.loads(json.dumps(results_json(report_data(results))))
        assert (document["version"], document["grid"]["trainers"]) == (__version__, [BASELINE, OTHER])
        (setting,) = document["settings"]
        assert (setting["missing"], setting["warnings"]) == (["a"], ["b"])
        assert setting["test"]["published"][OTHER]["dice"] == 0.25
        assert setting["test"]["default"][OTHER]["hd95"] is None

    def test_nothing(self):
        (setting,) = results_json(report_data(in_memory({}, trainers=(BASELINE, OTHER))))["settings"]
        assert setting["trainers"] == {}


class TestFiles:
    def test_all_files(self, out):
        """All figures are shown, and none is blank."""
        assert {p.name for p in out.iterdir()} == {*FILES, "pictures"}
        pictures = sorted(p.name for p in (out / "pictures").iterdir())
        kinds = ["boxes", "curves", f"{OTHER}_cases", f"{OTHER}_differences"]
        assert pictures == sorted(f"Dataset007_Cells_2d_nnUNetPlans_{kind}.png" for kind in kinds)
        shown = re.findall(r"!\[[^]]*\]\(([^)]*)\)", (out / "report.md").read_text())
        assert sorted(shown) == [f"pictures/{name}" for name in pictures]
        for path in (out / "pictures").iterdir():
            pixels = imread(path)
            assert min(pixels.shape[:2]) > 200
            assert 0.002 < (pixels[..., :3].min(-1) < 200).mean() < 0.9

    @pytest.mark.slow
    def test_reproducible(self, out, scored, tmp_path, monkeypatch):
        scored.use(monkeypatch)
        write_report(analyse_all(scored), tmp_path / "report")
        assert contents(tmp_path / "report") == contents(out)

    def test_the_page_is_the_text(self, out):
        text = (out / "report.html").read_text()
        assert text == html_page((out / "report.md").read_text(), out)
        page = Page(text)
        assert set(page.pictures()) == {path.read_bytes() for path in (out / "pictures").iterdir()}
        ids = {attributes.get("id") for _, attributes in page.elements}
        assert all(link.startswith("#") and link[1:] in ids for link in page.all("a", "href"))


def read_table(text: str, first: str) -> list[list[str]]:
    """The cells of the table whose head begins with `first`, without its rule."""
    (table,) = [block for block in text.split("\n\n") if block.startswith(f"| {first}")]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return [lines[0], *lines[2:]]


def read_scores(out: Path, trainer: str, part: str = "validation") -> dict[str, np.ndarray]:
    """Every metric as an array (case, label), from cases.csv."""
    with (out / "cases.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if (row["trainer"], row["part"]) == (trainer, part)]
    names = sorted({row["case"] for row in rows})
    values = {(row["case"], row["region"]): row for row in rows}
    assert len(values) == len(rows)
    return {
        metric: np.array([[float(values[c, r][metric] or "nan") for r in ("nucleus", "cell wall")] for c in names])
        for metric in METRICS
    }


class TestFigures:
    """The figures of the text agree with cases.csv and with nnU-Net."""

    @pytest.fixture
    def text(self, out) -> str:
        return (out / "report.md").read_text()

    def test_means(self, out, text):
        _, *lines, difference = read_table(text, " | Dice % | HD95 voxels | IoU % | parameters")
        means = {t: {m: v.mean(0).mean() for m, v in read_scores(out, t).items()} for t in (BASELINE, OTHER)}
        for line, (trainer, m) in zip(lines, means.items(), strict=True):
            assert line[:4] == [trainer, f"{100 * m['dice']:.2f}", f"{m['hd95']:.2f}", f"{100 * m['iou']:.2f}"]
        d = {metric: means[OTHER][metric] - means[BASELINE][metric] for metric in METRICS}
        assert difference[1:4] == [f"{100 * d['dice']:+.2f}", f"{d['hd95']:+.2f}", f"{100 * d['iou']:+.2f}"]

    def test_means_of_nnunet(self, text, scored):
        """The means agree with nnU-Net's own summaries of the folds."""
        _, *lines = read_table(text, "Dice % | nucleus | cell wall")
        for line, trainer in zip(lines, (BASELINE, OTHER), strict=False):
            files = [scored.fold(trainer, fold) / "validation/summary.json" for fold in range(3)]
            metrics = [c["metrics"] for file in files for c in load_summary_json(str(file))["metric_per_case"]]
            means = [np.mean([case[value]["Dice"] for case in metrics]) for value in LABELS.values() if value]
            assert line == [trainer, *(f"{100 * mean:.2f}" for mean in means)]

    def test_test_cases(self, out, text):
        _, *lines = read_table(text, " | Dice % | HD95 voxels | IoU % | Dice nucleus")
        for line, trainer in zip(lines, (BASELINE, OTHER), strict=True):
            dice = read_scores(out, trainer, "test")["dice"].mean(0)
            assert [line[1], *line[4:]] == [f"{100 * value:.2f}" for value in (dice.mean(), *dice)]

    def test_differences_and_verdict(self, out, text):
        _, line = read_table(text, "Dice, mean over labels")
        a, b = (read_scores(out, trainer)["dice"].mean(1) for trainer in (BASELINE, OTHER))
        counts = [int((b - a > 0.001).sum()), int((abs(b - a) <= 0.001).sum()), int((b - a < -0.001).sum())]
        mean = f"{100 * (b - a).mean():+.2f}"
        assert line[:3] == [OTHER, "15", mean]
        assert line[-1] == " / ".join(map(str, counts))
        (primary,) = [c for c in json.loads((out / "results.json").read_text())["comparisons"] if c["verdict"]]
        assert primary["verdict"] == "better" and primary["cases"]["low"] > 0 < primary["folds"]["low"]
        assert any(f"{OTHER} is better than {BASELINE}" in line and mean in line for line in text.splitlines())


@pytest.mark.usefixtures("simple_figures")
class TestVolumes:
    @pytest.fixture
    def volumes(self, scored_nifti, tmp_path, monkeypatch) -> Finished:
        finished = scored_nifti.copy(tmp_path / "volumes")
        finished.use(monkeypatch)
        return finished

    def test_distances_in_mm(self, volumes, tmp_path):
        """Label maps are shifted by 0 to 3 voxels of 0.75 mm. Means with undefined distances have no difference."""
        case = volumes.validated[0][0]
        write_label_map(volumes.predicted(OTHER, case), np.zeros((7, 20, 22)), SPACING)
        write_report(analyse_all(volumes), tmp_path / "out")
        text = (tmp_path / "out/report.md").read_text()
        assert "HD95 mm" in text and "HD95, mm" in text and "voxels" not in text
        baseline, other = (read_scores(tmp_path / "out", trainer)["hd95"] for trainer in (BASELINE, OTHER))
        assert set(np.unique(baseline) / 0.75) <= {2, 3}
        assert set(np.unique(other[np.isfinite(other)]) / 0.75) <= {0, 1}
        _, first, second, difference = read_table(text, " | Dice %")
        assert second[2] == f"{np.nanmean(other, 0).mean():.2f} (28 of 30)" and "of" not in first[2]
        assert difference[2] == "" != difference[1]
        _, *labels = read_table(text, "HD95, mm")
        assert [line[1] for line in labels] == ["14", "14"]


@pytest.mark.usefixtures("simple_figures")
class TestWriting:
    @pytest.fixture
    def data(self, scored, monkeypatch):
        scored.use(monkeypatch)
        return analyse_all(scored)

    def test_other_files_stay(self, data, tmp_path):
        (tmp_path / "pictures").mkdir()
        for name in ("notes.md", "pictures/mine.png", "pictures/old_boxes.png"):
            (tmp_path / name).write_text(name)
        before = contents(tmp_path)
        (tmp_path / "report.md").write_text("an older report\n" * 10_000)
        write_report(data, tmp_path)
        assert before.items() <= contents(tmp_path).items()
        assert "an older report" not in (tmp_path / "report.md").read_text()

    @pytest.mark.parametrize("failing", FILES)
    def test_a_full_disk(self, data, tmp_path, monkeypatch, failing):
        """Every file is the old or the new one, the page is replaced last, and no temporary file is left."""
        write_report(data, tmp_path)
        new = contents(tmp_path)
        for name in FILES:
            (tmp_path / name).write_text("old")
        replace = os.replace

        def fill(source, target):
            if Path(target).name == failing:
                raise OSError(errno.ENOSPC, "No space left on device")
            replace(source, target)

        monkeypatch.setattr(os, "replace", fill)
        with pytest.raises(UserError, match=f"{failing}.*No space left on device"):
            write_report(data, tmp_path)
        after = contents(tmp_path)
        assert after.keys() == new.keys()
        assert all(after[name] in (b"old", new[name]) for name in FILES)
        assert after[failing] == after["report.html"] == b"old"

    def test_not_a_folder(self, data, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(UserError, match=f"{tmp_path / 'file' / 'out'}.*--out"):
            write_report(data, tmp_path / "file" / "out")

    def test_a_full_disk_while_drawing(self, scored, data, tmp_path, monkeypatch):
        def fill(figure, path, **_):
            Path(path).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.undo()
        scored.use(monkeypatch)
        monkeypatch.setattr(Figure, "savefig", fill)
        with pytest.raises(UserError, match=f"{tmp_path}.*No space left on device.*--out"):
            write_report(data, tmp_path)
        assert contents(tmp_path) == {}


@pytest.mark.usefixtures("simple_figures")
class TestDamagedInput:
    """The report is written with everything that can be read, and lists the rest."""

    @pytest.fixture
    def copy(self, scored, tmp_path, monkeypatch) -> Finished:
        copy = scored.copy(tmp_path / "copy")
        copy.use(monkeypatch)
        return copy

    def text(self, copy: Finished) -> str:
        write_report(analyse_all(copy), copy.root / "out")
        assert {*FILES, "pictures"} == {p.name for p in (copy.root / "out").iterdir()}
        return (copy.root / "out/report.md").read_text()

    def test_everything_at_once(self, copy):
        summary = Path("validation/summary.json")
        shutil.copyfile(copy.fold(BASELINE, 0) / summary, copy.fold(BASELINE, 1) / summary)
        truncate(copy.fold(BASELINE, 0) / "checkpoint_best.pth")
        (log,) = copy.fold(OTHER, 0).glob("training_log_*.txt")
        log.write_text(re.sub(r"loss -[\d.]+", "loss nan", log.read_text()).split("Epoch 1 ")[0])
        (copy.fold(OTHER, 0) / "benchmark.jsonl").write_text('{"peak_gpu_memory_bytes": 1073741824}\n{"peak_gpu_')
        case = copy.validated[2][0]
        truncate(copy.predicted(OTHER, case))
        (copy.fold(OTHER, 2) / "debug.json").write_text("{")
        change_debug(copy.fold(OTHER, 1), num_epochs="1000")
        (copy.folders.test_predictions(copy.run(OTHER, 0), (0, 1, 2)) / "test_0.png").unlink()
        text = self.text(copy)
        assert "9 cases" in next(line for line in text.splitlines() if line.startswith(f"- **{copy.experiment}**: "))
        missing, fairness = (text.split(f"## {title}\n\n")[1].split("\n\n")[0] for title in ("Missing", "Fairness"))
        for start in (f"{BASELINE}, fold 0: ", f"{BASELINE}, fold 1: ", f"{OTHER}, fold 2: {case}: "):
            assert f"- {copy.experiment}: {start}" in missing
        for fact in (f"{OTHER}, fold 0: ", f"unknown ({OTHER})", f"1000 ({OTHER})"):
            assert fact in fairness
        assert "1.00 GiB" in text and "### Learning curves" in text
        assert f"| {BASELINE} | " in text.split("### Test cases")[1]

    @pytest.mark.parametrize("removed", [{BASELINE: (0, 1, 2)}, {OTHER: (0, 1, 2)}, {BASELINE: (0,), OTHER: (1, 2)},
                                         {BASELINE: (0, 1, 2), OTHER: (0, 1, 2)}])  # fmt: skip
    def test_no_fold_of_both(self, copy, removed):
        for trainer, folds in removed.items():
            for fold in folds:
                shutil.rmtree(copy.fold(trainer, fold))
        text = self.text(copy)
        summary = text.split("\n\n")[1]
        assert OTHER in summary and not re.search("better|worse|No difference", summary)
        remaining = [t for t in (BASELINE, OTHER) if len(removed) == 1 and t not in removed]
        assert [f"| {t} | " in text for t in remaining] == [True] * len(remaining)
        assert json.loads((copy.root / "out/results.json").read_text())["comparisons"] == []

    @pytest.mark.parametrize("trainer", [BASELINE, OTHER])
    def test_labels_have_other_names_in_one_model(self, copy, trainer):
        path = copy.folders.model(copy.run(trainer, 0)) / "dataset.json"
        path.write_text(path.read_text().replace("nucleus", "core"))
        assert f"- **{copy.experiment}**: " in self.text(copy)

    @pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
    def test_the_preprocessed_dataset_json(self, copy, content):
        """The file is needed for the networks and the example cases, but not for the scores."""
        (copy.preprocessed / "dataset.json").write_text(content)
        assert "### Cases" in self.text(copy)


@pytest.mark.usefixtures("simple_figures")
@pytest.mark.parametrize(
    "name",
    ["Größe & <i>a|b", *(pytest.param(n, marks=pytest.mark.slow) for n in ("Größe", "a & b", "a|b", "1<2", "100%"))],
)
def test_names_are_literal_in_all_files(tmp_path, monkeypatch, name):
    """The names of a dataset and a label are literal in the page, cases.csv and results.json."""
    labels = {"background": 0, f"{name} 1": 1, "cell wall": 2}
    finished = write_finished(tmp_path / "finished", dataset=f"Dataset009_{name}", labels=labels, folds=1)
    finished.use(monkeypatch)
    texts = [text for _, text in Page(write_report(analyse_all(finished), tmp_path / "out").read_text()).texts]
    assert f"Dataset009_{name}, 2d, nnUNetPlans" in texts
    assert f"{name} 1" in texts and f"{OTHER}, {name} 1" in texts
    with (tmp_path / "out/cases.csv").open() as file:
        assert {row["region"] for row in csv.DictReader(file)} == {f"{name} 1", "cell wall"}
    (setting,) = json.loads((tmp_path / "out/results.json").read_text())["settings"]
    assert setting["dataset"] == f"Dataset009_{name}"
    assert list(setting["trainers"][OTHER]["regions"]) == [f"{name} 1", "cell wall"]
