"""nnU-Net's folders below a temporary folder, and its commands run with them."""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sysconfig
from pathlib import Path

from nnunet_xattnres.utils.paths import trainers_path

from . import preloaded

TEST_TRAINERS = Path(__file__).parent / "trainers"
TRAINER = "nnUNetTrainerXAttnResTest"


class Workspace:
    """nnUNet_raw, nnUNet_preprocessed and nnUNet_results under one folder."""

    def __init__(self, root: Path):
        self.root = root
        self.raw, self.preprocessed, self.results = (
            root / name for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
        )
        for folder in (self.raw, self.preprocessed, self.results):
            folder.mkdir(exist_ok=True)

    @property
    def env(self) -> dict[str, str]:
        variables = {f.name: str(f) for f in (self.raw, self.preprocessed, self.results)}
        variables["nnUNet_extTrainer"] = os.pathsep.join((str(trainers_path()), str(TEST_TRAINERS)))
        # few processes: each imports torch
        variables |= {"nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "1"}
        return os.environ | variables

    def run(self, command: str, exit_code: int = 0, new_python: bool = False, **variables: str) -> str:
        """Run a command line to its end and return what it printed.

        Args:
            command: one of nnU-Net's commands or `xattnres`, with arguments.
            exit_code: the expected exit code, negative for the number of a signal.
            new_python: start the installed script, as a shell does, rather than fork a process that has nnU-Net
                imported already (`support.preloaded`).
            variables: further environment variables.
        """
        arguments, log = shlex.split(command), self.root / "output.txt"
        env = self.env | variables
        if new_python:
            script = Path(sysconfig.get_path("scripts")) / arguments[0]
            with log.open("w") as file:
                started = subprocess.Popen(
                    [script, *arguments[1:]], env=env, cwd=self.root, stdout=file, stderr=subprocess.STDOUT,
                    start_new_session=True,
                )  # fmt: skip
            wait, code = started.wait, lambda: started.returncode
        else:
            process = preloaded.start(arguments, env, self.root, log)
            started, wait, code = process, process.join, lambda: process.exitcode
        try:
            wait(900)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGKILL)
        output = log.read_text()
        assert code() == exit_code, f"{command}: exit code {code()}\n{output[-3000:]}"
        return output

    def dataset(self, number: int) -> str:
        """The full name of a dataset."""
        (folder,) = self.raw.glob(f"Dataset{number:03d}_*")
        return folder.name

    def model(self, number: int, configuration: str, trainer: str = TRAINER, plans: str = "nnUNetPlans") -> Path:
        """The results folder of a trained model."""
        return self.results / self.dataset(number) / f"{trainer}__{plans}__{configuration}"

    def edit_plans(self, number: int, change, plans: str = "nnUNetPlans") -> None:
        """Apply `change` to the content of a plans file."""
        file = self.preprocessed / self.dataset(number) / f"{plans}.json"
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))


def shrink(plans: dict) -> None:
    """Reduce plans to 16 features per stage and batches of 4: the tests train the planned topology, not its width."""
    for configuration in plans["configurations"].values():
        if "architecture" in configuration:
            kwargs = configuration["architecture"]["arch_kwargs"]
            kwargs["features_per_stage"] = [min(f // 4, 16) for f in kwargs["features_per_stage"]]
            configuration["batch_size"] = min(configuration["batch_size"], 4)
