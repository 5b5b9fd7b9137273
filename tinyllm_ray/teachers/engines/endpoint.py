"""Teachers behind an OpenAI-compatible server: prompt texts in, outcomes out, many requests under way at once.

The key comes from the environment variable that `endpoint.api_key_env` names, travels as a secret and is never logged.
"""

import asyncio
import os

import openai
import pyarrow as pa
import ray.data
from pydantic import SecretStr

from tinyllm_ray.config import UserError
from tinyllm_ray.rows import Outcome
from tinyllm_ray.schema import Teacher
from tinyllm_ray.teachers.engines.base import (
    Stopwatch,
    add_outcomes,
    failed,
    outcome,
    read_prompts,
    redirect_output,
)

BATCHES_AT_ONCE = 2
PROBE_TIMEOUT_S = 20.0
PROBE_RETRIES = 2
_NO_KEY = "none"  # the client wants a key even for a server that does not


def run(files: ray.data.Dataset, *, teacher: Teacher, chat_template: str, log_file: str | None) -> ray.data.Dataset:
    """One actor sends all requests; it needs no device, so it takes none of the pool's."""
    return files.map_batches(
        EndpointClient,
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(
            size=1, max_tasks_in_flight_per_actor=BATCHES_AT_ONCE + 1, max_concurrent_calls_per_actor=BATCHES_AT_ONCE
        ),
        fn_constructor_kwargs={
            "teacher": teacher,
            "key": _key(teacher),
            "chat": speaks_chat(teacher, chat_template),
            "log_file": log_file,
        },
        num_cpus=0.25,
    )


def check(teacher: Teacher) -> None:
    """Raise UserError where the server does not answer, refuses the key or does not have the model."""
    name, url = f"teachers.{teacher.name}.endpoint", teacher.endpoint.url
    try:
        models = [model.id for model in _probe(teacher).models.list()]
    except openai.APIConnectionError as error:  # a time-out is one of these
        raise UserError(f"{name}.url: no server answers at {url} ({error}); start it, or correct the address") from None
    except (openai.AuthenticationError, openai.PermissionDeniedError):
        raise UserError(
            f"{name}.api_key_env: {url} refuses the key in {teacher.endpoint.api_key_env!r}; put one there "
            "that it takes"
        ) from None
    except openai.APIStatusError:  # not every server lists its models
        return
    if teacher.model not in models:
        raise UserError(f"teachers.{teacher.name}.model: {url} does not serve {teacher.model!r}; it serves {models}")


class EndpointClient:
    """Sends the rows of its batches, at most `endpoint.concurrency` at once."""

    def __init__(self, *, teacher: Teacher, key: SecretStr, chat: bool, log_file: str | None) -> None:
        redirect_output(log_file)
        watch = Stopwatch()
        self._teacher = teacher
        self._chat = chat
        settings = teacher.endpoint
        self._client = openai.AsyncOpenAI(
            base_url=settings.url,
            api_key=key.get_secret_value(),
            timeout=settings.timeout_s,
            max_retries=settings.max_retries,
        )
        self._free = asyncio.Semaphore(settings.concurrency)
        watch.ready()
        self._watch = watch

    async def __call__(self, files: pa.Table) -> pa.Table:
        prompts = read_prompts(files)
        rows = zip(prompts["prompt"].to_pylist(), prompts["seed"].to_pylist(), strict=True)
        outcomes = await asyncio.gather(*(self._ask(prompt, seed) for prompt, seed in rows))
        return add_outcomes(
            prompts, outcomes, engine_start_s=self._watch.engine_start_s, engine_ready_at=self._watch.engine_ready_at
        )

    async def _ask(self, prompt: str, seed: int) -> Outcome:
        """One prompt; the client retries what may pass (refused, 408, 409, 429, 5xx) with growing pauses."""
        try:
            async with self._free:
                return await (self._ask_chat if self._chat else self._ask_completion)(prompt, seed)
        except openai.APITimeoutError:
            return failed(f"endpoint timed out: no answer within {self._teacher.endpoint.timeout_s:g} s")
        except openai.APIConnectionError as error:
            return failed(f"endpoint not reached: {error}")
        except openai.APIStatusError as error:
            return failed(f"endpoint answered {error.status_code}: {error.message[:300]}")
        except openai.APIResponseValidationError as error:
            return failed(f"endpoint answered no JSON: {error}")

    async def _ask_chat(self, prompt: str, seed: int) -> Outcome:
        answer = await self._client.chat.completions.create(
            messages=[{"role": "user", "content": prompt}], **_arguments(self._teacher, seed)
        )
        if isinstance(answer, str):  # what the client makes of a page that is not JSON
            return failed(f"endpoint answered no JSON: {answer[:300]}")
        texts = [(choice.message.content, choice.finish_reason) for choice in answer.choices or []]
        return _outcome(texts, answer.usage)

    async def _ask_completion(self, prompt: str, seed: int) -> Outcome:
        answer = await self._client.completions.create(prompt=prompt, **_arguments(self._teacher, seed))
        if isinstance(answer, str):
            return failed(f"endpoint answered no JSON: {answer[:300]}")
        texts = [(choice.text, choice.finish_reason) for choice in answer.choices or []]
        return _outcome(texts, answer.usage)


def _outcome(texts: list[tuple[str | None, str | None]], usage: openai.types.CompletionUsage | None) -> Outcome:
    text, finish_reason = texts[0] if texts else ("", None)
    return outcome(
        text or "",
        "length" if finish_reason == "length" else "stop",
        input_tokens=usage.prompt_tokens if usage else 0,
        output_tokens=usage.completion_tokens if usage else 0,
    )


def _arguments(teacher: Teacher, seed: int) -> dict[str, object]:
    sampling = teacher.sampling
    arguments: dict[str, object] = {
        "model": teacher.model,
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": seed,
    }
    if sampling.stop:
        arguments["stop"] = list(sampling.stop)
    if sampling.repetition_penalty != 1:  # not a field of OpenAI's own servers
        arguments["extra_body"] = {"repetition_penalty": sampling.repetition_penalty}
    return arguments


def speaks_chat(teacher: Teacher, chat_template: str) -> bool:
    """auto: chat, unless the server says that this model has no chat template."""
    if chat_template != "auto":
        return chat_template == "always"
    try:
        _probe(teacher).chat.completions.create(
            model=teacher.model, messages=[{"role": "user", "content": "?"}], max_tokens=1
        )
    except (openai.BadRequestError, openai.NotFoundError):
        return False
    except openai.APIError:  # said row by row
        return True
    return True


def _probe(teacher: Teacher) -> openai.OpenAI:
    settings = teacher.endpoint
    return openai.OpenAI(
        base_url=settings.url,
        api_key=_key(teacher).get_secret_value(),
        timeout=min(settings.timeout_s, PROBE_TIMEOUT_S),
        max_retries=min(settings.max_retries, PROBE_RETRIES),
    )


def _key(teacher: Teacher) -> SecretStr:
    variable = teacher.endpoint.api_key_env
    if variable is None:
        return SecretStr(_NO_KEY)
    if not os.environ.get(variable):
        raise UserError(
            f"teachers.{teacher.name}.endpoint.api_key_env: the environment variable {variable} is not "
            "set; set it to the server's key"
        )
    return SecretStr(os.environ[variable])
