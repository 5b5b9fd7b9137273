"""The contract between the pipeline and the engines: files of prompt rows in, the same rows with an outcome each out.

`Engine` is the protocol. What its `run` gets is a Ray dataset of one column, `file`, a block a file; what it returns
holds the rows of those files without the two prompt columns, and the fields of `Outcome`, `engine_start_s` and
`engine_ready_at` beside them. An engine is one module here and its keys in schema/engines.py, or a class of another
package that an experiment names by `engine: {type: custom, path: "my_package.module:Engine"}`.
"""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from tinyllm_ray import storage
from tinyllm_ray.data.pause import wait_while_paused
from tinyllm_ray.redact import redact_text, without_known
from tinyllm_ray.rows import Outcome, PromptRow, schema_of, to_table
from tinyllm_ray.schema import Pool, Prompts, Sampling, Teacher

if TYPE_CHECKING:
    import ray.data


@dataclass(frozen=True)
class Setting:
    """What an engine is told beside its teacher's keys."""

    pool: Pool  # where its actors run
    prompts: Prompts
    output_dir: str
    log_file: str | None  # for what its processes print; None where the output folder is not on this machine


@dataclass(frozen=True)
class Encoded:
    """A prompt as the model reads it."""

    ids: list[int]  # empty where a server tokenizes
    refused: str = ""  # why this text cannot be a prompt; empty where it can


class Engine(Protocol):
    """One teacher's engine, on the driver. It is also made to name a store, so it loads what it needs when asked."""

    teacher: Teacher
    greedy_repeats: bool  # a greedy prompt that is asked again gets the same text

    def __init__(self, teacher: Teacher, setting: Setting) -> None: ...

    def key(self) -> dict[str, Any]:
        """What of the engine and its model makes a text; a part of the store's key, as JSON."""

    def check(self) -> None:
        """Raise UserError for all that would keep the engine from working and can be known without starting it."""

    def prompt_limit(self) -> int | None:
        """Tokens that a prompt may have; None where the engine does not know."""

    def encode(self, prompts: list[str]) -> list[Encoded]: ...

    def show(self, prompt: str) -> str:
        """What the model reads for a prompt, its special tokens included."""

    def opens_thought(self) -> bool:
        """Whether the prompt itself ends in the tag that opens a thought, <think>."""

    def run(self, files: "ray.data.Dataset", *, longest_prompt: int) -> "ray.data.Dataset":
        """`longest_prompt`: tokens of the longest prompt in the files; 0 where a server tokenizes."""


EMPTY_OUTPUT = "empty output"
CARRIED = [name for name in schema_of(PromptRow).names if name not in ("prompt", "prompt_ids")]


def outcome(
    text: str,
    finish_reason: str,
    *,
    input_tokens: int,
    output_tokens: int,
    cached_tokens: int = 0,
    saved_tokens: int = 0,
) -> Outcome:
    """The outcome of a finished prompt; a text without any letter is a failure. A key that it repeats is blanked."""
    text = without_known(text)
    if not text.strip():
        return failed(EMPTY_OUTPUT, input_tokens=input_tokens)
    return Outcome(text, finish_reason, "", input_tokens, output_tokens, cached_tokens, saved_tokens)


def failed(reason: str, *, input_tokens: int = 0) -> Outcome:
    return Outcome("", "failed", redact_text(reason), input_tokens, 0)


def add_outcomes(prompts: pa.Table, outcomes: Sequence[Outcome], *, watch: "Stopwatch") -> pa.Table:
    """The rows that an engine returns for the prompt rows it was given."""
    table = prompts.select(CARRIED)
    added = to_table(outcomes, Outcome)
    for name in added.column_names:
        table = table.append_column(name, added[name])
    for name, value in (("engine_start_s", watch.engine_start_s), ("engine_ready_at", watch.engine_ready_at)):
        table = table.append_column(name, pa.array([value] * len(table), pa.float64()))
    return table


def read_prompts(files: pa.Table) -> pa.Table:
    """The prompt rows of a batch of the `files` dataset, which is one file; waits while the teacher is paused."""
    for uri in files["file"].to_pylist():
        wait_while_paused(uri)
    table = pa.concat_tables([storage.read_table(uri) for uri in files["file"].to_pylist()])
    missing = [name for name in schema_of(PromptRow).names if name not in table.column_names]
    if missing:
        raise ValueError(f"stage read_prompts: column {missing[0]!r} is missing; present: {table.column_names}")
    return table


def cut_at_stop(text: str, sampling: Sampling) -> str:
    """The text before the first of the stop texts."""
    ends = [text.index(stop) for stop in sampling.stop or [] if stop in text]
    return text[: min(ends)] if ends else text


def run_actors(
    files: "ray.data.Dataset",
    actor: type,
    *,
    arguments: dict[str, Any],
    options: dict[str, Any],
    workers: int = 1,
    batches_at_once: int = 1,
    batches_queued: int = 1,
    threads: bool = False,
) -> "ray.data.Dataset":
    """Each file through one of `workers` actors; Ray starts a killed one again and repeats its files.

    An actor works at `batches_at_once` files at once, in so many threads or in one event loop, while `batches_queued`
    more wait at it.
    """
    import ray.data

    return files.map_batches(
        actor,
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(
            size=workers,
            max_tasks_in_flight_per_actor=batches_at_once + batches_queued,
            max_concurrent_calls_per_actor=batches_at_once,
            enable_true_multi_threading=threads,
        ),
        fn_constructor_kwargs=arguments,
        **options,
    )


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
