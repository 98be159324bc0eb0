"""What worker processes do in tests; they import it by name."""

import os
import signal
import time


def square(number):
    return number * number


def process(item):
    return os.getpid()


def fail_at_three(number):
    if number == 3:
        raise LookupError("three")
    return number


def leave(number):
    os._exit(0)


def be_killed(number):
    os.kill(os.getpid(), signal.SIGKILL)


def sleep(seconds):
    """Says that it began, then sleeps."""
    print("asleep", flush=True)
    time.sleep(seconds)


def heed_signals():
    """For preexec_fn: tests in the background of a shell, or under nohup, hand down signals that are ignored."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
