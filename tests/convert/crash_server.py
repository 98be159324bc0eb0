"""Runs conversions in forks of this process, and ends each before its n-th change to the disk, as a crash would.

It reads lines of JSON {"n": 5, "arguments": [...]} and answers each with {"code", "out", "err", "changes"}. n = 0 runs
the conversion to its end. `changes` lists the changes until then. A file that would have been opened for writing is
left with other content.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

import filelock  # noqa: F401
import numpy as np  # noqa: F401
import PIL.PngImagePlugin  # noqa: F401
import tqdm  # noqa: F401

from nnunet_xattnres.cli.main import main
from nnunet_xattnres.convert import dataset

CRASHED = 99
CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir"}
ROOT = str(Path(os.environ["nnUNet_raw"]).parent)


def plain_preview(cases, labels, title, path):
    """Write a text file instead of the preview, which takes most of the time of a small conversion."""
    path.write_text(f"{title}: {[name for name, _, _ in cases]}")


def convert(arguments, n, log):
    count = 0

    def crash_before_change(event, arguments):
        nonlocal count
        writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if not (writes or event in CHANGES) or isinstance(arguments[0], int):
            return
        path = os.fsdecode(arguments[0])
        if os.path.isabs(path) and not path.startswith(ROOT):
            return  # in a folder that is being removed, paths are relative
        count += 1
        log.write(f"{event} {Path(path).name}\n")
        log.flush()
        if count == n:
            if writes and arguments[2] & os.O_TRUNC:
                os.write(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), b"torn")
            os._exit(CRASHED)

    sys.addaudithook(crash_before_change)
    try:
        code = main(arguments)
    except SystemExit as error:
        code = error.code
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def answer(request):
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err, tempfile.TemporaryFile("w+") as log:
        child = os.fork()
        if not child:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            try:
                convert(request["arguments"], request["n"], log)
            finally:
                sys.excepthook(*sys.exc_info())
                os._exit(70)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        texts = [file.seek(0) or file.read() for file in (out, err, log)]
    return {"code": code, "out": texts[0], "err": texts[1], "changes": texts[2].splitlines()}


if __name__ == "__main__":
    dataset.save_preview = plain_preview
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)
