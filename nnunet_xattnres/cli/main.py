"""The command `xattnres`. Each subcommand is a module with `configure(parser)` and `run(arguments) -> exit code`.

Only the module of the called subcommand is imported, and its `configure` imports neither PyTorch nor nnU-Net, so that
`--help` is fast.
"""

import argparse
import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Sequence
from importlib import import_module

from .. import __version__
from ..utils.errors import UserError

COMMANDS = {
    "trainers": "print the folder for nnU-Net's variable nnUNet_extTrainer, or list all trainers",
    "plan": "make plans whose networks have XAttnRes, for use with any of nnU-Net's trainers",
    "warmstart": "start a training of XAttnRes from the weights of a trained stock network",
    "export": "write a trained network as ONNX, TorchScript or torch.export program, or its folder for sharing",
    "maps": "show which stage every pixel reads, in every XAttnRes layer of a trained network",
    "convert": "convert a downloaded data set, or a folder of images and masks, to an nnU-Net raw dataset",
    "evaluate": "score predictions against references: Dice, IoU, HD95, ASSD and surface Dice",
    "benchmark": "train stock nnU-Net and other trainers on the same folds, and report whether they differ",
    "table": "print the sizes of the paper's networks beside the published ones",
    "doctor": "check that nnU-Net will find and run the trainers on this machine",
    "demo": "train stock nnU-Net and XAttnRes on real images, and compare them",
    "cost": "measure the time and memory of XAttnRes and of stock nnU-Net",
}
"""The subcommands, which are modules of `nnunet_xattnres.cli`, and what `xattnres --help` prints for each."""

_EPILOG = """\
Train with nnU-Net's own command:
  export nnUNet_extTrainer="$(xattnres trainers)"
  nnUNetv2_train DATASET 2d FOLD -tr nnUNetTrainerXAttnRes

`xattnres COMMAND --help` explains a command.

exit codes:
  0  success
  1  a step failed, or the command found a problem
  2  the arguments or the input are wrong
"""


_BROKEN_PIPE = 128 + 13
"""The exit code that shells report for a command that SIGPIPE has ended."""


def exit_on_signals() -> None:
    """Raise SystemExit on the signals that end a command, so that started commands are ended too.

    These are SIGTERM, SIGHUP, which nohup still ignores, and SIGBREAK, of which Windows has the last instead of SIGHUP.
    """
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP", "SIGBREAK"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, lambda number, frame: sys.exit(128 + number))


def make_parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """Make the parser for `argv`. Only the subcommand that `argv` names is imported and adds its arguments."""
    parser = argparse.ArgumentParser(
        prog="xattnres",
        description="nnU-Net v2 with cross-stage attention residuals (XAttnRes, arXiv 2604.03297).",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"nnunet-xattnres {__version__}")
    subparsers = parser.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")
    called = next((argument for argument in argv if not argument.startswith("-")), None)
    for name, summary in COMMANDS.items():
        if name != called:
            subparsers.add_parser(name, help=summary)
            continue
        module = import_module(f".{name}", __package__)
        command = subparsers.add_parser(
            name, help=summary, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        module.configure(command)
        command.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: the arguments without the program's name (default: those of this process).

    Returns:
        The exit code.
    """
    argv = sys.argv[1:] if argv is None else argv
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may lack characters of file names
    arguments = make_parser(argv).parse_args(argv)
    exit_on_signals()
    # importing timm raises these warnings
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.jit")
    try:
        code = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader of a pipe has exited, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes stdout at exit
        return _BROKEN_PIPE
    except UserError as error:
        print(f"xattnres {arguments.command}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"\nxattnres {arguments.command}: interrupted", file=sys.stderr)
        return 130
