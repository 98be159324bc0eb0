"""A conversion that is ended at any moment leaves nothing or all under its name, and the same command goes on."""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import downloads
from support.jobs import restore_signal_handlers
from support.trees import contents, snapshot

NAME = "Dataset007_Killed"
ID = ("--dataset-id", "7", "--name", "Killed")
CRASHED = 99
STARTED: list[subprocess.Popen] = []


@pytest.fixture(autouse=True)
def no_processes_left():
    """A failed test leaves none behind."""
    yield
    while STARTED:
        process = STARTED.pop()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


class Place:
    """nnU-Net's folders, and what is in them."""

    def __init__(self, root: Path):
        self.raw, self.preprocessed = root / "nnUNet_raw", root / "nnUNet_preprocessed"
        for folder in (self.raw, self.preprocessed):
            folder.mkdir(parents=True)
        self.dataset = self.raw / NAME
        self.hidden, self.replaced = (self.raw / f".{NAME}.{what}" for what in ("converting", "replaced"))

    @property
    def env(self):
        variables = {"nnUNet_raw": str(self.raw), "nnUNet_preprocessed": str(self.preprocessed)}
        return os.environ | variables | {"nnUNet_results": "", "OMP_NUM_THREADS": "1"}

    def start(self, *arguments, script=("-m", "nnunet_xattnres")):
        command = [sys.executable, *script, "convert", *map(str, arguments)]
        process = subprocess.Popen(
            command, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
            preexec_fn=restore_signal_handlers,
        )  # fmt: skip
        STARTED.append(process)
        return process

    def run(self, *arguments, code=0):
        process = self.start(*arguments)
        out, err = process.communicate(timeout=120)
        assert process.returncode == code, err
        return out + err

    @property
    def records(self):
        """Cases whose conversion is finished."""
        return {path.stem for path in self.hidden.glob("records/[!.]*.json")}

    def finished_files(self):
        """Time of change and bytes of the files of finished cases, by their place in the dataset."""
        files = published_files(self.hidden / "dataset")
        return {path: file for path, file in files.items() if re.split(r"[/_.]", path)[1] in self.records}

    def clear(self):
        for folder in (self.raw, self.preprocessed):
            shutil.rmtree(folder)
            folder.mkdir()

    def content(self, folder=None):
        """All files of a dataset, without the time in its manifest."""
        files = contents(folder or self.dataset)
        if "manifest.json" in files:
            files["manifest.json"] = re.sub(rb'"made_at": "[^"]*"', b"", files["manifest.json"])
        return files


def published_files(dataset):
    """As `snapshot` has them, without the folders."""
    return {path: file for path, file in snapshot(dataset).items() if not file[1]}


