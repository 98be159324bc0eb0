"""A conversion that is killed at any moment leaves everything or nothing under its name, and can be continued.

Crashes before single changes to the disk are in test_crash.py.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import downloads
from support.conversions import ID, NAME, Folders, make_old_dataset
from support.jobs import restore_signal_handlers
from support.trees import snapshot

NUM_IMAGES = 60


class Processes:
    """Conversions in processes of their own."""

    def __init__(self, folders: Folders):
        self.folders = folders
        self.started: list[subprocess.Popen] = []

    def start(self, *arguments, script=("-m", "nnunet_xattnres")) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, *script, "convert", *map(str, arguments)], env=os.environ | self.folders.variables,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
            preexec_fn=restore_signal_handlers,
        )  # fmt: skip
        self.started.append(process)
        return process

    def run(self, *arguments, code=0) -> str:
        """Run a conversion to its end, and return what it prints."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=120)
        assert process.returncode == code, err
        return out + err

    def kill_all(self) -> None:
        for process in self.started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            with contextlib.suppress(ValueError):  # the output is already read
                process.communicate()


@pytest.fixture
def folders(tmp_path):
    return Folders(tmp_path)


@pytest.fixture
def processes(folders):
    processes = Processes(folders)
    yield processes
    processes.kill_all()


def wait_for(condition, process) -> None:
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


def wait_until_group_ends(group) -> None:
    """Wait until no process of a process group is alive; zombies do not count."""

    def alive():
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                state, _, its_group = path.read_text().rsplit(")", 1)[1].split()[:3]
                if int(its_group) == group and state != "Z":
                    yield path.parent.name

    for _ in range(3000):
        if not list(alive()):
            return
        time.sleep(0.01)
    raise AssertionError(f"processes {list(alive())} outlive the process that started them")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A source whose conversion takes seconds."""
    source = tmp_path_factory.mktemp("source") / "images"
    downloads.write_photos(source, range(1, NUM_IMAGES + 1), 9, lambda n: (128, 128))
    before = snapshot(source)
    yield source
    assert snapshot(source) == before


@pytest.fixture(scope="module")
def undisturbed(source, tmp_path_factory):
    """The files of a conversion that is not killed, and the seconds that it takes."""
    folders = Folders(tmp_path_factory.mktemp("undisturbed"))
    start = time.monotonic()
    Processes(folders).run("folder", source, *ID, "--workers", 1)
    seconds = time.monotonic() - start
    files = folders.content()
    for kind in ("images", "labels"):
        assert len([name for name in files if name.startswith(kind)]) == NUM_IMAGES
    return files, seconds


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.soak)])
def test_random_kills(source, undisturbed, folders, processes, kills):
    (expected, seconds), rng, killed = undisturbed, random.Random(0), 0
    for i in range(kills):
        process = processes.start("folder", source, *ID, "--workers", 2 - i % 2)
        time.sleep(seconds * (i + rng.random()) / kills)
        killed += process.poll() is None
        process.kill()
        process.communicate()
        wait_until_group_ends(process.pid)
        assert folders.names <= {NAME, folders.working_folder.name}
        if folders.dataset.exists():
            assert folders.content() == expected
            shutil.rmtree(folders.dataset)
    assert killed
    process = processes.start("folder", source, *ID, "--workers", 1)
    wait_for(lambda: len(folders.finished_cases) >= NUM_IMAGES // 3, process)
    process.kill()
    process.communicate()
    num_finished = len(folders.finished_cases)
    out = processes.run("folder", source, *ID, "--workers", 2)
    assert f"{NUM_IMAGES} cases ({num_finished} of them " in out and str(folders.dataset) in out
    assert folders.content() == expected
    assert folders.names == {NAME}


@pytest.mark.soak
def test_random_kills_while_a_dataset_is_replaced(source, undisturbed, folders, processes):
    (new, seconds), rng = undisturbed, random.Random(1)
    old = folders.content(make_old_dataset(folders.dataset))
    for i in range(3):
        process = processes.start("folder", source, *ID, "--overwrite", "--workers", 2 - i % 2)
        time.sleep(seconds * (0.4 + 0.2 * (i + rng.random())))
        process.kill()
        process.communicate()
        wait_until_group_ends(process.pid)
        content = folders.content() if folders.dataset.exists() else folders.content(folders.backup_folder)
        assert content in (old, new)
        if content == new:
            folders.clear()
            make_old_dataset(folders.dataset)
    processes.run("folder", source, *ID, "--overwrite", "--workers", 1)
    assert folders.content() == new
    assert folders.names == {NAME}


def check_stopped(folders, process, number) -> None:
    """Check that a conversion was ended by a signal, and left finished cases in its working folder."""
    out, err = process.communicate(timeout=60)
    wait_until_group_ends(process.pid)
    assert process.returncode == 128 + number
    assert not out and "Traceback" not in err
    assert str(folders.working_folder) in err
    assert folders.names == {folders.working_folder.name}
    assert 5 <= len(folders.finished_cases) < NUM_IMAGES


@pytest.mark.parametrize(
    ("number", "to_group", "workers"),
    [
        pytest.param(signal.SIGTERM, False, 1, id="SIGTERM"),
        pytest.param(signal.SIGTERM, False, 2, id="SIGTERM, two workers", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, True, 2, id="SIGTERM to all", marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, False, 1, id="SIGHUP", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, True, 1, id="Ctrl+C", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, True, 2, id="Ctrl+C, two workers"),
    ],
)
def test_signals(source, folders, processes, number, to_group, workers):
    process = processes.start("folder", source, *ID, "--workers", workers)
    wait_for(lambda: len(folders.finished_cases) >= 5, process)
    (os.killpg if to_group else os.kill)(process.pid, number)
    check_stopped(folders, process, number)


@pytest.mark.slow
def test_interrupt_while_workers_wait(source, folders, processes):
    """Ctrl+C also reaches the workers, here after they have converted all of their cases."""
    cases: set[str] = set()
    process = processes.start("folder", source, *ID, "--workers", 2)
    wait_for(lambda: len(folders.finished_cases) >= 5, process)
    os.kill(process.pid, signal.SIGSTOP)
    while cases != folders.finished_cases:
        cases = folders.finished_cases
        time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    os.kill(process.pid, signal.SIGCONT)
    check_stopped(folders, process, signal.SIGINT)


@pytest.mark.slow
def test_two_conversions_of_one_dataset(source, undisturbed, folders, processes):
    first = processes.start("folder", source, *ID, "--workers", 1)
    wait_for(lambda: folders.finished_cases, first)
    os.kill(first.pid, signal.SIGSTOP)
    before = snapshot(folders.raw)
    (line,) = processes.run("folder", source, *ID, "--workers", 1, code=2).splitlines()
    assert line.startswith("xattnres convert: ") and str(folders.dataset) in line
    assert snapshot(folders.raw) == before
    os.kill(first.pid, signal.SIGCONT)
    out, err = first.communicate(timeout=120)
    assert first.returncode == 0, err
    assert f"{NUM_IMAGES} cases in {folders.dataset}" in out
    assert folders.content() == undisturbed[0]
    assert folders.names == {NAME}


PAUSING = """\
import os, sys, time
from pathlib import Path
from nnunet_xattnres.cli.main import main
event, name, folder = sys.argv[1:4]
def pause(current_event, arguments):
    if current_event == event and str(arguments[0]).endswith(name) and not os.path.exists(folder + "/paused"):
        Path(folder, "paused").touch()
        while not os.path.exists(folder + "/go"):
            time.sleep(0.005)
