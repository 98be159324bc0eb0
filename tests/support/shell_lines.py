"""Command lines of the documentation, checked without running them."""

import argparse
import importlib.metadata
import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from unittest import mock

from nnunet_xattnres.cli.main import make_parser

REPOSITORY = Path(__file__).resolve().parents[2]
VARIABLES = {
    "nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "nnUNet_extTrainer", "nnUNet_compile", "nnUNet_n_proc_DA",
    "nnUNet_def_n_proc", "XATTNRES_BACKEND", "XATTNRES_CHECKPOINT", "XATTNRES_ENCODER_WEIGHTS", "CUDA_VISIBLE_DEVICES",
    "NAME", "PYTHONPATH",
}  # fmt: skip
_PLAIN = {"cd", "mkdir", "git", "source", "grep", "apt-get", "unzip", "ls", "pre-commit", "id"}
_SEPARATORS = {"|", "&&", ";", ">"}


class _ParsedError(Exception):
    """The command's arguments have been parsed, and it need not go on."""


def commands(script: str) -> Iterator[list[str]]:
    """The words of every command in a block of shell lines, those in `$(...)` included."""
    script = script.replace("\\\n", " ")
    for line in script.splitlines():
        for inner in re.findall(r"\$\(([^()]*)\)", line):
            yield from commands(inner)
        words = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
        words.whitespace_split = True
        command: list[str] = []
        redirected = False
        for word in words:
            if word in _SEPARATORS:
                if command and not redirected:
                    yield command
                command, redirected = [], word == ">"
            else:
                command.append(word)
        if command and not redirected:
            yield command


def check(command: list[str]) -> None:
    """Fail if a command, or one of its arguments, does not exist.

    Raises:
        AssertionError: for a command, make target, extra, file or variable that does not exist.
        SystemExit: for an argument that a command does not take.
    """
    while command and re.fullmatch(r"\w+=.*", command[0]):
        assert command[0].partition("=")[0] in VARIABLES, command
        command = command[1:]
    if not command:
        return
    name, *arguments = command
    if name == "xattnres":
        make_parser(arguments).parse_args(arguments)
    elif name.startswith("nnUNetv2_"):
        parse_with_nnunet(name, arguments)
    elif name == "make":
        targets = re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
        assert {a for a in arguments if "=" not in a} <= set(targets), command
    elif name == "export":
        assert {a.partition("=")[0] for a in arguments} <= VARIABLES, command
    elif name == "pip" or (name.startswith("python") and arguments[:2] == ["-m", "pip"]):
        _check_extras(arguments)
    elif name == "docker":
        _check_docker(arguments)
    elif name.startswith("python"):
        _check_python(arguments)
    else:
        assert name in _PLAIN or Path(name).parent.name == "bin", command


def parse_with_nnunet(name: str, arguments: list[str]) -> None:
    """Have nnU-Net's own argument parser parse the arguments of one of its commands."""
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name=name)
    parse_args = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser, *_):
        parse_args(parser, arguments)
        raise _ParsedError

    with mock.patch.object(argparse.ArgumentParser, "parse_args", parse_and_stop):
        try:
            entry.load()()
        except _ParsedError:
            return
    raise AssertionError(f"{name} parses no arguments")


def _check_extras(arguments: list[str]) -> None:
    section = (REPOSITORY / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2]
    extras = re.findall(r"^(\w+) = \[", section.partition("\n[")[0], re.MULTILINE)
    for argument in arguments:
        if found := re.fullmatch(r"(?:\.|nnunet-xattnres.*)\[(.+)\]", argument):
            assert set(found[1].split(",")) <= set(extras), argument


def _check_python(arguments: list[str]) -> None:
    if arguments[:1] == ["-m"]:
        assert arguments[1] in {"venv", "pytest", "mkdocs", "mypy", "build"}, arguments
    else:
        # `xattnres export` copies a script of the package into the exported folder
        exported = REPOSITORY / "nnunet_xattnres" / "export" / Path(arguments[0]).name
        assert (REPOSITORY / arguments[0]).is_file() or exported.is_file(), arguments


def _check_docker(arguments: list[str]) -> None:
    """Check the build arguments, and the command that runs in the container."""
    if arguments[0] == "build":
        declared = re.findall(r"^ARG (\w+)", (REPOSITORY / "Dockerfile").read_text(), re.MULTILINE)
        given = [value for option, value in pairwise(arguments) if option == "--build-arg"]
        assert {value.partition("=")[0] for value in given} <= set(declared), arguments
    else:
        assert arguments[0] == "run", arguments
        variables = [value for option, value in pairwise(arguments) if option == "--env"]
        assert {value.partition("=")[0] for value in variables} <= VARIABLES, arguments
        check(arguments[arguments.index("nnunet-xattnres") + 1 :])