def old_dataset(folder):
    """What is to be replaced."""
    for path in ("dataset.json", "imagesTr/1_0000.png", "labelsTr/1.png"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("old")
    return folder


def wait_for(condition, process):
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


def alive(group):
    """Processes of a group that are more than a line in the table."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, its_group = path.read_text().rsplit(")", 1)[1].split()[:3]
            if int(its_group) == group and state != "Z":
                found.append(path.parent.name)
    return found


def wait_for_the_end(group):
    for _ in range(3000):
        if not alive(group):
            return
        time.sleep(0.01)
    raise AssertionError(f"processes {alive(group)} outlive the one that started them")


# processes that are killed at random


PICTURES = 60


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Large enough for a conversion of seconds."""
    source = tmp_path_factory.mktemp("source") / "photos"
    downloads._photos(source, range(1, PICTURES + 1), 9, lambda n: (128, 128))
    return source


@pytest.fixture(scope="module")
def undisturbed(source, tmp_path_factory):
    """The files of an undisturbed conversion, and the seconds it takes."""
    place = Place(tmp_path_factory.mktemp("undisturbed"))
    start = time.monotonic()
    place.run("folder", source, *ID, "--workers", 1)
    seconds = time.monotonic() - start
    files = place.content()
    assert len([name for name in files if name.startswith("images")]) == PICTURES
    assert len([name for name in files if name.startswith("labels")]) == PICTURES
    return files, seconds


def test_random_kills(source, undisturbed, tmp_path):
    place, (expected, seconds), rng = Place(tmp_path), undisturbed, random.Random(0)
    before, killed, resumed = snapshot(source), 0, 0
    for i in range(20):
        process = place.start("folder", source, *ID, "--workers", 1 + i % 2)
        time.sleep(seconds * (i + rng.random()) / 20)
        killed += process.poll() is None
        process.kill()
        out, _ = process.communicate()
        wait_for_the_end(process.pid)
        resumed += "before it was stopped" in out
        assert {p.name for p in place.raw.iterdir()} <= {NAME, place.hidden.name}
        if place.dataset.exists():
            assert place.content() == expected
            shutil.rmtree(place.dataset)
    assert killed  # all else is so by chance
    process = place.start("folder", source, *ID, "--workers", 1)
    wait_for(lambda: len(place.records) >= PICTURES // 3, process)
    process.kill()
    process.communicate()
    done = len(place.records)
    out = place.run("folder", source, *ID, "--workers", 2)
    assert f"{PICTURES} cases, {done} of them before it was stopped, in {place.dataset}" in out
    assert place.content() == expected
    assert [p.name for p in place.raw.iterdir()] == [NAME]
    assert snapshot(source) == before


def test_random_kills_while_a_dataset_is_replaced(source, undisturbed, tmp_path):
    place, (new, seconds), rng = Place(tmp_path), undisturbed, random.Random(1)
    old = place.content(old_dataset(place.dataset))
    for i in range(3):
        process = place.start("folder", source, *ID, "--overwrite", "--workers", 2 - i % 2)
        time.sleep(seconds * (0.4 + 0.2 * (i + rng.random())))
        process.kill()
        process.communicate()
        wait_for_the_end(process.pid)
        found = place.content() if place.dataset.exists() else place.content(place.replaced)
        assert found in (old, new)
        if found == new:
            place.clear()
            old_dataset(place.dataset)
    place.run("folder", source, *ID, "--overwrite", "--workers", 1)
    assert place.content() == new
    assert [p.name for p in place.raw.iterdir()] == [NAME]


def check_stopped(place, process, number):
    out, err = process.communicate(timeout=60)
    wait_for_the_end(process.pid)
    assert process.returncode == 128 + number
    assert not out and "Traceback" not in err
    assert f"stopped; the same command goes on from {place.hidden}" in err
    assert [p.name for p in place.raw.iterdir()] == [place.hidden.name]
    assert 5 <= len(place.records) < PICTURES


@pytest.mark.parametrize(
    ("number", "to_group", "workers"),
    [
        (signal.SIGTERM, False, 1),
        (signal.SIGTERM, False, 2),
        (signal.SIGTERM, True, 2),
        (signal.SIGHUP, False, 1),
        (signal.SIGINT, True, 1),
        (signal.SIGINT, True, 2),
    ],
    ids=["term", "term, two workers", "term to all", "hangup", "Ctrl+C", "Ctrl+C, two workers"],
)
def test_polite_kill(source, tmp_path, number, to_group, workers):
    place = Place(tmp_path)
    process = place.start("folder", source, *ID, "--workers", workers)
    wait_for(lambda: len(place.records) >= 5, process)
    (os.killpg if to_group else os.kill)(process.pid, number)
    check_stopped(place, process, number)


def test_interrupt_while_workers_wait(source, tmp_path):
    """Ctrl+C reaches the workers, too, here when they have done all they were given."""
    place, done = Place(tmp_path), set()
    process = place.start("folder", source, *ID, "--workers", 2)
    wait_for(lambda: len(place.records) >= 5, process)
    os.kill(process.pid, signal.SIGSTOP)
    while done != place.records:
        done = place.records
        time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    os.kill(process.pid, signal.SIGCONT)
    check_stopped(place, process, signal.SIGINT)


def test_two_at_once(source, undisturbed, tmp_path):
    place = Place(tmp_path)
    first = place.start("folder", source, *ID, "--workers", 1)
    wait_for(lambda: place.records, first)
    os.kill(first.pid, signal.SIGSTOP)
    before = snapshot(place.raw)
    (line,) = place.run("folder", source, *ID, "--workers", 1, code=2).splitlines()
    assert line == f"xattnres convert: another conversion is writing {place.dataset}: wait for it, or end it"
    assert snapshot(place.raw) == before
    os.kill(first.pid, signal.SIGCONT)
    out, err = first.communicate(timeout=120)
    assert first.returncode == 0, err
    assert f"{PICTURES} cases, in {place.dataset}" in out
    assert place.content() == undisturbed[0]
    assert [p.name for p in place.raw.iterdir()] == [NAME]


PAUSING = """\
import os, sys, time
from pathlib import Path
from nnunet_xattnres.cli.main import main
event, name, folder = sys.argv[1:4]
def watch(seen, values):
    if seen == event and str(values[0]).endswith(name) and not os.path.exists(folder + "/paused"):
        Path(folder, "paused").touch()
        while not os.path.exists(folder + "/go"):
            time.sleep(0.005)
sys.addaudithook(watch)
sys.exit(main(sys.argv[4:]))
"""


@pytest.mark.parametrize(
    ("event", "name"),
    [("os.mkdir", ".converting/dataset"), ("os.rename", f"raw/{NAME}"), ("os.rename", ".converting/dataset")],
    ids=["before it writes", "before the old one leaves", "between old and new"],
)
def test_two_replace_a_dataset_at_once(tmp_path, event, name):
    place, source = Place(tmp_path), downloads.nuclei(tmp_path, 6)
    old_dataset(place.dataset)
    (tmp_path / "script.py").write_text(PAUSING)
    command = ("folder", source, *ID, "--overwrite", "--size", 16, "--workers", 1)
    first = place.start(*command, script=(tmp_path / "script.py", event, name, tmp_path))
    wait_for((tmp_path / "paused").exists, first)
    before = snapshot(place.raw)
    second = place.start(*command)
    out, err = second.communicate(timeout=120)
    after = snapshot(place.raw)
    (tmp_path / "go").touch()
    _, first_err = first.communicate(timeout=120)
    assert second.returncode == 2 and not out and after == before
    assert err == f"xattnres convert: another conversion is writing {place.dataset}: wait for it, or end it\n"
    assert first.returncode == 0, first_err
    assert [p.name for p in place.raw.iterdir()] == [NAME]
    assert json.loads((place.dataset / "manifest.json").read_text())["settings"]["size"] == [16, 16]


# crashes at every change to the disk


class Crashes(Place):
    """A place whose conversions crash before their n-th change to the disk."""

    def __init__(self, root: Path):
        super().__init__(root)
        self.log = (root / "log").open("w+")
        self.server = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("crashes.py")], env=self.env, text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=self.log,
        )  # fmt: skip

    def convert(self, *arguments, n=0):
        """The answer of `crashes.py`."""
        request = {"n": n, "arguments": ["convert", *map(str, arguments), "--workers", "1"]}
        print(json.dumps(request), file=self.server.stdin, flush=True)
        answer = json.loads(self.server.stdout.readline())
        assert "Traceback" not in answer["err"], answer["err"]
        return answer

    def completes(self, *arguments):
        answer = self.convert(*arguments)
        assert answer["code"] == 0, answer["err"]
        return answer

    def check_only(self, expected):
        """The dataset is this one, and nothing else is left."""
        assert self.content() == expected
        assert [p.name for p in self.raw.iterdir()] == [NAME]


