"""The check of memory accesses finds every kind of fault, and none in a correct kernel."""

import pytest
import torch
import triton
import triton.language as tl

from nnunet_xattnres.ops.triton_launch import is_interpreted

if not is_interpreted():
    pytest.skip("the check is one of Triton's interpreter, which does not run here", allow_module_level=True)

from support.memory_checker import MemoryFaultError, checked_memory


@triton.jit
def add_kernel(
    source, result, count, shift, SOURCE: tl.constexpr, RESULT: tl.constexpr, LIMIT: tl.constexpr, BLOCK: tl.constexpr
):
    """result[i + RESULT] = source[i + SOURCE] + shift, where neither i + LIMIT nor i is `count` or more."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i + LIMIT < count
    value = tl.load(source + SOURCE + i, mask=mask, other=0)
    tl.store(result + RESULT + i, value + shift, mask=mask)


@triton.jit
def same_place_kernel(source, result, PROGRAM: tl.constexpr, LANE: tl.constexpr):
    """Four programs of four lanes each store in result[PROGRAM * program + LANE * lane]."""
    lane = tl.arange(0, 4)
    value = tl.load(source + 4 * tl.program_id(0) + lane)
    tl.store(result + PROGRAM * tl.program_id(0) + LANE * lane, value)


@triton.jit
def neighbour_kernel(values, STEP: tl.constexpr):
    """Every program reads the element STEP after that which it stores."""
    i = tl.program_id(0)
    tl.store(values + i, tl.load(values + (i + STEP + 4) % 4))


@triton.jit
def own_store_kernel(values, BARRIER: tl.constexpr):
    """A program loads in another order what it has stored."""
    lane = tl.arange(0, 4)
    tl.store(values + lane, lane)
    if BARRIER:
        tl.debug_barrier()
    tl.store(values + 4 + lane, tl.load(values + 3 - lane))


@triton.jit
def table_kernel(addresses, result, DTYPE: tl.constexpr, ENTRY: tl.constexpr, SHIFT: tl.constexpr):
    """The second element of the tensor whose address is in a table, and SHIFT bytes behind it."""
    source = (tl.load(addresses + ENTRY) + SHIFT).to(tl.pointer_type(DTYPE))
    tl.store(result, tl.load(source + 1))


@triton.jit
def hint_kernel(values, number, HINT: tl.constexpr):
    tl.store(values, tl.multiple_of(tl.load(values + number), HINT))


@triton.jit
def atomic_kernel(values):
    tl.atomic_add(values, 1)


def add(source=0, result=0, limit=0, dtype=torch.float32):
    """Add 1 to 40 zeros; the last program has only 8."""
    numbers, sums = torch.zeros(40, dtype=dtype), torch.zeros(40, dtype=dtype)
    with checked_memory() as checker:
        add_kernel[(3,)](numbers, sums, 40, 1, SOURCE=source, RESULT=result, LIMIT=limit, BLOCK=16)
    return checker, sums


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int32])
def test_a_correct_kernel_passes(dtype):
    checker, sums = add(dtype=dtype)
    assert sums.tolist() == [1] * 40
    assert checker.launches == {"add_kernel": 1}
    assert len(checker.lines) == 2


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        # the mask leaves elements out, but not the right ones
        ({"limit": -1}, r"program \(2, 0, 0\), .*load of 4 bytes at byte 160 of source, .*, 1 of 9 elements"),
        ({"limit": -1, "source": -1}, r"program \(0, 0, 0\), .*load of 4 bytes at byte -4 of source"),
        ({"source": 1}, r"program \(2, 0, 0\), .*load of 4 bytes at byte 160 of source"),
        ({"result": 1}, r"program \(2, 0, 0\), .*store of 4 bytes at byte 160 of result"),
        ({"result": -1}, r"program \(0, 0, 0\), .*store of 4 bytes at byte -4 of result"),
        # far away, where another tensor may be
        ({"source": 2**30}, r"load of 4 bytes at byte 4294967296 of source"),
        ({"result": -(2**30)}, r"store of 4 bytes at byte -4294967296 of result"),
    ],
)
def test_accesses_outside_are_found(faults, message):
    with pytest.raises(MemoryFaultError, match=message):
        add(**faults)


def test_the_line_is_named():
    with pytest.raises(MemoryFaultError, match=r"add_kernel, .*test_memory_checker\.py:\d+: load"):
        add(source=1)


def test_nothing_is_stored_outside():
    memory = torch.zeros(48)
    with checked_memory(), pytest.raises(MemoryFaultError):
        add_kernel[(3,)](torch.zeros(40), memory[:40], 48, 1, SOURCE=0, RESULT=8, LIMIT=8, BLOCK=16)
    assert memory[40:].tolist() == [0] * 8


@pytest.mark.parametrize("same_value", [False, True])
@pytest.mark.parametrize(
    ("program", "lane", "message"),
    [
        (1, 1, r"program \(1, 0, 0\), .*store of byte 4 .*, which program \(0, 0, 0\) has stored, too"),
        (0, 1, r"program \(1, 0, 0\), .*store of byte 0 .*, which program \(0, 0, 0\) has stored, too"),
    ],
)
def test_two_programs_must_not_store_the_same_element(program, lane, message, same_value):
    source, result = torch.zeros(16) if same_value else torch.arange(16.0), torch.zeros(16)
    with checked_memory():
        same_place_kernel[(4,)](source, result, PROGRAM=4, LANE=1)
        same_place_kernel[(4,)](source, result, PROGRAM=1, LANE=4)
    with checked_memory(), pytest.raises(MemoryFaultError, match=message):
        same_place_kernel[(4,)](source, result, PROGRAM=program, LANE=lane)


def test_lanes_must_not_store_different_values_in_the_same_element():
    source, result = torch.ones(16), torch.zeros(4)
    with checked_memory():
        same_place_kernel[(4,)](source, result, PROGRAM=1, LANE=0)
    source[9] = torch.nan
    with (
        checked_memory(),
        pytest.raises(MemoryFaultError, match=r"program \(2, 0, 0\), .*byte 8 .*, which other lanes"),
    ):
        same_place_kernel[(4,)](source, result, PROGRAM=1, LANE=0)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (1, r"program \(1, 0, 0\), .*store of byte 4 .*, which program \(0, 0, 0\) has loaded"),
        (-1, r"program \(1, 0, 0\), .*load of byte 0 .*, which program \(0, 0, 0\) has stored"),
    ],
)
def test_a_program_must_not_load_what_another_one_stores(step, message):
    values = torch.arange(4.0)
    with checked_memory():
        neighbour_kernel[(4,)](values, STEP=0)
        # the conflicts are those of one launch
        neighbour_kernel[(1,)](values, STEP=1)
        neighbour_kernel[(1,)](values, STEP=2)
    with checked_memory(), pytest.raises(MemoryFaultError, match=message):
        neighbour_kernel[(4,)](values, STEP=step)


def test_conflicts_are_found_where_tensors_share_memory():
    memory = torch.zeros(48)
    with checked_memory():
        same_place_kernel[(2,)](memory[:16], memory[16:], PROGRAM=4, LANE=1)
    with checked_memory(), pytest.raises(MemoryFaultError, match=r"load of byte 16 of source, .* has stored"):
        same_place_kernel[(2,)](memory[:16], memory[4:], PROGRAM=-4, LANE=1)


def test_elements_that_a_program_has_stored_are_loaded_after_a_barrier():
    with checked_memory():
        own_store_kernel[(1,)](torch.zeros(8), BARRIER=True)
    with checked_memory(), pytest.raises(MemoryFaultError, match="this program has stored without a barrier"):
        own_store_kernel[(1,)](torch.zeros(8), BARRIER=False)


def run_table(dtype=tl.float32, entry=1, shift=0, change=0, numel=3):
    source, result = torch.arange(float(numel)), torch.zeros(1)
    table = torch.tensor([0, source.data_ptr() + change], dtype=torch.int64)
    with checked_memory() as checker:
        checker.add_table(table, lambda: [("nothing", None), ("something", source)])
        table_kernel[(1,)](table, result, DTYPE=dtype, ENTRY=entry, SHIFT=shift)
    return result.item()


def test_tensors_of_a_table_of_addresses_are_checked():
    assert run_table() == 1


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        ({"numel": 1}, "load of 4 bytes at byte 4 of something"),
        ({"dtype": tl.float16}, "load of fp16 in something"),
        ({"shift": 2}, "load of 4 bytes at byte 6 of something, .*, which is not aligned"),
        ({"change": 4}, "addresses has a wrong address for something"),
        ({"entry": 0}, "do not belong to one tensor"),
        ({"entry": 2}, "load of 8 bytes at byte 16 of addresses"),
    ],
)
def test_faults_with_tables_of_addresses_are_found(faults, message):
    with pytest.raises(MemoryFaultError, match=message):
        run_table(**faults)


def test_every_table_of_addresses_must_be_known():
    with checked_memory(), pytest.raises(MemoryFaultError, match="addresses is not a known table"):
        table_kernel[(1,)](torch.zeros(2, dtype=torch.int64), torch.zeros(1), DTYPE=tl.float32, ENTRY=0, SHIFT=0)


def test_hints_for_the_compiler_must_be_true():
    values = torch.tensor([32, 24], dtype=torch.int32)
    with checked_memory():
        hint_kernel[(1,)](values, 0, HINT=16)
        hint_kernel[(1,)](values, 1, HINT=8)
    with checked_memory(), pytest.raises(MemoryFaultError, match="24 is not a multiple of 16"):
        hint_kernel[(1,)](values, 1, HINT=16)


@pytest.mark.parametrize("grid", [(0,), (1, 0), (1, 65536), (1, 1, 65536)])
def test_grids_that_cuda_does_not_have(grid):
    with checked_memory(), pytest.raises(MemoryFaultError, match="no grid"):
        same_place_kernel[grid](torch.zeros(4), torch.zeros(4), PROGRAM=4, LANE=1)


def test_what_is_not_checked_is_refused():
    with checked_memory(), pytest.raises(NotImplementedError, match="atomic"):
        atomic_kernel[(1,)](torch.zeros(1))
    with checked_memory(), pytest.raises(MemoryFaultError, match="not contiguous"):
        same_place_kernel[(1,)](torch.zeros(4, 4).T, torch.zeros(4), PROGRAM=4, LANE=1)


def test_the_interpreter_is_as_before_afterwards():
    memory = torch.zeros(48)
    with checked_memory():
        pass
    add_kernel[(3,)](torch.zeros(40), memory[:40], 48, 1, SOURCE=0, RESULT=8, LIMIT=8, BLOCK=16)
    assert memory[40:].tolist() == [1] * 8
