"""The first step is measured in a process of its own, whose compiled code this process can use."""

import os

import pytest
import torch
from support.plans_file import write_plans

from nnunet_xattnres.cost.cases import from_plans
from nnunet_xattnres.cost.first_step import compiled_code_from, measure_first_step
from nnunet_xattnres.cost.measure import MeasureOptions
from nnunet_xattnres.cost.networks import STOCK, XATTNRES, MeasuredNetwork

OPTIONS = MeasureOptions(torch.device("cpu"), amp=False, compile=False, repeats=1, reference_repeats=1)
OURS = MeasuredNetwork("XAttnRes", XATTNRES, "torch")
VARIABLES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")


@pytest.fixture
def case(tmp_path):
    return from_plans(write_plans(tmp_path), "2d")


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "caches"
    folder.mkdir()
    return folder


@pytest.mark.slow  # tests/cli/test_cost.py has the smallest
def test_a_first_step(case, folder):
    step = measure_first_step(case, OURS, OPTIONS, folder)
    assert step.failure is None
    assert 0 < step.seconds < 300
    assert step.peak_allocated is None


def test_a_process_that_fails_says_why(case, folder, tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\ncat > /dev/null\necho warning\necho no such backend >&2\nexit 3\n")
    python.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(python))
    step = measure_first_step(case, OURS, OPTIONS, folder)
    assert step.seconds is None
    assert step.failure == "exit code 3: no such backend"


def test_a_process_that_takes_too_long(case, folder):
    step = measure_first_step(case, OURS, OPTIONS, folder, timeout=0.1)
    assert step.seconds is None
    assert "0 s" in step.failure


@pytest.mark.slow
def test_what_a_process_compiles_is_used_here(case, tmp_path, folder):
    step = measure_first_step(case, STOCK, MeasureOptions(torch.device("cpu"), False, True, 1, 1), folder)
    assert step.seconds > 1
    compiled = list((folder / "inductor").rglob("*.so"))
    assert compiled
    with compiled_code_from([folder], tmp_path / "merged"):
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "merged" / "inductor")
        copies = list((tmp_path / "merged" / "inductor").rglob("*.so"))
        assert {path.name for path in copies} == {path.name for path in compiled}


def test_caches_are_merged_and_variables_restored(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLES[0], "mine")
    monkeypatch.delenv(VARIABLES[1], raising=False)
    folders = [tmp_path / "a", tmp_path / "b"]
    for i, path in enumerate(folders):
        (path / "triton" / "shared").mkdir(parents=True)
        (path / "triton" / "shared" / f"{i}.cubin").write_text(str(i))
    with compiled_code_from(folders, tmp_path / "merged"):
        assert sorted(p.name for p in (tmp_path / "merged" / "triton" / "shared").iterdir()) == ["0.cubin", "1.cubin"]
        assert os.environ[VARIABLES[1]] == str(tmp_path / "merged" / "triton")
    assert os.environ[VARIABLES[0]] == "mine"
    assert VARIABLES[1] not in os.environ


def test_without_processes_the_caches_stay(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLES[0], "mine")
    with compiled_code_from([], tmp_path / "merged"):
        assert os.environ[VARIABLES[0]] == "mine"
