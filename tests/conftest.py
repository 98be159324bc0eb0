"""One nnU-Net workspace for all tests that need one, prepared by nnU-Net's own commands."""

import os
import signal

# Tiny networks on many threads are slower than on one, and far slower on a busy machine. The commands that tests start
# inherit this; where nnU-Net asks PyTorch for all cores, threads at least do not spin while they wait for others.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "nnUNet_def_n_proc", "nnUNet_n_proc_DA"):
    os.environ[variable] = "1"
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

import pytest
import torch

torch.set_num_threads(1)
if not torch.cuda.is_available():
    # before the kernels are imported: Triton runs them without a GPU
    os.environ["TRITON_INTERPRET"] = "1"

    from support.interpreter import round_to_nearest, skip_overflow_checks

    round_to_nearest()
    skip_overflow_checks()

from support.hippocampus import decathlon_folder
from support.workspace import TRAINER, Workspace, shrink

COMMANDS_OF_NNUNET = ("tests/nnunet/", "tests/slurm/")
IN_ONE_PROCESS = ("tests/training/test_ddp.py", "tests/paper/test_sizes.py", "tests/test_docs.py")
"""Files whose tests share something that takes seconds to make."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Of several test processes, one runs all tests of nnU-Net's commands, which share a workspace, and first.

    The tests of a file of IN_ONE_PROCESS run in one process as well. This is pytest-xdist's
    `loadgroup`, whose marks are without effect in pytest 9.2 with pytest-xdist 3.8.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            if nodeid.startswith(COMMANDS_OF_NNUNET):
                return "nnunet"
            return nodeid.partition("::")[0] if nodeid.startswith(IN_ONE_PROCESS) else nodeid

    return Scheduling(config, log)


@pytest.fixture(autouse=True)
def signal_handlers():
    """Set the handlers back that `xattnres` sets when a test calls its `main`.

    Processes that a later test forks would inherit them, and nnU-Net's pools end theirs with SIGTERM.
    """
    signals = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in signals}
    yield
    for number, handler in before.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)


@pytest.fixture(scope="session")
def workspace(tmp_path_factory) -> Workspace:
    """Hippocampus as Dataset004, planned and preprocessed for 2d and 3d_fullres, with narrow networks."""
    workspace = Workspace(tmp_path_factory.mktemp("nnunet"))
    task = decathlon_folder(workspace.root)
    workspace.run(f"nnUNetv2_convert_MSD_dataset -i {task} -overwrite_id 4 -np 1")
    command = "nnUNetv2_plan_and_preprocess -d 4 -c 2d 3d_fullres -np 1 -npfp 1 --verify_dataset_integrity"
    workspace.run(command, new_python=True)
    workspace.edit_plans(4, shrink)
    return workspace


@pytest.fixture(scope="session")
def trained_2d(workspace) -> str:
    """The output of `nnUNetv2_train 4 2d 0 --npz`."""
    return workspace.run(f"nnUNetv2_train 4 2d 0 -tr {TRAINER} --npz -device cpu", new_python=True)
