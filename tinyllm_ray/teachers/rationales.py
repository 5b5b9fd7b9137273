"""What an engine made of a prompt row, as the Rationale row that is stored: answer read, thought parted, flags set."""

from typing import Any, Literal

from tinyllm_ray.data.quality import find_flags
from tinyllm_ray.data.token_spans import find_span
from tinyllm_ray.rows import Question, Rationale, from_values
from tinyllm_ray.tasks.registry import task_of
from tinyllm_ray.teachers.thoughts import NO_ANSWER, UNFINISHED, choose_text, split_thought


def make_rationale(row: dict[str, Any], *, reasoning: Literal["keep", "drop", "only"], opened: bool) -> Rationale:
    """`row`: the fields of a PromptRow and its Outcome. `opened`: the prompt opens the model's thought."""
    question = from_values(row["question"], Question)
    thought = split_thought(row["text"], opened=opened)
    text, failure = choose_text(thought, reasoning), row["failure"]
    if not text and not failure:
        failure = NO_ANSWER if thought.finished else UNFINISHED
    predicted = task_of(question.task).read(thought.said or text, question)
    soft = _soft_targets(row, text) if not failure else {}
    flags = find_flags(text, question, predicted=predicted, finish_reason=row["finish_reason"])
    return Rationale(
        key=row["key"],
        question_id=question.question_id,
        sample=row["sample"],
        rationale=text,
        predicted_answer=predicted,
        finish_reason="failed" if failure else row["finish_reason"],
        failure=failure,
        dropped_examples=row["dropped_examples"],
        input_tokens=row["input_tokens"],
        output_tokens=row["output_tokens"],
        flags=flags if thought.finished or failure else [*flags, "unfinished_thought"],
        **soft,
    )


def _soft_targets(row: dict[str, Any], text: str) -> dict[str, Any]:
    """Those of the tokens that write what became the rationale; none where it was put together from two places."""
    ids, ends = row.get("token_ids", []), list(row.get("token_ends", []))
    span = find_span(row["text"], ends, text) if len(ids) else None
    if span is None:
        return {}
    first, end = span
    end += end == len(ids) - 1 and ends[end] == ends[end - 1]  # the end token follows
    k = len(row["top_ids"]) // len(ids)
    tops = {name: row[name][first * k : end * k] for name in ("top_ids", "top_logprobs")}
    return {"token_ids": ids[first:end], **tops}
