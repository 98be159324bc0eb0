"""The first training step of a network, in a process of its own with empty caches: what a user waits for."""

import contextlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from ..utils.errors import is_out_of_memory
from .cases import Case
from .measure import FirstStep, MeasureOptions, NetworkRunner
from .networks import MeasuredNetwork, environment

TIMEOUT = 900
"""The seconds after which a process is ended."""

_RESULT = "first_step.json"
_LOG = "first_step.log"


def measure_first_step(
    case: Case, network: MeasuredNetwork, options: MeasureOptions, folder: Path, timeout: float = TIMEOUT
) -> FirstStep:
    """Start a process that makes a network and runs one training step.

    Args:
        case: plans, patch size and batch size.
        network: the network.
        options: how it is run.
        folder: an existing empty folder, in which the compilers keep their results.
        timeout: seconds.
    """
    job = pickle.dumps((case, network, options, torch.get_num_threads(), str(folder / _RESULT)))
    environment = {**os.environ, **_cache_variables(folder)}
    # a file, not a pipe: the processes in which PyTorch compiles would keep a pipe open
    with (folder / _LOG).open("wb") as log:
        try:
            command = [sys.executable, "-m", __name__]
            process = subprocess.run(command, input=job, env=environment, stdout=log, stderr=log, timeout=timeout)
        except subprocess.TimeoutExpired:
            return FirstStep(failure=f"not finished after {timeout:.0f} s")
    if (folder / _RESULT).exists():
        return FirstStep(**json.loads((folder / _RESULT).read_text(encoding="utf-8")))
    lines = (folder / _LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return FirstStep(failure=f"exit code {process.returncode}: {lines[-1] if lines else 'no message'}")


@contextlib.contextmanager
def compiled_code_from(folders: Sequence[Path], merged: Path) -> Iterator[None]:
    """Let the compilers of this process use what they have compiled in other processes.

    Args:
        folders: the folders of these processes.
        merged: a folder that is made and gets copies of what is in them.
    """
    for folder in folders:
        shutil.copytree(folder, merged, dirs_exist_ok=True)
    with environment(_cache_variables(merged)) if folders else contextlib.nullcontext():
        yield


def _cache_variables(folder: Path) -> dict[str, str]:
    return {"TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"), "TRITON_CACHE_DIR": str(folder / "triton")}


def _main() -> None:
    """Measure the network that comes from standard input, and write the result into the file that comes with it."""
    case, network, options, threads, result = pickle.load(sys.stdin.buffer)
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = True  # as nnU-Net trains
    cuda = options.device.type == "cuda"
    step = FirstStep()
    try:
        runner = NetworkRunner(case, network, options)
        if cuda:
            torch.cuda.synchronize(options.device)
        start = time.perf_counter()
        runner.train_step()
        step.seconds = time.perf_counter() - start
        if cuda:
            step.peak_allocated = torch.cuda.max_memory_allocated(options.device)
            step.peak_reserved = torch.cuda.max_memory_reserved(options.device)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        step = FirstStep(failure="out of memory")
    Path(result).write_text(json.dumps(asdict(step)), encoding="utf-8")


if __name__ == "__main__":
    _main()
