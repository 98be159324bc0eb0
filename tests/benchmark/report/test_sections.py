"""The text claims what the figures show and no more, and says what is missing, unlike or unknown."""

import html.parser
import re
from pathlib import Path

import markdown as python_markdown
import numpy as np
import pytest
from support.finished import BASELINE, OTHER, in_memory, row, write_log

from nnunet_xattnres.benchmark.folders import NnUNetFolders
from nnunet_xattnres.benchmark.grid import ExperimentKey, Grid
from nnunet_xattnres.benchmark.log import Debug, Log, read_logs
from nnunet_xattnres.benchmark.report import figures, sections, statistics
from nnunet_xattnres.benchmark.report.report_data import ReportData, analyse
from nnunet_xattnres.benchmark.report.results import Results
from nnunet_xattnres.benchmark.report.sections import markdown
from nnunet_xattnres.paper import published
from nnunet_xattnres.utils.errors import UserError

THIRD = "nnUNetTrainerEMCAD"
SAME = "are the same on both sides"
DEBUG = Debug(50, 250, "2", "NVIDIA H200", "2.7.0", "node7", "{'patch_size': [16, 16]}")


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 200)


@pytest.fixture(autouse=True)
def drawn(monkeypatch, tmp_path) -> list[str]:
    """The kinds of pictures that were drawn, of which only the names are there."""
    kinds = []

    def of(kind: str):
        def draw(what, path, *_):
            kinds.append(kind)
            Path(path).touch()

        return draw

    for kind in ("differences", "boxes", "learning_curves"):
        monkeypatch.setattr(figures, kind, of(kind))
    monkeypatch.setattr(sections, "draw_cases", lambda paired, folders, path: of("cases")(paired, path))
    return kinds


def content(*found: Results) -> ReportData:
    grid = Grid([r.experiment.dataset for r in found], found[0].trainers)
    return analyse(grid, NnUNetFolders(Path("raw"), Path("preprocessed"), Path("results")), found)


@pytest.fixture
def text(tmp_path):
    """Results to the report's text."""
    (tmp_path / "pictures").mkdir()
    return lambda *found: markdown(content(*found), tmp_path / "pictures")


