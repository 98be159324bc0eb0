"""Take away from this process what Python has on Unix only."""

import os
import signal
import subprocess
import sys


def take_away():
    """Remove signals, functions and modules that Windows does not have, and refuse what its Popen refuses."""
    for name in [name for name in dir(signal) if name.startswith("SIG") and name.isalpha()]:
        if name not in ("SIGINT", "SIGTERM", "SIGABRT", "SIGFPE", "SIGILL", "SIGSEGV"):
            delattr(signal, name)
    for name in ("fork", "getpgid", "getpgrp", "getuid", "killpg", "mkfifo", "nice", "sched_getaffinity", "setsid"):
        delattr(os, name)
    for name in ("fcntl", "grp", "pwd", "resource", "termios"):
        sys.modules[name] = None

    class Popen(subprocess.Popen):
        def __init__(self, *arguments, pass_fds=(), preexec_fn=None, **options):
            if pass_fds or preexec_fn:
                raise ValueError("pass_fds and preexec_fn are not supported on Windows")
            super().__init__(*arguments, **options)

        kill = subprocess.Popen.terminate

    subprocess.Popen = Popen
