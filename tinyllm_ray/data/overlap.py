"""Questions that stand in more than one split: their keys by split in, counts and sentences out. Pure.

A question is known by its context and text, whatever its id, choices, case and spaces are.
"""

import hashlib
from array import array
from collections.abc import Mapping

import numpy as np

from tinyllm_ray.config import UserError
from tinyllm_ray.rows import SPLITS, Question

SHARED_ADVICE = "dataset.drop_leaked=true takes them out of train"


def question_key(question: Question) -> int:
    return text_key(question.context, question.question)


def text_key(context: str, question: str) -> int:
    """Eight bytes that stand for a question: a million of them fit where their texts would not."""
    return short_hash(" ".join(f"{context}\n{question}".casefold().split()))


def short_hash(text: str) -> int:
    data = text.encode("utf-8", errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def count_shared(keys: Mapping[str, "array[int]"]) -> dict[str, dict[str, int]]:
    """How many rows of a split are in each split before it: {"test": {"train": 22, "validation": 0}, ...}."""
    there = {split: np.frombuffer(keys[split], dtype=np.uint64) for split in SPLITS if split in keys}
    names = list(there)
    return {
        split: {other: int(np.isin(there[split], there[other]).sum()) for other in names[:position]}
        for position, split in enumerate(names)
    }


def refuse_identical(contents: Mapping[str, object], *, dataset: str) -> None:
    """`contents`: a split's questions and answers as one value, in whatever order they stand."""
    splits = [split for split in SPLITS if split in contents]
    for position, split in enumerate(splits):
        for other in splits[:position]:
            if contents[split] == contents[other]:
                raise UserError(
                    f"the {other} and {split} splits of {dataset} hold the same questions, so nothing learned on one "
                    "could be measured on the other; name another file in dataset.splits"
                )


def shared_lines(rows: Mapping[str, int], shared: Mapping[str, Mapping[str, int]]) -> list[str]:
    """One sentence for each pair of splits that has questions in common."""
    return [
        f"{count} of {rows[split]} {split} questions are in {other} too"
        + (f"; {SHARED_ADVICE}" if other == "train" else "")
        for split, others in shared.items()
        for other, count in others.items()
        if count
    ]
