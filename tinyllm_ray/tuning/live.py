"""What both pools are at, while they are: the collector's counts and the trainings' metrics in, a line and figures out.

both pools: 1,024/5,000 rows, 40.1 rows/s, 01:39 left, north 1,310 and south 1,290 written, 266 waiting, tokens/s:
teachers 2,110, student 4,870, idle: teachers 0%, student 12%
"""

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tinyllm_ray.tuning.follow import metric_rows
from tinyllm_ray.tuning.training import Training

RATE_OVER_S = 60.0


@dataclass(frozen=True)
class Progress:
    """Of the foremost training."""

    rows: int  # trained, with those of later epochs
    busy_s: float  # at steps
    tokens_per_second: float
    ended: bool  # one has its result, so no other comes to new rows


def foremost(trainings: Mapping[str, Training]) -> Progress | None:
    """None before there is any."""
    known = list(trainings.values())
    ended = any(training.end() is not None for training in known)
    return max((_progress(training, ended) for training in known), key=lambda each: each.rows, default=None)


def _progress(training: Training, ended: bool) -> Progress:
    settings, folder = training.spec.experiment.training, training.trial.dir
    newest = next((row for row in metric_rows(folder) if "time/waited_s" in row), None)
    oldest = next((row for row in metric_rows(folder, newest_first=False) if "time/waited_s" in row), None)
    if newest is None or oldest is None:
        return Progress(0, 0.0, 0.0, ended)
    busy_s = (newest["time"] - oldest["time"]) / 1000 - (newest["time/waited_s"] - oldest["time/waited_s"])
    seconds = settings.log_every_steps * newest["time/step_ms"] / 1000
    return Progress(
        newest["step"] * settings.batch_size, max(busy_s, 0.0), newest["tokens/trained"] / max(seconds, 1e-9), ended
    )


class Live:
    """Figures of both pools since it was made."""

    def __init__(self, *, rows: int) -> None:
        self.began = time.monotonic()
        self.figures: dict[str, float] = {}
        self._rows = rows
        self._paused_s = 0.0
        self._looked_at = self.began
        self._tokens: deque[tuple[float, int]] = deque()

    def look(
        self, written: Mapping[str, int], *, ready: int, tokens: int, resting: bool, progress: Progress | None
    ) -> str:
        """Take in how things stand; the line's figures. `resting`: the teachers have ended or all of them are paused.

        `written`: questions that each teacher has done with; `tokens`: what the teachers have written.
        """
        now = time.monotonic()
        self._paused_s += now - self._looked_at if resting else 0.0
        self._looked_at, elapsed = now, max(now - self.began, 1e-9)
        self._tokens.append((now, tokens))
        while now - self._tokens[0][0] > RATE_OVER_S:
            self._tokens.popleft()
        then, before = self._tokens[0]
        trained = min(progress.rows, self._rows) if progress else 0
        self.figures = {
            **{f"overlap/written/{name}": float(count) for name, count in written.items()},
            "overlap/trained": float(trained),
            "overlap/waiting": float(max(ready - trained, 0)),
            "overlap/teacher_tokens_per_second": (tokens - before) / max(now - then, 1e-9),
            "overlap/student_tokens_per_second": progress.tokens_per_second if progress else 0.0,
            "overlap/teacher_idle_share": self._paused_s / elapsed,
            "overlap/student_idle_share": 1 - min(progress.busy_s if progress else 0.0, elapsed) / elapsed,
        }
        return self._line(written)

    @property
    def trained(self) -> int:
        return int(self.figures["overlap/trained"])

    def _line(self, written: Mapping[str, int]) -> str:
        found: dict[str, Any] = {name.removeprefix("overlap/"): value for name, value in self.figures.items()}
        counts = " and ".join(f"{name} {count:,}" for name, count in written.items())
        return (
            f"{counts} written, {found['waiting']:,.0f} waiting, tokens/s: teachers "
            f"{found['teacher_tokens_per_second']:,.0f}, student {found['student_tokens_per_second']:,.0f}, idle: "
            f"teachers {found['teacher_idle_share']:.0%}, student {found['student_idle_share']:.0%}"
        )
