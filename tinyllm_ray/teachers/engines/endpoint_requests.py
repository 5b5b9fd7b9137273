"""The requests for one model of a server, in the form that this server takes: prompt texts in, outcomes out."""

import os
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from tinyllm_ray.config import UserError
from tinyllm_ray.rows import Outcome
from tinyllm_ray.schema import EndpointSettings, Teacher
from tinyllm_ray.teachers.engines.encoding import messages
from tinyllm_ray.teachers.engines.endpoint_answers import logprob_fields, read_answer, read_logprobs
from tinyllm_ray.teachers.engines.endpoint_client import MIB, Server, ServerError
from tinyllm_ray.teachers.engines.soft import with_soft_targets

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_LIMIT, _NEW_LIMIT = "max_tokens", "max_completion_tokens"  # the name that newer models of OpenAI's want


class Asking:
    """Asks for soft targets where there is the tokenizer that finds their tokens in a text."""

    def __init__(
        self, teacher: Teacher, server: Server, *, chat: bool, tokenizer: "PreTrainedTokenizerFast | None"
    ) -> None:
        self._teacher = teacher
        self._server = server
        self._chat = chat
        self._tokenizer = tokenizer
        self._limit = _LIMIT

    async def ask(self, prompt: str, seed: int) -> Outcome:
        """Raises ServerError where there is no answer, or none that can be used."""
        answer = await self.request(prompt, seed, max_tokens=self._teacher.sampling.max_tokens)
        made = read_answer(answer, chat=self._chat)
        soft = self._teacher.soft_targets
        if self._tokenizer is None or soft is None or made.failure:
            return made
        ids, top_ids, values = read_logprobs(answer, top_k=soft.top_k, chat=self._chat)
        return with_soft_targets(made, self._tokenizer, ids, top_ids=top_ids, top_logprobs=values)

    async def request(self, prompt: str, seed: int, *, max_tokens: int) -> Any:
        """The server's JSON."""
        path, body = "/completions", self._arguments(seed)
        if self._chat:
            path = "/chat/completions"
            body["messages"] = messages(self._teacher, prompt)
            if self._teacher.chat_template_kwargs:  # of vLLM's server and others; OpenAI's own refuse it
                body["chat_template_kwargs"] = self._teacher.chat_template_kwargs
        else:
            body["prompt"] = prompt
        limit = self._limit
        try:
            return await self._server.post(path, {**body, limit: max_tokens})
        except ServerError as error:
            if limit != _LIMIT or error.status not in (400, 422) or _NEW_LIMIT not in error.reason:
                raise
            self._limit = _NEW_LIMIT  # for all requests to come
            return await self._server.post(path, {**body, _NEW_LIMIT: max_tokens})

    def _arguments(self, seed: int) -> dict[str, Any]:
        sampling = self._teacher.sampling
        arguments: dict[str, Any] = {
            "model": self._teacher.model,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": seed,
        }
        if sampling.stop:
            arguments["stop"] = sampling.stop
        if sampling.repetition_penalty != 1:  # not a field of OpenAI's own servers
            arguments["repetition_penalty"] = sampling.repetition_penalty
        if self._tokenizer and self._teacher.soft_targets:
            arguments |= logprob_fields(self._teacher.soft_targets.top_k, chat=self._chat)
        return arguments


def open_server(settings: EndpointSettings, key: SecretStr | None) -> Server:
    return Server(
        settings.url,
        key=key,
        timeout_s=settings.timeout_s,
        max_retries=settings.max_retries,
        max_bytes=int(settings.max_answer_mib * MIB),
    )


def read_key(teacher: Teacher, settings: EndpointSettings) -> SecretStr | None:
    """The key in the environment; None where the server wants none. Raises UserError where it cannot be one."""
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
