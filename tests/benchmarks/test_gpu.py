"""benchmarks/gpu.py: its commands are those of this package, and it runs them as it says."""

import importlib.util
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.benchmark import alive, eventually
from support.shell_lines import parse_with_nnunet

from nnunet_xattnres.cli.main import make_parser
from nnunet_xattnres.cost.cases import TYPICAL_CASES
from nnunet_xattnres.training.trainer_classes import trainer_class

pytestmark = pytest.mark.skipif(not hasattr(os, "killpg"), reason="the kernels for GPUs run under Linux")

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu.py"
SPECIFICATION = importlib.util.spec_from_file_location("gpu", SCRIPT)
gpu = importlib.util.module_from_spec(SPECIFICATION)
SPECIFICATION.loader.exec_module(gpu)


def step(name, code, seconds=60, **options):
    return gpu.Step(name, (sys.executable, "-c", code, "{folder}"), seconds, **options)


def run(folder, *steps, seconds=None):
    return gpu.Session(folder, None, seconds).run(steps)


@pytest.mark.parametrize("one", gpu.STEPS, ids=lambda one: one.name)
def test_the_options_exist(one, tmp_path):
    command = one.line(tmp_path, "4")
    program, arguments = command[1:3] if command[1] == "-m" else command[1:2], command[3:]
    if program[-1] == "nnunet_xattnres":
        parsed = make_parser(arguments).parse_args(arguments)
        assert set(getattr(parsed, "case", None) or []) <= set(TYPICAL_CASES)
    elif program[-1] == "pytest":
        paths = [gpu.REPOSITORY / word for word in arguments if word.startswith("tests/")]
        assert paths and all(path.exists() for path in paths)
    elif program[-1] == "nnunetv2.run.run_training":
        parse_with_nnunet("nnUNetv2_train", arguments)
        name = arguments[arguments.index("-tr") + 1]
        assert name.removesuffix("_5epochs") == "nnUNetTrainer" or trainer_class(name)
    else:
        pytest.importorskip("triton")
        from nnunet_xattnres.ops.triton_layer import BlockSizes

        case, *sets = command[2:]
        assert program == ["benchmarks/kernels.py"] and case in TYPICAL_CASES
        for changes in sets:
            assert {change.partition("=")[0] for change in changes.split(",")} <= set(BlockSizes._fields)


def test_steps_run_side_by_side_or_alone(tmp_path):
    # each of the first two waits until both run
    meet = (
        "import pathlib, sys, time; f = pathlib.Path(sys.argv[1]); (f / '{0}').touch()\n"
        "while not (f / '{1}').exists(): time.sleep(0.05)\n"
        "print('met')"
    )
    note = (
        "import pathlib, sys, time; f = pathlib.Path(sys.argv[1])\n"
        "for word in ('begin', 'end'):\n"
        "    ended = [p.read_text().count(', exit' + ' code') for p in sorted(f.glob('?.txt'))]\n"
        "    print('{0}', word, ended, file=open(f / 'log', 'a'))\n"
        "    time.sleep(0.3)"
    )
    steps = [step("c", note.format("c")), step("a", meet.format("1", "2"), alone=False)]
    steps += [step("b", meet.format("2", "1"), alone=False), step("d", note.format("d"))]
    assert run(tmp_path, *steps)
    # the steps that have a file, and of these the ones that have ended
    expected = ["c begin [1, 1, 0]", "c end [1, 1, 0]", "d begin [1, 1, 1, 0]", "d end [1, 1, 1, 0]"]
    assert (tmp_path / "log").read_text().splitlines() == expected


def test_a_step_that_fails_stops_no_other(tmp_path, capsys):
    steps = step("bad", "print('what went wrong'); raise SystemExit(3)"), step("good", "print('fine')")
    assert not run(tmp_path, *steps)
    bad, good = ((tmp_path / f"{one.name}.txt").read_text().splitlines() for one in steps)
    assert bad[0].startswith("$ ") and bad[-1].endswith("exit code 3") and good[-1].endswith("exit code 0")
    assert "what went wrong" in capsys.readouterr().out


def test_a_step_that_takes_too_long_is_ended_with_all_that_it_started(tmp_path, monkeypatch):
    code = (
        "import pathlib, subprocess, sys, time\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "(pathlib.Path(sys.argv[1]) / 'started').touch()\n"
        "time.sleep(600)"
    )
    entry, before = f"STEP_OF_TEST={tmp_path}", []
    monkeypatch.setenv(*entry.split("=", 1))

    def monotonic():
        if not (tmp_path / "started").exists():
            return time.monotonic()
        before.append(len(alive(entry)))
        return time.monotonic() + 1000

    monkeypatch.setattr(gpu, "time", SimpleNamespace(monotonic=monotonic, sleep=time.sleep))
    assert not run(tmp_path, step("slow", code, seconds=500))
    assert (tmp_path / "slow.txt").read_text().splitlines()[-1].endswith(f"exit code {gpu.EXIT_TIMEOUT}")
    # a killed process needs a moment to end
    assert before[0] == 2 and eventually(lambda: not alive(entry)), alive(entry)


def test_what_does_not_fit_into_the_time_is_named(tmp_path, capsys):
    assert not run(tmp_path, step("late", "print(1)"), seconds=0)
    assert "late: not run" in capsys.readouterr().out and not list(tmp_path.iterdir())


def test_nothing_is_overwritten(tmp_path, monkeypatch, capsys):
    (tmp_path / "plan.txt").write_text("measured before")
    monkeypatch.setattr(sys, "argv", ["gpu.py", str(tmp_path), "tests", "plan", "--dataset", "4"])
    with pytest.raises(SystemExit, match="2"):
        gpu.main()
    assert str(tmp_path / "plan.txt") in capsys.readouterr().err
    assert [path.read_text() for path in tmp_path.iterdir()] == ["measured before"]


def test_selection(capsys):
    default = [one.name for one in gpu.select([], None)]
    assert "tests" in default and not any("train" in name for name in default)
    assert {"train-stock", "train-xattnres"} < {one.name for one in gpu.select([], "4")}
    assert [one.name for one in gpu.select(["plan", "tests"], "4")] == ["tests", "plan"]
    for wrong in (["nothing"], ["plan"]):
        with pytest.raises(SystemExit, match="2"):
            gpu.select(wrong, None)
        assert wrong[0] in capsys.readouterr().err