@pytest.fixture
def crashes(tmp_path):
    place = Crashes(tmp_path)
    yield place
    place.server.stdin.close()
    place.server.wait()
    place.server.stdout.close()
    place.log.close()


@pytest.fixture
def few(tmp_path):
    return downloads.nuclei(tmp_path, 4)


def command(source, *options):
    return ("folder", source, *ID, "--split", "2:1:1", *options)


def test_crash_at_every_change(crashes, few):
    changes = crashes.completes(*command(few))["changes"]
    expected = crashes.content()
    assert len(changes) > 40
    for n in range(1, len(changes) + 1):
        crashes.clear()
        assert crashes.convert(*command(few), n=n)["code"] == CRASHED
        published = crashes.dataset.exists()
        if published:
            assert crashes.content() == expected, changes[n - 1]
        answer = crashes.convert(*command(few))
        assert answer["code"] == (2 if published else 0), (changes[n - 1], answer["err"])
        assert ("exists: choose another" in answer["err"]) == published
        crashes.check_only(expected)


def test_crash_at_every_change_while_a_dataset_is_replaced(crashes, few):
    splits = crashes.preprocessed / NAME / "splits_final.json"

    def restore():
        crashes.clear()
        splits.parent.mkdir()
        splits.write_text("[]")
        return crashes.content(old_dataset(crashes.dataset))

    old = restore()
    changes = crashes.completes(*command(few, "--overwrite"))["changes"]
    new = crashes.content()
    assert new != old
    for n in range(1, len(changes) + 1):
        restore()
        assert crashes.convert(*command(few, "--overwrite"), n=n)["code"] == CRASHED
        if crashes.dataset.exists():
            assert crashes.content() in (old, new), changes[n - 1]
        else:
            assert crashes.content(crashes.replaced) == old
            assert crashes.content(crashes.hidden / "dataset") == new
        crashes.completes(*command(few, "--overwrite"))
        crashes.check_only(new)
        assert contents(splits.parent) == {"splits_final.replaced1.json": b"[]"}


