"""A first pass over a dataset's rows: how all its answers are to be read, and which training rows become another split.

In: source files by split    Out: Scan(reading="letter", chosen={question key: "validation"})
"""

import hashlib
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tinyllm_ray.data.answers import Tally
from tinyllm_ray.data.fields import BadRow
from tinyllm_ray.data.formats import Parts
from tinyllm_ray.data.overlap import text_key
from tinyllm_ray.data.splits import iterate_rows
from tinyllm_ray.schema import Dataset


@dataclass(frozen=True)
class Scan:
    reading: str
    chosen: dict[int, str] = field(default_factory=dict)  # key of a training question -> the split it is moved to


def scan(dataset: Dataset, found: Mapping[str, list[str]]) -> Scan:
    """Raises UserError where the answers can be read in two ways."""
    known = _known_reading(dataset)
    tally, keys = Tally(), array("Q")
    for split, uris in found.items():
        wanted_keys = bool(dataset.split_from_train) and split == "train"
        if known and not wanted_keys:
            continue
        taken = 0
        for number, item in iterate_rows(dataset, split, uris):
            if not isinstance(item, Parts):
                continue
            if taken == dataset.max_rows:
                break
            taken += 1
            if wanted_keys:
                keys.append(text_key(item.context, item.question))
            if not known:
                _count(tally, item, f"row {number} of {split}")
    reading = known or tally.decide(dataset=dataset.name)
    return Scan(reading, choose(keys, dataset.split_from_train, seed=dataset.split_seed))


def choose(keys: "array[int]", shares: Mapping[Any, float], *, seed: int) -> dict[int, str]:
    """The questions of each new split: in a seeded order, whatever that of the file is, a repeated one as a whole."""
    counts = Counter(keys)
    mixed = iter(sorted(counts, key=lambda key: hashlib.blake2b(f"{seed} {key}".encode(), digest_size=8).digest()))
    chosen: dict[int, str] = {}
    for split, share in shares.items():
        rows = 0
        while rows < max(1, round(share * len(keys))) and (key := next(mixed, None)) is not None:
            chosen[key] = split
            rows += counts[key]
    return chosen


def _known_reading(dataset: Dataset) -> str:
    if dataset.has_free_answers:
        return "value"
    return dataset.columns.answer_is or ("text" if dataset.columns.distractors else "")


def _count(tally: Tally, parts: Parts, where: str) -> None:
    try:
        tally.add(parts.answer, parts.choices, where=where)
    except BadRow:
        return  # an answer of no kind that has a reading; it is rejected when the questions are made
