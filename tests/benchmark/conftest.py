"""The benchmark reads CPU times from /proc and paces by timerfd: elsewhere there is none."""

from __future__ import annotations

import sys

collect_ignore_glob = [] if sys.platform == "linux" else ["test_*.py"]
