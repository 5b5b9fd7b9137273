"""What a judge is asked and what it says: a question and a rationale in, its prompt out; its text in, a score out.

A judge's prompt is a template with `{question}`, `{context}`, `{choices}`, `{answer}` and `{rationale}`.
"""

import re
from importlib import resources

from tinyllm_ray import storage
from tinyllm_ray.config import UserError
from tinyllm_ray.data.prompts import BRACED, show_question
from tinyllm_ray.rows import Question

DEFAULT = "default"
_FIELDS = ("question", "context", "choices", "answer", "rationale")
_SCORE = re.compile(r"(?<![\d.])[1-5](?!\.?\d)")


def load_judge_prompt(name_or_path: str) -> str:
    """The packaged prompt `default` or the text of a file; raises UserError where it cannot be used."""
    if name_or_path == DEFAULT:
        return (resources.files("tinyllm_ray.data") / "templates" / "judge" / "default.txt").read_text(encoding="utf-8")
    try:
        form = storage.read_bytes(name_or_path).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"rationales.judge.prompt: {name_or_path!r} is neither {DEFAULT!r} nor a readable UTF-8 file: {error}"
        ) from None
    for match in BRACED.finditer(form):
        if match[1] not in _FIELDS:
            allowed = ", ".join(f"{{{field}}}" for field in _FIELDS)
            raise UserError(f"rationales.judge.prompt: {name_or_path} holds {match[0]!r}; allowed in braces: {allowed}")
    for field in ("{question}", "{rationale}"):
        if form.count(field) != 1:
            raise UserError(f"rationales.judge.prompt: {name_or_path} must hold {field} once")
    return form


def judge_prompt(question: Question, rationale: str, *, form: str) -> str:
    """Lines of `{choices}` are left out with their heading where the question has none."""
    before, _, after = form.partition("{rationale}")
    return f"{show_question(question, before)}{rationale.strip()}{show_question(question, after)}".rstrip("\n")


def read_score(text: str) -> int:
    """The first number from 1 to 5 that stands by itself; 0 where there is none."""
    found = _SCORE.search(text)
    return int(found[0]) if found else 0
