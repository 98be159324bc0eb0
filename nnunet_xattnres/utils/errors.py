"""Errors that the command line prints as one line, without a traceback."""


class UserError(Exception):
    """Wrong arguments or wrong input. The message says what was expected, what came, and what to do."""

    exit_code = 2


class StepFailedError(UserError):
    """A command or a worker process failed. The message says where to look or what to do."""

    exit_code = 1


def first_line(error: Exception) -> str:
    """The first line of an exception's text, where PyTorch says what happened; the class where there is no text.

    >>> first_line(RuntimeError("CUDA error: out of memory\\nCompile with ...")), first_line(EOFError())
    ('CUDA error: out of memory', 'EOFError')
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0].strip()


def last_line(error: Exception) -> str:
    """The last line of an exception's text, where ITK says what happened; the class where there is no text.

    >>> last_line(RuntimeError("Exception thrown in ReadImage:\\nunknown file type \\n")), last_line(EOFError())
    ('unknown file type', 'EOFError')
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory could not be allocated.

    Only PyTorch's allocator on CUDA has an error class of its own. The CPU's allocator, CUDA's libraries, Triton and
    the compiler, which wraps errors, raise others.
    """
    import torch

    reasons = ("out of memory", "not enough memory", "ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(reason in str(error) for reason in reasons)
