"""nnU-Net's commands, run as processes."""

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from .errors import StepFailedError, UserError
from .paths import PATH_VARIABLES, trainers_path


def make_environment(root: Path, processes: int) -> dict[str, str]:
    """Make nnU-Net's folders under `root`, and the environment variables that let its commands use them.

    Args:
        root: nnUNet_raw, nnUNet_preprocessed and nnUNet_results are made in this folder.
        processes: the number of processes for data augmentation, and nnU-Net's default number of processes.

    Returns:
        This process's environment with nnU-Net's variables; nnUNet_extTrainer is the folder of this package's trainers.
    """
    env = dict(os.environ)
    for variable in PATH_VARIABLES:
        folder = root / variable
        folder.mkdir(parents=True, exist_ok=True)
        env[variable] = str(folder)
    env["nnUNet_extTrainer"] = str(trainers_path())
    env["nnUNet_n_proc_DA"] = env["nnUNet_def_n_proc"] = str(processes)
    return env


def find_executable(command: str) -> str:
    """The path of an nnU-Net command, which is installed beside this Python.

    Raises:
        UserError: if it is not installed there.
    """
    path = shutil.which(command, path=sysconfig.get_path("scripts"))  # on Windows its name ends in .exe
    if path is None:
        raise UserError(f"{command} is not installed beside {sys.executable}: pip install nnunetv2")
    return path


def failure_message(command: str, code: int, log: Path) -> str:
    """One line that says that a command failed, with its exit code, its log file and the last line of the log."""
    return f"{command} failed (exit code {code}), see {log}: {last_log_line(log)}"


def last_log_line(log: Path) -> str:
    """The last line of a log that is not empty, or an empty string."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 20_000))
        lines = re.split(r"[\r\n]", file.read().decode(errors="replace"))  # a progress bar overwrites its line
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def run_command(command: list[str], env: dict[str, str], log: Path) -> float:
    """Run an nnU-Net command and write its output to a log file.

    Args:
        command: the name of the command and its arguments, such as ["nnUNetv2_train", "4", "2d", "0"].
        env: the environment variables of the process.
        log: the file for its output. Its folder is made.

    Returns:
        The seconds that it took.

    Raises:
        UserError: if the command is not installed beside this Python.
        StepFailedError: if it fails. The message ends with the last line of its output.
    """
    path = find_executable(command[0])
    start = time.monotonic()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8", errors="backslashreplace") as out:
        out.write(f"$ {shlex.join(command)}\n")
        out.flush()
        process = subprocess.Popen(
            [path, *command[1:]], env=env, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            while process.poll() is None:
                _show_elapsed_time(time.monotonic() - start)
                time.sleep(0.5)
        except BaseException:
            kill_with_workers(process)
            process.wait()
            raise
    if process.returncode:
        raise StepFailedError(failure_message(command[0], process.returncode, log))
    return time.monotonic() - start


def kill_with_workers(process: subprocess.Popen) -> None:
    """Kill a process that has a session of its own, and the processes that it has started."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        return
    with contextlib.suppress(OSError):  # Windows has no process groups of this kind
        subprocess.run(["taskkill", "/F", "/T", "/PID", str(process.pid)], capture_output=True)
    process.kill()


def _show_elapsed_time(seconds: float) -> None:
    if sys.stdout.isatty():
        print(f"\r      {seconds:4.0f} s", end="\r", flush=True)
