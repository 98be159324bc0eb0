"""Silence libraries that print or log warnings about files while they read them."""

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def silence_libraries() -> Iterator[None]:
    """Discard everything that is printed, logged or warned in the body, also by libraries in C and C++.

    It redirects the descriptors of the whole process, so it is not for several threads at once.
    """
    disabled = logging.root.manager.disable
    with contextlib.ExitStack() as stack:
        devnull = stack.enter_context(open(os.devnull, "w"))
        for stream, descriptor in ((sys.stdout, 1), (sys.stderr, 2)):
            with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or none, as under pythonw
                stream.flush()
                saved = os.dup(descriptor)
                stack.callback(os.close, saved)
                os.dup2(devnull.fileno(), descriptor)
                stack.callback(os.dup2, saved, descriptor)
        stack.enter_context(contextlib.redirect_stdout(devnull))
        stack.enter_context(contextlib.redirect_stderr(devnull))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        stack.callback(logging.disable, disabled)
        yield
