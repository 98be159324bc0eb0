"""Weights of a trained network in another network that has more layers, so that a training starts from them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

_WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes of names that DistributedDataParallel and torch.compile add."""


@dataclass
class WarmStart:
    """The weights of a network after those of a trained network have been carried over.

    A tensor that the network has under several names is listed under the first.

    Attributes:
        weights: all weights of the network, by name.
        carried: the names of the tensors that are the trained ones.
        initial: the names of the tensors that the trained network does not have; they have their initial values.
        other_shape: the shapes in the trained network and in this one, by the name of the tensor, where they differ;
            these tensors have their initial values, too.
        unused: the names of the trained tensors that this network does not have.
    """

    weights: dict[str, Tensor]
    carried: list[str] = field(default_factory=list)
    initial: list[str] = field(default_factory=list)
    other_shape: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)


def carry_over(trained: Mapping[str, Tensor], network: nn.Module) -> WarmStart:
    """Carry weights over to the tensors of the same name and shape in a network, which is not changed.

    Args:
        trained: the weights of the trained network by name, as in the `network_weights` of nnU-Net's checkpoints.
        network: the network that is to start from them.
    """
    trained = {_without_wrappers(name): tensor for name, tensor in trained.items()}
    result = WarmStart({name: tensor.detach().clone() for name, tensor in network.state_dict().items()})
    # a decoder of nnU-Net holds its encoder, and a block its layers, under two names
    first_names = {name for name, _ in [*network.named_parameters(), *network.named_buffers()]}
    for name, tensor in result.weights.items():
        fits = name in trained and trained[name].shape == tensor.shape
        if fits:
            result.weights[name] = trained[name].detach().to("cpu", tensor.dtype).clone()
        if name not in first_names:
            continue
        if fits:
            result.carried.append(name)
        elif name in trained:
            result.other_shape[name] = tuple(trained[name].shape), tuple(tensor.shape)
        else:
            result.initial.append(name)
    result.unused = [name for name in trained if name not in result.weights]
    return result


def _without_wrappers(name: str) -> str:
    for prefix in _WRAPPERS:
        name = name.removeprefix(prefix)
    return name


def logits_difference(trained: nn.Module, network: nn.Module, image: Tensor) -> float:
    """The largest difference between the logits of two networks, infinite where one of them is not finite.

    Args:
        trained: a network.
        network: another network with as many classes.
        image: (B, C, *spatial).
    """
    with torch.inference_mode():
        difference = (trained.eval()(image) - network.eval()(image)).abs().max().item()
    return difference if difference == difference else float("inf")
