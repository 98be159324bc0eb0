"""The text states what the figures show and no more, and lists what is missing, different or unknown."""

import html.parser
import re
from pathlib import Path

import markdown as python_markdown
import numpy as np
import pytest
from support.finished import write_log
from support.results import BASELINE, OTHER, THIRD, cases, from_differences, in_memory, report_data, row

from nnunet_xattnres.benchmark.folders import NnUNetFolders
from nnunet_xattnres.benchmark.grid import ExperimentKey, Grid
from nnunet_xattnres.benchmark.log import Debug, Log, read_logs
from nnunet_xattnres.benchmark.report import figures
from nnunet_xattnres.benchmark.report.analysis import ReportData
from nnunet_xattnres.benchmark.report.results import Finding, score_table
from nnunet_xattnres.benchmark.report.sections import markdown
from nnunet_xattnres.benchmark.report.verdict import Verdict
from nnunet_xattnres.paper import published
from nnunet_xattnres.utils.errors import UserError

DEBUG = Debug(50, 250, "2", "NVIDIA H200", "2.7.0", "node7", "{'patch_size': [16, 16]}")
SYNAPSE = ExperimentKey("Dataset501_Synapse", "2d", "nnUNetPlans")


@pytest.fixture(autouse=True)
def drawn(monkeypatch) -> list[str]:
    """The kinds of figures that were drawn; the files are empty."""
    kinds = []

    def draw_into_nothing(kind: str):
        def draw(*arguments):
            kinds.append(kind)
            arguments[-1].touch()

        return draw

    for kind in ("differences", "boxes", "learning_curves", "cases"):
        monkeypatch.setattr(figures, f"draw_{kind}", draw_into_nothing(kind))
    return kinds


@pytest.fixture
def pictures(tmp_path) -> Path:
    (tmp_path / "pictures").mkdir()
    return tmp_path / "pictures"


@pytest.fixture
def text(pictures):
    """A function from results to the text of the report."""
    return lambda *results: markdown(report_data(*results), pictures)


