"""The report as a job of a cluster; tests/cli/test_benchmark.py has the tests of the actions."""

import pytest
from support.benchmark import make_folders

from nnunet_xattnres.benchmark import commands
from nnunet_xattnres.benchmark.commands import ReportJob
from nnunet_xattnres.utils.errors import StepFailedError, UserError

GRID = {"datasets": ["Dataset004_Organs"], "trainers": ["T", "U"]}


@pytest.fixture
def folders(tmp_path, monkeypatch):
    folders = make_folders(tmp_path)
    folders.raw_dataset(next(iter(commands.from_options(GRID, "here").experiments()))).mkdir()
    monkeypatch.setenv("nnUNet_extTrainer", "")
    for name, value in folders.environment().items():
        monkeypatch.setenv(name, value)
    return folders


@pytest.mark.parametrize("code", [0, 1])
def test_a_report_job_succeeds_when_there_is_a_report(folders, tmp_path, monkeypatch, code):
    """Exit code 1 means that trainings are missing in the report."""
    commands.open_benchmark(GRID, None, tmp_path, to_run=False).save_grid(overwrite=True)
    calls = []
    monkeypatch.setattr(commands, "report", lambda benchmark, processes: calls.append((benchmark, processes)) or code)
    assert ReportJob(tmp_path, 3)() is None
    ((benchmark, processes),) = calls
    assert (benchmark.grid.options(), benchmark.folders, benchmark.out, processes) == (
        commands.from_options(GRID, "here").options(), folders, tmp_path, 3,
    )  # fmt: skip


def test_a_report_job_fails_when_there_is_none(folders, tmp_path, monkeypatch):
    """`xattnres benchmark report` would end with exit code 2."""

    def fail(benchmark, processes):
        raise UserError("no space left")

    commands.open_benchmark(GRID, None, tmp_path, to_run=False).save_grid(overwrite=True)
    monkeypatch.setattr(commands, "report", fail)
    with pytest.raises(StepFailedError, match="no space left"):
        ReportJob(tmp_path, 1)()


def test_a_report_job_fails_without_a_saved_grid(folders, tmp_path):
    with pytest.raises(StepFailedError, match=r"benchmark\.json"):
        ReportJob(tmp_path, 1)()
