"""Prompts: Question rows and a template in, the exact text for a teacher or a student out. Pure.

A template is data: `{question}`, `{context}`, `{choices}`, `{answer}` and `{examples}` are replaced, any other brace
is refused. A passage is shown above the question where the template does not place `{context}` itself.
A line `---` parts the form of one solved example (above) from the form of the prompt (below).
"""

import random
import re
from collections.abc import Mapping, Sequence
from importlib import resources

from tinyllm_ray import storage
from tinyllm_ray.config import UserError
from tinyllm_ray.rows import Question
from tinyllm_ray.schema import InContext
from tinyllm_ray.tasks.registry import task_of

_FIELDS = ("question", "context", "choices", "answer", "examples")
BRACED = re.compile(r"\{([^{}]*)\}|[{}]")
_CHOICES = re.compile(
    r"(?:^[^{}\n]*:[ \t]*\n)?^[^\n]*\{choices\}[^\n]*\n?", re.MULTILINE
)  # with the heading above them
_PART = re.compile(r"^---[ \t]*\n", re.MULTILINE)
_EXAMPLE = "Question: {question}\nOptions:\n{choices}\nAnswer: {answer}"


def student_input(prefix: str, question: Question) -> str:
    """What the student reads for one component of the loss: its prefix, then the question as its task shows it."""
    return f"{prefix}{task_of(question.task).student_text(question)}"


def load_template(name_or_path: str) -> str:
    """The text of a packaged template (`paper`, `answer`, `bare`) or of a file; raises UserError where it is none."""
    folder = resources.files("tinyllm_ray.data") / "templates"
    packaged = sorted(item.name.removesuffix(".txt") for item in folder.iterdir() if item.name.endswith(".txt"))
    if name_or_path in packaged:
        return (folder / f"{name_or_path}.txt").read_text(encoding="utf-8")
    try:
        template = storage.read_bytes(name_or_path).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"prompts.template: {name_or_path!r} is neither a packaged template ({', '.join(packaged)}) "
            f"nor a readable UTF-8 file: {error}"
        ) from None
    _check(template, name_or_path)
    return template


def example_set(question_id: str, *, pool: int, seed: int) -> int:
    """Which of the `pool` shared example sets a question uses."""
    return random.Random(f"{seed}/set of/{question_id}").randrange(pool)


def choose_examples(
    question: Question, *, candidates: Sequence[Question], in_context: InContext, seed: int
) -> list[Question]:
    """Solved examples for one question: never the question itself, never the same text, the same ones every time.

    Drawn per question, or from the question's shared set where `in_context.pool` is given. Fewer than
    `in_context.examples` where there are not enough candidates.
    """
    drawn_for = question.question_id
    if in_context.pool is not None:
        drawn_for = f"set {example_set(question.question_id, pool=in_context.pool, seed=seed)}"
    draw = random.Random(f"{seed}/examples for/{drawn_for}")
    chosen: list[Question] = []
    taken_ids, taken_texts = {question.question_id}, {question.question}
    seen: set[int] = set()
    while len(chosen) < in_context.examples and len(seen) < len(candidates):
        index = draw.randrange(len(candidates))
        seen.add(index)
        candidate = candidates[index]
        if candidate.question_id not in taken_ids and candidate.question not in taken_texts:
            chosen.append(candidate)
            taken_ids.add(candidate.question_id)
            taken_texts.add(candidate.question)
    return chosen


def build_prompt(
    question: Question,
    *,
    template: str,
    examples: Sequence[Question],
    teacher_forcing: bool,
    rationales: Mapping[str, str] | None = None,
) -> str:
    """The teacher's prompt; `rationales` are of the examples, by question id, after the template's own last words.

    Without teacher forcing the template's lines that hold `{answer}` are left out, and those
    of `{choices}` with their heading where the question has none."""
    example_form, form = _parts(template)
    if examples and "{examples}" not in form:
        raise UserError(
            f"the prompt template has no {{examples}}, but {len(examples)} in-context examples were asked for; add "
            "{examples} to it or set prompts.in_context.examples=0"
        )
    if teacher_forcing and "{answer}" not in form:
        raise UserError(
            "the prompt template has no {answer}, but prompts.teacher_forcing is true; add {answer} to it or set "
            "prompts.teacher_forcing=false"
        )
    if not teacher_forcing:
        form = "".join(line for line in form.splitlines(keepends=True) if "{answer}" not in line)
    lead = form[form.rindex("}") + 1 :].strip()  # "Rationale: Let's think step by step."
    solved = "".join(
        f"{show_question(example, example_form).rstrip()}{_reasoned(example, lead, rationales or {})}\n\n"
        for example in examples
    )
    return show_question(question, form, examples=solved).rstrip("\n")


def _reasoned(example: Question, lead: str, rationales: Mapping[str, str]) -> str:
    """An example's rationale as the prompt asks for one; a blank line would end the example."""
    if example.question_id not in rationales:
        return ""
    text = re.sub(r"\n\s*\n", "\n", rationales[example.question_id].strip())
    return f"\n{lead} {text}" if lead else f"\nRationale: {text}"


def next_example(template: str) -> str | None:
    """How a model begins an example of its own after its rationale: a new line and "Question:" of the paper's template.

    None where the form of an example begins with the question itself.
    """
    start = BRACED.split(_parts(template)[0], maxsplit=1)[0].strip()
    return f"\n{start}" if start else None


def show_question(question: Question, form: str, *, examples: str = "") -> str:
    """A form with its fields filled in; lines of `{choices}` are left out where the question has none."""
    task = task_of(question.task)
    choices = task.show_choices(question)
    context = f"{question.context}\n" if question.context else ""
    values = {
        "question": question.question if "{context}" in form else context + question.question,
        "context": context,
        "choices": choices,
        "answer": task.show_answer(question) if "{answer}" in form else "",
        "examples": examples,
    }
    return _fill(form if choices else _CHOICES.sub("", form), values)


def _parts(template: str) -> tuple[str, str]:
    parts = _PART.split(template, maxsplit=1)
    return (parts[0], parts[1]) if len(parts) == 2 else (_EXAMPLE, template)


def _fill(form: str, values: dict[str, str]) -> str:
    """Replace in one pass, so that braces in the values stay what they are."""
    return BRACED.sub(lambda match: values[match[1]], form)


def _check(template: str, name: str) -> None:
    example_form, form = _parts(template)
    allowed = ", ".join(f"{{{field}}}" for field in _FIELDS)
    for match in BRACED.finditer(template):
        if match[1] not in _FIELDS:
            raise UserError(f"prompts.template: {name} holds {match[0]!r}; allowed in braces: {allowed}")
    if "{question}" not in form:
        raise UserError(f"prompts.template: {name} has no {{question}}, so every prompt would be the same; add it")
    if "{examples}" in example_form:
        raise UserError(
            f"prompts.template: {name} has {{examples}} above its line ---; only the prompt below may hold it"
        )
