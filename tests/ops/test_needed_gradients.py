"""Gradients that nobody needs are not computed, and the others stay what they are."""

from functools import partial

import pytest
import torch
from support.operator import all_results, assert_equal_results, make, runs
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from nnunet_xattnres.ops import torch_backend, xattnres
from nnunet_xattnres.ops.projection import project_backward

# the tensors that are trained, by the start of their names
TRAINED = {
    "frozen encoder": ("x", "pseudo_query", "norm_weight", "gate"),
    "x alone": ("x",),
    "second part of x alone": ("x[1]",),
    "one feature alone": ("history[1]",),
    "layer alone": ("weight", "bias", "pseudo_query", "norm_weight", "gate"),
    "features alone": ("history",),
}


def freeze(case, trained):
    for name, tensor in case.named().items():
        tensor.requires_grad_(name.startswith(trained))
    return case


@pytest.mark.parametrize("trained", TRAINED.values(), ids=TRAINED.keys())
@pytest.mark.parametrize(
    ("backend", "shape"), runs(["two parts", "3-D two parts"], ["two parts"]), indirect=["backend"]
)
def test_needed_gradients_are_those_of_all(operator, backend, shape, trained):
    expected = all_results(operator, make(shape, gate=0.3))
    actual = all_results(operator, freeze(make(shape, gate=0.3), trained))
    assert_equal_results(backend, actual, {name: expected[name] for name in actual})


# what `project_backward` has computed at every call: the gradients of source, weight and bias
COMPUTED = {
    "frozen encoder": [],
    "x alone": [],
    "second part of x alone": [],
    "one feature alone": [(True, False, False)],
    # the features that are not projected, and the two that are
    "features alone": [(True, False, False)] * 4,
    "layer alone": [(False, True, True)] * 2,
}


@pytest.mark.parametrize("name", COMPUTED)
def test_gradients_of_features_and_projections_that_nobody_needs_are_not_computed(monkeypatch, name):
    case = freeze(make("two parts", gate=0.3, device="cpu"), TRAINED[name])
    calls = {"projections": [], "interpolations": 0}

    def project_backward(*arguments, original=torch_backend.project_backward):
        gradients = original(*arguments)
        calls["projections"].append(tuple(gradient is not None for gradient in gradients))
        return gradients

    def upsample_transposed(*arguments, original=torch_backend.upsample_transposed):
        calls["interpolations"] += 1
        return original(*arguments)

    monkeypatch.setattr(torch_backend, "project_backward", project_backward)
    monkeypatch.setattr(torch_backend, "upsample_transposed", upsample_transposed)
    case.run(partial(xattnres, backend="torch"))[0].sum().backward()
    assert calls["projections"] == COMPUTED[name]
    # for every feature once for each part of x, and once for the sum
    assert calls["interpolations"] == 3 * len(COMPUTED[name])


class CountProducts(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket is torch.ops.aten.bmm
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("needed", [(True, True, True), (True, False, False), (False, True, False), (False,) * 3])
def test_products_of_a_projection(needed):
    grad, source, weight = torch.randn(2, 3, 4), torch.randn(2, 5, 4), torch.randn(3, 5)
    with CountProducts() as products:
        gradients = project_backward(grad, source, weight, *needed)
    assert products.count == sum(needed[:2])
    for gradient, expected, need in zip(gradients, project_backward(grad, source, weight), needed, strict=True):
        assert torch.equal(gradient, expected) if need else gradient is None


@pytest.mark.parametrize(("name", "products"), [("x alone", 1), ("layer alone", 2), ("features alone", 2), ("all", 3)])
def test_operations_are_counted_as_they_are_computed(name, products):
    """The projections are computed again for the logits, and each of their two gradients is another product."""
    case = freeze(make("one below", device="cpu"), TRAINED.get(name, ""))
    out, _ = case.run(partial(xattnres, backend="torch"))
    with FlopCounterMode(display=False) as counter:
        out.sum().backward()
    assert counter.get_total_flops() == products * 2 * 3 * 6 * 2 * 4 * 4


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("x alone", "layer alone")]


@pytest.mark.parametrize("name", ["frozen encoder", *SLOW])
def test_frozen_inputs_compile_to_one_graph(name):
    operator = partial(xattnres, backend="torch")
    case = freeze(make("two parts", gate=0.3), TRAINED[name])
    torch.compiler.reset()
    compiled = torch.compile(operator, backend="aot_eager", fullgraph=True)
    assert_equal_results("torch", all_results(compiled, case), all_results(operator, case))
