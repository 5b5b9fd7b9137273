"""What a server's JSON says: an answer of OpenAI's form in, an outcome or the log-probabilities of its tokens out.

Log-probabilities come with token ids from servers that know vLLM's field `return_tokens_as_token_ids`: a token is then
"token_id:123". Any other form than what is expected raises ServerError.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyllm_ray.rows import Outcome
from tinyllm_ray.teachers.engines.base import outcome
from tinyllm_ray.teachers.engines.endpoint_client import ServerError
from tinyllm_ray.teachers.engines.soft import likeliest
from tinyllm_ray.teachers.thoughts import join_thought

_MOST = 2**31 - 1  # tokens, and a token's id: what a store's column holds
_TOKEN_ID = re.compile(r"token_id:([0-9]{1,10})")
_ZERO = -9999.0  # what vLLM's server writes for the logarithm of 0, which JSON does not have
_ROUNDING = 1e-3  # by which a log-probability may exceed 0, and a sum of probabilities 1

LOGPROB_BYTES = {True: 130, False: 45}  # of a token among the likeliest in a chat's JSON, and in a completion's


class NoTokenIds(ServerError):
    """The answer holds no log-probabilities that can be used."""


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
    return value if type(value) is int and 0 <= value <= _MOST else 0


def logprob_fields(top_k: int, *, chat: bool) -> dict[str, Any]:
    """What a request says to get each token's `top_k` likeliest with their ids."""
    wanted: dict[str, Any] = {"logprobs": True, "top_logprobs": top_k} if chat else {"logprobs": top_k}
    return wanted | {"return_tokens_as_token_ids": True}


def read_logprobs(answer: Any, *, top_k: int, chat: bool) -> tuple[list[int], np.ndarray, np.ndarray]:
    """The ids [n] of what was generated, and the likeliest ids and log-probabilities [n, k], of an answer that
    `read_answer` takes.

    Raises NoTokenIds where they are missing or cannot be what they should be.
    """
    logprobs = answer["choices"][0].get("logprobs")
    if not isinstance(logprobs, dict):
        raise NoTokenIds(f"endpoint gives no log-probabilities: `logprobs` is {type(logprobs).__name__}")
    tokens, tops = _chat_tokens(logprobs) if chat else _completion_tokens(logprobs)
    written = _count(answer.get("usage"), "completion_tokens") or max(len(tokens), 1)
    if len(tokens) != written:
        raise NoTokenIds(f"endpoint gives log-probabilities of {len(tokens)} tokens, and it wrote {written}")
    rows = [_read_top(top, top_k) for top in tops]
    ids, values = (np.array([row[i] for row in rows]).reshape(-1, top_k) for i in (0, 1))
    return [_token_id(token) for token in tokens], ids, values


_Top = Sequence[tuple[Any, Any]]  # of one position: tokens and their log-probabilities


def _chat_tokens(logprobs: dict[str, Any]) -> tuple[list[Any], list[_Top]]:
    entries = _list(logprobs, "content")
    tops = [_list(entry, "top_logprobs") for entry in entries]
    return [_field(entry, "token") for entry in entries], [
        [(_field(one, "token"), _field(one, "logprob")) for one in top] for top in tops
    ]


def _completion_tokens(logprobs: dict[str, Any]) -> tuple[list[Any], list[_Top]]:
    tokens, tops = _list(logprobs, "tokens"), _list(logprobs, "top_logprobs")
    if len(tops) != len(tokens):
        raise NoTokenIds(f"endpoint gives {len(tops)} `top_logprobs` for {len(tokens)} `tokens`")
    for top in tops:
        if not isinstance(top, dict):
            raise NoTokenIds(f"endpoint gives {type(top).__name__} among `top_logprobs`")
    return tokens, [list(top.items()) for top in tops]


def _list(holder: Any, name: str) -> list[Any]:
    value = _field(holder, name)
    if not isinstance(value, list):
        raise NoTokenIds(f"endpoint gives no log-probabilities: `{name}` is {type(value).__name__}")
    return value


def _field(holder: Any, name: str) -> Any:
    if not isinstance(holder, dict):
        raise NoTokenIds(f"endpoint gives {type(holder).__name__} where `{name}` is looked for")
    return holder.get(name)


def _read_top(top: _Top, top_k: int) -> tuple[list[int], list[float]]:
    """The `top_k` likeliest of one position; a server may give the token that it wrote beside them."""
    pairs = [(_token_id(token), _logprob(value)) for token, value in top]
    if len({number for number, _ in pairs}) != len(pairs):
        raise NoTokenIds("endpoint gives a token twice among the likeliest of one place")
    if len(pairs) < top_k:
        raise NoTokenIds(f"endpoint gives {len(pairs)} log-probabilities for a token, and {top_k} were asked for")
    if (total := sum(math.exp(value) for _, value in pairs)) > 1 + _ROUNDING:
        raise NoTokenIds(f"endpoint gives log-probabilities whose probabilities add up to {total:.3f}")
    return likeliest(pairs, top_k)


def _token_id(token: Any) -> int:
    found = _TOKEN_ID.fullmatch(token) if isinstance(token, str) else None
    if not found or int(found[1]) > _MOST:
        raise NoTokenIds(f"endpoint gives no token ids: a token is {repr(token)[:60]}, not 'token_id:NUMBER'")
    return int(found[1])


def _logprob(value: Any) -> float:
    """Minus infinity for a token that cannot come."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not value <= _ROUNDING:
        raise NoTokenIds(f"endpoint gives {repr(value)[:60]} for a log-probability, which is a number of at most 0")
    return float(value) if value > _ZERO else -math.inf
