"""Two processes under DistributedDataParallel, as nnU-Net uses it: no parameter may go unused."""

import socket
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from support import csap, plans
from support.emcad import small_encoder
from torch.nn.parallel import DistributedDataParallel

from nnunet_xattnres import CSAP, EMCAD
from nnunet_xattnres.networks.csap_planned import CSAP_PLANNED_UNETS
from nnunet_xattnres.networks.usema import USEMA_UNETS
from nnunet_xattnres.training.emcad import nnUNetTrainerEMCAD
from nnunet_xattnres.training.losses import SquaredDiceLoss

RUNS = [("plain 2d", False), ("resenc 3d", False), ("EMCAD", False), ("resenc 2d, checkpointed", False)]
RUNS += [("CSAP", False), ("plain 2d, CSAP", False), ("plain 2d, USEMA", False)]
COMPILED = [("plain 2d", True)]


def build(kind):
    """A network and the size of its images."""
    if kind == "EMCAD":
        with small_encoder():
            return EMCAD(2, 2), (64, 64)
    if kind == "CSAP":
        with csap.small_encoder():
            return CSAP(2, 2), (64, 64)
    plan, _, option = kind.partition(", ")
    size = (16,) * plans.PLANS[plan][1]
    classes = {"CSAP": CSAP_PLANNED_UNETS, "USEMA": USEMA_UNETS}.get(option, plans.XATTNRES)
    return plans.build(plan, classes, checkpoint=option == "checkpointed"), size


def work(rank, port, folder, runs):
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for kind, compiled in runs:
        network, size = build(kind)
        # nnU-Net compiles the network, then wraps it
        network = DistributedDataParallel(torch.compile(network, backend="aot_eager") if compiled else network)
        generator = torch.Generator().manual_seed(rank)
        # PyTorch reports an unused parameter in the next step
        for _ in range(2):
            network.zero_grad(set_to_none=True)
            x = torch.randn(1, 2, *size, generator=generator)
            sum(o.square().mean() for o in network(x)).backward()
        torch.save({n: p.grad for n, p in network.module.named_parameters()}, f"{folder}/{kind}_{compiled}_{rank}.pt")
    torch.save(pooled_dice(rank), f"{folder}/dice_{rank}.pt")
    torch.save(encoder_after_start(rank), f"{folder}/encoder_{rank}.pt")
    dist.destroy_process_group()


def batch():
    generator = torch.Generator().manual_seed(2)
    return torch.randn(4, 3, 6, 5, generator=generator), torch.randint(3, (4, 1, 6, 5), generator=generator)


def pooled_dice(rank):
    """The loss over two samples of each process, and its gradient for the samples of this one."""
    x, y = (t[2 * rank : 2 * rank + 2] for t in batch())
    x.requires_grad_()
    loss = SquaredDiceLoss(torch.sigmoid, ddp=True)(x, y)
    loss.backward()
    return loss.detach(), x.grad


def encoder_after_start(rank):
    """Weights of an encoder whose random initialisation differs between the processes, after the start of training."""
    torch.manual_seed(rank)
    encoder = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3))
    trainer = SimpleNamespace(
        is_ddp=True, local_rank=rank, encoder_weights="random", print_to_log_file=lambda *_: None,
        network=SimpleNamespace(module=SimpleNamespace(encoder=encoder)), network_name="EMCAD",
        published_file="pvt_v2_b2.pth",
    )  # fmt: skip
    nnUNetTrainerEMCAD._initialize_encoder(trainer)
    return encoder.state_dict()


def run_two_processes(folder, runs):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    mp.spawn(work, args=(port, folder, runs), nprocs=2)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The folder in which both processes save their results."""
    folder = tmp_path_factory.mktemp("ddp")
    run_two_processes(folder, RUNS)
    return folder


def check_gradients(folder, runs):
    for kind, compiled in runs:
        first, second = (torch.load(folder / f"{kind}_{compiled}_{rank}.pt") for rank in (0, 1))
        assert [n for n, g in first.items() if g is None] == []
        for name, gradient in first.items():
            assert torch.equal(gradient, second[name]), name


def test_every_parameter_receives_the_same_gradient_on_both_ranks(results):
    check_gradients(results, RUNS)


@pytest.mark.slow
def test_a_compiled_network_receives_the_same_gradient_on_both_ranks(tmp_path):
    run_two_processes(tmp_path, COMPILED)
    check_gradients(tmp_path, COMPILED)


def test_dice_is_pooled_over_the_processes(results):
    x, y = batch()
    x.requires_grad_()
    expected = SquaredDiceLoss(torch.sigmoid)(x, y)
    expected.backward()
    for rank in (0, 1):
        loss, gradient = torch.load(results / f"dice_{rank}.pt")
        torch.testing.assert_close(loss, expected.detach())
        # DistributedDataParallel averages the gradients of the two processes; the pooled loss needs their sum
        torch.testing.assert_close(gradient / 2, x.grad[2 * rank : 2 * rank + 2])


def test_both_encoders_start_from_the_weights_of_rank_0(results):
    first, second = (torch.load(results / f"encoder_{rank}.pt") for rank in (0, 1))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name])
