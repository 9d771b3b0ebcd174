"""What machine this is, and how busy others keep it. Knows /proc and ``platform``."""

from __future__ import annotations

import os
import platform
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from bench import usage

BUSY = 0.1
"""Cores that others use; from there on figures are not to be trusted."""


def suitable() -> bool:
    """Tell whether CPU times can be read here."""
    return Path("/proc/self/schedstat").exists()


def cpu_model() -> str:
    """Return the processor's name, or its architecture if the kernel does not tell."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def facts() -> dict[str, str]:
    """Return what belongs beside every figure."""
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    return {
        "CPU": f"{cpu_model()}, {os.cpu_count()} cores",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": sys.version.split()[0],
        "load": f"{load} (1, 5 and 15 minutes)",
        "time": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }


@dataclass(frozen=True, slots=True)
class Busy:
    """What the machine and we have used so far; the difference of two tells what others did."""

    at_s: float
    all_s: float
    ours_s: float

    @classmethod
    def now(cls) -> Busy:
        """Look."""
        # proc_stat(5): user, nice, system, idle, iowait, irq, softirq, steal. Interrupts are
        # left out: most of them are the loopback's, that is ours.
        told = [
            int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
        ]
        ticks = sum(told[:3]) + told[7]
        all_s = ticks / os.sysconf("SC_CLK_TCK")
        return cls(time.monotonic(), all_s, usage.cpu(os.getpid()).told_ns / 1e9)

    def others_since(self, before: Busy) -> float:
        """Return how many cores others used in between, on average."""
        used = (self.all_s - before.all_s) - (self.ours_s - before.ours_s)
        return max(0.0, used / max(0.001, self.at_s - before.at_s))
