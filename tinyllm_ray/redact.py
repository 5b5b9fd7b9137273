"""Secrets out of whatever is written down: files, MLflow, messages, logs and the command as it is recorded.

In: text or a JSON value. Out: the same with *** where a secret stood. A secret is known by its value (environment
variables that the experiment names or whose names speak of a secret), by the name it stands under, or by its shape.
redact({"apiKey": "x", "url": "http://me:pw@host"}) -> {"apiKey": "***", "url": "http://***@host"}
"""

import functools
import json
import logging
import os
import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, quote_plus

BLANK = "***"
SHORTEST = 6  # values below this many characters would blank ordinary words
_FOLDERS = {"PWD", "OLDPWD"}  # of a shell
NAMED = "TINYLLM_SECRET_VARIABLES"  # names of variables, for the processes that this one starts
_remembered: set[str] = set()

_ALWAYS = (
    "secret",
    "password",
    "passwd",
    "passphrase",
    "passcode",
    "pwd",
    "credential",
    "apikey",
    "bearer",
    "signature",
)
_WORDS = {"auth", "oauth", "authorization", "pass", "sas", "sig", "jwt", "cookie"}
_ABOUT = {  # a name that ends so says something of a secret, and holds none
    *("env", "mode", "sock", "file", "path", "dir", "config", "url", "uri", "type", "method", "name", "enabled"),
    *("ids", "limit", "count", "size", "timeout", "expiry", "ttl", "variables", "error", "errors", "exception"),
}
_OF_TEXTS = {  # tokens of a tokenizer, and keys that lock nothing
    *(
        "pad",
        "eos",
        "bos",
        "unk",
        "sep",
        "mask",
        "cls",
        "special",
        "stop",
        "start",
        "end",
        "image",
        "decoder",
        "forced",
    ),
    *(
        "max",
        "min",
        "new",
        "num",
        "per",
        "skip",
        "partition",
        "prefix",
        "sort",
        "cache",
        "primary",
        "foreign",
        "id",
        "view",
    ),
}
_ORDINARY = ("monkey", "donkey", "turkey", "hockey", "whiskey", "jockey", "hotkey")
_NAME = r"[A-Za-z][\w.-]*"
_SHAPES = (
    (re.compile(r"(?<!abfs)(?<!abfss)(://)[^/@\s]+@"), rf"\1{BLANK}@"),
    (re.compile(r"(://)[^/@\s:]*:[^/@\s]+@"), rf"\1{BLANK}@"),
    (re.compile(r"(?i)(authorization[\"']?\s*[:=]\s*[\"']?)(?:(?:bearer|basic|token)\s+)?[^\s\"',}]+"), rf"\1{BLANK}"),
    (re.compile(r"(?i)\b((?:bearer|basic)\s+)(?=\S*[\d=])[\w.~+/=-]{6,}"), rf"\1{BLANK}"),
    (
        re.compile(
            r"\b(?:hf_\w{16,}|sk-[\w-]{16,}|[sr]k_(?:live|test)_\w{10,}|gh[pousr]_\w{20,}|github_pat_\w{20,}"
            r"|glpat-[\w-]{16,}|xox[abeprs]-[\w-]{10,}|(?:AKIA|ASIA)[0-9A-Z]{16}|AIza[\w-]{30,}|ya29\.[\w-]{10,}"
            r"|npm_\w{30,}|pypi-[\w-]{30,}|nvapi-[\w-]{20,}|gsk_\w{20,}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*)"
        ),
        BLANK,
    ),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), BLANK),
)
_ASSIGNED = re.compile(rf"({_NAME})([\"']?\s*[:=]\s*[\"']?)(?!//)([^\s\"',;&}}\]]+)")
_URL_WITH_CREDENTIALS = re.compile(r"(?i)(?!abfss?://)\b[a-z][a-z0-9+.-]*://[^/@\s]+@|://[^/@\s:]*:[^/@\s]+@")
_QUERY = re.compile(rf"[?&;]({_NAME})=([^&;\s\"'#]+)")


def redact(node: Any) -> Any:
    """A JSON value without secrets; what has none comes back equal."""
    if isinstance(node, list | tuple):
        return [redact(item) for item in node]
    if isinstance(node, str):
        return redact_text(node)
    if not isinstance(node, dict):
        return node
    return {key: _blanked(value) if is_secret_name(str(key)) else redact(value) for key, value in node.items()}


def redact_text(text: str) -> str:
    text = without_known(text)
    for pattern, replacement in _SHAPES:
        text = pattern.sub(replacement, text)
    return _ASSIGNED.sub(_blank_assigned, text)


def without_known(text: str) -> str:
    """Only the values that are known to be secret: for texts whose shape means nothing, such as a teacher's."""
    for value in _known_values():
        text = text.replace(value, BLANK)
    return text


def keep_secret(*, variables: Iterable[str] = (), values: Iterable[str] = ()) -> None:
    """From now on the values of these environment variables, and these values, are blanked wherever they stand."""
    names = {*os.environ.get(NAMED, "").split(","), *variables} - {""}
    if names:
        os.environ[NAMED] = ",".join(sorted(names))
    _remembered.update(values)


def holds_credentials(text: str) -> bool:
    """Whether an address in it carries a user, a password, a key or a signature. ${NAME} stands for a variable."""
    if "://" not in text:
        return False
    parts = [found for found in _QUERY.findall(text) if not re.fullmatch(r"\$\{\w+\}", found[1])]
    return bool(_URL_WITH_CREDENTIALS.search(text)) or any(is_secret_name(name) for name, _ in parts)


@functools.lru_cache(maxsize=4096)
def is_secret_name(name: str) -> bool:
    """hf_token, apiKey, X-Api-Key, dbPwd; neither max_tokens, api_key_env nor pad_token."""
    words = [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+", name.rpartition(".")[2])]
    if not words or words[-1] in _ABOUT:
        return False
    if any(part in "".join(words) for part in _ALWAYS) or _WORDS & set(words):
        return True
    secret_words = [word for word in words if word.endswith(("token", "key", "auth")) and not word.endswith(_ORDINARY)]
    return bool(secret_words) and (words[-2:] == ["key", "id"] or not _OF_TEXTS & set(words))


class RedactingFilter(logging.Filter):
    """For a handler: what it writes holds no secret."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redact_text(record.getMessage()), ()
        return True


def _blanked(value: Any) -> Any:
    """Texts, at any depth; numbers are counts (max_tokens), and null and truth values tell nothing."""
    if isinstance(value, dict):
        return {key: _blanked(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_blanked(item) for item in value]
    return BLANK if isinstance(value, str) and value else value


def _blank_assigned(match: re.Match[str]) -> str:
    name, between, value = match.groups()
    count = value.isdigit() and len(value) < SHORTEST
    plain = name.lower() in ("key", "keys") or value.startswith(BLANK) or "${" in value or count
    return match[0] if plain or not is_secret_name(name) else f"{name}{between}{BLANK}"


def _known_values() -> list[str]:
    named = os.environ.get(NAMED, "").split(",")
    values = {
        value for name, value in os.environ.items() if name in named or (is_secret_name(name) and name not in _FOLDERS)
    }
    values |= _remembered
    long = {value.strip() for value in values if len(value.strip()) >= SHORTEST}
    spelled = {form for value in long for form in (value, quote(value, safe=""), quote_plus(value), _in_json(value))}
    return sorted(spelled, key=len, reverse=True)


def _in_json(value: str) -> str:
    return json.dumps(value)[1:-1]