def section(text: str, title: str) -> str:
    """The text below a heading."""
    return re.split(r"^#+ ", text.split(f"# {title}\n\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0].strip()


def make_results(center=0.01, folds: int = 3, n: int = 5, **options):
    """Results whose differences have the mean `center` in every fold, or one mean for each fold."""
    d = np.random.default_rng(0).normal(0, 0.01, (folds, n))
    d += np.reshape(center, (-1, 1)) - d.mean(axis=1, keepdims=True)
    return from_differences(d, **{"debug": DEBUG} | options)


def summary(text: str) -> list[str]:
    return text.split("\n\n")[1].splitlines()


class TestSummary:
    @pytest.mark.parametrize(
        ("center", "folds", "n", "verdict", "mean"),
        [
            (0.02, 3, 5, Verdict.BETTER, "+2.00"),
            (-0.02, 3, 5, Verdict.WORSE, "-2.00"),
            (0.02, 1, 15, Verdict.BETTER_HERE, "+2.00"),
            ([0.04, 0.001, 0.02], 3, 5, Verdict.BETTER_HERE, "+2.03"),
            (0.0001, 3, 5, Verdict.NO_DIFFERENCE, "+0.01"),
            (0.02, 1, 5, Verdict.TOO_FEW_CASES, "+2.00"),
        ],
    )
    def test_verdicts(self, text, center, folds, n, verdict, mean):
        results = make_results(center, folds, n)
        (paired,) = report_data(results).primary
        assert paired.verdict is verdict
        (line,) = [line for line in summary(text(results)) if line.startswith(f"- **{results.experiment}**: ")]
        assert line.endswith(paired.describe()) and mean in line

    def test_title(self, text):
        title, *_ = text(make_results(trainers=(BASELINE, OTHER, THIRD))).splitlines()
        assert title.endswith(f" {BASELINE}")
        assert title.index(f" {OTHER} ") < title.index(f" {THIRD} ")

    def test_nothing_to_compare(self, text):
        results = in_memory({(BASELINE, 0): cases(x=0.5)}, trainers=(BASELINE, OTHER))
        (line,) = [line for line in summary(text(results)) if str(results.experiment) in line]
        assert OTHER in line and not re.search("better|worse|difference", line)

    @pytest.mark.parametrize("n", [0, 1, 2])
    def test_incomplete(self, text, n):
        results = make_results()
        results.missing += [Finding("to train", "not trained")] * n
        lines = [line for line in summary(text(results)) if "(#missing)" in line]
        assert [str(n) in line for line in lines] == [True] * bool(n)

    @pytest.mark.parametrize(("code", "differs"), [("different epochs", True), ("unequal trainings", False)])
    def test_different_settings(self, text, code, differs):
        results = make_results()
        assert "(#fairness)" not in text(results)
        results.warnings.append(Finding(code, "a warning"))
        report = text(results)
        assert ("(#fairness)" in report) == differs
        assert "a warning" in section(report, "Fairness")


class TestExperiment:
    def test_all_figures_are_shown(self, text, drawn, pictures):
        report = text(make_results(log=Log({0: {"train_loss": 0.0}})))
        assert drawn == ["differences", "boxes", "learning_curves", "cases"]
        shown = re.findall(r"!\[[^]]+\]\(pictures/([^)]+)\)", report)
        assert sorted(shown) == sorted(file.name for file in pictures.iterdir())
        assert len(set(shown)) == 4

    def test_every_trainer_and_dataset_has_its_own(self, text, drawn, pictures):
        experiments = [ExperimentKey(name, "2d", "P") for name in ("Dataset001_A", "Dataset002_B")]
        d = np.full((2, 3), 0.01)
        trainings = {
            (trainer, fold): cases(**{f"{fold}{n}": 0.5 + number * d[fold, n] for n in range(3)})
            for number, trainer in enumerate((BASELINE, OTHER, THIRD))
            for fold in range(2)
        }
        report = text(*(in_memory(trainings, experiment) for experiment in experiments))
        assert drawn.count("differences") == drawn.count("cases") == 4
        assert drawn.count("boxes") == drawn.count("learning_curves") == 2
        assert len(list(pictures.iterdir())) == 12
        headings = [line for line in report.splitlines() if line.startswith("## Dataset")]
        assert headings == [f"## {experiment}" for experiment in experiments]

    def test_a_third_trainer_that_is_behind(self, text):
        """Comparisons of the other trainers are shown although no fold is finished by all three."""
        results = make_results(folds=2, trainers=(BASELINE, OTHER, THIRD))
        results.trained += in_memory({(THIRD, 7): {}}, debug=DEBUG).trained
        assert not results.shared_folds()
        report = text(results)
        assert f"| {OTHER} |" in section(report, "Cases") and "_differences.png" in report
        assert "parameters" not in report

    def test_nothing_is_finished(self, text, drawn):
        results = in_memory({}, trainers=(BASELINE, OTHER))
        assert "|" not in section(text(results), str(results.experiment))
        assert drawn == []

    def test_no_fold_of_both(self, text, drawn):
        """Trainers with different folds have no means and no comparison."""
        report = text(in_memory({(BASELINE, 0): cases(x=0.5), (OTHER, 1): cases(x=0.5)}))
        assert drawn == []
        assert not re.search("undefined|0 validation cases|better|### ", report.split("## Missing")[0])

    def test_no_learning_curves(self, text, monkeypatch):
        monkeypatch.setattr(figures, "draw_learning_curves", lambda *_: False)
        report = text(make_results())
        assert "Learning curves" not in report and "_curves" not in report

    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (UserError("no folder imagesTr"), "no folder imagesTr"),
            (FileNotFoundError(2, "No such file"), "No such file"),
            (RuntimeError("first\nsecond"), "first"),
            (RuntimeError(), "RuntimeError"),
            (KeyError("labels"), "labels"),
        ],
    )
    def test_example_cases_without_images(self, text, monkeypatch, pictures, error, reason):
        """The rest of the report is written."""

        def fail(*arguments):
            arguments[-1].write_text("half")
            raise error

        monkeypatch.setattr(figures, "draw_cases", fail)
        report = text(make_results())
        cases_text = section(report, f"Example cases: {OTHER}")
        assert reason in cases_text and "\n" not in cases_text and "![" not in cases_text
        assert "## How to reproduce" in report
        assert len(list(pictures.iterdir())) == 3

    def test_an_interruption_leaves_no_partial_figure(self, text, monkeypatch, pictures):
        def stop(results, path):
            path.write_text("half")
            raise KeyboardInterrupt

        monkeypatch.setattr(figures, "draw_boxes", stop)
        with pytest.raises(KeyboardInterrupt):
            text(make_results())
        assert [file.name for file in pictures.iterdir() if file.read_text()] == []

    @pytest.mark.parametrize(
        ("folds", "counts"), [(1, "4 validation cases of 1 fold"), (3, "12 validation cases of 3 folds")]
    )
    def test_counts(self, text, folds, counts):
        assert f"\n{counts}. " in text(make_results(folds=folds, n=4))

    def test_counts_of_repeats(self, text):
        trainings = {(trainer, 0, repeat): cases(x=0.5) for trainer in (BASELINE, OTHER) for repeat in (0, 1)}
        assert re.search(r"\n1 validation case of 1 fold, 2 ", text(in_memory(trainings)))