def test_crash_at_every_change_of_other_options(crashes, few, tmp_path):
    """First one conversion crashes, then another at every change until it has two cases, then the first is repeated."""
    crashes.completes(*command(few))
    expected = crashes.content()
    crashes.clear()
    begun = first_change(crashes.convert(*command(few), n=10_000)["changes"], "dataset.json")
    crashes.clear()
    crashes.convert(*command(few), n=begun)
    kept = shutil.copytree(crashes.hidden, tmp_path / "begun")
    changes = crashes.completes(*command(few, "--size", 8))["changes"]
    for n in range(1, first_change(changes, "2.json") + 1):
        crashes.clear()
        shutil.copytree(kept, crashes.hidden)
        assert crashes.convert(*command(few, "--size", 8), n=n)["code"] == CRASHED
        crashes.completes(*command(few))
        crashes.check_only(expected)


def test_crash_at_every_change_of_a_refused_conversion(crashes, few, tmp_path):
    """The last case is unusable, and mended afterwards."""
    crashes.completes(*command(few))
    expected, good = crashes.content(), (few / "images" / "4.png").read_bytes()
    crashes.clear()

    def spoil():
        crashes.clear()
        (few / "images" / "4.png").write_bytes(good[:100])
        os.utime(few / "images" / "4.png", (1, 1))

    spoil()
    changes = crashes.convert(*command(few))["changes"]
    assert not list(crashes.raw.iterdir())
    for n in range(1, len(changes) + 1):
        spoil()
        assert crashes.convert(*command(few), n=n)["code"] == CRASHED
        (few / "images" / "4.png").write_bytes(good)
        os.utime(few / "images" / "4.png", (2, 2))
        crashes.completes(*command(few))
        crashes.check_only(expected)


def test_a_published_dataset_that_is_removed_is_converted_anew(crashes, few):
    """After a crash between the renaming and the end, the records are left without their files."""
    changes = crashes.completes(*command(few))["changes"]
    expected = crashes.content()
    after = next(n for n, change in enumerate(changes, 1) if change == "os.rename dataset") + 1
    for n in range(after, len(changes) + 1):
        crashes.clear()
        assert crashes.convert(*command(few), n=n)["code"] == CRASHED
        shutil.rmtree(crashes.dataset)
        crashes.completes(*command(few))
        crashes.check_only(expected)


def test_crash_after_crash(crashes, few):
    count = len(crashes.completes(*command(few))["changes"])
    expected, rng = crashes.content(), random.Random(0)
    crashes.clear()
    for _ in range(60):
        crashes.convert(*command(few), n=rng.randrange(1, count + 1))
        if crashes.dataset.exists():
            assert crashes.content() == expected
            shutil.rmtree(crashes.dataset)
    crashes.completes(*command(few))
    crashes.check_only(expected)


