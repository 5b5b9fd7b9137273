"""Progress bars on the terminal for long steps."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tinyllm_ray import storage

POLL_S = 2.0


def make_bars() -> Progress:
    """Bars on stderr, so that stdout holds results alone."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True), refresh_per_second=2)


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
