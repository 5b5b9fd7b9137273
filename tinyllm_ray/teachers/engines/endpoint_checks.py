"""What is asked of a server before anything is generated: whether it has the model, chats, and gives soft targets."""

import asyncio
import math
from typing import TYPE_CHECKING, Any

from tinyllm_ray.config import UserError
from tinyllm_ray.schema import EndpointSettings, Teacher
from tinyllm_ray.teachers.engines.endpoint_answers import LOGPROB_BYTES, NoTokenIds, read_answer, read_logprobs
from tinyllm_ray.teachers.engines.endpoint_client import MIB, Server, ServerError
from tinyllm_ray.teachers.engines.endpoint_requests import Asking, open_server, read_key
from tinyllm_ray.teachers.engines.soft import may_write, teacher_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PROBE_TIMEOUT_S = 20.0
PROBE_RETRIES = 2
PROBE_TOKENS = 16


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
            answer = await Asking(teacher, server, chat=True, tokenizer=None).request("?", 0, max_tokens=1)
            read_answer(answer, chat=True)

    try:
        asyncio.run(ask())
    except ServerError as error:  # any other one than these is said row by row
        return error.status not in (400, 404, 422)
    return True


def check_logprobs(teacher: Teacher, settings: EndpointSettings, *, chat: bool) -> None:
    """Raise UserError where the server does not give the teacher's soft targets, as far as a short answer shows."""
    assert teacher.soft_targets
    name, top_k, tokenizer = f"teachers.{teacher.name}", teacher.soft_targets.top_k, teacher_tokenizer(teacher)
    _check_size(teacher, settings, top_k=top_k, chat=chat)
    try:
        ids, text = asyncio.run(_short_answer(teacher, settings, tokenizer=tokenizer, chat=chat))
    except ServerError as error:
        if not isinstance(error, NoTokenIds) and error.status not in (400, 404, 422) and not _names(error.reason):
            return  # said row by row
        raise UserError(
            f"{name}.soft_targets: {settings.url} does not give them: {error.reason}. They need a server that knows "
            f"vLLM's return_tokens_as_token_ids and gives {top_k} log-probabilities (vLLM's --max-logprobs); serve "
            f"{teacher.model} so, set {name}.soft_targets.top_k lower or {name}.engine.type to vllm, or leave "
            "soft_targets out"
        ) from None
    if not may_write(tokenizer, ids, text):
        raise UserError(
            f"{name}.engine.tokenizer: the token ids that {settings.url} gives for the text {text[:60]!r} do not "
            f"write it by the tokenizer of {tokenizer.name_or_path}; name that of the model that the server runs, and "
            "start the server so that it does not part thoughts from texts (vLLM's --reasoning-parser)"
        )


def _names(reason: str) -> bool:
    """Whether a server speaks of what is asked for soft targets."""
    return "logprob" in reason or "token_id" in reason


def _check_size(teacher: Teacher, settings: EndpointSettings, *, top_k: int, chat: bool) -> None:
    tokens = teacher.sampling.max_tokens
    mib = tokens * (top_k + 1) * LOGPROB_BYTES[chat] / MIB
    if mib > settings.max_answer_mib:
        raise UserError(
            f"teachers.{teacher.name}.engine.max_answer_mib is {settings.max_answer_mib:g}, but an answer of {tokens} "
            f"tokens (sampling.max_tokens) with soft_targets.top_k {top_k} may have {math.ceil(mib)} MiB; set it so"
        )


async def _short_answer(
    teacher: Teacher, settings: EndpointSettings, *, tokenizer: "PreTrainedTokenizerFast", chat: bool
) -> tuple[list[int], str]:
    """The ids and the text of a few tokens, both empty where the model writes none."""
    assert teacher.soft_targets
    async with _probe(teacher, settings) as server:
        answer = await Asking(teacher, server, chat=chat, tokenizer=tokenizer).request("?", 0, max_tokens=PROBE_TOKENS)
    text = read_answer(answer, chat=chat).text
    return (read_logprobs(answer, top_k=teacher.soft_targets.top_k, chat=chat)[0] if text else []), text


def _probe(teacher: Teacher, settings: EndpointSettings) -> Server:
    quick = settings.model_copy(
        update={
            "timeout_s": min(settings.timeout_s, PROBE_TIMEOUT_S),
            "max_retries": min(settings.max_retries, PROBE_RETRIES),
        }
    )
    return open_server(quick, read_key(teacher, settings))
