"""nnU-Net's commands: their environment, their logs, their failures, and signals."""

import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest

from nnunet_xattnres.utils import nnunet_cli
from nnunet_xattnres.utils.errors import StepFailedError, UserError
from nnunet_xattnres.utils.paths import trainers_path


@pytest.fixture
def command(tmp_path, monkeypatch):
    """A stand-in for an nnU-Net command, which runs its argument as a Python program."""
    script = tmp_path / "bin" / "nnUNetv2_stand_in"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -c "$1"\n')
    script.chmod(0o755)
    monkeypatch.setattr(nnunet_cli.sysconfig, "get_path", lambda name: str(script.parent))
    return script.name


def test_environment_stays_under_its_root(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", "/another/folder")
    env = nnunet_cli.make_environment(tmp_path, 3)
    for variable in nnunet_cli.PATH_VARIABLES:
        assert env[variable] == str(tmp_path / variable)
        assert (tmp_path / variable).is_dir()
    assert env["nnUNet_extTrainer"] == str(trainers_path())
    assert env["nnUNet_n_proc_DA"] == "3"


def test_output_goes_to_the_log(command, tmp_path, capsys):
    log = tmp_path / "logs" / "step.txt"
    seconds = nnunet_cli.run_command([command, "print('hello')"], {}, log)
    assert log.read_text().splitlines()[1] == "hello"
    assert log.read_text().startswith(f"$ {command} ")
    assert seconds > 0
    assert capsys.readouterr().out == ""


def test_failure_names_the_log_and_the_last_line(command, tmp_path):
    log = tmp_path / "step.txt"
    with pytest.raises(StepFailedError, match=r"nnUNetv2_stand_in.* 3.*step.txt: no such dataset$") as error:
        nnunet_cli.run_command([command, "print('no such dataset'); raise SystemExit(3)"], {}, log)
    assert "\n" not in str(error.value)


def test_a_command_that_is_not_installed(tmp_path, command):
    with pytest.raises(UserError, match=r"^nnUNetv2_other .*pip install nnunetv2"):
        nnunet_cli.run_command(["nnUNetv2_other"], {}, tmp_path / "log.txt")


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_also_ends_the_running_command(command, tmp_path, number, exit_code):
    """The command writes its process id. This process must have ended when `xattnres` has ended."""
    pid_file = tmp_path / "pid"
    child = f"import os, pathlib, time; pathlib.Path({str(pid_file)!r}).write_text(str(os.getpid())); time.sleep(60)"
    program = f"""
from pathlib import Path
from nnunet_xattnres.cli import main, trainers
from nnunet_xattnres.utils import nnunet_cli
nnunet_cli.sysconfig.get_path = lambda name: {str(tmp_path / "bin")!r}
trainers.run = lambda arguments: nnunet_cli.run_command([{command!r}, {child!r}], {{}}, Path({str(tmp_path / "log")!r}))
raise SystemExit(main.main(["trainers"]))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stderr=subprocess.DEVNULL,
        # pytest in the background of a shell ignores SIGINT, and child processes inherit this
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not (pid_file.exists() and pid_file.read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(number)
    assert process.wait(60) == exit_code
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)


@pytest.mark.parametrize("taskkill", ["#!/bin/sh\necho $@ > {log}\nkill -9 $4\n", None], ids=["taskkill", "none"])
def test_the_command_ends_where_there_are_no_process_groups(command, tmp_path, monkeypatch, taskkill):
    """On Windows, taskkill kills the processes that the command has started as well."""
    monkeypatch.delattr(os, "killpg")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin" if taskkill else str(tmp_path))
    if taskkill:
        script = tmp_path / "bin" / "taskkill"
        script.write_text(taskkill.format(log=tmp_path / "taskkill.log"))
        script.chmod(0o755)
    started = []

    def interrupt(seconds):
        started.append(time.monotonic())
        raise KeyboardInterrupt

    monkeypatch.setattr(nnunet_cli, "_show_elapsed_time", interrupt)
    with pytest.raises(KeyboardInterrupt):
        nnunet_cli.run_command([command, "import time; time.sleep(60)"], dict(os.environ), tmp_path / "log.txt")
    assert time.monotonic() - started[0] < 30
    if taskkill:
        assert (tmp_path / "taskkill.log").read_text().startswith("/F /T /PID ")


def test_a_hangup_that_nohup_ignores_stays_ignored():
    program = "import signal; from nnunet_xattnres.cli.main import exit_on_signals; exit_on_signals(); "
    program += "print(signal.getsignal(signal.SIGHUP) == signal.SIG_IGN)"
    ignore = partial(signal.signal, signal.SIGHUP, signal.SIG_IGN)
    run = subprocess.run([sys.executable, "-c", program], preexec_fn=ignore, capture_output=True, text=True)
    assert run.stdout == "True\n"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", ""),
        (b"\n\n", ""),
        (b"$ nnUNetv2_train\n", "$ nnUNetv2_train"),
        (b"first\nRuntimeError: broken\n\n  \n", "RuntimeError: broken"),
        (b"no end", "no end"),
        (b"1\xff2\n", "1\ufffd2"),
        (b"old\n" + b"x" * 50_000 + b"\nlast\n", "last"),
        (b"a\r\nKilled\r\n", "Killed"),
        (b"  0%|  | 0/9\r 50%|# | 5/9\r100%|##| 9/9 ", "100%|##| 9/9"),
    ],
)
def test_the_last_line_of_a_log(tmp_path, content, line):
    """A progress bar overwrites its line with carriage returns."""
    log = tmp_path / "log.txt"
    log.write_bytes(content)
    assert nnunet_cli.last_log_line(log) == line
