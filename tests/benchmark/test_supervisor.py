"""A command under its supervisor: its output, record and lock, and the end of all of its processes."""

import contextlib
import fcntl
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support import windows
from support.benchmark import alive, eventually

from nnunet_xattnres.benchmark import supervisor
from nnunet_xattnres.benchmark.locks import is_locked

PYTHON = (sys.executable, "-I", "-S")  # the standard library only


class Supervised:
    """A running supervisor, the parent's end of its lifeline, and its files."""

    def __init__(self, folder, command, **env):
        self.log, self.record, self.lock = folder / "log.txt", folder / "record.jsonl", folder / "lock"
        self.entry = f"SUPERVISED_BY={folder}"
        self.command = list(map(str, command))
        their_end, self.lifeline = os.pipe()
        lock = os.open(self.lock, os.O_RDWR | os.O_CREAT)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.process = subprocess.Popen(
            [*PYTHON, supervisor.__file__, str(lock), self.log, self.record, *self.command],
            env=os.environ | {"SUPERVISED_BY": str(folder)} | env, pass_fds=[lock], stdin=their_end,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        os.close(their_end)
        os.close(lock)

    def end(self):
        """Wait for the exit code; the supervisor itself prints nothing."""
        assert self.process.communicate(timeout=60)[0] == ""
        return self.process.returncode

    def cut(self):
        if self.lifeline is not None:
            os.close(self.lifeline)
            self.lifeline = None

    def output(self):
        """Output of the last command."""
        return self.log.read_text().rpartition(f"$ {shlex.join(self.command)}\n")[2]

    def wait_for(self, text):
        while not self.log.exists() or text not in self.output():
            assert self.process.poll() is None
            time.sleep(0.01)

    def alive(self):
        return alive(self.entry)

    def wait_until_all_are_gone(self):
        assert eventually(lambda: not self.alive()), self.alive()

    def wait_until_unlocked(self):
        assert eventually(lambda: not is_locked(self.lock))

    def attempts(self):
        return [json.loads(line) for line in self.record.read_text().splitlines()]


@pytest.fixture
def start(tmp_path):
    """Supervise a Python program or another command; its processes are killed after the test."""
    started = []

    def run(program, *arguments, command=None, **env):
        started.append(Supervised(tmp_path, command or [*PYTHON, "-c", program, *arguments], **env))
        return started[-1]

    yield run
    for supervised in started:
        supervised.cut()
        for pid in supervised.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        supervised.process.communicate()


@pytest.mark.parametrize("code", [0, 1, 3, 255])
def test_exit_codes(start, code):
    supervised = start(f"raise SystemExit({code})")
    assert supervised.end() == code
    assert [attempt["exit_code"] for attempt in supervised.attempts()] == [code]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_exit_codes_of_signals(start, number):
    supervised = start(f"import os; os.kill(os.getpid(), {number:d})")
    assert supervised.end() == 128 + number
    assert [attempt["exit_code"] for attempt in supervised.attempts()] == [-number]


def test_the_output_is_appended_to_the_log(start):
    supervised = start("import sys; print('one', flush=True); print('two', file=sys.stderr)", "a b")
    assert supervised.end() == 0
    command = f"$ {shlex.join(supervised.command)}\n"
    assert supervised.log.read_text() == f"{command}one\ntwo\n"
    assert start("import sys; print('one', flush=True); print('two', file=sys.stderr)", "a b").end() == 0
    assert supervised.log.read_text() == f"{command}one\ntwo\n" * 2


def test_standard_input_is_empty(start):
    supervised = start("import sys; print(repr(sys.stdin.read()))")
    assert supervised.end() == 0
    assert supervised.output() == "''\n"


FILES = """
import os
for number in range(100):
    if os.path.exists(f"/proc/self/fd/{number}"):
        print(os.readlink(f"/proc/self/fd/{number}"))
"""


def test_the_command_inherits_only_the_lock(start):
    """It does not inherit the lifeline, which it would keep open."""
    supervised = start(FILES)
    assert supervised.end() == 0
    files = [os.devnull, str(supervised.log), str(supervised.log), str(supervised.lock)]
    assert sorted(supervised.output().splitlines()) == sorted(files)


def test_the_record(start):
    before = time.time()
    supervised = start("x = b'1' * (100 << 20)", CUDA_VISIBLE_DEVICES="3,4", PATH="/nowhere")
    assert supervised.end() == 0
    after = time.time()
    assert start("", "again", PATH="/nowhere").end() == 0
    first, second = supervised.attempts()
    assert first.pop("command") == supervised.command
    assert (
        before <= first["started"] <= first.pop("started") + first["seconds"] <= after + 0.1
    )  # seconds are rounded to 0.1
    assert first.pop("seconds") >= 0
    assert 100 << 20 <= first.pop("peak_memory_bytes") < 200 << 20
    host = platform.node()
    assert first == {"exit_code": 0, "host": host, "peak_gpu_memory_bytes": None, "gpus": "3,4"}
    assert second["command"][-1] == "again" and second["peak_memory_bytes"] < 100 << 20


def test_a_record_without_gpus(start, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    supervised = start("")
    assert supervised.end() == 0
    assert supervised.attempts()[0]["gpus"] is None


FAMILY = """
import os, signal, subprocess, sys, time
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
if sys.argv[1] == "0":
    print("all are running", flush=True)
else:
    subprocess.Popen([sys.executable, "-I", "-S", "-c", sys.argv[2], str(int(sys.argv[1]) - 1), sys.argv[2]])
    if os.fork() == 0:
        time.sleep(3600)
time.sleep(3600)
"""


def test_all_processes_are_killed_when_the_parent_ends(start):
    """This includes children of children that ignore signals, as nnU-Net's workers may do."""
    supervised = start(FAMILY, "2", FAMILY)
    supervised.wait_for("all are running")
    assert len(supervised.alive()) == 6
    supervised.cut()
    assert supervised.end() == 137
    supervised.wait_until_all_are_gone()
    assert supervised.attempts()[0]["exit_code"] == -signal.SIGKILL
    supervised.wait_until_unlocked()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_to_the_supervisor(start, number):
    supervised = start(FAMILY, "1", FAMILY)
    supervised.wait_for("all are running")
    supervised.process.send_signal(number)
    assert supervised.end() == 137
    supervised.wait_until_all_are_gone()
    assert len(supervised.attempts()) == 1


def test_a_parent_that_has_ended_before(start):
    supervised = start("import time; time.sleep(3600)")
    supervised.cut()
    assert supervised.end() == 137
    supervised.wait_until_all_are_gone()


LEAVER = """
import os, time
ready, write_end = os.pipe()
if os.fork() == 0:
    os.write(write_end, b"!")
    time.sleep(3600)
os.read(ready, 1)
raise SystemExit(5)
"""


def test_processes_that_a_command_leaves_are_killed(start):
    supervised = start(LEAVER)
    assert supervised.end() == 5
    supervised.wait_until_all_are_gone()
    supervised.wait_until_unlocked()


def test_the_lock_lasts_as_long_as_the_command(start):
    supervised = start("import os, time; print(os.getpid(), flush=True); time.sleep(3600)")
    supervised.wait_for("\n")
    assert is_locked(supervised.lock)
    supervised.process.kill()
    supervised.process.wait()
    assert is_locked(supervised.lock)
    command = int(supervised.output())
    assert list(supervised.alive()) == [command]
    os.kill(command, signal.SIGKILL)
    supervised.wait_until_all_are_gone()
    supervised.wait_until_unlocked()


WITHOUT_UNIX = """
import runpy, sys
sys.path.insert(0, sys.argv.pop(1))
from windows import take_away
take_away()
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""


@pytest.mark.parametrize("cut", [True, False])
def test_on_windows(tmp_path, cut):
    """There is no lock to inherit, no process group, and no count of the memory; taskkill kills the processes."""
    taskkill, record = tmp_path / "taskkill", tmp_path / "record.jsonl"
    taskkill.write_text('#!/bin/sh\necho "$@" > "$0.log"\nkill -9 $4\n')
    taskkill.chmod(0o755)
    program = [*PYTHON, "-c", WITHOUT_UNIX, Path(windows.__file__).parent, supervisor.__file__]
    command = ["sleep", "3600"] if cut else ["sh", "-c", "exit 3"]
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    with subprocess.Popen(
        [*program, "-", tmp_path / "log.txt", record, *command], stdin=subprocess.PIPE, env=os.environ | {"PATH": path}
    ) as process:
        if cut:
            assert eventually((tmp_path / "log.txt").exists)
            process.stdin.close()
        assert process.wait(60) == (137 if cut else 3)
    (attempt,) = map(json.loads, record.read_text().splitlines())
    assert (attempt["exit_code"], attempt["peak_memory_bytes"]) == (-9 if cut else 3, None)
    assert not cut or (tmp_path / "taskkill.log").read_text().startswith("/F /T /PID ")


@pytest.mark.parametrize("content", [None, "#!/no/such/interpreter\n", "\x7fELF"])
def test_a_command_that_cannot_be_started(start, tmp_path, content):
    """Moving a virtual environment causes this; the reason is in the log."""
    file = tmp_path / "nnUNetv2_train"
    if content:
        file.write_text(content)
        file.chmod(0o755)
    supervised = start(None, command=[file, "4"])
    assert supervised.end() > 0
    assert supervised.output().strip()


NVIDIA_SMI = """#!/bin/sh
cat {folder}/$(ls {folder} | head -n 1)
rm {folder}/$(ls {folder} | head -n 1)
[ "$(ls {folder})" ] || rm "$0"
"""


def test_peak_gpu_memory_of_the_group(tmp_path, monkeypatch):
    """The polling ends when nvidia-smi fails."""
    mine, other = os.getpid(), 1
    assert os.getpgid(other) != os.getpgid(mine)
    answers = [
        f"{mine}, 100\n{other}, 5000\n",
        f"{mine}, 300\n{mine}, 20\n",
        f"{mine}, [N/A]\nnothing\n4000000, 7000\n",
        "",
    ]
    (tmp_path / "answers").mkdir()
    for number, answer in enumerate(answers):
        (tmp_path / "answers" / str(number)).write_text(answer)
    program = tmp_path / "nvidia-smi"
    program.write_text(NVIDIA_SMI.format(folder=tmp_path / "answers"))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(supervisor, "_POLL_SECONDS", 0)
    memory = supervisor._GPUMemory(os.getpgid(0))
    thread = threading.Thread(target=memory.poll)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert not list((tmp_path / "answers").iterdir())
    assert memory.peak == 320 * 2**20
