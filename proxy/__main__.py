"""``python -m proxy`` is the same as ``wholestream``."""

import sys

from proxy.cli import main

sys.exit(main())
