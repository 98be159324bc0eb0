"""Functions that worker processes run in tests. They are in a module because workers import them by name."""

import os
import signal
import time


def square(number):
    return number * number


def process_id(item):
    return os.getpid()


def fail_at_three(number):
    if number == 3:
        raise LookupError("three")
    return number


def exit_at_once(number):
    os._exit(0)


def kill_itself(number):
    os.kill(os.getpid(), signal.SIGKILL)


def sleep(seconds):
    """Print a line, then sleep."""
    os.write(1, b"asleep\n")  # in one piece: two processes write to the same pipe
    time.sleep(seconds)


def restore_signal_handlers():
    """Restore the default handlers of SIGINT and SIGHUP, for `preexec_fn`.

    pytest in the background of a shell, or under nohup, ignores these signals, and child processes inherit this.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
