"""A report is whole, says the same twice, leaves the user's files alone, and appears whatever is broken."""

import base64
import csv
import errno
import html.parser
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from nnunetv2.evaluation.evaluate_predictions import load_summary_json
from skimage.io import imread
from support.finished import BASELINE, LABELS, OTHER, SHORT, Finished, change_debug, write_finished
from support.label_maps import damage, write_label_map
from support.trees import contents

from nnunet_xattnres.benchmark.report import figures, sections, statistics
from nnunet_xattnres.benchmark.report.page import page
from nnunet_xattnres.benchmark.report.report_data import analyse
from nnunet_xattnres.benchmark.report.write import write_report
from nnunet_xattnres.evaluation import METRICS
from nnunet_xattnres.utils.errors import UserError

FILES = ("cases.csv", "results.json", "report.md", "report.html")


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 200)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Finished:
    return write_finished(tmp_path_factory.mktemp("finished"), trainers=SHORT, tested=True)


@pytest.fixture(scope="module")
def out(finished, tmp_path_factory) -> Path:
    """The report, with all its pictures."""
    folder = tmp_path_factory.mktemp("out") / "report"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "RESAMPLES", 200)
        finished.use(patch)
        assert report(finished, folder) == folder / "report.html"
    return folder


@pytest.fixture
def simple_pictures(monkeypatch):
    """They take the longest."""

    def draw(*arguments):
        arguments[-1].write_bytes(PIXEL)

    for kind in ("differences", "boxes", "learning_curves"):
        monkeypatch.setattr(figures, kind, draw)
    monkeypatch.setattr(sections, "draw_cases", draw)


PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def report(finished: Finished, folder: Path) -> Path:
    return write_report(analyse(finished.grid, finished.folders, [finished.results()]), folder)


def rows(text: str, first: str) -> list[list[str]]:
    """Cells of the table whose head begins so, without its rule."""
    (table,) = [block for block in text.split("\n\n") if block.startswith(f"| {first}")]
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for n, line in enumerate(table.splitlines()) if n != 1
    ]


def scores(out: Path, trainer: str, part: str = "validation") -> dict[str, np.ndarray]:
    """Every metric as (case, label), by cases.csv alone."""
    with (out / "cases.csv").open() as file:
        found = [row for row in csv.DictReader(file) if (row["trainer"], row["part"]) == (trainer, part)]
    cases = sorted({row["case"] for row in found})
    values = {(row["case"], row["region"]): row for row in found}
    assert len(values) == len(found)
    return {
        metric: np.array([[float(values[c, r][metric] or "nan") for r in ("nucleus", "cell wall")] for c in cases])
        for metric in METRICS
    }


class TestFiles:
    def test_all_of_them(self, out):
        assert {p.name for p in out.iterdir()} == {*FILES, "pictures"}
        pictures = sorted(p.name for p in (out / "pictures").iterdir())
        kinds = ["boxes", "curves", f"{SHORT[1]}_cases", f"{SHORT[1]}_differences"]
        assert pictures == sorted(f"Dataset007_Cells_2d_nnUNetPlans_{kind}.png" for kind in kinds)
        shown = re.findall(r"!\[[^]]*\]\(([^)]*)\)", (out / "report.md").read_text())
        assert sorted(shown) == [f"pictures/{name}" for name in pictures]

    def test_pictures_are_not_blank(self, out):
        for path in (out / "pictures").iterdir():
            pixels = imread(path)
            assert min(pixels.shape[:2]) > 200
            assert 0.002 < (pixels[..., :3].min(-1) < 200).mean() < 0.9

    def test_the_same_again(self, out, finished, tmp_path, monkeypatch):
        """Byte by byte, from the scores that were kept."""
        finished.use(monkeypatch)
        report(finished, tmp_path / "report")
        assert contents(tmp_path / "report") == contents(out)

    def test_numbers_are_numbers(self, out):
        text = (out / "results.json").read_text()

        def refuse(name):
            raise AssertionError(name)

        found = json.loads(text, parse_constant=refuse)
        assert json.dumps(found, indent=1, allow_nan=False) + "\n" == text