class TestPublished:
    @pytest.mark.parametrize(
        ("dataset", "name"),
        [
            ("Dataset501_Synapse", "Synapse"),
            ("Dataset502_ColonDB", "ColonDB"),
            ("Dataset503_ClinicDB", "ClinicDB"),
            ("Dataset003_CVC-ClinicDB", "ClinicDB"),
            ("Dataset504_ISIC2017", "ISIC2017"),
            ("Dataset004_Hippocampus", None),
            ("Dataset050_EMSynapses", None),
            ("Dataset051_NotSynapse", None),
        ],
    )
    def test_only_for_the_data_sets_of_the_paper(self, text, dataset, name):
        """Validation cases are not comparable, so test cases have to be predicted."""
        report = text(make_results(experiment=ExperimentKey(dataset, "2d", "nnUNetPlans")))
        assert re.findall(r"^### Published for (.*)$", report, re.MULTILINE) == ([name] if name else [])
        assert ("2604.03297" in report) == ("`--test`" in report) == bool(name)
        assert "Test cases" not in report
        if name:
            printed = [f.value for f in published() if f.metric == f"{name} DSC" and f.method == "EMCAD + XAttnRes"]
            assert f"{printed[0]:.2f}" in section(report, f"Published for {name}")

    @pytest.mark.parametrize("experiment", [SYNAPSE, ExperimentKey("Dataset004_Hippocampus", "2d", "nnUNetPlans")])
    def test_test_cases(self, text, experiment):
        """The published protocol is used only for the data sets of the paper."""
        results = make_results(experiment=experiment)
        scores = [(trainer, 0, "together", {"t": {"organ": row(0.25, 3.0)}}) for trainer in (BASELINE, OTHER)]
        results.test = {protocol: score_table(scores) for protocol in ("default", "published")}
        report = text(results)
        line = f"| {OTHER} | 25.00 | 3.00 |"
        assert "| Dice % | HD95 mm |" in section(report, "Test cases") and line in section(report, "Test cases")
        assert "`--test`" not in report
        if experiment is SYNAPSE:
            comparable = section(report, "Test cases by the published protocol")
            assert "| Dice % | HD95 voxels |" in comparable and line in comparable
        else:
            assert "published" not in report.lower()


class TestFairness:
    EQUAL = "equal for all trainers"

    def test_equal(self, text):
        assert self.EQUAL in section(text(make_results()), "Fairness")

    def test_warnings(self, text):
        results = make_results()
        results.warnings += [Finding("different epochs", "one"), Finding("different device", "two")]
        lines = section(text(results), "Fairness").splitlines()
        assert lines[:2] == [f"- {results.experiment}: one", f"- {results.experiment}: two"]
        assert self.EQUAL not in section(text(results), "Fairness")

    @pytest.mark.parametrize(
        "trainings", [{}, {(BASELINE, 0): cases(x=0.5)}, {(BASELINE, 0): cases(x=0.5), (OTHER, 1): cases(x=0.5)}]
    )
    def test_nothing_is_equal_without_two_trainers(self, text, trainings):
        report = text(in_memory(trainings, trainers=(BASELINE, OTHER), debug=DEBUG))
        assert self.EQUAL not in report

    def test_unknown_settings_are_not_equal(self, text):
        assert self.EQUAL not in text(make_results(debug=Debug()))


def test_missing(text, tmp_path):
    results = make_results()
    results.missing += [Finding("to train", "one"), Finding("to train", "two")]
    lines = section(text(results), "Missing").splitlines()
    assert lines[:2] == [f"- {results.experiment}: one", f"- {results.experiment}: two"]
    # without plans the networks cannot be measured
    assert len(lines) == 4 and all("nnUNetPlans.json" in line for line in lines[2:])
    data = ReportData(Grid(["Dataset007_Cells"], [BASELINE, OTHER]), NnUNetFolders(*[tmp_path] * 3), [make_results()])
    assert not section(markdown(data, tmp_path), "Missing").startswith("-")


