"""The command line as a whole: `--help` of every command, start-up without PyTorch, exit codes."""

import io
import subprocess
import sys
from types import SimpleNamespace

import pytest

from nnunet_xattnres import __version__
from nnunet_xattnres.cli.main import COMMANDS, main
from nnunet_xattnres.utils.paths import trainers_path

HEAVY = {
    "torch", "nnunetv2", "triton", "matplotlib", "scipy", "SimpleITK", "timm", "markdown", "submitit", "pandas",
}  # fmt: skip


def test_trainers_prints_only_the_path(capsys):
    assert main(["trainers"]) == 0
    assert capsys.readouterr().out == f"{trainers_path()}\n"


def test_help_and_the_path_of_the_trainers_import_no_heavy_library():
    """One new process runs `--help` of every command, then `xattnres trainers`."""
    calls = [["--help"], *([name, "--help"] for name in COMMANDS), ["benchmark", "run", "--help"], ["trainers"]]
    program = f"""
import contextlib, io, sys
from nnunet_xattnres.cli.main import main
for call in {calls!r}:
    text = io.StringIO()
    try:
        with contextlib.redirect_stdout(text):
            code = main(call)
    except SystemExit as exit:
        code = exit.code
    print(" ".join(call), code, len(text.getvalue().splitlines()) > 0, sorted({HEAVY!r} & set(sys.modules)))
"""
    output = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert output.splitlines() == [f"{' '.join(call)} 0 True []" for call in calls]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command(capsys, name):
    """It shows the usage, and then the command's own description."""
    with pytest.raises(SystemExit) as error:
        main([name, "--help"])
    assert error.value.code == 0
    text = capsys.readouterr().out
    usage, description, *_ = text.split("\n\n")
    assert f"xattnres {name}" in usage
    assert description.startswith(f"xattnres {name}: ")


def test_python_m_runs_the_same_command():
    result = subprocess.run([sys.executable, "-m", "nnunet_xattnres", "--version"], capture_output=True, text=True)
    assert result.stdout.strip() == f"nnunet-xattnres {__version__}"


def test_help_shows_the_training_command(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert "nnUNetv2_train" in text
    assert 'export nnUNet_extTrainer="$(xattnres trainers)"' in text
    assert all(name in text for name in COMMANDS)


def test_unknown_command(capsys):
    with pytest.raises(SystemExit) as error:
        main(["train"])
    assert error.value.code == 2
    assert "'train'" in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_a_terminal_that_cannot_show_a_name(monkeypatch, encoding):
    """Characters that its encoding lacks, and bytes that are no UTF-8, are escaped in the output of every command."""
    module = SimpleNamespace(
        __doc__="", configure=lambda parser: None, run=lambda arguments: print("größe 日本 \udcff") or 0
    )
    monkeypatch.setitem(sys.modules, "nnunet_xattnres.cli.table", module)
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding=encoding))
    assert main(["table"]) == 0
    assert output.getvalue() == "größe 日本 \udcff\n".encode(encoding, "backslashreplace")


def test_a_pipe_whose_reader_has_exited():
    """`xattnres table --published | head -c 1` has no traceback, and the exit code of SIGPIPE."""
    command = [sys.executable, "-m", "nnunet_xattnres", "table", "--published"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141