class TestPage:
    def test_it_stands_alone(self, out):
        """Every element ends, every picture is inside, every link leads to a heading."""
        found, opened = [], []

        class Parser(html.parser.HTMLParser):
            def handle_starttag(self, tag, attributes):
                found.append((tag, dict(attributes)))
                if tag not in ("meta", "img"):
                    opened.append(tag)

            def handle_endtag(self, tag):
                assert tag in ("meta", "img") or opened.pop() == tag

        text = (out / "report.html").read_text()
        Parser().feed(text)
        assert opened == []
        sources = [attributes["src"] for tag, attributes in found if tag == "img"]
        inside = {base64.b64decode(source.removeprefix("data:image/png;base64,")) for source in sources}
        assert inside == {path.read_bytes() for path in (out / "pictures").iterdir()}
        ids = {attributes.get("id") for _, attributes in found}
        links = [attributes["href"] for tag, attributes in found if tag == "a"]
        assert all(link.startswith("#") and link[1:] in ids for link in links)
        assert not re.search(r"url\(|@import|<script|<link|https?://", text)

    def test_it_is_the_text(self, out):
        assert (out / "report.html").read_text() == page((out / "report.md").read_text(), out)


class TestFigures:
    """The text says what plain numpy makes of cases.csv."""

    def test_means(self, out):
        _, *lines = rows((out / "report.md").read_text(), " | Dice % | HD95 voxels | IoU % | parameters")
        means = {t: {m: v.mean(0).mean() for m, v in scores(out, t).items()} for t in SHORT}
        for line, trainer in zip(lines, SHORT, strict=False):
            m = means[trainer]
            assert line[:4] == [trainer, f"{100 * m['dice']:.2f}", f"{m['hd95']:.2f}", f"{100 * m['iou']:.2f}"]
        d = {metric: means[SHORT[1]][metric] - means[SHORT[0]][metric] for metric in METRICS}
        assert lines[2][1:4] == [f"{100 * d['dice']:+.2f}", f"{d['hd95']:+.2f}", f"{100 * d['iou']:+.2f}"]

    def test_means_are_those_of_nnunet(self, out, finished):
        """Of its own summaries of the folds, weighted by their cases."""
        _, *lines = rows((out / "report.md").read_text(), "Dice % | nucleus | cell wall")
        for line, trainer in zip(lines, SHORT, strict=False):
            summaries = [
                load_summary_json(str(finished.fold(trainer, f) / "validation/summary.json")) for f in range(3)
            ]
            cases = [case["metrics"] for summary in summaries for case in summary["metric_per_case"]]
            means = [np.mean([case[value]["Dice"] for case in cases]) for value in LABELS.values() if value]
            assert line == [trainer, *(f"{100 * mean:.2f}" for mean in means)]

    def test_test_cases(self, out):
        _, *lines = rows((out / "report.md").read_text(), " | Dice % | HD95 voxels | IoU % | Dice nucleus")
        for line, trainer in zip(lines, SHORT, strict=True):
            dice = scores(out, trainer, "test")["dice"].mean(0)
            assert [line[1], *line[4:]] == [f"{100 * value:.2f}" for value in (dice.mean(), *dice)]

    def test_differences(self, out):
        _, line = rows((out / "report.md").read_text(), "Dice, mean over labels")
        a, b = (scores(out, trainer)["dice"].mean(1) for trainer in SHORT)
        counts = [int((b - a > 0.001).sum()), int((abs(b - a) <= 0.001).sum()), int((b - a < -0.001).sum())]
        assert line[:3] == [SHORT[1], "15", f"{100 * (b - a).mean():+.2f}"]
        assert line[-1] == " / ".join(map(str, counts))

    def test_the_verdict_in_text_and_data(self, out):
        found = json.loads((out / "results.json").read_text())
        (primary,) = [c for c in found["comparisons"] if c["verdict"]]
        assert primary["verdict"] == "better"
        assert primary["cases"]["low"] > 0 < primary["folds"]["low"]
        assert (
            f"{SHORT[1]} is better than {SHORT[0]}: {100 * primary['cases']['mean']:+.2f} points"
            in (out / "report.md").read_text()
        )


@pytest.mark.usefixtures("simple_pictures")
class TestVolumes:
    @pytest.fixture
    def volumes(self, tmp_path, monkeypatch) -> Finished:
        finished = write_finished(tmp_path / "volumes", ending=".nii.gz")
        finished.use(monkeypatch)
        return finished

    def test_distances_are_in_mm(self, volumes, tmp_path):
        """Label maps lie 0 to 3 voxels of 0.75 mm apart."""
        report(volumes, tmp_path / "out")
        text = (tmp_path / "out/report.md").read_text()
        assert "HD95 mm" in text and "HD95, mm" in text and "voxels" not in text
        found = {trainer: scores(tmp_path / "out", trainer)["hd95"] for trainer in (BASELINE, OTHER)}
        assert set(np.unique(found[BASELINE]) / 0.75) <= {2, 3}
        assert set(np.unique(found[OTHER]) / 0.75) <= {0, 1}

    def test_distances_that_are_not_all_defined(self, volumes, tmp_path):
        """They say how many there are, and have no difference; the pairs that both have are compared."""
        case = volumes.validated[0][0]
        write_label_map(volumes.predicted(OTHER, case), np.zeros((7, 20, 22)), (3.0, 0.5, 0.75))
        report(volumes, tmp_path / "out")
        text = (tmp_path / "out/report.md").read_text()
        _, ours, theirs, difference = rows(text, " | Dice %")
        defined = np.nanmean(scores(tmp_path / "out", OTHER)["hd95"], 0).mean()
        assert theirs[2] == f"{defined:.2f} (28 of 30)" and "of" not in ours[2]
        assert difference[2] == "" != difference[1]
        _, *labels = rows(text, "HD95, mm")
        assert [line[1] for line in labels] == ["14", "14"]


