"""`xattnres benchmark`: help, reports and states of finished trainings, and one line for every wrong input."""

import argparse
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml
from support.finished import SHORT, Finished, change_debug, write_finished
from support.label_maps import truncate
from support.trees import snapshot

from nnunet_xattnres.benchmark.grid import from_options
from nnunet_xattnres.benchmark.report import figures, statistics
from nnunet_xattnres.cli import benchmark
from nnunet_xattnres.cli.main import main
from nnunet_xattnres.utils.paths import PATH_VARIABLES

BASELINE, OTHER = SHORT
GRID = ["-d", "7", "-tr", BASELINE, OTHER, "-f", "0", "1", "2"]


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Finished:
    finished = write_finished(tmp_path_factory.mktemp("finished"), trainers=SHORT, tested=True)
    finished.results()
    return finished


@pytest.fixture(autouse=True)
def finished(kept, tmp_path, monkeypatch) -> Finished:
    """A copy in the folders of nnU-Net's variables; the current folder is another one."""
    copy = kept.copy(tmp_path / "copy")
    copy.use(monkeypatch)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return copy


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Use few resamples and empty pictures; tests/benchmark/report tests their content."""
    monkeypatch.setattr(statistics, "RESAMPLES", 200)
    for kind in ("differences", "boxes", "learning_curves", "cases"):
        monkeypatch.setattr(figures, f"draw_{kind}", lambda *arguments: arguments[-1].touch())


@pytest.fixture
def call(capsys):
    """A function that runs the command and returns exit code, standard output and standard error."""

    def command(*arguments):
        code = main(["benchmark", *map(str, arguments)])
        return (code, *capsys.readouterr())

    return command


def results_of(finished: Finished) -> dict:
    """nnU-Net's results, without the cached scores in them."""
    files = snapshot(finished.folders.results)
    folders = {name for name, (_, is_folder, *_) in files.items() if is_folder}
    return {n: None if n in folders else entry for n, entry in files.items() if not n.endswith("_default.json")}


