"""What one teacher did in one run, counted batch by batch: outcomes and stored rows in, a TeacherReport out."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from tinyllm_ray.rows import Rationale
from tinyllm_ray.teachers.progress import Bar


@dataclass
class TeacherReport:
    """What one teacher did in one run."""

    teacher: str
    store: str = ""  # its rationales
    answer_store: str = ""  # its own answers, without teacher forcing; empty where none were asked for
    wanted: int = 0
    found: int = 0  # of the wanted, already in the store
    generated: int = 0
    failed: dict[str, int] = field(default_factory=dict)  # reason -> rows
    shortened: int = 0  # prompts that lost in-context examples to fit
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0  # of the input, taken from the prefix cache
    saved_tokens: int = 0  # left unwritten because a stop text came, of those that sampling.max_tokens allows
    tokens_per_second: float = 0.0  # generated ones, from the first engine's readiness on
    engine_start_s: float = 0.0
    wall_s: float = 0.0
    soft_rows: int = 0  # of the stores' rows, those whose tokens have soft targets
    soft_bytes_per_token: float = 0.0  # on disk, of their ids, the likeliest tokens' and those log-probabilities
    accuracy: dict[str, float] = field(default_factory=dict)  # of its own answers, by split


class Meter:
    """Counts what an engine makes, for the report and the progress bar."""

    def __init__(self, report: TeacherReport, bar: Bar) -> None:
        self._report = report
        self._bar = bar
        self._began = time.time()
        self._ready_at = self._began

    def count(self, batch: pa.Table, stored: Sequence[Rationale]) -> None:
        report = self._report
        good = [row for row in stored if not row.failure]
        report.generated += len(good)
        report.input_tokens += sum(row.input_tokens for row in good)
        report.output_tokens += sum(row.output_tokens for row in good)
        report.cached_tokens += sum(batch["cached_tokens"].to_pylist())
        report.saved_tokens += sum(batch["saved_tokens"].to_pylist())
        if len(batch) and not report.engine_start_s:
            report.engine_start_s = batch["engine_start_s"][0].as_py()
            self._ready_at = batch["engine_ready_at"][0].as_py() or self._began
        report.tokens_per_second = report.output_tokens / max(time.time() - self._ready_at, 1e-3)
        self._bar.advance(len(good), report.tokens_per_second)
