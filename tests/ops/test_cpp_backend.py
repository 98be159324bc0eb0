"""The C++ kernels: neighbours, slabs, threads, groups of samples and memory that is used again.

That they agree with the reference is tested in test_custom_op.py and test_gate.py, with the other backends.
"""

import ctypes
import os
import signal
import sys
import threading
from functools import partial

import pytest
import torch
from support.operator import all_results, assert_all_close, make
from torch.nn import functional

from nnunet_xattnres.ops import cpp_backend, torch_backend, xattnres
from nnunet_xattnres.ops.cpp_library import find_compiler, find_parallel, load_library
from nnunet_xattnres.ops.reference import xattnres as reference

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="there is no C++ compiler")

operator = partial(xattnres, backend="cpp")

# more rows than a slab, and rows of more than one block; features of ratios 2 to 12, of none, and of some axes alone
TALL = {
    "2-D": ([(5, (48, 36)), (4, (24, 18)), (3, (16, 36)), (6, (7, 5)), (3, (4, 12)), (5, (96, 72))], (2, 3), (48, 36)),
    "3-D": ([(5, (36, 4, 17)), (3, (18, 2, 9)), (4, (36, 2, 17)), (5, (3, 4, 6)), (2, (36, 4, 2))], (5,), (36, 4, 17)),
}


def tall(name, dtype=torch.float64, batch=3):
    """A case of TALL with a gate."""
    history, parts, size = TALL[name]
    case = make("one below", dtype, gate=0.6, device="cpu")
    generator = torch.Generator().manual_seed(0)

    def leaf(*shape):
        return torch.randn(*shape, dtype=dtype, generator=generator).requires_grad_()

    channels, ones = sum(parts), (1,) * len(size)
    case.history = [leaf(batch, width, *s) for width, s in history]
    case.x = [leaf(batch, part, *size) for part in parts]
    case.projections = [
        None if width == channels else (leaf(channels, width, *ones), leaf(channels)) for width, _ in history
    ]
    case.pseudo_query, case.norm_weight = leaf(channels), leaf(channels)
    return case


def assert_bitwise_equal(actual, expected):
    for name, value in expected.items():
        assert torch.equal(actual[name], value), name


