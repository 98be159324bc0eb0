#!/usr/bin/env python
"""Run `xattnres cost` and save its results as benchmarks/results/NAME.json.

python benchmarks/step.py NAME [options of xattnres cost]

examples:
python benchmarks/step.py cpu
python benchmarks/step.py cuda --device cuda --case 2d-256 2d-512 3d-128 resencm-2d-512 resencm-3d-128
"""

import sys
from pathlib import Path

from nnunet_xattnres.cli.main import main

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__.strip())
    name, *options = sys.argv[1:]
    sys.exit(main(["cost", "--out", str(Path(__file__).parent / "results" / f"{name}.json"), *options]))
