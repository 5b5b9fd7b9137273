"""How much of the machine other processes use, from /proc."""

import os
import time
from pathlib import Path

SECONDS = 2.0  # of one look
LIMIT_CORES = 0.2  # what more than this is left for others makes a machine busy
PATIENCE_S = 15.0  # for what ends by itself, such as the processes of the part before


def wait_for_quiet(*, patience_s: float) -> dict[str, float]:
    """Cores by process, as they were when the machine was quiet or patience had ended."""
    ends = time.monotonic() + patience_s
    found = others_use()
    while is_busy(found) and time.monotonic() < ends:
        found = others_use()
    return found


def others_use() -> dict[str, float]:
    """Cores that each other process uses, by its name and id, over some seconds."""
    before, began = _cpu_seconds(), time.monotonic()
    time.sleep(SECONDS)
    after, seconds = _cpu_seconds(), time.monotonic() - began
    return {
        f"{name} (process {pid})": (spent - before.get((pid, started), ("", 0.0))[1]) / seconds
        for (pid, started), (name, spent) in after.items()
        if pid != os.getpid()
    }


def is_busy(others: dict[str, float]) -> bool:
    return sum(others.values()) > LIMIT_CORES


def describe(others: dict[str, float]) -> str:
    most = sorted(others, key=lambda name: -others[name])[:3]
    names = ", ".join(f"{name} {others[name]:.2f}" for name in most)
    return f"other processes use {sum(others.values()):.2f} cores, and at most {LIMIT_CORES} are allowed: {names}"


def _cpu_seconds() -> dict[tuple[int, int], tuple[str, float]]:
    """Name and processor time of each process, by its id and its start, since ids are used again."""
    found, ticks = {}, os.sysconf("SC_CLK_TCK")
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            head, _, tail = file.read_text(errors="replace").rpartition(")")
        except OSError:  # the process has ended meanwhile
            continue
        fields = tail.split()  # from the state, the third of proc(5), on
        user, system, started = (int(fields[place - 3]) for place in (14, 15, 22))
        found[int(file.parent.name), started] = head.partition("(")[2], (user + system) / ticks
    return found