def section(text: str, title: str) -> str:
    """What stands under a heading."""
    return re.split(r"^#+ ", text.split(f"# {title}\n\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0].strip()


def trainings(differences, trainer: str = OTHER, **options) -> Results:
    """Folds of cases with these differences in Dice to the baseline."""
    scores = {}
    for fold, of_fold in enumerate(differences):
        for name, add in ((BASELINE, 0), (trainer, 1)):
            scores[name, fold] = {f"{fold}{n}": {"organ": row(0.5 + add * d)} for n, d in enumerate(of_fold)}
    return in_memory(scores, **{"debug": DEBUG} | options)


def spread(centre: float, folds: int = 3, cases: int = 5, noise: float = 0.01) -> np.ndarray:
    values = np.random.default_rng(0).normal(0, noise, (folds, cases))
    return values - values.mean(axis=1, keepdims=True) + centre


class TestInShort:
    @pytest.mark.parametrize(
        ("differences", "verdict", "claim"),
        [
            (spread(0.02), "better", f"{OTHER} is better than {BASELINE}: +2.00 points"),
            (spread(-0.02), "worse", f"{OTHER} is worse than {BASELINE}: -2.00 points"),
            (spread(0.02, 1, 15), "better here", f"{OTHER} is better than {BASELINE} with these trained networks, "),
            (spread(-0.02, 1, 15), "worse here", f"{OTHER} is worse than {BASELINE} with these trained networks, "),
            ([spread(0.04, 1)[0], spread(0.001, 1)[0], spread(0.02, 1)[0]], "better here", "other trainings may not"),
            (spread(0.0001), "no difference shown", "No difference between "),
            (spread(0.02, 1, 5), "too few cases", "5 cases are too few to tell "),
        ],
    )  # fmt: skip
    def test_verdicts(self, text, differences, verdict, claim):
        results = trainings(differences)
        (paired,) = content(results).primary
        assert paired.verdict == verdict
        report = text(results)
        (line,) = [line for line in report.splitlines() if line.startswith(f"- **{results.experiment}**: ")]
        assert claim in line
        assert ("better" in line, "worse" in line) == ("better" in verdict, "worse" in verdict)
        assert ("may not show it" in line) == verdict.endswith("here")

    def test_title(self, text):
        results = trainings(spread(0.01), trainers=(BASELINE, OTHER, THIRD))
        assert text(results).splitlines()[0] == f"# Benchmark: {OTHER} and {THIRD} against {BASELINE}"

    def test_nothing_to_compare(self, text):
        results = in_memory({(BASELINE, 0): {"x": {"organ": row(0.5)}}}, trainers=(BASELINE, OTHER))
        why = f"no fold is finished by both it and {BASELINE}"
        assert f"- **{results.experiment}**: nothing can be said of {OTHER} yet: {why}." in text(results)

    @pytest.mark.parametrize(("lines", "said"), [([], None), (["a"], "1 thing is"), (["a", "b"], "2 things are")])
    def test_incomplete(self, text, lines, said):
        results = trainings(spread(0.01))
        results.missing += lines
        assert (f"**Not complete**: {said} [missing](#missing)." in text(results)) == bool(lines)
        assert ("Not complete" in text(results)) == bool(lines)

    def test_what_differs(self, text):
        results = trainings(spread(0.01))
        assert "The sides differ" not in text(results)
        results.warnings.append(f"epochs differ between trainings: 1 ({OTHER}); 2 ({BASELINE})")
        assert "**The sides differ** in what they should share: [see below](#fairness)." in text(results)

    @pytest.mark.parametrize(
        "warning",
        [
            f"not equally many trainings ({BASELINE} 3, {OTHER} 2): means are of folds that all have finished",
            "1 cases are validated in more than one fold: they count once, with their mean",
        ],
    )
    def test_what_is_no_difference_of_the_sides(self, text, warning):
        results = trainings(spread(0.01))
        results.warnings.append(warning)
        assert warning in section(text(results), "Fairness")
        assert "The sides differ" not in text(results)


def test_a_third_trainer_that_is_not_so_far(text):
    """What two have finished is shown, whatever the third has."""
    results = trainings(spread(0.01, 2), trainers=(BASELINE, OTHER, THIRD))
    late = in_memory({(THIRD, 7): {"x": {"organ": row(0.5)}}}, trainers=(BASELINE, OTHER, THIRD), debug=DEBUG)
    results.trained += late.trained
    assert not results.shared()
    report = text(results)
    assert f"| {OTHER} |" in section(report, "Case by case") and "_differences.png" in report
    assert "there are no means" in report


class TestSetting:
    def test_all_pictures_are_there(self, text, drawn, tmp_path):
        report = text(trainings(spread(0.01), log=Log({0: {"train_loss": 0.0}})))
        assert drawn == ["differences", "boxes", "learning_curves", "cases"]
        shown = re.findall(r"!\[[^]]+\]\(pictures/([^)]+)\)", report)
        assert sorted(shown) == sorted(file.name for file in (tmp_path / "pictures").iterdir())
        assert len(set(shown)) == 4

    def test_every_trainer_and_dataset_has_its_own(self, text, drawn, tmp_path):
        one, two = (
            trainings(spread(0.01), experiment=ExperimentKey(name, "2d", "P"))
            for name in ("Dataset001_A", "Dataset002_B")
        )
        for results in (one, two):
            other = trainings(spread(0.02), THIRD)
            results.trained += [t for t in other.trained if t.run.trainer == THIRD]
            results.trainers = (BASELINE, OTHER, THIRD)
        report = text(one, two)
        assert drawn.count("differences") == drawn.count("cases") == 4
        assert drawn.count("boxes") == drawn.count("learning_curves") == 2
        assert len(list((tmp_path / "pictures").iterdir())) == 12
        assert [line for line in report.splitlines() if line.startswith("## Dataset")] == [
            f"## {one.experiment}", f"## {two.experiment}"]  # fmt: skip

    def test_nothing_is_finished(self, text, drawn):
        report = text(in_memory({}, trainers=(BASELINE, OTHER)))
        assert "Nothing is finished." in report
        assert drawn == []

    def test_without_curves_there_is_no_heading(self, text, monkeypatch, tmp_path):
        monkeypatch.setattr(figures, "learning_curves", lambda *_: False)
        report = text(trainings(spread(0.01)))
        assert "Learning curves" not in report and "_curves" not in report

    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (UserError("there is no imagesTr"), "there is no imagesTr"),
            (FileNotFoundError(2, "No such file"), "[Errno 2] No such file"),
            (RuntimeError("first\nsecond"), "first"),
            (RuntimeError(), "RuntimeError"),
            (KeyError("labels"), "labels"),
        ],
    )
    def test_without_images_the_rest_stays(self, text, monkeypatch, tmp_path, error, reason):
        def fail(paired, folders, path):
            path.write_text("half")
            raise error

        monkeypatch.setattr(sections, "draw_cases", fail)
        report = text(trainings(spread(0.01)))
        told = section(report, f"Three cases: {OTHER}")
        assert told.startswith("No picture: ") and reason in told and "\n" not in told
        assert "## How it was run" in report
        assert len(list((tmp_path / "pictures").iterdir())) == 3

    def test_an_interruption_leaves_no_half_picture(self, text, monkeypatch, tmp_path):
        def stop(what, path):
            path.write_text("half")
            raise KeyboardInterrupt

        monkeypatch.setattr(figures, "boxes", stop)
        with pytest.raises(KeyboardInterrupt):
            text(trainings(spread(0.01)))
        assert [file.name for file in (tmp_path / "pictures").iterdir() if file.read_text()] == []

    @pytest.mark.parametrize(
        ("folds", "said"), [(1, "4 validation cases of 1 fold:"), (3, "12 validation cases of 3 folds:")]
    )
    def test_counted(self, text, folds, said):
        assert said in text(trainings(spread(0.01, folds, 4)))

    def test_counted_of_repeats(self, text):
        case = {"x": {"organ": row(0.5)}}
        results = in_memory({(trainer, 0, repeat): case for trainer in (BASELINE, OTHER) for repeat in (0, 1)})
        assert re.search(r"\n1 validation cases? of 1 fold, 2 trainings each:", text(results))

    def test_no_fold_of_all(self, text):
        """Of each only what nobody may set beside it."""
        case = {"x": {"organ": row(0.5)}}
        report = text(in_memory({(BASELINE, 0): case, (OTHER, 1): case}))
        assert f"nothing can be said of {OTHER} yet" in report
        assert "0 validation cases of 0 folds" not in report
        assert "undefined" not in report


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
    def test_only_for_the_papers_data_sets(self, text, dataset, name):
        report = text(trainings(spread(0.01), experiment=ExperimentKey(dataset, "2d", "nnUNetPlans")))
        assert re.findall(r"^### Published for (.*)$", report, re.MULTILINE) == ([name] if name else [])
        assert ("2604.03297" in report) == bool(name)
        if name:
            printed = [f.value for f in published() if f.metric == f"{name} DSC" and f.method == "EMCAD + XAttnRes"]
            assert f"{printed[0]:.2f}" in section(report, f"Published for {name}")

    def test_validation_may_not_stand_beside_it(self, text):
        report = text(trainings(spread(0.01), experiment=ExperimentKey("Dataset501_Synapse", "2d", "nnUNetPlans")))
        assert "Validation cases may not stand beside it: run with `--test`." in report
        assert "Test cases" not in report

    def test_test_cases_by_the_published_protocol_may(self, text):
        results = trainings(spread(0.01), experiment=ExperimentKey("Dataset501_Synapse", "2d", "nnUNetPlans"))
        cases = {"t": {"organ": row(0.25, 3.0)}}
        results.test.update({p: {(t, 0): cases for t in (BASELINE, OTHER)} for p in ("default", "published")})
        report = text(results)
        assert "may not stand beside" not in report
        assert "| Dice % | HD95 mm |" in section(report, "Test cases")
        beside = section(report, "Test cases by the published protocol")
        assert "| Dice % | HD95 voxels |" in beside and f"| {OTHER} | 25.00 | 3.00 |" in beside

    def test_test_cases_of_other_data_sets(self, text):
        """By the default protocol alone."""
        results = trainings(spread(0.01))
        cases = {"t": {"organ": row(0.25)}}
        results.test.update({p: {(OTHER, 0): cases} for p in ("default", "published")})
        report = text(results)
        assert f"| {OTHER} | 25.00 |" in section(report, "Test cases")
        assert "published" not in report.lower()


