"""Secrets out of whatever is written down: values of keys that name a secret, credentials in URLs, known tokens.

Pure but for the environment: values of variables such as HF_TOKEN or MLFLOW_TRACKING_PASSWORD are blanked wherever
they stand. redact({"api_key": "x", "url": "http://me:pw@host"}) -> {"api_key": "***", "url": "http://***@host"}
"""

import os
import re
from typing import Any

BLANK = "***"
SHORTEST = 6  # environment values below this many characters would blank ordinary words
_NAMES = (
    r"token|password|passwd|passphrase|secret|credentials?|authorization|(?:api|access|secret|private)[_-]?key(?:_id)?"
)
_KEY = re.compile(rf"(?i)(^|[_.\s-])({_NAMES})$")
_PATTERNS = (
    (re.compile(r"(://)[^/@\s]+@"), rf"\1{BLANK}@"),
    (
        re.compile(r"(?i)([?&][\w.-]*(?:token|key|signature|password|secret|credential)[\w.-]*=)[^&\s\"']+"),
        rf"\1{BLANK}",
    ),
    (re.compile(r"(?i)(authorization[\"']?\s*[:=]\s*[\"']?)(?:(?:bearer|basic)\s+)?[^\s\"',}]+"), rf"\1{BLANK}"),
    (re.compile(r"(?i)\b(bearer\s+)[\w.~+/=-]{12,}"), rf"\1{BLANK}"),
    (re.compile(rf"(?i)((?:^|[\s\"'_.,{{-])(?:{_NAMES})[\"']?\s*[:=]\s*[\"']?)[^\s\"',}}]{{4,}}"), rf"\1{BLANK}"),
    (re.compile(r"\b(?:hf_\w{20,}|sk-[\w-]{20,}|gh[pousr]_\w{30,}|(?:AKIA|ASIA)[0-9A-Z]{16})"), BLANK),
)


def redact(node: Any) -> Any:
    """A JSON value without secrets; what has none comes back equal."""
    if isinstance(node, list):
        return [redact(item) for item in node]
    if isinstance(node, str):
        return redact_text(node)
    if not isinstance(node, dict):
        return node
    return {
        key: BLANK if _KEY.search(str(key)) and isinstance(value, str | list) else redact(value)
        for key, value in node.items()
    }


def redact_text(text: str) -> str:
    for value in _environment_secrets():
        text = text.replace(value, BLANK)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def _environment_secrets() -> list[str]:
    values = {value for name, value in os.environ.items() if _KEY.search(name) and len(value) >= SHORTEST}
    return sorted(values, key=len, reverse=True)
