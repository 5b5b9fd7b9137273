"""An engine of a test's own, named as `support.echo_engine:Echo`: it answers at once what its settings say."""

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from tinyllm_ray.schema import CustomSettings, Teacher
from tinyllm_ray.teachers.engines.base import Encoded, Engine, Setting, Stopwatch, add_outcomes, outcome, read_prompts

WRITTEN: list[str] = []  # every prompt that was answered in this process


class Echo:
    greedy_repeats = True

    def __init__(self, teacher: Teacher, setting: Setting) -> None:
        assert isinstance(teacher.engine, CustomSettings)
        self.teacher = teacher

    def key(self) -> dict[str, Any]:
        return {"engine": "echo"}

    def check(self) -> None:
        """It needs nothing."""

    def prompt_limit(self) -> None:
        return None

    def encode(self, prompts: list[str]) -> list[Encoded]:
        return [Encoded([]) for _ in prompts]

    def show(self, prompt: str) -> str:
        return prompt

    def opens_thought(self) -> bool:
        return False

    def run(self, files: Any, *, longest_prompt: int) -> Any:
        raise AssertionError("the test runs the files itself")


def run_here(engine: Engine, files: Sequence[str], *, longest_prompt: int) -> Iterator[pa.Table]:
    """In place of `run_files`, without Ray."""
    assert isinstance(engine.teacher.engine, CustomSettings)
    watch = Stopwatch()
    watch.ready()
    for uri in files:
        prompts = read_prompts(pa.table({"file": [uri]}))
        WRITTEN.extend(prompts["prompt"].to_pylist())
        text = engine.teacher.engine.settings["text"]
        answers = [outcome(text, "stop", input_tokens=5, output_tokens=9, saved_tokens=3) for _ in range(len(prompts))]
        yield add_outcomes(prompts, answers, watch=watch)
