"""What may be wrong with a rationale: its text in, a list of flags out; statistics of one teacher, agreement of many.

Pure. Flags never delete a row; `training.use_rationales.drop` names those whose rationales are masked.
find_flags("Question: why?", question, predicted="", finish_reason="length") -> ["short", "cut_off", "new_question"]
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

from tinyllm_ray.rows import Question
from tinyllm_ray.tasks.choice import find_choice
from tinyllm_ray.tasks.registry import task_of
from tinyllm_ray.tasks.words import script, words

FLAGS = {
    "empty": "no text at all",
    "nan": "literally `nan`, a missing value written as text",
    "short": "five words or fewer (characters, where a script has no spaces between words)",
    "cut_off": "ends at the limit of tokens or in mid-sentence",
    "looping": "says the same again and again, or was ended by sampling.stop_at_repeats",
    "answer_contradicted": "states another answer than the gold one",
    "answer_leaked": "is nothing but a statement of the answer",
    "new_question": "starts a new question",
    "foreign_debris": "holds control or replacement characters, or letters of a script that its question has not",
    "unfinished_thought": "a reasoning model was still thinking when its tokens ended",
}
SHORT_WORDS = 5
LOOP_WORDS = 4  # a run of so many words ...
LOOP_SHARE = 0.5  # ... that are a repetition in at least this share of the text is a loop

_NEW_QUESTION = re.compile(
    r"(?:^|\n|[.!?]\s+)\s*(?:Q|Question)\s*\d*\s*:|\bAnswer Choices\s*:|\n\s*Options\s*:", re.IGNORECASE
)
_SENTENCE_END = re.compile(
    r"[.!?](?=\s)|[。！？।]"
)  # a text without any is written without punctuation, so has none at its end
_ENDED = re.compile(r"[.!?…:;)\]\"'”’。！？；：」』）।؟]\s*$")
_SENTENCES = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n+")
_ANSWER_ONLY = re.compile(
    r"(?:(?:thus|so|therefore|hence)[, ]*)?(?:the )?(?:(?:correct|right|best|final) )?"
    r"(?:answer|option|choice)(?: is)?\b[^\n]*",
    re.IGNORECASE,
)
_DEBRIS = re.compile(r"[^\x09\x0a\x0d\x20-\u024f\u0370-\u03ff\u1e00-\u1eff\u2000-\u2bff\ufb00-\ufb06]")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def find_flags(text: str, question: Question, *, predicted: str, finish_reason: str) -> list[str]:
    """Names of all that is wrong, in the order of FLAGS. `predicted` is the answer that the text states."""
    bare = text.strip()
    if not bare:
        return ["empty"]
    if bare.lower() == "nan":
        return ["nan"]
    found = {
        "short": len(words(bare)) <= SHORT_WORDS,
        "cut_off": finish_reason == "length" or bool(_SENTENCE_END.search(bare) and not _ENDED.search(bare)),
        "looping": finish_reason == "repetition" or repeated_share(bare) >= LOOP_SHARE,
        "answer_contradicted": bool(predicted) and not task_of(question.task).is_right(predicted, question),
        "answer_leaked": all(_is_answer(sentence, question) for sentence in _SENTENCES.split(bare)),
        "new_question": bool(_NEW_QUESTION.search(bare)),
        "foreign_debris": _has_debris(bare, question),
    }
    return [name for name in FLAGS if found.get(name)]


def repeated_share(text: str) -> float:
    """Share of a text's runs of LOOP_WORDS words that stood there before; 0 for a text without repetition.

    "a b c d a b c d" has the runs abcd bcda cdab dabc abcd: one of five is a repetition.
    """
    said = words(text.lower())
    runs = [tuple(said[i : i + LOOP_WORDS]) for i in range(len(said) - LOOP_WORDS + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def _is_answer(sentence: str, question: Question) -> bool:
    """Whether a sentence says what the answer is, or is a choice, and nothing more."""
    bare = sentence.strip()
    return bool(not bare or _ANSWER_ONLY.fullmatch(bare) or find_choice(bare, question.choices))


def _has_debris(text: str, question: Question) -> bool:
    if _CONTROL.search(text) or "\ufffd" in text:
        return True
    asked = "".join((question.question, question.context, question.answer, *question.choices))
    return not {script(letter) for letter in _DEBRIS.findall(text)} <= {
        script(letter) for letter in _DEBRIS.findall(asked)
    }


def statistics(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One teacher's table: rows, failures, share of each flag, mean length, share of stated answers.

    `rows` are Rationale rows as dictionaries; shares are of the rows that have a text.
    """
    texts = [row for row in rows if not row["failure"]]
    flags = Counter(flag for row in texts for flag in row["flags"])
    lengths = sorted(len(words(row["rationale"])) for row in texts)
    count = max(len(texts), 1)
    return {
        "rows": len(rows),
        "failed": len(rows) - len(texts),
        "clean_share": sum(not row["flags"] for row in texts) / count,
        "flag_share": {name: flags[name] / count for name in FLAGS},
        "words_median": lengths[len(lengths) // 2] if lengths else 0,
        "output_tokens_mean": sum(row["output_tokens"] for row in texts) / count,
        "answer_stated_share": sum(bool(row["predicted_answer"]) for row in texts) / count,
        "distinct_share": len({row["rationale"] for row in texts}) / count,
    }


def agreement(predicted: Mapping[str, Mapping[str, str]], *, same: Callable[[str, str], bool]) -> dict[str, float]:
    """How often two teachers state the same answer, over the questions where both state one.

    In: teacher -> question id -> predicted answer; `same` is the task's. Out: "a & b" -> share; a pair without a common
    question is left out.
    """
    shares = {}
    for one, other in combinations(sorted(predicted), 2):
        both = [q for q, answer in predicted[one].items() if answer and predicted[other].get(q)]
        if both:
            shares[f"{one} & {other}"] = sum(same(predicted[one][q], predicted[other][q]) for q in both) / len(both)
    return shares
