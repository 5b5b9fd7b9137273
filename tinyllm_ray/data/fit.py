"""Whether a student can take a dataset in: texts that are counted while they are tokenized, and what is refused.

Counts of one split: {"total": {"input": 500, ...}, "longest": ..., "truncated": ..., "unknown_tokens": ..., ...}
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tinyllm_ray.config import UserError
from tinyllm_ray.data.prompts import student_input
from tinyllm_ray.data.questions import iterate_questions
from tinyllm_ray.data.tokenizer import StudentTokenizer
from tinyllm_ray.rows import Question
from tinyllm_ray.schema import LABEL, Experiment

Counts = dict[str, Counter[str]]
BY_TEXT = ("total", "longest", "truncated", "unknown_tokens")
NAMES = (*BY_TEXT, "unknown", "store_rows", "masked", "choices", "soft")
ROWS_AT_ONCE = 2048


def new_counts() -> Counts:
    return {name: Counter() for name in NAMES}


def as_plain(counts: Counts, kinds: Sequence[str]) -> dict[str, dict[str, int]]:
    """For JSON, with a zero for every kind of text that was never seen."""
    by_text = {name: {kind: counts[name][kind] for kind in kinds} for name in BY_TEXT}
    return by_text | {name: dict(counts[name]) for name in NAMES if name not in BY_TEXT}


def cut(
    encoded: list[list[int]], limit: int, kind: str, tokenizer: StudentTokenizer, counts: Counts
) -> list[list[int]]:
    """Tokenized texts of one kind, at most `limit` tokens each; what is cut or holds unknown tokens is counted."""
    lengths = [len(ids) for ids in encoded]
    longest = max(lengths, default=0)
    counts["total"][kind] += len(encoded)
    counts["longest"][kind] = max(counts["longest"][kind], longest)
    counts["unknown_tokens"][kind] += sum(tokenizer.unknown in ids for ids in encoded)
    if longest <= limit:
        return encoded
    counts["truncated"][kind] += sum(length > limit for length in lengths)
    return [tokenizer.cut(ids, limit, target=kind != "input") for ids in encoded]


def count_choices(questions: Sequence[Question], tokenizer: StudentTokenizer, counts: Counts) -> None:
    """Questions with choices, and those of them with two choices of the same tokens: the student cannot rank them."""
    asked = [question for question in questions if question.choices]
    targets = iter(tokenizer.targets([choice for question in asked for choice in question.choices]))
    for question in asked:
        tokens = {tuple(next(targets)) for _ in question.choices}
        counts["choices"]["questions"] += 1
        counts["choices"]["indistinct"] += len(tokens) < len(question.choices)


def count_scored(path: str, plan: Mapping[str, Any], tokenizer: StudentTokenizer) -> Counts:
    """Counts of a split that is scored and not trained on: inputs, answers and choices."""
    counts = new_counts()
    for chunk in iterate_questions(path, ROWS_AT_ONCE):
        sources = tokenizer.sources([student_input(plan["prefixes"][0], question) for question in chunk])
        cut(sources, plan["max_input_tokens"], "input", tokenizer, counts)
        answers = tokenizer.targets([question.answer for question in chunk])
        cut(answers, plan["max_label_tokens"], LABEL, tokenizer, counts)
        count_choices(chunk, tokenizer, counts)
    return counts


def check_counts(counts: Mapping[str, Mapping[str, int]], split: str, experiment: Experiment) -> None:
    """Refuse a split that would lose question text, choices or answers, or stores of other questions."""
    _check_lengths(counts, split, experiment)
    training = experiment.training
    asked = counts["choices"].get("questions", 0)
    indistinct = counts["choices"].get("indistinct", 0)
    if indistinct > training.max_indistinct_fraction * asked:
        raise UserError(
            f"{split}: {indistinct} of {asked} questions have choices that the tokenizer of student.model "
            f"{experiment.student.model!r} turns into the same tokens, so the student cannot tell them apart; choose a "
            "student or student.tokenizer that can write this text, or allow a share with "
            "training.max_indistinct_fraction"
        )
    for name, unknown in counts["unknown"].items():
        total = counts["store_rows"][name]
        if experiment.dataset.max_rows is None and unknown > training.max_unknown_fraction * total:
            raise UserError(
                f"the store of {name} holds {unknown} of {total} {split} rows whose question_id is not in dataset "
                f"{experiment.dataset.name!r}; check the teacher's `store`, or raise training.max_unknown_fraction"
            )


def _check_lengths(counts: Mapping[str, Mapping[str, int]], split: str, experiment: Experiment) -> None:
    student = experiment.student
    limits = {
        "input": ("student.max_input_tokens", student.max_input_tokens, "the end of the question or its choices"),
        LABEL: ("student.max_label_tokens", student.max_label_tokens, "the end of the answer"),
    }
    for kind, (key, limit, lost) in limits.items():
        shortened, total, longest = (counts[name][kind] for name in ("truncated", "total", "longest"))
        if shortened > experiment.training.max_truncated_fraction * total:
            raise UserError(
                f"{split}: {shortened} of {total} {kind}s are longer than {key} = {limit}, so {lost} would be lost; "
                f"the longest needs {longest} tokens: set {key} to {longest}, or allow a share with "
                "training.max_truncated_fraction"
            )
