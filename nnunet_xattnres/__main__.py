"""`python -m nnunet_xattnres` runs the command `xattnres`."""

import sys

from .cli.main import main

sys.exit(main())
