"""`python -m nnunet_xattnres` is the command `xattnres`."""

import sys

from .cli.main import main

sys.exit(main())
