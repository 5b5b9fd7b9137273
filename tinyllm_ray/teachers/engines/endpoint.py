"""Teachers behind an OpenAI-compatible server: prompt texts in, outcomes out, many requests under way at once.

The key comes from the environment variable that `engine.api_key_env` names, travels as a secret and is never logged.
"""

import asyncio
import functools
import re
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pydantic import SecretStr

from tinyllm_ray.redact import keep_secret
from tinyllm_ray.rows import Outcome
from tinyllm_ray.schema import EndpointSettings, Teacher
from tinyllm_ray.teachers.engines.base import (
    Encoded,
    Setting,
    Stopwatch,
    add_outcomes,
    failed,
    read_prompts,
    redirect_output,
    run_actors,
)
from tinyllm_ray.teachers.engines.endpoint_checks import check_logprobs, check_server, speaks_chat
from tinyllm_ray.teachers.engines.endpoint_client import ServerError
from tinyllm_ray.teachers.engines.endpoint_requests import Asking, open_server, read_key
from tinyllm_ray.teachers.engines.models import model_of
from tinyllm_ray.teachers.engines.soft import check_soft_targets, teacher_tokenizer

if TYPE_CHECKING:
    import ray.data
    from transformers import PreTrainedTokenizerFast

BATCHES_AT_ONCE = 2
_MARK = re.compile(r"<\|[^|<>\s]{1,40}\|>|</?s>|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>")


class Endpoint:
    """The engine `endpoint`: one actor sends all requests; it needs no device, so it takes none of the pool's."""

    greedy_repeats = False

    def __init__(self, teacher: Teacher, setting: Setting) -> None:
        assert isinstance(teacher.engine, EndpointSettings)
        self.teacher = teacher
        self._settings = teacher.engine
        self._setting = setting

    def key(self) -> dict[str, Any]:
        return {"engine": "endpoint", "model": model_of(self.teacher), "revision": self.teacher.revision}

    def check(self) -> None:
        """The server answers, takes the key and has the model, and gives soft targets where they are wanted."""
        check_soft_targets(self.teacher)
        check_server(self.teacher, self._settings)
        if self.teacher.soft_targets:
            check_logprobs(self.teacher, self._settings, chat=self._chats)

    def prompt_limit(self) -> int | None:
        return None

    def encode(self, prompts: list[str]) -> list[Encoded]:
        """The server tokenizes, and most servers find the marks of their chat template in a text too."""
        marks = [_MARK.search(prompt) for prompt in prompts]
        return [Encoded([], f"a mark of chat templates in the text: {mark[0]!r}" if mark else "") for mark in marks]

    def show(self, prompt: str) -> str:
        return prompt

    def opens_thought(self) -> bool:
        return False  # a server gives the thought apart, or with both of its tags

    def run(self, files: "ray.data.Dataset", *, longest_prompt: int) -> "ray.data.Dataset":
        return run_actors(
            files,
            EndpointActor,
            arguments={
                "teacher": self.teacher,
                "settings": self._settings,
                "key": read_key(self.teacher, self._settings),
                "chat": self._chats,
                "tokenizer": teacher_tokenizer(self.teacher) if self.teacher.soft_targets else None,
                "log_file": self._setting.log_file,
            },
            options={"num_cpus": 0.25},
            batches_at_once=BATCHES_AT_ONCE,
        )

    @functools.cached_property
    def _chats(self) -> bool:
        return speaks_chat(self.teacher, self._settings, chat_template=self._setting.prompts.chat_template)


class EndpointActor:
    """Sends the rows of its batches, at most `concurrency` at once."""

    def __init__(
        self,
        *,
        teacher: Teacher,
        settings: EndpointSettings,
        key: SecretStr | None,
        chat: bool,
        tokenizer: "PreTrainedTokenizerFast | None",
        log_file: str | None,
    ) -> None:
        redirect_output(log_file)
        keep_secret(values=[key.get_secret_value()] if key else [])
        self._watch = Stopwatch()
        self._asking = Asking(teacher, open_server(settings, key), chat=chat, tokenizer=tokenizer)
        self._free = asyncio.Semaphore(settings.concurrency)
        self._watch.ready()

    async def __call__(self, files: pa.Table) -> pa.Table:
        prompts = read_prompts(files)
        rows = zip(prompts["prompt"].to_pylist(), prompts["seed"].to_pylist(), strict=True)
        outcomes = await asyncio.gather(*(self._ask(prompt, seed) for prompt, seed in rows))
        return add_outcomes(prompts, outcomes, watch=self._watch)

    async def _ask(self, prompt: str, seed: int) -> Outcome:
        """Whatever the server does fails this row alone."""
        async with self._free:
            try:
                return await self._asking.ask(prompt, seed)
            except ServerError as error:
                return failed(error.reason)
