"""How far each teacher is: one step on the terminal for each, with the tokens a second of its engine."""

from contextlib import ExitStack
from types import TracebackType

from tinyllm_ray.terminal.progress import Step, step


class Bars:
    """Use as a context manager; threads may share it."""

    def __init__(self) -> None:
        self._open = ExitStack()

    def __enter__(self) -> "Bars":
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(error_type, error, trace)

    def add(self, name: str, *, total: int, found: int = 0) -> "Bar":
        """`total` with what was `found` in the store."""
        started = self._open.enter_context(ExitStack())
        bar = started.enter_context(step(f"teacher {name}", total=total, unit="rows", found=found))
        bar.note("engine starting")
        return Bar(bar, started)


class Bar:
    def __init__(self, bar: Step, started: ExitStack) -> None:
        self._bar, self._started = bar, started

    def advance(self, rows: int, tokens_per_second: float) -> None:
        self._bar.advance(rows, note=f"{tokens_per_second:,.0f} tokens/s")

    def finish(self) -> None:
        self._started.close()
