"""The trainers' folder in a checkout and in an installed package, whose wheel includes the trainers."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from nnunet_xattnres.ops import cpp_library
from nnunet_xattnres.utils.paths import trainers_path

REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_folder_of_a_checkout_is_at_the_top_level():
    assert trainers_path() == REPOSITORY / "trainers"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the unpacked wheel, as pip installs it."""
    folder = tmp_path_factory.mktemp("wheel")
    # build from a copy, because setuptools writes its build folders into the source tree
    source = folder / "source"
    source.mkdir()
    for name in ("nnunet_xattnres", "trainers", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        subprocess.run(["cp", "-r", REPOSITORY / name, source / name], check=True)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        folder,
        source,
    ]
    subprocess.run(command, check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_includes_the_trainers(installed):
    files = {p.name for p in (REPOSITORY / "trainers").glob("*.py")}
    assert {p.name for p in (installed / "nnunet_xattnres" / "trainers").iterdir()} == files
    assert not (installed / "tests").exists()
    assert not (installed / "trainers").exists()


def test_the_wheel_includes_the_source_of_the_cpp_kernels(installed):
    ops = installed / "nnunet_xattnres" / "ops"
    assert all((ops / path.name).is_file() for path in (*cpp_library._SOURCES, *cpp_library._HEADERS))


def test_the_wheel_includes_the_published_tables(installed):
    tables = installed / "nnunet_xattnres" / "paper" / "tables"
    assert {p.name for p in tables.iterdir()} == {f"table{n}.csv" for n in range(1, 6)}


def test_nnunet_finds_the_trainers_of_the_installed_package(installed):
    program = """
import os, sys
import nnunet_xattnres
from nnunet_xattnres.utils.paths import trainers_path
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
os.environ["nnUNet_extTrainer"] = str(trainers_path())
found = recursive_find_trainer_class_by_name("nnUNetTrainerXAttnRes_1epoch")
for file in (nnunet_xattnres.__file__, trainers_path(), sys.modules[found.__module__].__file__):
    print("at", file)
"""
    env = {"PYTHONPATH": str(installed)}
    output = subprocess.run([sys.executable, "-c", program], env=env, cwd="/", capture_output=True, check=True).stdout
    files = [line.removeprefix("at ") for line in output.decode().splitlines() if line.startswith("at ")]
    assert len(files) == 3
    assert all(Path(file).is_relative_to(installed.resolve()) for file in files)
