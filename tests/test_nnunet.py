"""Running nnU-Net's commands: their environment, their logs, and what a failure says."""

import sys
from pathlib import Path

import pytest

from nnunet_xattnres import nnunet
from nnunet_xattnres.errors import StepFailedError, UserError
from nnunet_xattnres.paths import trainers_path


@pytest.fixture
def command(tmp_path, monkeypatch):
    """A stand-in for an nnU-Net command: runs the Python program it is given."""
    script = tmp_path / "bin" / "nnUNetv2_stand_in"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -c "$1"\n')
    script.chmod(0o755)
    monkeypatch.setattr(nnunet.sysconfig, "get_path", lambda name: str(script.parent))
    return script.name


def test_environment_stays_under_its_root(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", "/the/users/own")
    env = nnunet.environment(tmp_path, 3)
    for variable in nnunet.PATH_VARIABLES:
        assert env[variable] == str(tmp_path / variable)
        assert (tmp_path / variable).is_dir()
    assert env["nnUNet_extTrainer"] == str(trainers_path())
    assert env["nnUNet_n_proc_DA"] == "3"


def test_output_goes_to_the_log(command, tmp_path, capsys):
    log = tmp_path / "logs" / "step.txt"
    seconds = nnunet.run([command, "print('hello')"], {}, log)
    assert log.read_text().splitlines()[1] == "hello"
    assert log.read_text().startswith(f"$ {command} ")
    assert seconds > 0
    assert capsys.readouterr().out == ""


def test_failure_names_the_log_and_the_last_line(command, tmp_path):
    log = tmp_path / "step.txt"
    with pytest.raises(StepFailedError, match=r"failed \(exit code 3\), see .*step.txt: no such dataset") as error:
        nnunet.run([command, "print('no such dataset'); raise SystemExit(3)"], {}, log)
    assert "\n" not in str(error.value)


def test_command_that_is_not_installed(tmp_path, command):
    with pytest.raises(UserError, match=r"nnUNetv2_other is not installed beside .*: pip install nnunetv2"):
        nnunet.run(["nnUNetv2_other"], {}, tmp_path / "log.txt")


def test_interruption_ends_the_command(command, tmp_path, monkeypatch):
    marker = tmp_path / "still alive"

    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(nnunet.time, "sleep", interrupt)
    program = f"import time, pathlib; time.sleep(3); pathlib.Path({str(marker)!r}).touch()"
    with pytest.raises(KeyboardInterrupt):
        nnunet.run([command, program], {}, tmp_path / "log.txt")
    monkeypatch.undo()
    import time

    time.sleep(4)
    assert not Path(marker).exists()
