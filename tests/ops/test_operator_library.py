"""Operators that are defined without `torch.library.custom_op` work as those: in graphs, with gradients and checks."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from nnunet_xattnres.ops.operator_library import define_operator


def _scaled_for_a_test(tensors: Sequence[Tensor], factor: float) -> list[Tensor]:
    return [factor * tensor for tensor in tensors]


def _backward(ctx, grads):
    return [ctx.factor * grad for grad in grads], None


def _setup_context(ctx, inputs, output):
    ctx.factor = inputs[1]


def _summed_for_a_test(tensor: Tensor) -> Tensor:
    return tensor.sum()


scaled = define_operator(
    _scaled_for_a_test, lambda tensors, factor: [torch.empty_like(t) for t in tensors], _backward, _setup_context
)
summed = define_operator(_summed_for_a_test, lambda tensor: tensor.new_empty(()))


@pytest.fixture
def tensors():
    return [torch.arange(3.0, requires_grad=True), torch.ones(2, 2, requires_grad=True)]


def test_the_name_is_that_of_the_function():
    assert scaled is torch.ops.nnunet_xattnres.scaled_for_a_test.default


def test_values_and_gradients(tensors):
    results = scaled(tensors, 3.0)
    assert [r.tolist() for r in results] == [[0, 3, 6], [[3, 3], [3, 3]]]
    gradients = torch.autograd.grad(results, tensors, [torch.ones(3), torch.full((2, 2), 2.0)])
    assert [g.tolist() for g in gradients] == [[3, 3, 3], [[6, 6], [6, 6]]]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf Tensor")
def test_passes_the_checks_of_torch_library(tensors):
    torch.library.opcheck(scaled, (tensors, 3.0))


def test_compiles_to_one_graph(tensors):
    compiled = torch.compile(lambda ts: sum(r.sum() for r in scaled(ts, 2.0)), fullgraph=True, backend="aot_eager")
    compiled(tensors).backward()
    assert [t.grad.unique().tolist() for t in tensors] == [[2], [2]]


def test_without_a_gradient_it_is_an_error_to_differentiate(tensors):
    result = summed(tensors[0])
    assert result == 3
    with pytest.raises(RuntimeError, match="derivative"):
        result.backward()
