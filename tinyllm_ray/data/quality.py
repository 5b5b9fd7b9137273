"""What may be wrong with a rationale: its text in, a list of flags out; statistics of one teacher, agreement of many.

Pure. Flags never delete a row; `training.use_rationales.drop` names those whose rationales are masked.
find_flags("Question: why?", answer="x", predicted="", finish_reason="length") -> ["short", "cut_off", "new_question"]
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

FLAGS = {
    "empty": "no text at all",
    "nan": "literally `nan`, a missing value written as text",
    "short": "five words or fewer",
    "cut_off": "ends at the limit of tokens or in mid-sentence",
    "looping": "says the same again and again",
    "answer_contradicted": "states another choice than the gold answer",
    "answer_leaked": "is nothing but a statement of the answer",
    "new_question": "starts a new question",
    "foreign_debris": "holds letters of other scripts, control or replacement characters",
}
SHORT_WORDS = 5
LOOP_WORDS = 4  # a run of so many words ...
LOOP_SHARE = 0.5  # ... that are a repetition in at least this share of the text is a loop

_NEW_QUESTION = re.compile(
    r"(?:^|\n|[.!?]\s+)\s*(?:Q|Question)\s*\d*\s*:|\bAnswer Choices\s*:|\n\s*Options\s*:", re.IGNORECASE
)
_SENTENCE_END = re.compile(r"[.!?](?=\s)")  # a text without any is written without punctuation, so has none at its end
_ENDED = re.compile(r"[.!?…:;)\]\"'”’]\s*$")
_ANSWER_ONLY = re.compile(
    r"(?:(?:thus|so|therefore|hence)[, ]*)?(?:the )?(?:correct )?(?:answer|option|choice)(?: is)?\b[^.\n]*[.\s]*",
    re.IGNORECASE,
)
_DEBRIS = re.compile(r"[^\x09\x0a\x0d\x20-\u024f\u0370-\u03ff\u1e00-\u1eff\u2000-\u2bff\ufb00-\ufb06]|\ufffd")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def find_flags(text: str, *, answer: str, predicted: str, finish_reason: str) -> list[str]:
    """Names of all that is wrong, in the order of FLAGS. `predicted` is the choice that the text states."""
    bare = text.strip()
    if not bare:
        return ["empty"]
    if bare.lower() == "nan":
        return ["nan"]
    found = {
        "short": len(bare.split()) <= SHORT_WORDS,
        "cut_off": finish_reason == "length" or bool(_SENTENCE_END.search(bare) and not _ENDED.search(bare)),
        "looping": repeated_share(bare) >= LOOP_SHARE,
        "answer_contradicted": bool(predicted) and predicted != answer,
        "answer_leaked": bool(_ANSWER_ONLY.fullmatch(bare)),
        "new_question": bool(_NEW_QUESTION.search(bare)),
        "foreign_debris": bool(_DEBRIS.search(bare) or _CONTROL.search(bare)),
    }
    return [name for name in FLAGS if found.get(name)]


def repeated_share(text: str) -> float:
    """Share of a text's runs of LOOP_WORDS words that stood there before; 0 for a text without repetition.

    "a b c d a b c d" has the runs abcd bcda cdab dabc abcd: one of five is a repetition.
    """
    words = text.lower().split()
    runs = [tuple(words[i : i + LOOP_WORDS]) for i in range(len(words) - LOOP_WORDS + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def statistics(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One teacher's table: rows, failures, share of each flag, mean length, share of stated answers.

    `rows` are Rationale rows as dictionaries; shares are of the rows that have a text.
    """
    texts = [row for row in rows if not row["failure"]]
    flags = Counter(flag for row in texts for flag in row["flags"])
    words = sorted(len(row["rationale"].split()) for row in texts)
    count = max(len(texts), 1)
    return {
        "rows": len(rows),
        "failed": len(rows) - len(texts),
        "clean_share": sum(not row["flags"] for row in texts) / count,
        "flag_share": {name: flags[name] / count for name in FLAGS},
        "words_median": words[len(words) // 2] if words else 0,
        "output_tokens_mean": sum(row["output_tokens"] for row in texts) / count,
        "answer_stated_share": sum(bool(row["predicted_answer"]) for row in texts) / count,
        "distinct_share": len({row["rationale"] for row in texts}) / count,
    }


def agreement(predicted: Mapping[str, Mapping[str, str]]) -> dict[str, float]:
    """How often two teachers state the same choice, over the questions where both state one.

    In: teacher -> question id -> predicted answer. Out: "a & b" -> share; pairs without a common question are left out.
    """
    shares = {}
    for one, other in combinations(sorted(predicted), 2):
        both = [q for q, answer in predicted[one].items() if answer and predicted[other].get(q)]
        if both:
            shares[f"{one} & {other}"] = sum(predicted[one][q] == predicted[other][q] for q in both) / len(both)
    return shares
