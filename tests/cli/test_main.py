"""The command line as a whole: help that teaches, exit codes, and a start without torch."""

import subprocess
import sys

import pytest

from nnunet_xattnres import __version__
from nnunet_xattnres.cli.main import main
from nnunet_xattnres.utils.paths import trainers_path


def test_trainers_prints_the_path_alone(capsys):
    assert main(["trainers"]) == 0
    assert capsys.readouterr().out == f"{trainers_path()}\n"


@pytest.mark.parametrize("command", [["trainers"], ["--help"], ["demo", "--help"], ["doctor", "--help"]])
def test_starts_without_torch(command):
    program = f"""
import sys
from nnunet_xattnres.cli.main import main
try:
    main({command!r})
except SystemExit as exit:
    assert exit.code == 0
heavy = {{"torch", "nnunetv2", "triton", "matplotlib"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_python_m_is_the_same_command():
    result = subprocess.run([sys.executable, "-m", "nnunet_xattnres", "--version"], capture_output=True, text=True)
    assert result.stdout.strip() == f"nnunet-xattnres {__version__}"


def test_help_says_how_to_train(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert "nnUNetv2_train" in text
    assert 'export nnUNet_extTrainer="$(xattnres trainers)"' in text


def test_unknown_command(capsys):
    with pytest.raises(SystemExit) as error:
        main(["train"])
    assert error.value.code == 2
    assert "invalid choice: 'train'" in capsys.readouterr().err


def test_a_reader_that_has_enough_is_no_error():
    """As `xattnres table --published | head -c 1`."""
    command = [sys.executable, "-m", "nnunet_xattnres", "table", "--published"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141
