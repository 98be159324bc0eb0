"""A conversion that crashes before any change to the disk leaves everything or nothing under its name.

The same command continues with the cases that are not finished. Kills of real processes are in test_kill.py.
"""

import json
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import downloads
from support.conversions import ID, NAME, Folders, dataset_files, make_old_dataset
from support.trees import contents

CRASHED = 99


class CrashFolders(Folders):
    """Folders whose conversions crash before their n-th change to the disk."""

    def __init__(self, root: Path):
        super().__init__(root)
        self.log = (root / "log").open("w+")
        self.server = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("crash_server.py")], env=os.environ | self.variables, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log,
        )  # fmt: skip

    def close(self) -> None:
        self.server.stdin.close()
        self.server.wait()
        self.server.stdout.close()
        self.log.close()

    def convert(self, *arguments, n=0) -> dict:
        """The answer of the crash server; n = 0 does not crash."""
        request = {"n": n, "arguments": ["convert", *map(str, arguments), "--workers", "1"]}
        print(json.dumps(request), file=self.server.stdin, flush=True)
        answer = json.loads(self.server.stdout.readline())
        assert "Traceback" not in answer["err"], answer["err"]
        return answer

    def complete(self, *arguments) -> dict:
        """Run a conversion that does not crash."""
        answer = self.convert(*arguments)
        assert answer["code"] == 0, answer["err"]
        return answer

    def crash(self, *arguments, n) -> None:
        """Run a conversion that crashes before its n-th change."""
        assert self.convert(*arguments, n=n)["code"] == CRASHED

    def check_only(self, expected) -> None:
        """Check that the dataset has this content, and that nothing else is left."""
        assert self.content() == expected
        assert self.names == {NAME}


@pytest.fixture(scope="module")
def crash_server(tmp_path_factory):
    folders = CrashFolders(tmp_path_factory.mktemp("crashes"))
    yield folders
    folders.close()


@pytest.fixture
def folders(crash_server):
    crash_server.clear()
    return crash_server


@pytest.fixture
def source(tmp_path):
    return downloads.nuclei(tmp_path, 4)


def command(source, *options):
    return ("folder", source, *ID, "--split", "2:1:1", *options)


def first_change(changes, name) -> int:
    """The number of the first change to a file with this name."""
    return next(n for n, change in enumerate(changes, 1) if name in change)


def finished_before(out) -> int:
    """How many cases the summary counts as finished by an interrupted run."""
    match = re.search(r"4 cases \((\d+) of them", out)
    return int(match[1]) if match else 0


every_nth_change = pytest.mark.parametrize("step", [9, pytest.param(1, marks=pytest.mark.soak)])


@every_nth_change
def test_crash_before_a_change(folders, source, step):
    changes = folders.complete(*command(source))["changes"]
    expected = folders.content()
    assert len(changes) > 40
    published_after = changes.index("os.rename dataset") + 1
    for n in {*range(1, len(changes) + 1, step), published_after, published_after + 1}:
        folders.clear()
        folders.crash(*command(source), n=n)
        published = folders.dataset.exists()
        assert published == (n > published_after)
        if published:
            assert folders.content() == expected, changes[n - 1]
        answer = folders.convert(*command(source))
        assert answer["code"] == (2 if published else 0), (changes[n - 1], answer["err"])
        assert ("--overwrite" in answer["err"]) == published
        folders.check_only(expected)


@every_nth_change
def test_crash_while_a_dataset_is_replaced(folders, source, step):
    splits = folders.preprocessed / NAME / "splits_final.json"

    def restore():
        folders.clear()
        splits.parent.mkdir()
        splits.write_text("[]")
        return folders.content(make_old_dataset(folders.dataset))

    old = restore()
    changes = folders.complete(*command(source, "--overwrite"))["changes"]
    new = folders.content()
    assert new != old
    renamed = changes.index(f"os.rename {NAME}") + 1
    for n in {*range(1, len(changes) + 1, step), *range(renamed - 1, renamed + 3)}:
        restore()
        folders.crash(*command(source, "--overwrite"), n=n)
        if folders.dataset.exists():
            assert folders.content() in (old, new), changes[n - 1]
        else:
            assert folders.content(folders.backup_folder) == old
            assert folders.content(folders.working_folder / "dataset") == new
        folders.complete(*command(source, "--overwrite"))
        folders.check_only(new)
        assert contents(splits.parent) == {"splits_final.replaced1.json": b"[]"}


@pytest.mark.soak
def test_crash_with_other_options(folders, source, tmp_path):
    """One conversion crashes; another crashes before it has two cases; then the first is repeated."""
    folders.complete(*command(source))
    expected = folders.content()
    folders.clear()
    all_cases_finished = first_change(folders.convert(*command(source), n=10_000)["changes"], "dataset.json")
    folders.clear()
    folders.crash(*command(source), n=all_cases_finished)
    interrupted = shutil.copytree(folders.working_folder, tmp_path / "interrupted")
    changes = folders.complete(*command(source, "--size", 8))["changes"]
    for n in range(1, first_change(changes, "2.json") + 1):
        folders.clear()
        shutil.copytree(interrupted, folders.working_folder)
        folders.crash(*command(source, "--size", 8), n=n)
        folders.complete(*command(source))
        folders.check_only(expected)


