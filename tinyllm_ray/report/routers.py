"""What a router has learned, as the page shows it: its folder in, each teacher's share, words and questions out."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tinyllm_ray import storage
from tinyllm_ray.data.selection import read_routed
from tinyllm_ray.rows import Question
from tinyllm_ray.schema import Experiment

WORDS, EXAMPLES, FEWEST = 8, 3, 3  # shown of each teacher; how often a word occurs at least


@dataclass(frozen=True)
class Routed:
    """The questions that the router gives to one teacher."""

    teacher: str
    share: float
    words: list[str]  # that are commoner in its questions than in the others
    examples: list[tuple[str, float]]  # the surest questions, with the teacher's probability


@dataclass(frozen=True)
class RouterShown:
    questions: int
    held_out: Mapping[str, Any]  # see routing.prepare.measure_held_out
    teachers: list[Routed]


def read_router(output_dir: str, experiment: Experiment, questions: Sequence[Question]) -> RouterShown | None:
    """The newest router of the dataset; None where there is none for these questions."""
    base = storage.join(output_dir, "routers", experiment.dataset.name)
    made = [uri for uri in storage.list_files(base, "/router.json")]
    if not made:
        return None
    newest = max(made, key=storage.modified_s)
    router, routed = storage.read_json(newest), read_routed(newest.rpartition("/")[0])
    known = [question for question in questions if question.question_id in routed]
    if not known:
        return None
    return RouterShown(len(known), router["held_out"], explain(list(router["made_from"]["answers"]), known, routed))


def explain(
    teachers: Sequence[str], questions: Sequence[Question], routed: Mapping[str, Sequence[float]]
) -> list[Routed]:
    """`routed`: question id -> the probability of each teacher."""
    taken: dict[str, list[tuple[Question, float]]] = {teacher: [] for teacher in teachers}
    for question in questions:
        probabilities = routed[question.question_id]
        best = max(range(len(teachers)), key=lambda teacher: probabilities[teacher])
        taken[teachers[best]].append((question, probabilities[best]))
    counts = {teacher: _words([question for question, _ in given]) for teacher, given in taken.items()}
    total = sum(counts.values(), Counter())
    return [
        Routed(
            teacher,
            len(given) / len(questions),
            _typical(counts[teacher], len(given), total, len(questions)),
            [(q.question, p) for q, p in sorted(given, key=lambda pair: -pair[1])[:EXAMPLES]],
        )
        for teacher, given in taken.items()
    ]


def _words(questions: Sequence[Question]) -> Counter[str]:
    """In how many questions each word is."""
    return Counter(word for question in questions for word in set(re.findall(r"\w+", question.question.lower())))


def _typical(own: Counter[str], questions: int, total: Counter[str], all_questions: int) -> list[str]:
    """The words that tell most: how often they are in the teacher's questions, times the log of how much more often
    than in all."""
    weights = {
        word: count * math.log(count * all_questions / (questions * total[word]))
        for word, count in own.items()
        if count >= FEWEST
    }
    return [word for word in sorted(weights, key=lambda word: (-weights[word], word))[:WORDS] if weights[word] > 0]
