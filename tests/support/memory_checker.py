"""A check of every memory access of Triton kernels, in Triton's interpreter.

A GPU reads and writes beyond a tensor without an error as long as the memory there belongs to the process, and programs
that disturb each other do so only at times. Here every access of every program is looked at, and a `MemoryFaultError`
says what is wrong, where, and in which program:

- An element that is not masked lies outside of the tensor whose pointer the kernel was given, or the kernel takes the
  tensor for one of another dtype. To lie in another tensor of the launch does not help: in the kernels, tensors have
  addresses far away from each other.
- An address is not a multiple of the size of its element.
- Two programs of a launch store the same element. This is a fault where they store the same value, too, because no
  kernel of this package needs it.
- One program loads what another one of the same launch stores, before or after.
- Lanes of one store have different values for the same element, or a program loads or stores an element again that it
  has stored itself, without a barrier: other threads of the program may do it earlier than the store.
- A value is not a multiple of what `tl.multiple_of` has told the compiler, which may then load several elements as one.
- An address in a table of addresses is not that of a tensor that lives.
- A launch has a grid that CUDA does not have.

Not seen are threads of a program that load an element after others have stored its successor in place, and what the
compiler makes of a kernel.
"""

import dataclasses
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from inspect import getcallargs
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import triton
from torch import Tensor
from triton.runtime import interpreter
from triton.runtime.errors import InterpreterError

from nnunet_xattnres.ops.triton_projection import Projections

_DTYPES = {
    torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32", torch.float64: "fp64",
    torch.int32: "int32", torch.int64: "int64",
}  # fmt: skip
# the distance of two tensors in the addresses that kernels are given; there is as much room before a tensor as after it
_BITS = 40
# addresses keep their remainder, which kernels may be told
_ALIGNMENT = 256
_NOBODY, _SEVERAL = -1, -2
_NOT_OF_KERNELS = __file__, str(Path(triton.__file__).parent)


class MemoryFaultError(AssertionError):
    """An access that a kernel must not make."""