@pytest.mark.soak
def test_crash_of_a_conversion_that_is_refused(folders, source):
    """The last image is damaged, and repaired after the crash."""
    folders.complete(*command(source))
    image = source / "images" / "4.png"
    expected, good = folders.content(), image.read_bytes()

    def write(data, time):
        image.write_bytes(data)
        os.utime(image, (time, time))

    folders.clear()
    write(good[:100], 1)
    changes = folders.convert(*command(source))["changes"]
    assert not folders.names
    for n in range(1, len(changes) + 1):
        folders.clear()
        write(good[:100], 1)
        folders.crash(*command(source), n=n)
        write(good, 2)
        folders.complete(*command(source))
        folders.check_only(expected)


@pytest.mark.soak
def test_a_published_dataset_that_is_removed_is_converted_again(folders, source):
    """After a crash between the renaming and the end, there are records without their files."""
    changes = folders.complete(*command(source))["changes"]
    expected = folders.content()
    for n in range(changes.index("os.rename dataset") + 2, len(changes) + 1):
        folders.clear()
        folders.crash(*command(source), n=n)
        shutil.rmtree(folders.dataset)
        folders.complete(*command(source))
        folders.check_only(expected)


@pytest.mark.soak
def test_repeated_crashes(folders, source):
    num_changes = len(folders.complete(*command(source))["changes"])
    expected, rng = folders.content(), random.Random(0)
    folders.clear()
    for _ in range(60):
        folders.convert(*command(source), n=rng.randrange(1, num_changes + 1))
        if folders.dataset.exists():
            assert folders.content() == expected
            shutil.rmtree(folders.dataset)
    folders.complete(*command(source))
    folders.check_only(expected)


@pytest.fixture
def interrupted(folders, source):
    """Folders with a conversion that crashed when two of four cases were finished."""
    changes = folders.complete(*command(source))["changes"]
    folders.clear()
    records = [n for n, change in enumerate(changes, 1) if re.fullmatch(r"os.rename \.\d+\.\d\.json", change)]
    folders.crash(*command(source), n=records[2])
    assert folders.finished_cases == {"1", "2"} and len(folders.finished_files()) == 4
    return folders


def check_same_from_scratch(folders, *arguments) -> None:
    """Check that the dataset is the same as without an interruption."""
    continued = folders.content()
    folders.clear()
    folders.complete(*arguments)
    folders.check_only(continued)


def test_finished_cases_are_not_converted_again(interrupted, source):
    finished = interrupted.finished_files()
    assert finished_before(interrupted.complete(*command(source))["out"]) == 2
    assert finished.items() <= dataset_files(interrupted.dataset).items()


@pytest.mark.parametrize("folder", ["images", "masks"])
def test_a_changed_case_is_converted_again(interrupted, source, folder):
    finished = interrupted.finished_files()
    shutil.copy(source / folder / "3.png", source / folder / "1.png")
    assert finished_before(interrupted.complete(*command(source))["out"]) == 1
    files = dataset_files(interrupted.dataset)
    assert {path for path in finished if files[path] == finished[path]} == {path for path in finished if "/2" in path}
    check_same_from_scratch(interrupted, *command(source))


def test_a_case_with_another_time_is_converted_again(interrupted, source):
    os.utime(source / "images" / "2.png", (1, 1))
    assert finished_before(interrupted.complete(*command(source))["out"]) == 1


@pytest.mark.parametrize(
    "options", [("--size", 8), ("--foreground", "cell"), ("--seed", 1), ("--threshold", 100), ("--skip-bad",)]
)
def test_with_other_options_all_cases_are_converted_again(interrupted, source, options):
    finished = interrupted.finished_files()
    assert finished_before(interrupted.complete(*command(source, *options))["out"]) == 0
    files = dataset_files(interrupted.dataset)
    assert not [path for path in finished if files.get(path) == finished[path]]
    check_same_from_scratch(interrupted, *command(source, *options))


def test_a_case_that_is_damaged_in_the_meantime_is_skipped(folders, source):
    changes = folders.complete(*command(source, "--skip-bad"))["changes"]
    folders.clear()
    folders.crash(*command(source, "--skip-bad"), n=first_change(changes, "manifest.json"))
    assert len(folders.finished_cases) == 4
    (source / "images" / "1.png").write_bytes(b"")
    folders.complete(*command(source, "--skip-bad"))
    assert not [path for path in folders.content() if re.search(r"/1[._]", path)]
    check_same_from_scratch(folders, *command(source, "--skip-bad"))


def test_a_case_that_is_removed_from_the_source_is_not_in_the_dataset(interrupted, source):
    for folder in ("images", "masks"):
        (source / folder / "1.png").unlink()
    interrupted.complete(*command(source))
    check_same_from_scratch(interrupted, *command(source))


def test_a_link_to_a_dataset_is_replaced(folders, source, tmp_path):
    """nnUNet_raw often has links to datasets on other disks."""
    folders.complete(*command(source, "--size", 8))
    elsewhere = shutil.move(folders.dataset, tmp_path / "elsewhere")
    folders.dataset.symlink_to(elsewhere)
    for _ in range(2):
        folders.complete(*command(source, "--overwrite"))
        assert json.loads((folders.dataset / "manifest.json").read_text())["settings"]["size"] is None
        assert folders.names == {NAME}
