"""CPU time and memory of a process and all below it: ``python -m bench.usage PID [-- COMMAND]``.

Knows /proc. Must not know what the processes are. With a command it tells what the tree used while
the command ran.

CPU time is user + system in nanoseconds, from ``schedstat`` of every thread. Threads that ended
are not in there; ``stat`` has them, but in hundredths of a second. So ``stat`` is what
it is checked against: where it tells clearly more, it is believed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_AGREE_NS = 3 * _TICK_NS
"""Two readings of coarse clocks, and the time between them, make so much."""


@dataclass(frozen=True, slots=True)
class Cpu:
    """CPU time so far: nanoseconds by ``schedstat``, and by ``stat`` with its ended children."""

    scheduled_ns: int
    told_ns: int

    def since(self, before: Cpu) -> int:
        """Return the nanoseconds used since then."""
        scheduled = self.scheduled_ns - before.scheduled_ns
        told = self.told_ns - before.told_ns
        return told if told > scheduled * 1.02 + _AGREE_NS else scheduled


def tree(pid: int) -> Iterator[int]:
    """Yield the process and all its descendants."""
    yield pid
    try:
        tasks = list((PROC / str(pid) / "task").iterdir())
        below = [child for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return  # it ended meanwhile
    for child in below:
        yield from tree(int(child))


def cpu(pid: int) -> Cpu:
    """Return the CPU time that the tree below ``pid`` has used."""
    scheduled = told = 0
    for one in tree(pid):
        try:
            for task in (PROC / str(one) / "task").iterdir():
                scheduled += int((task / "schedstat").read_text().split()[0])
            # proc_pid_stat(5): fields 14 to 17, after the name, which may have blanks in it.
            fields = (PROC / str(one) / "stat").read_text().rpartition(")")[2].split()
            told += sum(map(int, fields[11:15])) * _TICK_NS
        except OSError:
            continue  # it ended meanwhile; its parent has its time in ``stat``
    return Cpu(scheduled, told)


def rss_kib(pid: int) -> int:
    """Return the resident memory of the tree in KiB; what its processes share is counted once."""
    total = 0
    for one in tree(pid):
        try:
            for line in (PROC / str(one) / "smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
        except OSError:
            continue
    return total


def main() -> None:
    """Tell the CPU time and memory of a tree, or what it used while a command ran."""
    pid, command = int(sys.argv[1]), sys.argv[3:]
    before = cpu(pid)
    if command:
        subprocess.run(command, check=False)  # noqa: S603 - it is the caller's own command
    after = cpu(pid)
    used = after.since(before) if command else after.scheduled_ns
    print(f"cpu {used / 1e6:.1f} ms, rss {rss_kib(pid)} KiB")  # noqa: T201 - it is the answer


if __name__ == "__main__":
    main()
