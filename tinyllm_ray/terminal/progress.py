"""What people see of long work: live bars on a terminal, elsewhere a plain line now and then.

with step("features", total=300, unit="rows") as bar: bar.advance(10)
features: 10/300 rows, 41.2 rows/s, 0:07 left, loss 0.812
"""

import atexit
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, Task, TaskID, TextColumn
from rich.text import Text

from tinyllm_ray.redact import redact_text

QUIET_S = 10.0  # between two plain lines of a step, at least
SHORT_S = 2.0  # what ends before and has no total is not worth a line
SILENT_S = 30.0  # after so long a line says that the step goes on, even where nothing changed
TICK_S = 1.0
_RATE_OVER_S = 60.0


class Step:
    """A piece of work under way; threads may share it."""

    def __init__(self, board: "_Board", task: TaskID) -> None:
        self._board, self._task = board, task

    def advance(self, done: float = 1, *, note: str | None = None) -> None:
        """`note`: the latest figures, such as "loss 0.812"."""
        self._board.update(self._task, advance=done, note=note)

    def set(self, done: float, *, note: str | None = None) -> None:
        self._board.update(self._task, completed=done, note=note)

    def note(self, text: str) -> None:
        self._board.update(self._task, note=text)


@contextmanager
def step(title: str, *, total: float | None = None, unit: str = "", found: float = 0) -> Iterator[Step]:
    """`found`: how much of `total` was there before; it counts as done, but not in the rate."""
    board = _the_board()
    task = board.add(title, total=total, unit=unit, found=found)
    try:
        yield Step(board, task)
    except BaseException:
        board.end(task, "stopped")
        raise
    board.end(task, "done")


def say(text: str) -> None:
    """A line for people, above the bars where there are some."""
    _the_board().say(redact_text(text))


def describe(task: Task) -> str:
    """One line on a step: what, done of total, rate, time left or taken, latest figures."""
    unit, found, rate = task.fields["unit"], task.fields["found"], _rate(task)
    parts = []
    if task.fields["counted"]:
        parts.append(f"{task.completed:,.0f}/{task.total:,.0f} {unit}".rstrip())
    if rate:
        parts.append(f"{rate:,.1f} {unit}/s")
    parts += [_time(task, rate), f"{found:,.0f} found" if found else "", task.fields["note"]]
    return f"{task.description}: {', '.join(part for part in parts if part)}"


def _rate(task: Task) -> float:
    """Units a second: over the last minute while it runs, over all in the end. What was found does not count."""
    if not task.fields["counted"] or not task.fields["unit"]:
        return 0.0
    made, elapsed = task.completed - task.fields["found"], task.elapsed or 0.0
    if not task.fields["end"]:
        since, done = task.fields["seen"][0]
        made, elapsed = task.completed - done, time.monotonic() - since
    return made / elapsed if elapsed and made > 0 else 0.0


def _time(task: Task, rate: float) -> str:
    if task.fields["end"]:
        return f"{task.fields['end']} in {_clock(task.elapsed or 0)}"
    if rate and task.total is not None:
        return f"{_clock((task.total - task.completed) / rate)} left"
    return f"{_clock(task.elapsed or 0)} so far"


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds))).removeprefix("0:")


class _Figures(TextColumn):
    """What `describe` says after the title."""

    def render(self, task: Task) -> Text:
        return Text(describe(task).removeprefix(f"{task.description}: "))


class _Board:
    """All steps of this process, on one stream."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.live = bool(self.stream.isatty())
        self._lock = threading.RLock()
        self._open: set[TaskID] = set()
        self._said_at: dict[TaskID, float] = {}  # when a step's last line was printed
        self._bars = self._new_bars()
        self._thread: threading.Thread | None = None

    def add(self, title: str, *, total: float | None, unit: str, found: float) -> TaskID:
        with self._lock:
            if not self._open and self.live:
                self._bars = self._new_bars()  # those of earlier steps stay as they were printed
                self._bars.start()
            task = self._bars.add_task(
                title,
                total=total,
                completed=int(found),
                unit=unit,
                note="",  # the latest figures
                found=found,
                seen=deque([(time.monotonic(), found)]),  # when and how much was done, over the last minute
                end="",  # how it ended
                state=None,  # what the last line said of it
                counted=total is not None,
            )
            self._open.add(task)
            if not self.live:
                self._said_at[task] = time.monotonic() + SHORT_S - QUIET_S
                if found:
                    self._line(task, f"{title}: {found:,.0f} of {total:,.0f} {unit} found")
                self._watch()
            return task

    def update(
        self, task: TaskID, *, advance: float | None = None, completed: float | None = None, note: str | None = None
    ) -> None:
        with self._lock:
            self._bars.update(task, advance=advance, completed=completed)
            self._remember(self._task(task))
            if note is not None:
                self._bars.update(task, note=note)

    def _remember(self, task: Task) -> None:
        seen, now = task.fields["seen"], time.monotonic()
        seen.append((now, task.completed))
        while len(seen) > 1 and seen[1][0] <= now - _RATE_OVER_S:
            seen.popleft()

    def end(self, task: TaskID, how: str) -> None:
        with self._lock:
            found = self._task(task)
            self._bars.stop_task(task)
            counted = found.total is not None
            self._bars.update(task, end=how)
            if not counted and how == "done":
                self._bars.update(task, total=1, completed=1)  # a full bar
            self._open.discard(task)
            worth_a_line = counted or how != "done" or (found.elapsed or 0) >= SHORT_S
            if not self.live and worth_a_line:
                self._line(task, describe(found))
            elif self.live and not worth_a_line:
                self._bars.update(task, visible=False)
            if self.live and not self._open:
                self._bars.stop()

    def say(self, text: str) -> None:
        with self._lock:
            if self.live and self._open:
                self._bars.console.print(text, soft_wrap=True, markup=False, highlight=False)
            else:
                print(text, file=self.stream, flush=True)

    def stop(self) -> None:
        with self._lock:
            if self.live and self._open:
                self._bars.stop()

    def _new_bars(self) -> Progress:
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), _Figures(""))
        console = Console(file=self.stream, highlight=False)
        return Progress(*columns, console=console, refresh_per_second=2)

    def _task(self, task: TaskID) -> Task:
        return next(known for known in self._bars.tasks if known.id == task)

    def _line(self, task: TaskID, text: str) -> None:
        self._said_at[task] = time.monotonic()
        print(text, file=self.stream, flush=True)

    def _watch(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._tick, name="progress", daemon=True)
            self._thread.start()

    def _tick(self) -> None:
        while True:
            time.sleep(TICK_S)
            with self._lock:
                if not self._open:
                    return
                self._say_what_changed(time.monotonic())

    def _say_what_changed(self, now: float) -> None:
        for task in sorted(self._open):
            found, quiet_s = self._task(task), now - self._said_at[task]
            state = (found.completed, found.fields["note"])
            if quiet_s >= SILENT_S or (state != found.fields["state"] and quiet_s >= QUIET_S):
                found.fields["state"] = state
                self._line(task, describe(found))


_board: _Board | None = None


def _the_board() -> _Board:
    """Made anew where `sys.stderr` is another stream than before; while bars are live, rich stands before it."""
    global _board
    stream = getattr(sys.stderr, "rich_proxied_file", sys.stderr)
    if _board is None or _board.stream is not stream:
        if _board is not None:
            _board.stop()
        _board = _Board(stream)
        atexit.register(_board.stop)
    return _board
