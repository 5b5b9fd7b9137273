"""Some questions with all their targets as tokens: questions and joined texts in, rows of the example table out."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tinyllm_ray.data.fit import Counts, count_choices, cut
from tinyllm_ray.data.join import Targets
from tinyllm_ray.data.prompts import student_input
from tinyllm_ray.data.soft_targets import Soft, SoftWriter, soften
from tinyllm_ray.data.tokenizer import StudentTokenizer, TokenWriter
from tinyllm_ray.rows import Question


def encode_chunk(
    chunk: list[Question],
    first: int,
    plan: dict[str, Any],
    targets: Mapping[int, Targets],
    tokenizer: StudentTokenizer,
    writer: TokenWriter,
    counts: Counts,
    soft: SoftWriter | None,
) -> np.ndarray:
    """Tokenize some questions with all their targets; returns their part of the example table, and beside it the spans
    of their soft targets."""
    count_choices(chunk, tokenizer, counts)
    sources: dict[str, np.ndarray] = {}  # by prefix, [questions, 2] of start and length
    parts = []
    for component, (name, prefix) in enumerate(zip(plan["components"], plan["prefixes"], strict=True)):
        if prefix not in sources:
            encoded = tokenizer.sources([student_input(prefix, question) for question in chunk])
            limit = plan["max_input_tokens"]
            sources[prefix] = writer.add(cut(encoded, limit, "input", tokenizer, counts))
        if component in targets:
            rows, texts = targets[component].between(first, first + len(chunk))
            kept = targets[component].kept_between(first, first + len(chunk))
        else:
            rows, texts = np.arange(first, first + len(chunk)), [question.answer for question in chunk]
            kept = [None] * len(rows)
        limit = plan["max_rationale_tokens"] if component else plan["max_label_tokens"]
        encoded = tokenizer.targets(texts)
        found: list[Soft | None] = [None] * len(rows)
        if soft:
            encoded, found = soften(encoded, kept, texts, soft, tokenizer, rationales=component > 0)
            if name in plan["soft_targets"]:
                counts["soft"][name] += sum(item is not None for item in found)
        encoded = cut(encoded, limit, name, tokenizer, counts)
        columns = [rows, np.full(len(rows), component), sources[prefix][rows - first], writer.add(encoded)]
        if soft:
            columns.append(np.array([soft.add(*pair) for pair in zip(found, encoded, strict=True)]).reshape(-1, 3))
        parts.append(np.column_stack(columns))
    table = np.concatenate(parts)
    return table[np.argsort(table[:, 0], kind="stable")]
