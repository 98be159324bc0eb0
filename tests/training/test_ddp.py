"""Two processes under DistributedDataParallel, as nnU-Net uses it: no parameter may go unused."""

import socket

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from support import plans
from torch.nn.parallel import DistributedDataParallel

from nnunet_xattnres import EMCAD

RUNS = [("plain 2d", False), ("resenc 3d", False), ("plain 2d", True), ("EMCAD", False)]


def work(rank, port, folder):
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for kind, compiled in RUNS:
        network = EMCAD(2, 2) if kind == "EMCAD" else plans.build(kind)
        # nnU-Net compiles first and wraps then
        network = DistributedDataParallel(torch.compile(network, backend="aot_eager") if compiled else network)
        generator = torch.Generator().manual_seed(rank)
        # an unused parameter is reported by the step after it
        for _ in range(2):
            network.zero_grad(set_to_none=True)
            size = (64, 64) if kind == "EMCAD" else (16,) * plans.PLANS[kind][1]
            x = torch.randn(1, 2, *size, generator=generator)
            sum(o.square().mean() for o in network(x)).backward()
        torch.save({n: p.grad for n, p in network.module.named_parameters()}, f"{folder}/{kind}_{compiled}_{rank}.pt")
    dist.destroy_process_group()


def test_every_parameter_receives_the_same_gradient_on_both_ranks(tmp_path):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    mp.spawn(work, args=(port, tmp_path), nprocs=2)
    for kind, compiled in RUNS:
        first, second = (torch.load(tmp_path / f"{kind}_{compiled}_{rank}.pt") for rank in (0, 1))
        assert [n for n, g in first.items() if g is None] == []
        for name, gradient in first.items():
            assert torch.equal(gradient, second[name]), name