def _line_of_kernel() -> tuple[str, int]:
    """The file and the line of the kernel, or of the function it calls, that runs."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_NOT_OF_KERNELS):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno


@dataclasses.dataclass
class _Memory:
    """A range of memory of one launch, which one or more tensors share, and who has accessed its elements.

    Attributes:
        writer: for every element the program that has stored it.
        barriers: how many barriers this program had passed.
        reader: the program that has loaded it, or _SEVERAL.
    """

    start: int
    end: int
    element_size: int
    writer: np.ndarray = dataclasses.field(init=False)
    barriers: np.ndarray = dataclasses.field(init=False)
    reader: np.ndarray = dataclasses.field(init=False)

    def __post_init__(self):
        count = (self.end - self.start) // self.element_size
        self.writer, self.reader = np.full(count, _NOBODY, np.int32), np.full(count, _NOBODY, np.int32)
        self.barriers = np.zeros(count, np.int32)


@dataclasses.dataclass
class _Given:
    """A tensor that a launch was given.

    Attributes:
        name: that of the argument, or what a table of addresses calls it.
        address: the one that the kernel is given.
        entries: of a table of addresses, the tensors.
    """

    name: str
    tensor: Tensor
    address: int
    memory: _Memory | None = None
    entries: "list[_Given | None] | None" = None

    @property
    def start(self) -> int:
        return self.tensor.data_ptr()

    @property
    def length(self) -> int:
        return self.tensor.numel() * self.tensor.element_size()

    def __str__(self) -> str:
        return f"{self.name}, {tuple(self.tensor.shape)} in {self.tensor.dtype} with {self.length} bytes"


class _CheckedLaunch:
    """The memory of one launch of a kernel."""

    def __init__(self, kernel: str, tables: "dict[int, Callable[[], list[tuple[str, Tensor | None]]]]"):
        self.kernel = kernel
        self._tables = tables
        self._given: list[_Given] = []
        self._is_ready = False
        self.barriers = 0

    def give(self, name: str, tensor: Tensor) -> int:
        """The address of a tensor for the kernel."""
        given = self._add(name, tensor)
        if tensor.dtype == torch.int64:
            if tensor.data_ptr() not in self._tables:
                raise MemoryFaultError(f"{self.kernel}: {name} is not a known table of addresses")
            entries = self._tables[tensor.data_ptr()]()
            given.entries = [None if t is None else self._add(n, t) for n, t in entries]
        return given.address

    def _add(self, name: str, tensor: Tensor) -> _Given:
        if not tensor.is_contiguous():
            raise MemoryFaultError(f"{self.kernel}: {name} is not contiguous")
        if tensor.dtype not in _DTYPES:
            raise NotImplementedError(f"{tensor.dtype} is not checked")
        number = len(self._given) + 1
        address = (number << _BITS) + (1 << (_BITS - 1)) + tensor.data_ptr() % _ALIGNMENT
        self._given.append(_Given(name, tensor, address))
        return self._given[-1]

    def _prepare(self) -> None:
        """Find which tensors share memory, once all are known."""
        memory: _Memory | None = None
        ranges: list[tuple[int, int, list[_Given]]] = []
        for given in sorted((g for g in self._given if g.length), key=lambda g: g.start):
            if ranges and given.start < ranges[-1][1]:
                start, end, members = ranges[-1]
                ranges[-1] = start, max(end, given.start + given.length), [*members, given]
            else:
                ranges.append((given.start, given.start + given.length, [given]))
        for start, end, members in ranges:
            sizes = {given.tensor.element_size() for given in members}
            if len(sizes) > 1 or any((given.start - start) % max(sizes) for given in members):
                raise NotImplementedError("tensors whose elements overlap in part are not checked")
            memory = _Memory(start, end, *sizes)
            for given in members:
                given.memory = memory
        self._is_ready = True

    @property
    def program(self) -> int:
        """The number of the program that runs."""
        (x, y, z), (_, number_y, number_z) = (
            interpreter.interpreter_builder.grid_idx,
            interpreter.interpreter_builder.grid_dim,
        )
        return (x * number_y + y) * number_z + z

    def _name(self, program: int) -> str:
        return f"program {tuple(int(i) for i in np.unravel_index(program, interpreter.interpreter_builder.grid_dim))}"

    def fault(self, message: str) -> MemoryFaultError:
        """What is wrong, with the kernel, the program and the line of the code."""
        file, line = _line_of_kernel()
        return MemoryFaultError(f"{self.kernel}, {self._name(self.program)}, {Path(file).name}:{line}: {message}")

    def access(self, what: str, pointers, mask: np.ndarray) -> "_Access":
        """Check the addresses of a load or a store, and find them in memory."""
        if not self._is_ready:
            self._prepare()
        dtype = pointers.get_element_ty()
        size = max(1, dtype.primitive_bitwidth // 8)
        addresses, mask = pointers.data, np.broadcast_to(mask, pointers.data.shape).astype(bool)
        lanes = addresses[mask]
        real = np.zeros(addresses.shape, np.uint64)
        if not lanes.size:
            return _Access(real, None, None)
        numbers = np.unique(lanes >> np.uint64(_BITS))
        if len(numbers) > 1 or not 1 <= numbers[0] <= len(self._given):
            # kernels of this package do not choose between pointers of different tensors
            raise self.fault(f"{what} of elements that do not belong to one tensor of the launch")
        given = self._given[int(numbers[0]) - 1]
        offsets = lanes.astype(np.int64) - given.address
        outside = (offsets < 0) | (offsets + size > given.length)
        if outside.any():
            raise self.fault(
                f"{what} of {size} bytes at byte {offsets[outside][0]} of {given}, {outside.sum()} of {lanes.size} "
                "elements are outside"
            )
        if dtype.name != _DTYPES[given.tensor.dtype]:
            raise self.fault(f"{what} of {dtype.name} in {given}")
        misaligned = (offsets + given.start) % size != 0
        if misaligned.any():
            raise self.fault(
                f"{what} of {size} bytes at byte {offsets[misaligned][0]} of {given}, which is not aligned"
            )
        assert given.memory is not None
        positions = offsets + given.start
        real[mask] = positions.astype(np.uint64)
        return _Access(real, given, (positions - given.memory.start) // size)

    def conflict(
        self, what: str, access: "_Access", conflicts: np.ndarray, other: str, programs: np.ndarray | None = None
    ) -> MemoryFaultError:
        """An element that is used by others, too; `other` may say by whom with {}, which `programs` has."""
        first = np.flatnonzero(conflicts)[0]
        index, memory = access.indices[first], access.given.memory
        program = self.program if programs is None else programs[first]
        by = self._name(program) if program >= 0 else "several programs"
        byte = index * memory.element_size + memory.start - access.given.start
        return self.fault(f"{what} of byte {byte} of {access.given}, which {other.format(by)}")

    def loaded(self, access: "_Access", values: np.ndarray, mask: np.ndarray) -> None:
        """Look for conflicts of a load; addresses that it has loaded are replaced by those for the kernel."""
        given, indices = access.given, access.indices
        if given is None:
            return
        memory, program = given.memory, self.program
        writers = memory.writer[indices]
        if (conflicts := (writers != _NOBODY) & (writers != program)).any():
            raise self.conflict("load", access, conflicts, "{} has stored", writers)
        if (conflicts := (writers == program) & (memory.barriers[indices] == self.barriers)).any():
            raise self.conflict("load", access, conflicts, "this program has stored without a barrier since then")
        readers = memory.reader[indices]
        memory.reader[indices] = np.where((readers == _NOBODY) | (readers == program), program, _SEVERAL)
        if given.entries is not None:
            mask = np.broadcast_to(mask, values.shape).astype(bool)
            found = [given.entries[i] for i in indices]
            expected = np.array([0 if entry is None else entry.start for entry in found], np.int64)
            if (wrong := values[mask] != expected).any():
                entry = found[np.flatnonzero(wrong)[0]]
                raise self.fault(f"{given.name} has a wrong address for {entry.name if entry else 'no tensor'}")
            values[mask] = [0 if entry is None else entry.address for entry in found]

    def before_store(self, access: "_Access") -> None:
        """Look for conflicts of a store with what was accessed before."""
        memory, indices, program = access.given.memory, access.indices, self.program
        writers, readers = memory.writer[indices], memory.reader[indices]
        if (conflicts := (writers != _NOBODY) & (writers != program)).any():
            raise self.conflict("store", access, conflicts, "{} has stored, too", writers)
        if (conflicts := (writers == program) & (memory.barriers[indices] == self.barriers)).any():
            raise self.conflict("store", access, conflicts, "this program has stored without a barrier since then")
        if (conflicts := (readers != _NOBODY) & (readers != program)).any():
            raise self.conflict("store", access, conflicts, "{} has loaded", readers)
        memory.writer[indices], memory.barriers[indices] = program, self.barriers

    def compare_lanes(self, access: "_Access", values: np.ndarray, mask: np.ndarray) -> None:
        """Look for lanes of one store that have different values for the same element."""
        mask = np.broadcast_to(mask, access.real.shape).astype(bool)
        stored = np.ascontiguousarray(np.broadcast_to(values, access.real.shape)[mask])
        # any lane for every element
        lane = np.empty(len(access.given.memory.writer), np.int32)
        lane[access.indices] = np.arange(stored.size)
        # bit by bit, because NaN is unequal to itself
        bits = stored.view(f"V{stored.itemsize}")
        if (different := bits != bits[lane[access.indices]]).any():
            raise self.conflict("store", access, different, "other lanes store with another value")


@dataclasses.dataclass
class _Access:
    """The addresses of a load or a store in memory, and of the lanes that are not masked the tensor and the indices."""

    real: np.ndarray
    given: Any
    indices: Any


class MemoryChecker:
    """What the check has seen.

    Attributes:
        launches: how often every kernel was launched.
        lines: the (file, line) of all code that has loaded or stored an element.
    """

    def __init__(self):
        self.launches: dict[str, int] = {}
        self.lines: set[tuple[str, int]] = set()
        self._tables: dict[int, Callable[[], list[tuple[str, Tensor | None]]]] = {}
        self._launch: _CheckedLaunch | None = None
        self._patched: set[int] = set()
        self._names: Iterator[str] = iter(())

    def add_table(self, table: Tensor, entries: Callable[[], list[tuple[str, Tensor | None]]]) -> None:
        """Make known which tensors have the addresses in a table, as names and tensors."""
        self._tables[table.data_ptr()] = entries

    def _add_projections(self, projections: Projections) -> None:
        names = "source", "weight", "bias", "gradient of source", "gradient of weight", "gradient of bias"
        reference = weakref.ref(projections)

        def entries() -> list[tuple[str, Tensor | None]]:
            alive = reference()
            if alive is None:
                raise MemoryFaultError("the tensors of a table of addresses may have been freed")
            rows = zip(*alive._tensors, strict=True)
            return [(f"{n} {k}", t) for k, row in enumerate(rows) for n, t in zip(names, row, strict=True)]

        self.add_table(projections._addresses, entries)

    def _run(self, execute: Callable, executor, *arguments, **options) -> None:
        """One launch."""
        kernel = executor.fn.__name__
        if any(not 1 <= n <= limit for n, limit in zip(executor.grid, (2**31 - 1, 65535, 65535), strict=False)):
            raise MemoryFaultError(f"{kernel}: CUDA has no grid {executor.grid}")
        given = getcallargs(executor.fn, *arguments, **{k: v for k, v in options.items() if k in executor.arg_names})
        self._names = iter([name for name, value in given.items() if hasattr(value, "data_ptr")])
        self._launch = _CheckedLaunch(kernel, self._tables)
        self._patched.clear()
        self.launches[kernel] = self.launches.get(kernel, 0) + 1
        try:
            execute(executor, *arguments, **options)
        except InterpreterError as error:
            fault: BaseException | None = error
            while isinstance(fault, InterpreterError):
                fault = fault.__cause__
            raise (fault or error) from None
        finally:
            self._launch = None

    def _patch_once(self, patch_lang: Callable, function: Callable) -> Any:
        """Prepare the language for the functions of a module once in a launch, not in every call: that takes longer."""
        if self._launch is None or id(function.__globals__) not in self._patched:
            self._patched.add(id(function.__globals__))
            return patch_lang(function)
        return None

    def _convert(self, convert: Callable, argument: Any) -> Any:
        """An argument for the interpreter; the addresses of tensors are far away from each other."""
        converted = convert(argument)
        if self._launch is not None and hasattr(argument, "data_ptr"):
            converted.handle.data = np.array([self._launch.give(next(self._names), argument)], np.uint64)
        return converted

    def _note(self, access: _Access) -> None:
        if access.given is not None:
            self.lines.add(_line_of_kernel())

    def _load(self, load: Callable, builder, pointers, mask, *arguments, **options):
        if self._launch is None:
            return load(builder, pointers, mask, *arguments, **options)
        access = self._launch.access("load", pointers, mask.data)
        self._note(access)
        result = load(builder, interpreter.TensorHandle(access.real, pointers.dtype), mask, *arguments, **options)
        self._launch.loaded(access, result.data, mask.data)
        return result

    def _store(self, store: Callable, builder, pointers, value, mask, *arguments, **options):
        if self._launch is None:
            return store(builder, pointers, value, mask, *arguments, **options)
        access = self._launch.access("store", pointers, mask.data)
        self._note(access)
        if access.given is None:
            return None
        self._launch.before_store(access)
        self._launch.compare_lanes(access, value.data, mask.data)
        handle = interpreter.TensorHandle(access.real, pointers.dtype)
        return store(builder, handle, value, mask, *arguments, **options)

    def _hint(self, set_attr: Callable, handle, key: str, value: Sequence[int]) -> None:
        if self._launch is not None:
            if key != "tt.divisibility":
                raise NotImplementedError(f"{key} is not checked")
            if (handle.data.astype(np.uint64) % np.uint64(value[-1])).any():
                raise self._launch.fault(f"{handle.data.ravel()[0]} is not a multiple of {value[-1]}")
        set_attr(handle, key, value)

    def _barrier(self, builder) -> None:
        if self._launch is not None:
            self._launch.barriers += 1


def _not_checked(*arguments, **options):
    raise NotImplementedError("atomic operations are not checked")


@contextmanager
def checked_memory() -> Iterator[MemoryChecker]:
    """Check the memory accesses of all launches in Triton's interpreter, of which one has to run at a time."""
    checker = MemoryChecker()
    builder, executor, handle = interpreter.InterpreterBuilder, interpreter.GridExecutor, interpreter.TensorHandle
    originals = {
        (executor, "__call__"): checker._run, (interpreter, "_implicit_cvt"): checker._convert,
        (interpreter, "_patch_lang"): checker._patch_once,
        (builder, "create_masked_load"): checker._load, (builder, "create_masked_store"): checker._store,
        (handle, "set_attr"): checker._hint,
    }  # fmt: skip

    def wrapped(check: Callable, original: Callable) -> Callable:
        return lambda *arguments, **options: check(original, *arguments, **options)

    construct = Projections.__init__

    def construct_and_add(projections, *arguments, **options):
        construct(projections, *arguments, **options)
        checker._add_projections(projections)

    with ExitStack() as stack:
        for (owner, name), check in originals.items():
            stack.enter_context(patch.object(owner, name, wrapped(check, getattr(owner, name))))
        stack.enter_context(patch.object(builder, "create_barrier", lambda self: checker._barrier(self)))
        for name in ("create_atomic_cas", "create_atomic_rmw"):
            stack.enter_context(patch.object(builder, name, _not_checked))
        stack.enter_context(patch.object(Projections, "__init__", construct_and_add))
        yield checker