class TestFairness:
    def test_the_same(self, text):
        assert SAME in section(text(trainings(spread(0.01))), "Fairness")

    def test_what_differs(self, text):
        results = trainings(spread(0.01))
        results.warnings += ["one", "two"]
        said = section(text(results), "Fairness")
        assert said.splitlines()[:2] == [f"- {results.experiment}: one", f"- {results.experiment}: two"]
        assert SAME not in said

    def test_what_nobody_knows_is_not_the_same(self, text):
        """Without debug.json on either side."""
        assert SAME not in text(trainings(spread(0.01), debug=Debug()))

    def test_of_one_side_nothing_is_the_same(self, text):
        results = in_memory({(BASELINE, 0): {"x": {"organ": row(0.5)}}}, trainers=(BASELINE, OTHER), debug=DEBUG)
        assert SAME not in text(results)
        assert SAME not in text(in_memory({}, trainers=(BASELINE, OTHER)))

    def test_of_other_folds_nothing_is_the_same(self, text):
        case = {"x": {"organ": row(0.5)}}
        results = in_memory({(BASELINE, 0): case, (OTHER, 1): case}, trainers=(BASELINE, OTHER), debug=DEBUG)
        assert section(text(results), "Fairness").startswith("Nothing is finished on both sides.")


class TestMissing:
    def test_all_of_it(self, text):
        results = trainings(spread(0.01))
        results.missing += ["one", "two"]
        lines = section(text(results), "Missing").splitlines()
        assert lines[:2] == [f"- {results.experiment}: one", f"- {results.experiment}: two"]
        # in memory there are no plans, so the networks cannot be counted
        assert len(lines) == 4 and all("nnUNetPlans.json" in line for line in lines[2:])

    def test_nothing(self, tmp_path):
        results = trainings(spread(0.01))
        whole = ReportData(
            Grid([results.experiment.dataset], results.trainers), NnUNetFolders(*[tmp_path] * 3), [results]
        )
        assert section(markdown(whole, tmp_path), "Missing") == "Nothing."