def parse(text: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    benchmark.configure(parser)
    return parser.parse_args(shlex.split(text, comments=True))


class TestHelp:
    @pytest.mark.parametrize("action", [[], ["run"], ["status"], ["report"]])
    def test_contents(self, capsys, action):
        with pytest.raises(SystemExit) as exit:
            main(["benchmark", *action, "--help"])
        assert exit.value.code == 0
        text = capsys.readouterr().out
        assert all(
            word in text for word in ("baseline", "benchmark.json", "examples:", "benchmark.yaml", "exit codes:")
        )
        assert ("--jobs" in text) == (action == ["run"])
        assert ("-tr TRAINER" in text) == bool(action)

    def test_every_option_is_explained(self):
        parser = argparse.ArgumentParser()
        benchmark.configure(parser)
        (actions,) = parser._subparsers._group_actions
        assert list(actions.choices) == ["run", "status", "report"]
        assert not [o.dest for action in actions.choices.values() for o in action._actions if not o.help]

    def test_the_examples_are_valid(self):
        examples = re.findall(
            r"^  xattnres benchmark (\w+ .*-.*)$", benchmark.__doc__.split("examples:")[1], re.MULTILINE
        )
        assert len(examples) >= 4
        for example in examples:
            options = parse(re.split(r"   +", example)[0])
            grid = {name: getattr(options, name) for name in ("datasets", "trainers", "configurations", "plans")}
            if not options.grid:
                from_options({name: value for name, value in grid.items() if value}, "the help")

    def test_the_file_is_a_grid_of_defaults(self):
        text = re.search(r"benchmark.yaml.*?:\n((?:  .*\n)+)", benchmark.__doc__)[1]
        grid = from_options(yaml.safe_load(text), "the help")
        defaults = from_options({"datasets": grid.datasets, "trainers": grid.trainers}, "the defaults")
        assert grid == defaults
        for name in ("configurations", "plans", "folds", "repeats"):
            value = grid.options()[name]
            shown = " ".join(map(str, value)) if isinstance(value, list) else str(value)
            (option,) = [o for o in self.options("run") if o.dest == name]
            assert f"default: {shown})" in option.help

    def options(self, action: str) -> list[argparse.Action]:
        parser = argparse.ArgumentParser()
        benchmark.configure(parser)
        return parser._subparsers._group_actions[0].choices[action]._actions


class TestReport:
    def test_from_the_command_line(self, call, finished, tmp_path):
        code, text, err = call("report", *GRID, "--workers", "1")
        assert (code, err) == (0, "")
        comparison, path = text.splitlines()
        assert re.match(rf"{finished.experiment}: {OTHER} is better than {BASELINE}: \D*\+\d", comparison)
        assert path == "Report: xattnres_benchmark/report/report.html"
        out = tmp_path / "here" / "xattnres_benchmark"
        assert {p.name for p in out.iterdir()} == {"benchmark.json", "report"}
        assert (out / "report/report.html").is_file()

    def test_again_without_options(self, call, tmp_path):
        first = call("report", *GRID)
        report = tmp_path / "here/xattnres_benchmark/report/report.md"
        before = report.read_bytes()
        report.unlink()
        assert call("report") == first
        assert report.read_bytes() == before

    def test_in_another_folder(self, call, tmp_path):
        code, text, _ = call("report", *GRID, "--out", tmp_path / "other" / "folder")
        assert (code, text.splitlines()[-1]) == (0, f"Report: {tmp_path}/other/folder/report/report.html")
        assert list((tmp_path / "here").iterdir()) == []

    def test_from_a_file_with_options(self, call, tmp_path):
        entries = {"datasets": 7, "trainers": list(SHORT), "folds": [0, 1]}
        (tmp_path / "grid.yaml").write_text(yaml.safe_dump(entries))
        assert call("report", "--grid", tmp_path / "grid.yaml")[0] == 0
        document = tmp_path / "here/xattnres_benchmark/report/results.json"
        assert json.loads(document.read_text())["grid"]["folds"] == [0, 1]
        assert call("report", "--grid", tmp_path / "grid.yaml", "-f", 2)[0] == 0
        grid = json.loads(document.read_text())["grid"]
        assert (grid["folds"], grid["datasets"], grid["trainers"]) == ([2], ["Dataset007_Cells"], list(SHORT))

    def test_results_stay_as_they_are(self, call, finished):
        before = results_of(finished)
        call("report", *GRID)
        assert results_of(finished) == before

    def test_something_is_missing(self, call, finished):
        shutil.rmtree(finished.fold(OTHER, 1))
        code, text, err = call("report", *GRID)
        assert code == 1
        assert [line for line in err.splitlines() if f"{finished.experiment}: {OTHER}, fold 1: " in line]
        assert f"{finished.experiment}: {OTHER} is better" in text and "Report: " in text

    def test_a_damaged_label_map(self, call, finished):
        truncate(finished.predicted(BASELINE, "case_04"))
        code, text, err = call("report", *GRID, "--workers", "1")
        assert code == 1 and "Report: " in text
        assert err.startswith(f"missing: {finished.experiment}: {BASELINE}, fold 1: case_04: ")

    @pytest.mark.parametrize("action", ["report", "status"])
    def test_a_dataset_that_was_moved_away(self, call, action):
        code, text, err = call(action, "-d", "7", "Dataset008_Gone", *GRID[2:])
        assert code == (action == "report")
        assert "Dataset008_Gone" in text + err and "Dataset007_Cells" in text
        assert action == "status" or "missing: Dataset008_Gone" in err

    def test_different_settings_are_a_warning(self, call, finished):
        change_debug(finished.fold(OTHER, 1), num_epochs="9")
        code, _, err = call("report", *GRID)
        assert code == 0
        assert f"warning: {finished.experiment}: epochs " in err

    def test_a_trainer_whose_class_is_gone(self, call, finished):
        """The trainings are compared, but the parameters of the network cannot be counted."""
        for run in finished.grid.runs():
            if run.trainer == OTHER and run.fold == 0:
                model = finished.folders.model(run)
                model.rename(model.with_name(model.name.replace(OTHER, "nnUNetTrainerOld")))
        code, text, _ = call("report", "-d", 7, "-tr", BASELINE, "nnUNetTrainerOld", "-f", 0, 1, 2)
        assert code == 0 and "nnUNetTrainerOld is better than" in text
        report = Path("xattnres_benchmark/report/report.md").read_text()
        assert "nnU-Net finds no trainer nnUNetTrainerOld" in report


class TestStatus:
    def test_all_done(self, call):
        code, text, err = call("status", *GRID)
        assert (code, err) == (0, "")
        assert len(re.findall(r"done  +2 of 2", text)) == 6
        assert "6 trainings: 6 done." in text

    def test_some_unfinished(self, call, finished):
        shutil.rmtree(finished.fold(OTHER, 1))
        shutil.rmtree(finished.fold(BASELINE, 2) / "validation")
        code, text, _ = call("status", *GRID)
        assert code == 0
        assert re.search(rf"{OTHER} +1 +to train", text)
        assert re.search(rf"{BASELINE} +2 +to validate", text)
        assert "4 done" in text

    @pytest.mark.parametrize("action", ["status", "report"])
    def test_without_options_afterwards(self, call, action):
        """Every action saves the grid, so that later calls need no options."""
        call(action, *GRID)
        code, text, err = call("status")
        assert (code, err) == (0, "") and "6 trainings: 6 done." in text

    def test_nothing_is_changed(self, call, finished):
        before = snapshot(finished.root)
        call("status", *GRID)
        assert snapshot(finished.root) == before


class TestRun:
    def test_nothing_is_repeated(self, call, finished):
        before, prepared = results_of(finished), snapshot(finished.folders.preprocessed)
        code, text, err = call("run", *GRID, "--device", "cpu", "--test", "--workers", "1")
        assert (code, err) == (0, "")
        assert re.search(rf"{finished.experiment}: {OTHER} is better than {BASELINE}: \D*\+\d", text)
        assert "$ nnUNetv2" not in text
        assert results_of(finished) == before
        assert snapshot(finished.folders.preprocessed) == prepared

    def test_dry_run_of_finished_trainings(self, call, finished, tmp_path):
        before = snapshot(tmp_path)
        code, text, err = call("run", *GRID, "--test", "--dry-run")
        assert (code, err) == (0, "")
        (comment,) = text.splitlines()[1:]
        assert comment.startswith("# 9 of 9 ")
        assert snapshot(tmp_path) == before

    def test_dry_run_of_unfinished_trainings(self, call, finished, tmp_path):
        """The output has nnU-Net's commands for a shell."""
        shutil.rmtree(finished.fold(OTHER, 1))
        shutil.rmtree(finished.fold(BASELINE, 2) / "validation")
        (finished.folders.test_predictions(finished.run(OTHER, 0), (0, 1, 2)) / "test_1.png").unlink()
        before = snapshot(tmp_path)
        code, text, _ = call("run", *GRID, "--test", "--dry-run", "--device", "cpu", "--workers", "2")
        export, *commands = text.splitlines()
        assert code == 0 and snapshot(tmp_path) == before
        assert shlex.split(export)[1].startswith("nnUNet_extTrainer=") and "trainers" in export
        images = finished.folders.raw_dataset(finished.experiment) / "imagesTs"
        model = finished.folders.model(finished.run(OTHER, 0))
        assert [shlex.split(command) for command in commands[:-1]] == [
            f"nnUNetv2_train Dataset007_Cells 2d 1 -tr {OTHER} -p nnUNetPlans -device cpu --c".split(),
            f"nnUNetv2_train Dataset007_Cells 2d 2 -tr {BASELINE} -p nnUNetPlans -device cpu --val".split(),
            shlex.split(f"nnUNetv2_predict -i {images} -o {model}/test_folds_0_1_2 -d Dataset007_Cells -c 2d "
                        f"-tr {OTHER} -p nnUNetPlans -f 0 1 2 -npp 2 -nps 2 -device cpu"),
        ]  # fmt: skip
        assert commands[-1].startswith("# 6 of 9 ")

    def test_dry_run_of_repeats(self, call, finished):
        code, text, _ = call("run", *GRID, "--repeats", "2", "--dry-run")
        assert code == 0
        commands = [line for line in text.splitlines() if "nnUNetv2_train" in line]
        assert len(commands) == 6
        assert all(
            line.startswith(f"nnUNet_results={finished.folders.results}/repeat_1 nnUNetv2_train ") for line in commands
        )


class TestBadInput:
    """Exit code 2 and one line that names the wrong value."""

    def refused(self, call, *arguments) -> str:
        code, text, err = call(*arguments)
        assert (code, text) == (2, "")
        assert err.startswith("xattnres benchmark: ") and err.endswith("\n") and err.count("\n") == 1
        return err

    @pytest.mark.parametrize(
        ("options", "name"),
        [
            ([], "-d"), (["-d", "7"], "-tr"), (["-tr", BASELINE, OTHER], "-d"),
            (["-d", "8", "-tr", BASELINE, OTHER], "8"),
            (["-d", "Dataset007_Other", "-tr", BASELINE, OTHER], "Dataset007_Other"),
            (["-d", "7", "Dataset007_Cells", "-tr", BASELINE, OTHER], "datasets"),
            (["-d", "7", "-tr", BASELINE], BASELINE), (["-d", "7", "-tr", BASELINE, BASELINE], "trainers"),
            (["-d", "7", "-tr", BASELINE, OTHER.replace("XAttn", "XAtn"), "-f", "0"], f"{OTHER}?"),
            ([*GRID, "-c", "3d_lowres"], "3d_lowres"), (["-d", "7", "-tr", BASELINE, OTHER], "3, 4"),
            ([*GRID[:-3], "-1"], "'-1'"), ([*GRID, "--grid", "none.yaml"], "none.yaml"),
        ],
    )  # fmt: skip
    def test_grids(self, call, finished, options, name):
        before = snapshot(finished.root)
        assert name in self.refused(call, "run", *options, "--device", "cpu")
        assert snapshot(finished.root) == before

    def test_a_fold_that_nnunet_will_not_make(self, call, finished):
        """nnU-Net makes five folds of a new dataset."""
        (finished.preprocessed / "splits_final.json").unlink()
        message = self.refused(call, "run", *GRID[:-3], "4", "5", "--device", "cpu")
        assert "0, 1, 2, 3, 4, not 5" in message and "-f" in message

    @pytest.mark.parametrize("content", [b"", b"a: [1", b"datasets: 7", b"datasets: 7\ntrainers: [a, b]\nseeds: 3"])
    @pytest.mark.parametrize("file_name", ["grid.yaml", "xattnres_benchmark/benchmark.json"])
    def test_files(self, call, tmp_path, content, file_name):
        """tests/benchmark/test_grid.py tests more of these files."""
        path = tmp_path / "here" / file_name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        assert file_name in self.refused(call, "report", *(["--grid", file_name] if file_name == "grid.yaml" else []))

    @pytest.mark.parametrize("action", ["status", "report"])
    def test_no_saved_grid(self, call, action):
        message = self.refused(call, action)
        assert "xattnres_benchmark/benchmark.json" in message and "--out" in message

    @pytest.mark.parametrize("variable", PATH_VARIABLES)
    @pytest.mark.parametrize("action", ["run", "status", "report"])
    def test_nnunets_folders(self, call, monkeypatch, variable, action):
        monkeypatch.setenv(variable, "/no/such/folder")
        assert f"{variable}=/no/such/folder" in self.refused(call, action, *GRID)
        monkeypatch.delenv(variable)
        assert variable in self.refused(call, action, *GRID)

    @pytest.mark.parametrize("content", ["", "[1]", "{"])
    def test_splits(self, call, finished, content):
        path = finished.preprocessed / "splits_final.json"
        path.write_text(content)
        assert str(path) in self.refused(call, "run", *GRID, "--device", "cpu")

    @pytest.mark.parametrize("name", ["file", "file/below"])
    def test_nowhere_to_write(self, call, tmp_path, name):
        """The error comes before any work is done."""
        (tmp_path / "file").touch()
        for action in (["report"], ["run", "--device", "cpu"]):
            assert str(tmp_path / name) in self.refused(call, *action, *GRID, "--out", tmp_path / name)

    @pytest.mark.parametrize(
        "arguments",
        [
            [],
            ["train"],
            ["run", *GRID, "--repeats", "0"],
            ["run", *GRID, "--jobs", "0"],
            ["run", *GRID, "--device", "tpu"],
            ["report", *GRID, "--workers", "0"],
            ["report", *GRID, "--dry-run"],
            ["run", "-d"],
        ],
    )
    def test_options(self, capsys, arguments):
        with pytest.raises(SystemExit) as exit:
            main(["benchmark", *arguments])
        assert exit.value.code == 2
        assert "Traceback" not in capsys.readouterr().err

    def test_the_message_of_a_wrong_option_does_not_name_the_file(self, call, tmp_path):
        (tmp_path / "here/grid.yaml").write_text(f"datasets: 7\ntrainers: [{BASELINE}, {OTHER}]\n")
        assert "grid.yaml" not in self.refused(call, "report", "--grid", "grid.yaml", "-f", "x")