def first_change(changes, name):
    return next(n for n, change in enumerate(changes, 1) if name in change)


@pytest.fixture
def interrupted(crashes, few):
    """A conversion that crashed when two of four cases were done."""
    changes = crashes.completes(*command(few))["changes"]
    crashes.clear()
    records = [n for n, change in enumerate(changes, 1) if re.fullmatch(r"os.rename \.\d\.json\.\d+", change)]
    crashes.convert(*command(few), n=records[2])
    assert crashes.records == {"1", "2"} and len(crashes.finished_files()) == 4
    return crashes


def test_what_is_done_is_not_done_again(interrupted, few):
    done = interrupted.finished_files()
    assert "4 cases, 2 of them before it was stopped" in interrupted.completes(*command(few))["out"]
    assert done.items() <= published_files(interrupted.dataset).items()


@pytest.mark.parametrize("folder", ["images", "masks"])
def test_a_changed_source_is_converted_again(interrupted, few, folder):
    done = interrupted.finished_files()
    shutil.copy(few / folder / "3.png", few / folder / "1.png")
    assert "4 cases, 1 of them before it was stopped" in interrupted.completes(*command(few))["out"]
    files = published_files(interrupted.dataset)
    assert {path for path in done if files[path] == done[path]} == {p for p in done if "/2" in p}
    resumed = interrupted.content()
    interrupted.clear()
    interrupted.completes(*command(few))
    assert interrupted.content() == resumed


def test_a_source_that_is_touched_is_converted_again(interrupted, few):
    os.utime(few / "images" / "2.png", (1, 1))
    assert "4 cases, 1 of them before it was stopped" in interrupted.completes(*command(few))["out"]


@pytest.mark.parametrize(
    "options", [("--size", 8), ("--foreground", "cell"), ("--seed", 1), ("--threshold", 100), ("--skip-bad",)]
)
def test_other_options_begin_anew(interrupted, few, options):
    done = interrupted.finished_files()
    assert "4 cases, in " in interrupted.completes(*command(few, *options))["out"]
    files = published_files(interrupted.dataset)
    assert not [path for path in done if files.get(path) == done[path]]
    resumed = interrupted.content()
    interrupted.clear()
    interrupted.completes(*command(few, *options))
    assert interrupted.content() == resumed


def test_a_source_that_breaks_in_between_is_left_out(crashes, few):
    changes = crashes.completes(*command(few, "--skip-bad"))["changes"]
    crashes.clear()
    crashes.convert(*command(few, "--skip-bad"), n=first_change(changes, "manifest.json"))
    assert len(crashes.records) == 4
    (few / "images" / "1.png").write_bytes(b"")
    crashes.completes(*command(few, "--skip-bad"))
    resumed = crashes.content()
    assert not [path for path in resumed if re.search(r"/1[._]", path)]
    crashes.clear()
    crashes.completes(*command(few, "--skip-bad"))
    crashes.check_only(resumed)


def test_a_case_that_leaves_the_source_leaves_the_dataset(interrupted, few):
    for folder in ("images", "masks"):
        (few / folder / "1.png").unlink()
    interrupted.completes(*command(few))
    resumed = interrupted.content()
    interrupted.clear()
    interrupted.completes(*command(few))
    interrupted.check_only(resumed)


def test_a_linked_dataset_is_replaced(crashes, few, tmp_path):
    """nnUNet_raw often holds links to datasets on other disks."""
    crashes.completes(*command(few, "--size", 8))
    elsewhere = crashes.dataset.rename(tmp_path / "elsewhere")
    crashes.dataset.symlink_to(elsewhere)
    for _ in range(2):
        crashes.completes(*command(few, "--overwrite"))
        assert json.loads((crashes.dataset / "manifest.json").read_text())["settings"]["size"] is None
        assert [p.name for p in crashes.raw.iterdir()] == [NAME]
