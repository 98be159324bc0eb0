"""Operators that are defined without `torch.library.custom_op` work as those: in graphs, with gradients and checks."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from nnunet_xattnres.ops.operator_library import define_operator, not_differentiable


def _scaled_for_a_test(tensors: Sequence[Tensor], factor: float) -> list[Tensor]:
    return [factor * tensor for tensor in tensors]


def _backward(ctx, grads):
    return [ctx.factor * grad for grad in grads], None


def _setup_context(ctx, inputs, output):
    ctx.factor = inputs[1]


scaled = define_operator(
    _scaled_for_a_test, lambda tensors, factor: [torch.empty_like(t) for t in tensors], _backward, _setup_context
)


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


def test_it_is_an_error_to_differentiate_gradients_twice(tensors):
    with torch.no_grad():
        gradients = [2 * tensor for tensor in tensors]
    for results in (not_differentiable(gradients), not_differentiable(gradients[:1])):
        assert all(torch.equal(result, gradient) for result, gradient in zip(results, gradients, strict=False))
        with pytest.raises(RuntimeError, match="second derivatives"):
            results[0].sum().backward()


def test_without_a_graph_gradients_are_what_they_are(tensors):
    with torch.no_grad():
        gradients = [2 * tensor for tensor in tensors]
        assert not any(gradient.requires_grad for gradient in not_differentiable(gradients))
    assert not_differentiable([]) == []
