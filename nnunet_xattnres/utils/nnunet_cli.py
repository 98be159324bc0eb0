"""nnU-Net's own commands, run as a person would type them."""

import os
import re
import shlex
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from .errors import StepFailedError, UserError
from .paths import PATH_VARIABLES, trainers_path


def make_environment(root: Path, processes: int) -> dict[str, str]:
    """This process's environment, with nnU-Net's folders under `root` and this package's trainers in its look-up."""
    env = dict(os.environ)
    for variable in PATH_VARIABLES:
        folder = root / variable
        folder.mkdir(parents=True, exist_ok=True)
        env[variable] = str(folder)
    env["nnUNet_extTrainer"] = str(trainers_path())
    env["nnUNet_n_proc_DA"] = env["nnUNet_def_n_proc"] = str(processes)
    return env


def executable(command: str) -> str:
    """The path of a command of nnU-Net's, which lies beside this Python.

    Raises:
        UserError: if it does not.
    """
    path = Path(sysconfig.get_path("scripts")) / command
    if not path.exists():
        raise UserError(f"{command} is not installed beside {sys.executable}: pip install nnunetv2")
    return str(path)


def failure_message(command: str, code: int, log: Path) -> str:
    """Why a command failed, as far as its log tells."""
    return f"{command} failed (exit code {code}), see {log}: {last_line(log)}"


def last_line(log: Path) -> str:
    """The last line of a log that is not empty."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 20_000))
        lines = re.split(r"[\r\n]", file.read().decode(errors="replace"))  # progress bars return
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def run(command: list[str], env: dict[str, str], log: Path) -> float:
    """Run one `nnUNetv2_*` command, its output going to `log`; returns the seconds it took.

    Raises:
        UserError: if the command is not installed beside this Python.
        StepFailedError: if it fails; the message ends with the last line it wrote.
    """
    path = executable(command[0])
    start = time.monotonic()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as out:
        out.write(f"$ {shlex.join(command)}\n")
        out.flush()
        process = subprocess.Popen(
            [path, *command[1:]], env=env, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            while process.poll() is None:
                _tick(time.monotonic() - start)
                time.sleep(0.5)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)  # with the workers it has started
            process.wait()
            raise
    if process.returncode:
        raise StepFailedError(failure_message(command[0], process.returncode, log))
    return time.monotonic() - start


def _tick(seconds: float) -> None:
    if sys.stdout.isatty():
        print(f"\r      {seconds:4.0f} s", end="\r", flush=True)
