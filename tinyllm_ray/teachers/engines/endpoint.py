"""Teachers behind an OpenAI-compatible server: prompt texts in, outcomes out, many requests under way at once.

The key comes from the environment variable that `engine.api_key_env` names, travels as a secret and is never logged.
"""

import asyncio
import os
import re
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pydantic import SecretStr

from tinyllm_ray.config import UserError
from tinyllm_ray.redact import keep_secret
from tinyllm_ray.rows import Outcome
from tinyllm_ray.schema import EndpointSettings, Teacher
from tinyllm_ray.teachers.engines.base import (
    Encoded,
    Setting,
    Stopwatch,
    add_outcomes,
    failed,
    outcome,
    read_prompts,
    redirect_output,
    run_actors,
)
from tinyllm_ray.teachers.engines.encoding import messages
from tinyllm_ray.teachers.engines.endpoint_client import MIB, Server, ServerError
from tinyllm_ray.teachers.engines.models import model_of
from tinyllm_ray.teachers.engines.soft import refuse_soft_targets
from tinyllm_ray.teachers.thoughts import join_thought

if TYPE_CHECKING:
    import ray.data

BATCHES_AT_ONCE = 2
PROBE_TIMEOUT_S = 20.0
PROBE_RETRIES = 2
_LIMIT, _NEW_LIMIT = "max_tokens", "max_completion_tokens"  # the name that newer models of OpenAI's want
_MARK = re.compile(r"<\|[^|<>\s]{1,40}\|>|</?s>|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>")
_MOST_TOKENS = 2**31 - 1  # what a store's column holds


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
        """The server answers, takes the key and has the model."""
        refuse_soft_targets(self.teacher, "OpenAI's API gives log-probabilities of pieces of text, not of token ids")
        check_server(self.teacher, self._settings)

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
                "key": _key(self.teacher, self._settings),
                "chat": speaks_chat(self.teacher, self._settings, chat_template=self._setting.prompts.chat_template),
                "log_file": self._setting.log_file,
            },
            options={"num_cpus": 0.25},
            batches_at_once=BATCHES_AT_ONCE,
        )


class EndpointActor:
    """Sends the rows of its batches, at most `concurrency` at once."""

    def __init__(
        self, *, teacher: Teacher, settings: EndpointSettings, key: SecretStr | None, chat: bool, log_file: str | None
    ) -> None:
        redirect_output(log_file)
        keep_secret(values=[key.get_secret_value()] if key else [])
        self._watch = Stopwatch()
        self._asking = _Asking(teacher, _server(settings, key), chat=chat)
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


class _Asking:
    """One model's requests, in the form that its server takes."""

    def __init__(self, teacher: Teacher, server: Server, *, chat: bool) -> None:
        self._teacher = teacher
        self._server = server
        self._chat = chat
        self._limit = _LIMIT

    async def ask(self, prompt: str, seed: int, *, max_tokens: int | None = None) -> Outcome:
        path, body = "/completions", _arguments(self._teacher, seed)
        if self._chat:
            path = "/chat/completions"
            body["messages"] = messages(self._teacher, prompt)
            if self._teacher.chat_template_kwargs:  # of vLLM's server and others; OpenAI's own refuse it
                body["chat_template_kwargs"] = self._teacher.chat_template_kwargs
        else:
            body["prompt"] = prompt
        tokens = max_tokens or self._teacher.sampling.max_tokens
        limit = self._limit
        try:
            answer = await self._server.post(path, {**body, limit: tokens})
        except ServerError as error:
            if limit != _LIMIT or error.status not in (400, 422) or _NEW_LIMIT not in error.reason:
                raise
            self._limit = _NEW_LIMIT  # for all requests to come
            answer = await self._server.post(path, {**body, _NEW_LIMIT: tokens})
        return read_answer(answer, chat=self._chat)


def read_answer(answer: Any, *, chat: bool) -> Outcome:
    """The outcome in a server's JSON; raises ServerError for any other form than OpenAI's."""
    choices = _get(answer, "choices", list | None)
    if not choices and isinstance(answer.get("error"), dict | str):
        raise ServerError(f"endpoint answered with an error: {str(answer['error'])[:200]}")
    choice = choices[0] if choices else {}
    if chat:
        message = _get(choice, "message", dict | None) or {}
        thought = _get(message, "reasoning_content", str | None) or _get(message, "reasoning", str | None) or ""
        text = join_thought(thought, _get(message, "content", str | None) or "")
    else:
        text = _get(choice, "text", str | None) or ""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ServerError("endpoint answered badly: its text holds half a character (a lone surrogate)") from None
    usage = answer.get("usage")
    return outcome(
        text,
        "length" if choice.get("finish_reason") == "length" else "stop",
        input_tokens=_count(usage, "prompt_tokens"),
        output_tokens=_count(usage, "completion_tokens"),
    )


