"""The contract between the pipeline and the engines: files of prompt rows in, the same rows with an outcome each out.

An engine is `run(files, ...) -> dataset`, where `files` is a Ray dataset of one column, `file`, a block a file: it
reads the files where it runs, drops the two prompt columns and adds the fields of `Outcome`, `engine_start_s` and
`engine_ready_at`.
"""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from tinyllm_ray import storage
from tinyllm_ray.rows import Outcome, PromptRow, schema_of, to_table
from tinyllm_ray.schema import Sampling

EMPTY_OUTPUT = "empty output"
CARRIED = [name for name in schema_of(PromptRow).names if name not in ("prompt", "prompt_ids")]


def outcome(text: str, finish_reason: str, *, input_tokens: int, output_tokens: int, cached_tokens: int = 0) -> Outcome:
    """The outcome of a finished prompt; a text without any letter is a failure."""
    if not text.strip():
        return failed(EMPTY_OUTPUT, input_tokens=input_tokens)
    return Outcome(text, finish_reason, "", input_tokens, output_tokens, cached_tokens)


def failed(reason: str, *, input_tokens: int = 0) -> Outcome:
    return Outcome("", "failed", reason, input_tokens, 0)


def add_outcomes(
    prompts: pa.Table, outcomes: Sequence[Outcome], *, engine_start_s: float, engine_ready_at: float
) -> pa.Table:
    table = prompts.select(CARRIED)
    added = to_table(outcomes, Outcome)
    for name in added.column_names:
        table = table.append_column(name, added[name])
    for name, value in (("engine_start_s", engine_start_s), ("engine_ready_at", engine_ready_at)):
        table = table.append_column(name, pa.array([value] * len(table), pa.float64()))
    return table


def read_prompts(files: pa.Table) -> pa.Table:
    """The prompt rows of a batch of the `files` dataset, which is one file."""
    table = pa.concat_tables([storage.read_table(uri) for uri in files["file"].to_pylist()])
    missing = [name for name in schema_of(PromptRow).names if name not in table.column_names]
    if missing:
        raise ValueError(f"stage read_prompts: column {missing[0]!r} is missing; present: {table.column_names}")
    return table


def cut_at_stop(text: str, sampling: Sampling) -> str:
    """The text before the first of the stop texts."""
    ends = [text.index(stop) for stop in sampling.stop if stop in text]
    return text[: min(ends)] if ends else text


def redirect_output(log_file: str | None) -> None:
    """Send all that this process prints, C++ libraries included, to a file; engines are talkative."""
    if log_file is None:
        return
    Path(log_file).parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    descriptor = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


class Stopwatch:
    """When an engine began to start and when it was ready."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self.engine_start_s = 0.0
        self.engine_ready_at = 0.0  # unix time

    def ready(self) -> None:
        self.engine_start_s = time.monotonic() - self._began
        self.engine_ready_at = time.time()
