"""`python -m nnunet_xattnres` is the command `xattnres`."""

import sys

from .commands import main

sys.exit(main())
