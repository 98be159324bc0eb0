"""The command `xattnres`: one file a subcommand, each with `configure(parser)` and `run(arguments) -> exit code`."""

import argparse
import os
import signal
import sys
import threading
import warnings
from collections.abc import Sequence

from .. import __version__
from ..errors import UserError
from . import benchmark, convert, cost, demo, doctor, evaluate, table, trainers

_COMMANDS = {
    "trainers": trainers, "convert": convert, "evaluate": evaluate, "benchmark": benchmark, "table": table,
    "doctor": doctor, "demo": demo, "cost": cost,
}  # fmt: skip

_EPILOG = """\
train with nnU-Net's own command:
  export nnUNet_extTrainer="$(xattnres trainers)"
  nnUNetv2_train DATASET 2d FOLD -tr nnUNetTrainerXAttnRes

exit codes: 0 fine, 1 something is broken or failed, 2 the arguments or the input are wrong
"""


def leave_orderly() -> None:
    """Turn a polite kill, and a closed terminal, into an exit that ends started commands as well."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # as nohup leaves it
                signal.signal(number, lambda number, frame: sys.exit(128 + number))


def main(argv: Sequence[str] | None = None) -> int:
    """Run `xattnres` with `argv`; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="xattnres",
        description="nnU-Net v2 with cross-stage attention residuals (XAttnRes, arXiv 2604.03297).",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"nnunet-xattnres {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in _COMMANDS.items():
        summary = module.__doc__.strip().splitlines()[0].split(": ", 1)[1]
        command = subparsers.add_parser(
            name, help=summary, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        module.configure(command)
        command.set_defaults(run=module.run)
    arguments = parser.parse_args(argv)
    leave_orderly()
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.jit")  # timm's import sets them off
    try:
        code = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # as of `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's own flush at the end
        return 128 + signal.SIGPIPE
    except UserError as error:
        print(f"xattnres {arguments.command}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"\nxattnres {arguments.command}: interrupted", file=sys.stderr)
        return 130