class TestHow:
    def commands(self, report: str) -> list[str]:
        export, *commands = report.split("```bash\n")[1].split("\n```")[0].splitlines()
        assert export == 'export nnUNet_extTrainer="$(xattnres trainers)"'
        return commands

    def test_commands(self, text):
        results = trainings(
            spread(0.01, 2), experiment=ExperimentKey("Dataset007_Cells", "3d_fullres", "nnUNetResEncUNetMPlans")
        )
        train = "nnUNetv2_train Dataset007_Cells 3d_fullres {} -tr {} -p nnUNetResEncUNetMPlans -device cuda"
        expected = [train.format(fold, trainer) for fold in (0, 1) for trainer in (BASELINE, OTHER)]
        assert [line for line in self.commands(text(results)) if "nnUNetv2_train" in line] == expected

    @pytest.mark.parametrize("device", ["cpu", "mps"])
    def test_device(self, text, device):
        report = text(trainings(spread(0.01, 1), debug=Debug(50, 250, "2", device, "2.7.0", "node7")))
        assert all(line.endswith(f"-device {device}") for line in self.commands(report))
        assert f"2 trainings of 50 epochs of 250 iterations on {device} of node7, PyTorch 2.7.0" in report

    def test_repeats(self, text):
        results = in_memory({(BASELINE, 0, 1): {"x": {"organ": row(0.5)}}}, debug=DEBUG)
        assert self.commands(text(results))[-1].startswith(
            "nnUNet_results=$nnUNet_results/repeat_1 nnUNetv2_train Dataset007_Cells 2d 0 "
        )

    def test_trainings(self, text):
        results = trainings(spread(0.01, 2))
        one = results.trained.pop()
        results.trained.append(type(one)(one.run, one.scores, one.log, Debug(), []))
        said = section(text(results), "How it was run")
        assert "- 3 trainings of 50 epochs of 250 iterations on NVIDIA H200 of node7, PyTorch 2.7.0" in said
        assert "of ? epochs of ? iterations on an unknown device, PyTorch ?" in said
        assert "1 trainings" not in said

    def test_interrupted(self, text, tmp_path):
        write_log(tmp_path, [1.0, 2.0])
        assert "interrupted" not in text(trainings(spread(0.01, 1), log=read_logs(tmp_path)))
        write_log(tmp_path, [3.0], start=1, day=2)
        assert "- Interrupted, and continued or begun again: 2\n" in text(
            trainings(spread(0.01, 1), log=read_logs(tmp_path))
        )

    def test_a_validation_of_its_own_is_no_interruption(self, text, tmp_path):
        """`nnUNetv2_train --val` writes a log, too."""
        write_log(tmp_path, [1.0, 2.0])
        write_log(tmp_path, [], day=2)
        assert "interrupted" not in text(trainings(spread(0.01, 1), log=read_logs(tmp_path)))

    def test_versions(self, text):
        import torch

        assert f"torch {torch.__version__.split('+')[0]}" in section(text(trainings(spread(0.01))), "How it was run")


class Text(html.parser.HTMLParser):
    """What a page shows."""

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
def test_names_stay_what_they_are(text, name):
    """Of datasets, of labels, and in what is told of files."""
    experiment = ExperimentKey(f"Dataset009_{name}", "2d", "nnUNetPlans")
    scores = {(t, 0): {"x": {name: row(0.5), "other": row(0.5)}} for t in (BASELINE, OTHER)}
    results = in_memory(scores, experiment, debug=DEBUG)
    results.missing.append(f"/data/{name}/x.png cannot be read")
    results.warnings.append(f"/data/{name} differs")
    page = Text(python_markdown.markdown(text(results), extensions=["tables", "fenced_code", "toc"]))
    assert f"Dataset009_{name}, 2d, nnUNetPlans" in page.shown
    assert f"/data/{name}/x.png cannot be read" in page.shown
    assert f"/data/{name} differs" in page.shown
    assert f"{OTHER}, {name}\n" in page.shown
    assert page.tags <= {"h1", "h2", "h3", "ul", "li", "p", "strong", "a", "table", "thead", "tbody", "tr", "th", "td",
                         "img", "code", "pre"}  # fmt: skip
    assert page.tags >= {"h1", "table", "img"}