sys.addaudithook(pause)
sys.exit(main(sys.argv[4:]))
"""
"""A script that pauses before the first event of this kind whose file name has this end."""


@pytest.mark.parametrize(
    ("event", "name"),
    [
        pytest.param("os.mkdir", ".converting/dataset", id="before it writes", marks=pytest.mark.slow),
        pytest.param("os.rename", f"raw/{NAME}", id="before the old dataset is renamed", marks=pytest.mark.slow),
        pytest.param("os.rename", ".converting/dataset", id="before the new dataset is renamed"),
    ],
)
def test_two_conversions_replace_one_dataset(folders, processes, tmp_path, event, name):
    source = downloads.nuclei(tmp_path, 6)
    make_old_dataset(folders.dataset)
    (tmp_path / "script.py").write_text(PAUSING)
    command = ("folder", source, *ID, "--overwrite", "--size", 16, "--workers", 1)
    first = processes.start(*command, script=(tmp_path / "script.py", event, name, tmp_path))
    wait_for((tmp_path / "paused").exists, first)
    before = snapshot(folders.raw)
    (line,) = processes.run(*command, code=2).splitlines()
    after = snapshot(folders.raw)
    (tmp_path / "go").touch()
    _, error = first.communicate(timeout=120)
    assert after == before and line.startswith("xattnres convert: ") and str(folders.dataset) in line
    assert first.returncode == 0, error
    assert folders.names == {NAME}
    assert json.loads((folders.dataset / "manifest.json").read_text())["settings"]["size"] == [16, 16]
