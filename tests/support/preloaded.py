"""nnU-Net's commands in processes that are forked from one in which nnU-Net is imported already.

Importing nnU-Net costs ten seconds of CPU time a process, more than most commands of the tests take themselves.
Python's fork server pays for it once. The commands are nnU-Net's own entry points, with their own arguments,
environment, working directory and process group.
"""

import multiprocessing
import os
import pkgutil
import shlex
import sys
import traceback
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path

_COMMANDS: dict[str, EntryPoint] = {
    script.name: script
    for script in entry_points(group="console_scripts")
    if script.name == "xattnres" or script.name.startswith("nnUNetv2_")
}


def _modules() -> list[str]:
    """Names of the commands' modules and of all trainers that nnU-Net's look-up imports; nothing is imported."""
    (folder,) = find_spec("nnunetv2.training.nnUNetTrainer").submodule_search_locations
    trainers = pkgutil.walk_packages([folder], "nnunetv2.training.nnUNetTrainer.")
    return [script.module for script in _COMMANDS.values()] + [module.name for module in trainers]


_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(_modules())


def start(command: Sequence[str], env: Mapping[str, str], folder: Path, log: Path) -> multiprocessing.Process:
    """Start a command in `folder` with the environment `env`; what it prints goes to `log`.

    A command is that of an installed script, or a function as `module:function`.
    """
    process = _CONTEXT.Process(target=_run, args=(list(command), dict(env), folder, log))
    process.start()
    return process


def _run(command: list[str], env: dict[str, str], folder: Path, log: Path) -> None:
    os.setsid()
    with log.open("w") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)
    # on a CPU nnU-Net asks for all cores
    import torch

    torch.set_num_threads = lambda number: None
    # nnU-Net's worker processes would import it again: it spawns some, and takes Python's default for others
    multiprocessing.set_start_method("fork", force=True)
    fork = multiprocessing.get_context("fork")
    multiprocessing.get_context = lambda method=None: fork
    sys.argv = list(command)
    try:
        script = _COMMANDS.get(command[0]) or EntryPoint("", command[0], "console_scripts")
        code = script.load()()
    except SystemExit:
        raise
    except BaseException:
        print(f"{shlex.join(command)} failed", file=sys.stderr)
        traceback.print_exc()
        code = 1
    sys.exit(code)
