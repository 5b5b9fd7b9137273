"""Progress bars of the teachers, on the driver's standard error."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class Bars:
    """One bar for each teacher; threads may share it."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]:,.0f} tokens/s"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )

    def __enter__(self) -> "Bars":
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def add(self, name: str, *, total: int) -> "Bar":
        return Bar(self._progress, self._progress.add_task(f"teacher {name}", total=total, speed=0.0))


class Bar:
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def advance(self, rows: int, tokens_per_second: float) -> None:
        self._progress.update(self._task, advance=rows, speed=tokens_per_second)

    def finish(self) -> None:
        self._progress.refresh()
