"""Two sides whose speed is set, for overlap.py: an engine that sleeps for each prompt, a loss that sleeps each step."""

import os
import time
from typing import Any

import pyarrow as pa
import torch

from tinyllm_ray.cluster.pools import actor_options
from tinyllm_ray.schema import Teacher
from tinyllm_ray.student.batches import Batch
from tinyllm_ray.teachers.engines.base import (
    Encoded,
    Setting,
    Stopwatch,
    add_outcomes,
    outcome,
    read_prompts,
    run_actors,
)


class Engine:
    """`settings.seconds`: of each prompt."""

    greedy_repeats = True

    def __init__(self, teacher: Teacher, setting: Setting) -> None:
        self.teacher, self.setting = teacher, setting

    def key(self) -> dict[str, Any]:
        return {"engine": "slow"}

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
        seconds, pool = self.teacher.engine.settings["seconds"], self.setting.pool
        return run_actors(
            files, Sleeper, arguments={"seconds": seconds}, options=actor_options(pool), workers=pool.workers
        )


class Sleeper:
    def __init__(self, *, seconds: float) -> None:
        self._seconds, self._watch = seconds, Stopwatch()
        self._watch.ready()

    def __call__(self, files: pa.Table) -> pa.Table:
        prompts = read_prompts(files)
        time.sleep(self._seconds * len(prompts))
        answers = [outcome("It is so.", "stop", input_tokens=5, output_tokens=4) for _ in range(len(prompts))]
        return add_outcomes(prompts, answers, watch=self._watch)


def slow_loss(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """No loss, after SLOW_STEP_S seconds in training; [M]."""
    if torch.is_grad_enabled():
        time.sleep(float(os.environ["SLOW_STEP_S"]))
    return logits.sum(dim=-1) * 0
