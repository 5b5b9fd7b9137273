"""What the user sees of long work: bars on the terminal, the engines' chatter in a file."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tinyllm_ray import storage

POLL_S = 2.0


def make_bars() -> Progress:
    """Bars on stderr, so that stdout holds results alone."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True), refresh_per_second=2)


def send_chatter_to(path: Path) -> None:
    """Native code and child processes write to file descriptor 2: it becomes the file; `sys.stderr` stays as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stderr.flush()
    terminal = os.dup(2)
    with path.open("ab") as log:
        os.dup2(log.fileno(), 2)
    sys.stderr = os.fdopen(terminal, "w", buffering=1)


@contextmanager
def follow_training(folder: str, *, title: str, steps: int) -> Iterator[None]:
    """Show how far a trial is, by the step in the name of its newest metrics part."""
    done = threading.Event()
    with make_bars() as bars:
        task = bars.add_task(title, total=steps)

        def watch() -> None:
            while not done.wait(POLL_S):
                parts = storage.list_files(storage.join(folder, "metrics"), ".jsonl")
                if parts:
                    bars.update(task, completed=int(parts[-1].rpartition("-")[2].removesuffix(".jsonl")))

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
            bars.update(task, completed=steps)
        finally:
            done.set()
            thread.join()