@pytest.fixture
def set_num_threads():
    """torch.set_num_threads, for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def two_threads(set_num_threads):
    """Two threads of PyTorch; with one, nothing runs in parallel."""
    set_num_threads(2)


@pytest.mark.parametrize("length", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("target", [1, 5, 6, 8, 13, 24])
def test_neighbours_are_those_of_pytorch(length, target):
    lower, upper, fraction = cpp_backend._taps(length, target, torch.float64)
    weights = torch.zeros(target, length, dtype=torch.float64)
    weights.scatter_add_(1, lower.long().unsqueeze(1), (1 - fraction).unsqueeze(1))
    weights.scatter_add_(1, upper.long().unsqueeze(1), fraction.unsqueeze(1))
    unit_vectors = torch.eye(length, dtype=torch.float64).unsqueeze(0)
    expected = functional.interpolate(unit_vectors, target, mode="linear", align_corners=False)[0].T
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-14)
    assert lower.min() >= 0 and upper.max() < length
    assert (lower.diff() >= 0).all() and (upper.diff() >= 0).all()


@pytest.mark.parametrize("shape", TALL)
def test_features_of_several_slabs(shape):
    case = tall(shape)
    assert_all_close(all_results(operator, case), all_results(reference, case), 1e-10)


@pytest.mark.parametrize("shape", TALL)
def test_results_do_not_depend_on_the_number_of_threads(set_num_threads, shape):
    case, results = tall(shape, torch.float32), {}
    for threads in (1, 2, 5, 64):
        set_num_threads(threads)
        # the projections are PyTorch's, whose sums may depend on the number of threads
        results[threads] = all_results(partial(operator), without_projections(case))
    for threads in results:
        assert_bitwise_equal(results[threads], results[1])


def without_projections(case):
    kept = [k for k, projection in enumerate(case.projections) if projection is None]
    case.history = [case.history[k] for k in kept]
    case.projections = [None] * len(kept)
    return case


@pytest.mark.parametrize("slabs", [1, 2, 5, 100])
@pytest.mark.parametrize("shape", TALL)
def test_results_do_not_depend_on_the_number_of_slabs(monkeypatch, shape, slabs):
    case = tall(shape)
    expected = all_results(operator, case)
    monkeypatch.setattr(cpp_backend, "_SLABS", slabs)
    monkeypatch.setattr(cpp_backend, "_LEAST_PLANES", 1)
    assert_all_close(all_results(operator, case), expected, 1e-12)


@pytest.mark.parametrize("shape", TALL)
def test_results_do_not_depend_on_the_groups_of_samples(monkeypatch, shape):
    case = tall(shape)
    expected = all_results(operator, case)
    groups = []

    def run(self, function, *args, original=cpp_backend._Kernels._run, **tensors):
        groups.append(len(self.current[0]))
        return original(self, function, *args, **tensors)

    monkeypatch.setattr(cpp_backend._Kernels, "_run", run)
    monkeypatch.setattr(torch_backend, "_SAMPLES", 1)
    assert_all_close(all_results(operator, case), expected, 1e-12)
    assert groups == [1] * 6


def test_no_samples():
    case = tall("2-D", batch=0)
    results = all_results(operator, case)
    assert results["output"].shape == (0, 5, 48, 36) and results["attention"].shape == (0, 7, 48, 36)
    assert results.keys() >= {"gate", "weight[1]", "history[0]"}
    assert all(not results[name].any() for name in case.named())


def test_large_logits():
    """exp(150) is no float32."""
    case = tall("2-D", torch.float32).map(lambda name, t: t * 150 if name == "pseudo_query" else t)
    in_float64 = case.to(torch.float64)
    assert in_float64.run(reference)[1].amin() < 1e-40
    actual, expected = all_results(operator, case), all_results(reference, in_float64)
    for name in ("output", "attention"):
        torch.testing.assert_close(actual[name].double(), expected[name], rtol=1e-3, atol=1e-3)
    assert all(value.isfinite().all() for value in actual.values())


def test_a_squared_norm_that_rounding_makes_negative():
    """The position in the middle between u and almost -u has a small |V|^2, computed from large numbers."""
    generator = torch.Generator().manual_seed(0)
    u, difference = (torch.randn(64, 16, 1, generator=generator) for _ in range(2))
    history = torch.cat((u, 1e-6 * difference - u), 2).view(64, 16, 1, 2) * 1e4
    x, ones = torch.zeros(64, 16, 1, 3), torch.ones(16)
    out, alpha = operator([history], x, [None], torch.zeros(16), ones)
    assert out.isfinite().all() and alpha.isfinite().all()
    torch.testing.assert_close(alpha, torch.full_like(alpha, 0.5))


def test_infinity_stays_where_the_last_element_is_read_alone():
    """The squared norm overflows: the logits of the reference are zero there, not NaN."""
    history, x = torch.full((1, 4, 1, 2), 3e19), torch.zeros(1, 4, 1, 4)
    arguments = [history], x, [None], torch.ones(4), torch.ones(4)
    expected, actual = reference(*arguments), operator(*arguments)
    torch.testing.assert_close([t[..., -1] for t in actual], [t[..., -1] for t in expected])


def test_structures_have_the_sizes_of_those_of_the_kernels():
    library = load_library()
    structures = {"arguments": cpp_backend._Arguments, "feature": cpp_backend._Feature, "part": cpp_backend._Part}
    for name, structure in structures.items():
        function = getattr(library, f"size_of_{name}")
        function.restype = ctypes.c_int64
        assert function() == ctypes.sizeof(structure), name


def test_other_dtypes_of_features_and_vectors():
    """x has float32; a feature, a projection and the gate have others."""
    case = tall("2-D")
    x = [part.detach().float().requires_grad_() for part in case.x]
    actual = operator(case.history, x, case.projections, case.pseudo_query, case.norm_weight, gate=case.gate)
    inputs = [*case.history, *case.x, case.pseudo_query, case.gate]
    gradients = torch.autograd.grad(actual[0].sum(), [*case.history, *x, case.pseudo_query, case.gate])
    assert actual[0].dtype == actual[1].dtype == torch.float32
    assert [g.dtype for g in gradients] == [t.dtype for t in (*case.history, *x, case.pseudo_query, case.gate)]
    expected = case.run(reference)
    torch.testing.assert_close([a.double() for a in actual], list(expected), rtol=1e-4, atol=1e-4)
    expected_gradients = torch.autograd.grad(expected[0].sum(), inputs)
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient.double(), other, rtol=1e-3, atol=1e-3)


# memory that is used again


def test_results_are_not_in_the_memory_that_is_used_again():
    """The second call has the same shapes, so it writes its intermediate results to the same places."""
    first = all_results(operator, tall("2-D"))
    copies = {name: value.clone() for name, value in first.items()}
    case = tall("2-D").map(lambda name, t: t + 1)
    for _ in range(3):
        all_results(operator, case)
    assert_bitwise_equal(first, copies)


def test_the_memory_grows_to_what_a_call_needs_but_not_beyond_the_limit(monkeypatch):
    monkeypatch.setattr(cpp_backend, "_WORKSPACE", 1000)
    workspace = cpp_backend._Workspace()
    addresses = []
    for _ in range(3):
        workspace.start()
        taken = [workspace.take((2, 5), torch.float64) for _ in range(2)] + [workspace.take((500,), torch.float32)]
        for k, tensor in enumerate(taken):
            tensor.fill_(k)
        assert [tensor.unique().tolist() for tensor in taken] == [[0], [1], [2]]
        addresses.append([tensor.data_ptr() for tensor in taken])
        assert all(address % 64 == 0 for address in addresses[-1][:2])
    assert addresses[1][:2] == addresses[2][:2]
    assert len(workspace._memory) == 1000


def test_inference_mode_and_training_share_the_memory():
    case = tall("2-D")
    expected = all_results(operator, case)
    cpp_backend._workspace.__dict__.clear()
    cpp_backend._workspace.__init__()
    for _ in range(2):
        with torch.inference_mode():
            assert_all_close({"output": case.run(operator)[0]}, {"output": expected["output"]}, 0)
    assert_bitwise_equal(all_results(operator, case), expected)


def test_threads_have_memory_of_their_own():
    cases = [tall("2-D").map(lambda name, t, n=n: t * (1 + n)) for n in range(4)]
    expected = [all_results(operator, case) for case in cases]
    wrong = []

    def compute(n):
        for _ in range(5):
            actual = all_results(operator, cases[n])
            wrong.extend(name for name, value in expected[n].items() if not torch.equal(actual[name], value))

    threads = [threading.Thread(target=compute, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(sys.platform != "linux", reason="PyTorch has another library for threads")
def test_kernels_use_the_threads_of_pytorch():
    assert torch.backends.openmp.is_available() and find_parallel()


@pytest.mark.parametrize("spatial", ["2-D", "3-D"])
def test_results_do_not_depend_on_whose_threads_they_are(two_threads, spatial):
    """Those of a function for threads, here one that takes one thread after the other, or threads of their own."""
    calls = []

    @ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    def parallel(function, data, threads, flags):
        calls.append((threads, flags))
        for _ in range(threads):
            ctypes.CFUNCTYPE(None, ctypes.c_void_p)(function)(data)

    library, case = load_library(), without_projections(tall(spatial))
    expected = all_results(operator, case)
    try:
        library.set_parallel(ctypes.cast(parallel, ctypes.c_void_p))
        actual = all_results(operator, case)
        made = len(calls)
        library.set_parallel(None)
        alone = all_results(operator, case)
    finally:
        library.set_parallel(find_parallel())
    assert made == len(calls) > 0 and set(calls) == {(2, 0)}
    assert_bitwise_equal(actual, expected)
    assert_bitwise_equal(alone, expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_computes(two_threads):
    """nnU-Net's workers may be forked, and have none of the threads for which OpenMP would wait without an end."""
    # without projections, which would wait, too: those are PyTorch's
    case = without_projections(tall("2-D", torch.float32))
    out = case.run(operator)[0]
    child = os.fork()
    if child == 0:
        equal = False
        signal.alarm(60)
        try:
            equal = torch.equal(case.run(operator)[0], out)
        finally:
            os._exit(0 if equal else 1)
    assert os.waitpid(child, 0)[1] == 0
