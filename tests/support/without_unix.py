"""Several calls of `xattnres` in one process that lacks what Python has on Unix only.

    support.without_unix:main CALLS REPORT

CALLS is a JSON file with a list of argument lists; REPORT gets the exit codes, as far as the calls have come.
"""

import json
import sys
from pathlib import Path

from nnunet_xattnres.cli.main import main as xattnres

from .windows import take_away


def main() -> None:
    calls, report = map(Path, sys.argv[1:])
    import filelock  # noqa: F401  on Windows it has locks of another kind

    take_away()
    codes = []
    for call in json.loads(calls.read_text()):
        print("$ xattnres", *call, flush=True)
        try:
            code = xattnres(call)
        except SystemExit as ended:  # --help
            code = ended.code
        codes.append(code)
        report.write_text(json.dumps(codes))
