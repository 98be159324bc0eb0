"""A program of its own: runs one command and ends it, with everything it has started, when the parent is gone.

    python supervise.py LIFELINE LOCK LOG RECORD COMMAND...

LIFELINE and LOCK are numbers of inherited files. When the other end of the pipe LIFELINE closes, however the parent
ended, the command's process group is killed. The command inherits LOCK. LOG gets the command's output, RECORD a line of
JSON about this attempt. Exit code: the command's, 128 + signal if it was killed.

Only the standard library: it waits beside every training and must be small.
"""

import contextlib
import json
import os
import platform
import resource
import select
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

_SECONDS_BETWEEN_LOOKS = 2
_CANNOT_START = 127  # as shells say it


def main(lifeline: int, lock: int, log: Path, record: Path, command: list[str]) -> int:
    started = time.time()
    with log.open("a") as out:
        out.write(f"$ {shlex.join(command)}\n")
        out.flush()
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
                pass_fds=[lock],  # so that it outlives this process if the command does
            )  # fmt: skip
        except OSError as error:
            out.write(f"{command[0]} cannot be started ({error.strerror})\n")
            return _CANNOT_START
    watch = _GPUMemory(process.pid)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: _kill(process))
    threading.Thread(target=_end_with, args=(lifeline, process), daemon=True).start()
    threading.Thread(target=watch.look, daemon=True).start()
    code = process.wait()
    _kill(process)  # whatever it has left behind
    about = {
        "command": command,
        "started": started,
        "seconds": round(time.time() - started, 1),
        "exit_code": code,
        "host": platform.node(),
        # kilobytes on Linux, of the largest process
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024,
        "peak_gpu_memory_bytes": watch.peak or None,
        "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
    }
    with record.open("a") as file:
        file.write(json.dumps(about) + "\n")
    return code if code >= 0 else 128 - code


def _end_with(lifeline: int, process: subprocess.Popen) -> None:
    select.select([lifeline], [], [])  # nobody writes: readable is closed
    _kill(process)


def _kill(process: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


class _GPUMemory:
    """The most memory of GPUs that the processes of a group held whenever it was looked at."""

    def __init__(self, group: int):
        self.group, self.peak = group, 0

    def look(self) -> None:
        if not shutil.which("nvidia-smi"):
            return
        query = ["nvidia-smi", "--query-compute-apps=pid,used_gpu_memory", "--format=csv,noheader,nounits"]
        while True:
            try:
                answer = subprocess.run(query, capture_output=True, text=True, timeout=60)
            except (OSError, subprocess.TimeoutExpired):
                return
            used = 0
            for line in answer.stdout.splitlines():
                with contextlib.suppress(ValueError, OSError):  # no number, or no such process any more
                    pid, mebibytes = map(int, line.split(","))
                    used += mebibytes * 2**20 * (os.getpgid(pid) == self.group)
            self.peak = max(self.peak, used)
            time.sleep(_SECONDS_BETWEEN_LOOKS)


if __name__ == "__main__":
    raise SystemExit(main(*map(int, sys.argv[1:3]), *map(Path, sys.argv[3:5]), sys.argv[5:]))