class TestHowToReproduce:
    def commands(self, report: str) -> list[str]:
        export, *commands = report.split("```bash\n")[1].split("\n```")[0].splitlines()
        assert export == 'export nnUNet_extTrainer="$(xattnres trainers)"'
        return commands

    def test_commands(self, text):
        experiment = ExperimentKey("Dataset007_Cells", "3d_fullres", "nnUNetResEncUNetMPlans")
        train = "nnUNetv2_train Dataset007_Cells 3d_fullres {} -tr {} -p nnUNetResEncUNetMPlans -device cuda"
        expected = [train.format(fold, trainer) for fold in (0, 1) for trainer in (BASELINE, OTHER)]
        assert self.commands(text(make_results(folds=2, experiment=experiment))) == expected

    @pytest.mark.parametrize("device", ["cpu", "mps"])
    def test_device(self, text, device):
        report = text(make_results(folds=1, debug=Debug(50, 250, "2", device, "2.7.0", "node7")))
        assert all(line.endswith(f"-device {device}") for line in self.commands(report))

    def test_repeats(self, text):
        (command,) = self.commands(text(in_memory({(BASELINE, 0, 1): cases(x=0.5)}, debug=DEBUG)))
        assert command.startswith("nnUNet_results=$nnUNet_results/repeat_1 nnUNetv2_train Dataset007_Cells 2d 0 ")

    def test_trainings_and_versions(self, text):
        import torch

        results = make_results(folds=2)
        results.trained[-1] = type(results.trained[-1])(results.trained[-1].run, Log(), Debug(), [])
        version, known, unknown, *_ = section(text(results), "How to reproduce").splitlines()
        assert f"torch {torch.__version__.split('+')[0]}" in version
        assert known.startswith("- 3 trainings ") and unknown.startswith("- 1 training ")
        assert all(fact in known for fact in ("50 epochs", "250 iterations", "NVIDIA H200 of node7", "PyTorch 2.7.0"))
        assert all(fact in unknown for fact in ("? epochs", "? iterations", "PyTorch ?"))

    def test_interrupted_trainings(self, text, tmp_path):
        """A log of `nnUNetv2_train --val` does not count as an interruption."""

        def interrupted() -> str | None:
            lines = section(text(make_results(folds=1, log=read_logs(tmp_path))), "How to reproduce").splitlines()
            return next((line for line in lines if line.startswith("- Interrupted")), None)

        write_log(tmp_path, [1.0, 2.0])
        write_log(tmp_path, [], day=2)
        assert interrupted() is None
        write_log(tmp_path, [3.0], start=1, day=3)
        assert "2 trainings" in interrupted()


class Text(html.parser.HTMLParser):
    """The text and the tags of a page."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: set[str] = set()
        self.shown = ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)

    def handle_data(self, data):
        self.shown += data


@pytest.mark.parametrize("name", ["a|b", "lesion < 5 mm", "<tumour>", "<script>x", "grey & white", "a*b*c", "`x`"])
def test_names_are_literal_in_html(text, name):
    """This includes the names of data sets, labels and files."""
    experiment = ExperimentKey(f"Dataset009_{name}", "2d", "nnUNetPlans")
    scores = {(t, 0): {"x": {name: row(0.5), "other": row(0.5)}} for t in (BASELINE, OTHER)}
    results = in_memory(scores, experiment, debug=DEBUG)
    results.missing.append(Finding("unreadable", f"/data/{name}/x.png cannot be read"))
    results.warnings.append(Finding("different epochs", f"/data/{name} differs"))
    page = Text(python_markdown.markdown(text(results), extensions=["tables", "fenced_code", "toc"]))
    for shown in (f"{experiment}", f"/data/{name}/x.png cannot be read", f"/data/{name} differs", f"{OTHER}, {name}\n"):
        assert shown in page.shown
    assert page.tags <= {"h1", "h2", "h3", "ul", "li", "p", "strong", "a", "table", "thead", "tbody", "tr", "th", "td",
                         "img", "code", "pre"}  # fmt: skip
    assert page.tags >= {"h1", "table", "img"}