def _get(holder: Any, name: str, kind: Any) -> Any:
    if not isinstance(holder, dict):
        raise ServerError(f"endpoint answered badly: {type(holder).__name__} stands where `{name}` is looked for")
    value = holder.get(name)
    if not isinstance(value, kind):
        raise ServerError(f"endpoint answered badly: `{name}` is {type(value).__name__}")
    return value


def _count(usage: Any, name: str) -> int:
    """A number of tokens; 0 where the server gives none that can be."""
    value = usage.get(name) if isinstance(usage, dict) else 0
    return value if type(value) is int and 0 <= value <= _MOST_TOKENS else 0


def _arguments(teacher: Teacher, seed: int) -> dict[str, Any]:
    sampling = teacher.sampling
    arguments: dict[str, Any] = {
        "model": teacher.model,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": seed,
    }
    if sampling.stop:
        arguments["stop"] = sampling.stop
    if sampling.repetition_penalty != 1:  # not a field of OpenAI's own servers
        arguments["repetition_penalty"] = sampling.repetition_penalty
    return arguments


def check_server(teacher: Teacher, settings: EndpointSettings) -> None:
    """Raise UserError where the server does not answer, refuses the key or does not have the model."""
    name, url = f"teachers.{teacher.name}", settings.url

    async def list_models() -> list[str]:
        async with _probe(teacher, settings) as server:
            return _model_ids(await server.get("/models"))

    try:
        models = asyncio.run(list_models())
    except ServerError as error:
        if error.status in (401, 403):
            raise UserError(
                f"{name}.engine.api_key_env: {url} refuses the key in {settings.api_key_env!r}; put one there that it "
                "takes"
            ) from None
        if error.reason.startswith(("endpoint not reached", "endpoint timed out")):
            raise UserError(
                f"{name}.engine.url: no server answers at {url} ({error.reason}); start it, or correct the address"
            ) from None
        return  # not every server lists its models
    if models and teacher.model not in models:
        raise UserError(f"{name}.model: {url} does not serve {teacher.model!r}; it serves {models[:20]}")


def _model_ids(answer: Any) -> list[str]:
    """What a server says that it serves; empty where it says nothing that can be read."""
    rows = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(rows, list):
        return []
    ids = [row.get("id") for row in rows if isinstance(row, dict)]
    return [name for name in ids if isinstance(name, str)]


def speaks_chat(teacher: Teacher, settings: EndpointSettings, *, chat_template: str) -> bool:
    """auto: chat, unless the server says that this model has no chat template."""
    if chat_template != "auto":
        return chat_template == "always"

    async def ask() -> None:
        async with _probe(teacher, settings) as server:
            await _Asking(teacher, server, chat=True).ask("?", 0, max_tokens=1)

    try:
        asyncio.run(ask())
    except ServerError as error:  # any other one than these is said row by row
        return error.status not in (400, 404, 422)
    return True


def _probe(teacher: Teacher, settings: EndpointSettings) -> Server:
    quick = settings.model_copy(
        update={
            "timeout_s": min(settings.timeout_s, PROBE_TIMEOUT_S),
            "max_retries": min(settings.max_retries, PROBE_RETRIES),
        }
    )
    return _server(quick, _key(teacher, settings))


def _server(settings: EndpointSettings, key: SecretStr | None) -> Server:
    return Server(
        settings.url,
        key=key,
        timeout_s=settings.timeout_s,
        max_retries=settings.max_retries,
        max_bytes=int(settings.max_answer_mib * MIB),
    )


def _key(teacher: Teacher, settings: EndpointSettings) -> SecretStr | None:
    variable = settings.api_key_env
    if variable is None:
        return None
    name, key = f"teachers.{teacher.name}.engine.api_key_env", os.environ.get(variable, "")
    if not key:
        raise UserError(f"{name}: the environment variable {variable} is not set; set it to the server's key")
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise UserError(
            f"{name}: the key in {variable} holds a space, a line break or another character that no key has"
        )
    return SecretStr(key)