def files_of_the_user(folder: Path) -> dict[str, bytes]:
    (folder / "pictures").mkdir(parents=True)
    for name in ("notes.md", "pictures/mine.png", "pictures/old_boxes.png"):
        (folder / name).write_text(name)
    return contents(folder)


@pytest.mark.usefixtures("simple_pictures")
class TestWriting:
    @pytest.fixture
    def content(self, finished, monkeypatch):
        finished.use(monkeypatch)
        return analyse(finished.grid, finished.folders, [finished.results()])

    def test_files_of_the_user_stay(self, content, tmp_path):
        before = files_of_the_user(tmp_path)
        (tmp_path / "report.md").write_text("an older one\n" * 10_000)
        write_report(content, tmp_path)
        assert before.items() <= contents(tmp_path).items()
        assert "an older one" not in (tmp_path / "report.md").read_text()

    @pytest.mark.parametrize("failing", FILES)
    def test_a_full_disk(self, content, tmp_path, monkeypatch, failing):
        """Every file is the old or the new one, and nothing else is left."""
        write_report(content, tmp_path)
        new = contents(tmp_path)
        for name in FILES:
            (tmp_path / name).write_text("old")
        replace = os.replace

        def fill(source, target):
            if Path(target).name == failing:
                raise OSError(errno.ENOSPC, "No space left on device")
            replace(source, target)

        monkeypatch.setattr(os, "replace", fill)
        with pytest.raises(UserError, match=f"cannot write .*{failing} \\(No space left on device\\)"):
            write_report(content, tmp_path)
        after = contents(tmp_path)
        assert after.keys() == new.keys()
        assert all(after[name] in (b"old", new[name]) for name in FILES)
        assert after[failing] == after["report.html"] == b"old"

    def test_no_folder(self, content, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(
            UserError, match=rf"^cannot write to {tmp_path / 'file' / 'out'} \(Not a directory\): .*--out"
        ):
            write_report(content, tmp_path / "file" / "out")

    def test_an_old_page_shows_its_pictures(self, content, tmp_path):
        """They are inside it, so that those of the next report may differ."""
        write_report(content, tmp_path)
        before = (tmp_path / "report.html").read_bytes()
        for path in (tmp_path / "pictures").iterdir():
            path.unlink()
        write_report(content, tmp_path)
        assert (tmp_path / "report.html").read_bytes() == before


def test_a_full_disk_while_drawing(finished, tmp_path, monkeypatch):
    def fill(figure, path, **_):
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    finished.use(monkeypatch)
    monkeypatch.setattr(Figure, "savefig", fill)
    with pytest.raises(UserError, match=rf"^cannot write to {tmp_path} \(No space left on device\)"):
        report(finished, tmp_path)
    assert contents(tmp_path) == {}


@pytest.mark.usefixtures("simple_pictures")
class TestBroken:
    """Whatever nnU-Net's folders hold, the rest of the report appears and says what is not there."""

    @pytest.fixture
    def broken(self, finished, tmp_path, monkeypatch) -> Finished:
        copy = finished.copy(tmp_path / "copy")
        copy.use(monkeypatch)
        return copy

    def text(self, broken: Finished) -> str:
        report(broken, broken.root / "out")
        assert {*FILES, "pictures"} == {p.name for p in (broken.root / "out").iterdir()}
        return (broken.root / "out/report.md").read_text()

    def test_all_at_once(self, broken):
        ours, theirs = SHORT
        summary = Path("validation/summary.json")
        shutil.copyfile(broken.fold(ours, 0) / summary, broken.fold(ours, 1) / summary)
        damage(broken.fold(ours, 0) / "checkpoint_best.pth")
        (log,) = broken.fold(theirs, 0).glob("training_log_*.txt")
        log.write_text(log.read_text().split("Epoch 1 ")[0])
        (broken.fold(theirs, 0) / "benchmark.jsonl").write_text('{"peak_gpu_memory_bytes": 1073741824}\n{"peak_gpu_')
        case = broken.validated[2][0]
        damage(broken.predicted(theirs, case))
        (broken.fold(theirs, 2) / "debug.json").write_text("{")
        (broken.folders.test_predictions(broken.run(theirs, 0), (0, 1, 2)) / "test_0.png").unlink()
        text = self.text(broken)
        assert f"- **{broken.experiment}**: " in text and "9 cases" in text
        missing, fairness = (text.split(f"## {title}\n\n")[1].split("\n\n")[0] for title in ("Missing", "Fairness"))
        for told in (
            f"{ours}, fold 0: checkpoint_best.pth is incomplete",
            f"{ours}, fold 1: ",
            f"{theirs}, fold 2: {case}: ",
        ):
            assert told in missing
        assert f"{theirs}, fold 0: the logs have " in fairness
        assert f"unknown ({theirs})" in fairness
        assert "1.00 GiB" in text
        assert "### Test cases" in text and f"| {ours} | " in text.split("### Test cases")[1]

    def test_nothing_is_there(self, broken):
        shutil.rmtree(broken.folders.results)
        broken.folders.results.mkdir()
        text = self.text(broken)
        assert "Nothing is finished." in text
        assert text.count(": not trained") == 6

    def test_only_the_baseline(self, broken):
        shutil.rmtree(broken.folders.model(broken.run(SHORT[1], 0)))
        text = self.text(broken)
        assert f"nothing can be said of {SHORT[1]} yet" in text
        assert f"| {SHORT[0]} | " in text

    def test_only_the_other_trainer(self, broken):
        shutil.rmtree(broken.folders.model(broken.run(SHORT[0], 0)))
        text = self.text(broken)
        assert f"nothing can be said of {SHORT[1]} yet" in text
        assert f"| {SHORT[1]} | " in text

    def test_folds_of_one_side_each(self, broken):
        shutil.rmtree(broken.fold(SHORT[0], 0))
        for fold in (1, 2):
            shutil.rmtree(broken.fold(SHORT[1], fold))
        assert f"nothing can be said of {SHORT[1]} yet" in self.text(broken)

    @pytest.mark.parametrize("trainer", [0, 1])
    def test_a_dataset_json_of_other_labels(self, broken, trainer):
        """Names of labels that one side does not have."""
        path = broken.folders.model(broken.run(SHORT[trainer], 0)) / "dataset.json"
        path.write_text(path.read_text().replace("nucleus", "core"))
        assert f"- **{broken.experiment}**: " in self.text(broken)

    @pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
    def test_the_prepared_dataset_json(self, broken, content):
        """It is needed for the networks and the three cases, not for trainings that are scored."""
        (broken.prepared / "dataset.json").write_text(content)
        assert "### Case by case" in self.text(broken)

    def test_a_training_that_diverged(self, broken):
        (log,) = broken.fold(SHORT[1], 0).glob("training_log_*.txt")
        log.write_text(re.sub(r"loss -[\d.]+", "loss nan", log.read_text()))
        assert "### Learning curves" in self.text(broken)

    def test_debug_says_other_epochs(self, broken):
        change_debug(broken.fold(SHORT[1], 1), num_epochs="1000")
        text = self.text(broken)
        assert f"epochs differ between trainings: 1000 ({SHORT[1]}); 2 ({', '.join(sorted(SHORT))})" in text
        assert "**The sides differ**" in text


@pytest.mark.usefixtures("simple_pictures")
@pytest.mark.parametrize("name", ["Größe", "a & b", "a|b", "1<2", "<i>x", "100%"])
def test_names_stay_what_they_are(tmp_path, monkeypatch, name):
    """Of a dataset and a label, from the folders to the page, cases.csv and results.json."""
    labels = {"background": 0, f"{name} 1": 1, "cell wall": 2}
    finished = write_finished(tmp_path / "finished", dataset=f"Dataset009_{name}", labels=labels, folds=1)
    finished.use(monkeypatch)
    shown = []

    class Parser(html.parser.HTMLParser):
        def handle_data(self, data):
            shown.append(data.strip())

    Parser().feed(report(finished, tmp_path / "out").read_text())
    assert f"Dataset009_{name}, 2d, nnUNetPlans" in shown
    assert f"{name} 1" in shown and f"{OTHER}, {name} 1" in shown
    with (tmp_path / "out/cases.csv").open() as file:
        assert {row["region"] for row in csv.DictReader(file)} == {f"{name} 1", "cell wall"}
    (experiment,) = json.loads((tmp_path / "out/results.json").read_text())["settings"]
    assert experiment["dataset"] == f"Dataset009_{name}"
    assert list(experiment["trainers"][OTHER]["regions"]) == [f"{name} 1", "cell wall"]
