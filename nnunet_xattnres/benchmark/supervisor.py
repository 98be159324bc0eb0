"""A program that runs one command and kills it, with all processes that it started, when the parent has ended.

    python supervisor.py LOCK LOG RECORD COMMAND...

The standard input is a pipe from the parent. When its other end closes, however the parent ended, the command's process
group is killed. LOCK is an inherited file descriptor that the command inherits as well, or - where there is none, as on
Windows. The command's output is appended to LOG, and one line of JSON about this attempt to RECORD. The exit code is
that of the command, or 128 + signal if it was killed.

It imports the standard library only, so that it needs little memory while it waits for the end of a training.
"""

import contextlib
import json
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import ModuleType

resource: ModuleType | None
try:
    import resource
except ImportError:  # Windows
    resource = None

_POLL_SECONDS = 2
_CANNOT_START = 127  # as shells report a command that cannot be started


def main(lock: int | None, log: Path, record: Path, command: list[str]) -> int:
    """Run the command until it ends or is killed; returns its exit code."""
    started = time.time()
    with log.open("a", encoding="utf-8", errors="backslashreplace") as out:
        out.write(f"$ {shlex.join(command)}\n")
        out.flush()
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
                pass_fds=[] if lock is None else [lock],  # the lock outlives this process if the command does
            )  # fmt: skip
        except OSError as error:
            out.write(f"{command[0]} cannot be started ({error.strerror})\n")
            return _CANNOT_START
    gpu_memory = _GPUMemory(process.pid)
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGBREAK"):  # Windows has no SIGHUP, the others no SIGBREAK
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda *_: _kill(process))
    threading.Thread(target=_kill_when_parent_ends, args=[process], daemon=True).start()
    threading.Thread(target=gpu_memory.poll, daemon=True).start()
    code = process.wait()
    _kill(process)  # processes that it left behind
    attempt = {
        "command": command,
        "started": started,
        "seconds": round(time.time() - started, 1),
        "exit_code": code,
        "host": platform.node(),
        "peak_memory_bytes": _peak_memory(),
        "peak_gpu_memory_bytes": gpu_memory.peak or None,
        "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
    }
    with record.open("a", encoding="utf-8") as file:
        file.write(json.dumps(attempt) + "\n")
    return code if code >= 0 else 128 - code


def _kill_when_parent_ends(process: subprocess.Popen) -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 1):  # nothing is ever written: it returns when the pipe closes
            pass
    _kill(process)


def _kill(process: subprocess.Popen) -> None:
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    elif process.poll() is None:  # Windows: the tree of processes, as long as its root is there
        with contextlib.suppress(OSError):
            subprocess.run(["taskkill", "/F", "/T", "/PID", str(process.pid)], capture_output=True)
        process.kill()


def _peak_memory() -> int | None:
    """The memory of the largest process in bytes, None where the system does not count it."""
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB


class _GPUMemory:
    """Peak GPU memory of the processes of a group, as nvidia-smi reports it."""

    def __init__(self, group: int):
        self.group, self.peak = group, 0

    def poll(self) -> None:
        if not shutil.which("nvidia-smi") or not hasattr(os, "getpgid"):
            return
        query = ["nvidia-smi", "--query-compute-apps=pid,used_gpu_memory", "--format=csv,noheader,nounits"]
        while True:
            try:
                result = subprocess.run(query, capture_output=True, text=True, timeout=60)
            except (OSError, subprocess.TimeoutExpired):
                return
            used = 0
            for line in result.stdout.splitlines():
                with contextlib.suppress(ValueError, OSError):  # not a number, or a process that has ended
                    pid, mebibytes = map(int, line.split(","))
                    used += mebibytes * 2**20 * (os.getpgid(pid) == self.group)
            self.peak = max(self.peak, used)
            time.sleep(_POLL_SECONDS)


if __name__ == "__main__":
    lock, log, record, *command = sys.argv[1:]
    raise SystemExit(main(None if lock == "-" else int(lock), Path(log), Path(record), command))
