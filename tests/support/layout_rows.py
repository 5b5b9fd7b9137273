"""Five rows of every named layout, written as its publisher writes them, and the questions that they mean.

`PUBLISHED["arc"].write(folder)` writes train.<suffix>; `PUBLISHED["arc"].questions` is what has to be read from it.
"""

import csv
import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

LETTERS = "ABCDE"
FACTS = [
    ("What floats?", ["iron", "cork", "lead", "gold"], 1),
    ("What melts first?", ["ice", "iron", "quartz", "tungsten"], 0),
    ("What grows?", ["a stone", "a nail", "a coin", "a pine"], 3),
    ("What shines by itself?", ["the moon", "a mirror", "the sun", "a window"], 2),
    ("What has keys but no locks?", ["a piano", "a door", "a safe", "a car"], 0),
]
PASSAGES = [
    "Cork is lighter than water. Iron sinks.",
    "Ice melts at 0 degrees.",
    "A pine is a tree. A stone is not alive.",
    "The sun is a star.",
    "A piano has 88 keys.",
]
NLI = ["entailment", "neutral", "contradiction"]
GOLD_LABELS = [0, 2, 1, 0, 2]
NUMBERS = ["12", "7", "84", "3.5", "100"]


@dataclass(frozen=True)
class Expected:
    """What one row means; choices as a set where their order is mixed."""

    question: str
    answer: str
    choices: list[str]
    context: str = ""
    mixed: bool = field(default=False, compare=False)


@dataclass(frozen=True)
class Published:
    rows: list[Any]
    questions: list[Expected]
    suffix: str  # jsonl, json, parquet, csv, jsonl.gz
    whole: Callable[[list[Any]], Any] | None = None  # what a .json file holds, made of the rows

    def write(self, folder: Path, name: str = "train") -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.{self.suffix}"
        lines = "\n".join(json.dumps(row) for row in self.rows)
        if self.suffix == "parquet":
            pq.write_table(pa.Table.from_pylist(self.rows), path)
        elif self.suffix == "csv":
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, list(self.rows[0]))
                writer.writeheader()
                writer.writerows(self.rows)
        elif self.suffix == "jsonl.gz":
            path.write_bytes(gzip.compress(lines.encode()))
        else:
            path.write_text(json.dumps(self.whole(self.rows), indent=1) if self.whole else lines)
        return path


def expected(count: int, **settings: Any) -> list[Expected]:
    return [Expected(question, choices[gold], choices, **settings) for question, choices, gold in facts(count)]


def facts(count: int) -> list[tuple[str, list[str], int]]:
    """The facts with so many choices; the right one stays among them."""
    cut = []
    for question, choices, gold in FACTS:
        kept = choices[:count] if gold < count else [*choices[: count - 1], choices[gold]]
        cut.append((question, kept, kept.index(choices[gold])))
    return cut


def with_passages(items: list[Expected]) -> list[Expected]:
    return [Expected(i.question, i.answer, i.choices, p) for i, p in zip(items, PASSAGES, strict=True)]


def make(row: Callable[[int, str, list[str], int], dict[str, Any]], count: int = 4) -> list[dict[str, Any]]:
    return [row(number, *fact) for number, fact in enumerate(facts(count))]


def hub_choices(choices: list[str], labels: str = LETTERS) -> dict[str, list[str]]:
    return {"text": choices, "label": list(labels[: len(choices)])}


def stem(question: str, choices: list[str], labels: str = LETTERS) -> dict[str, Any]:
    listed = [{"text": text, "label": label} for text, label in zip(choices, labels, strict=False)]
    return {"stem": question, "choices": listed}


def labels_of_arc(number: int) -> str:
    return "1234" if number in (1, 3) else LETTERS  # as in the published file, some rows count


def bioasq_row(number: int, question: str) -> dict[str, Any]:
    return {
        "body": question,
        "documents": ["http://www.ncbi.nlm.nih.gov/pubmed/1"],
        "ideal_answer": ["It is."],
        "exact_answer": ["yes", "no"][number % 2],
        "concepts": [],
        "type": "yesno",
        "id": f"5a{number}",
        "snippets": [
            {"text": text, "offsetInBeginSection": 0, "document": "d"} for text in PASSAGES[number].split(". ")
        ],
    }


def nli(**names: str) -> list[dict[str, Any]]:
    return [
        {
            "premise": premise,
            "hypothesis": question,
            "label": gold,
            **{key: f"{value} {number}" for key, value in names.items()},
        }
        for number, (premise, (question, _, _), gold) in enumerate(zip(PASSAGES, FACTS, GOLD_LABELS, strict=True))
    ]


NLI_QUESTIONS = [
    Expected(question, NLI[gold], NLI, premise)
    for premise, (question, _, _), gold in zip(PASSAGES, FACTS, GOLD_LABELS, strict=True)
]
FREE = [Expected(question, number, []) for (question, _, _), number in zip(FACTS, NUMBERS, strict=True)]
YES_NO = ["yes", "no"]
DECISIONS = ["yes", "no", "maybe", "yes", "no"]

PUBLISHED: dict[str, Published] = {
    "arc": Published(
        make(
            lambda n, q, c, g: {
                "id": f"Mercury_{n}",
                "question": q,
                "choices": hub_choices(c, labels_of_arc(n)),
                "answerKey": labels_of_arc(n)[g],
            }
        ),
        expected(4),
        "parquet",
    ),
    "arc, the publisher's": Published(
        make(
            lambda n, q, c, g: {
                "id": f"Mercury_{n}",
                "question": stem(q, c, labels_of_arc(n)),
                "answerKey": labels_of_arc(n)[g],
            }
        ),
        expected(4),
        "jsonl",
    ),
    "obqa": Published(
        make(
            lambda n, q, c, g: {"id": f"7-{n}", "question_stem": q, "choices": hub_choices(c), "answerKey": LETTERS[g]}
        ),
        expected(4),
        "parquet",
    ),
    "obqa, the publisher's": Published(
        make(lambda n, q, c, g: {"id": f"7-{n}", "question": stem(q, c), "answerKey": LETTERS[g]}), expected(4), "jsonl"
    ),
    "commonsenseqa": Published(
        make(
            lambda n, q, c, g: {
                "id": f"0{n}",
                "question": q,
                "question_concept": "thing",
                "choices": hub_choices([*c, "nothing"]),
                "answerKey": LETTERS[g],
            }
        ),
        [Expected(i.question, i.answer, [*i.choices, "nothing"]) for i in expected(4)],
        "parquet",
    ),
    "riddle": Published(
        make(lambda n, q, c, g: {"answerKey": LETTERS[g], "question": q, "choices": hub_choices(c)}),
        expected(4),
        "jsonl",
    ),
    "piqa": Published(
        make(lambda n, q, c, g: {"goal": q, "sol1": c[0], "sol2": c[1], "label": g}, 2), expected(2), "parquet"
    ),
    "pubmedqa": Published(
        [
            {
                "pubid": 100 + n,
                "question": q,
                "context": {"contexts": PASSAGES[n].split(". "), "labels": ["A", "B"], "meshes": ["Tea"]},
                "long_answer": "It may.",
                "final_decision": DECISIONS[n],
            }
            for n, (q, _, _) in enumerate(FACTS)
        ],
        [
            Expected(q, DECISIONS[n], ["yes", "no", "maybe"], "\n".join(PASSAGES[n].split(". ")))
            for n, (q, _, _) in enumerate(FACTS)
        ],
        "parquet",
    ),
    "pubmedqa, the publisher's": Published(
        [
            {
                "QUESTION": q,
                "CONTEXTS": PASSAGES[n].split(". "),
                "LABELS": ["A", "B"],
                "MESHES": ["Tea"],
                "YEAR": "2004",
                "reasoning_required_pred": "yes",
                "reasoning_free_pred": "no",
                "final_decision": DECISIONS[n],
                "LONG_ANSWER": "It may.",
            }
            for n, (q, _, _) in enumerate(FACTS)
        ],
        [
            Expected(q, DECISIONS[n], ["yes", "no", "maybe"], "\n".join(PASSAGES[n].split(". ")))
            for n, (q, _, _) in enumerate(FACTS)
        ],
        "json",
        whole=lambda rows: {str(21645374 + n): row for n, row in enumerate(rows)},
    ),
    "bioasq": Published(
        [
            *(bioasq_row(n, q) for n, (q, _, _) in enumerate(FACTS)),
            {**bioasq_row(0, "Which?"), "type": "factoid", "id": "5b", "exact_answer": [["cork"]]},
        ],
        [
            Expected(q, ["yes", "no"][n % 2], YES_NO, "\n".join(PASSAGES[n].split(". ")))
            for n, (q, _, _) in enumerate(FACTS)
        ],
        "json",
        whole=lambda rows: {"questions": rows},
    ),
    "medqa": Published(
        make(
            lambda n, q, c, g: {
                "question": q,
                "answer": c[g],
                "options": dict(zip(LETTERS, c, strict=False)),
                "meta_info": "step1",
                "answer_idx": LETTERS[g],
            }
        ),
        expected(4),
        "jsonl",
    ),
    "medmcqa": Published(
        make(
            lambda n, q, c, g: {
                "id": f"e9{n}",
                "question": q,
                "opa": c[0],
                "opb": c[1],
                "opc": c[2],
                "opd": c[3],
                "cop": g,
                "choice_type": "single",
                "exp": None,
                "subject_name": "Anatomy",
                "topic_name": None,
            }
        ),
        expected(4),
        "parquet",
    ),
    "medmcqa, the publisher's": Published(
        make(
            lambda n, q, c, g: {
                "question": q,
                "exp": "",
                "cop": g + 1,
                "opa": c[0],
                "opb": c[1],
                "opc": c[2],
                "opd": c[3],
                "subject_name": "Anatomy",
                "topic_name": None,
                "id": f"e9{n}",
                "choice_type": "single",
            }
        ),
        expected(4),
        "jsonl",
    ),
    "mmlu": Published(
        make(lambda n, q, c, g: {"question": q, "subject": "anatomy", "choices": c, "answer": g}),
        expected(4),
        "parquet",
    ),
    "sciq": Published(
        make(
            lambda n, q, c, g: {
                "question": q,
                **{f"distractor{k}": text for k, text in zip((3, 1, 2), [t for t in c if t != c[g]], strict=True)},
                "correct_answer": c[g],
                "support": PASSAGES[n],
            }
        ),
        [Expected(i.question, i.answer, i.choices, i.context, mixed=True) for i in with_passages(expected(4))],
        "jsonl",
    ),
    "race": Published(
        make(
            lambda n, q, c, g: {
                "example_id": f"high{n // 2}.txt",
                "article": PASSAGES[n],
                "answer": LETTERS[g],
                "question": q,
                "options": c,
            }
        ),
        with_passages(expected(4)),
        "parquet",
    ),
    "hellaswag": Published(
        make(
            lambda n, q, c, g: {
                "ind": n,
                "activity_label": "Removing ice",
                "ctx_a": q,
                "ctx_b": "",
                "ctx": q,
                "endings": c,
                "source_id": f"activitynet~{n}",
                "split": "train",
                "split_type": "indomain",
                "label": str(g),
            }
        ),
        expected(4),
        "parquet",
    ),
    "logiqa": Published(
        make(lambda n, q, c, g: {"context": PASSAGES[n], "query": q, "options": c, "correct_option": g}),
        with_passages(expected(4)),
        "jsonl.gz",
    ),
    "socialiqa": Published(
        make(
            lambda n, q, c, g: {
                "context": PASSAGES[n],
                "question": q,
                "answerA": c[0],
                "answerB": c[1],
                "answerC": c[2],
                "label": str(g + 1),
            },
            3,
        ),
        with_passages(expected(3)),
        "jsonl",
    ),
    "winogrande": Published(
        make(lambda n, q, c, g: {"sentence": q, "option1": c[0], "option2": c[1], "answer": str(g + 1)}, 2),
        expected(2),
        "parquet",
    ),
    "boolq": Published(
        [{"question": q, "answer": n % 2 == 0, "passage": PASSAGES[n]} for n, (q, _, _) in enumerate(FACTS)],
        [Expected(q, YES_NO[n % 2], YES_NO, PASSAGES[n]) for n, (q, _, _) in enumerate(FACTS)],
        "parquet",
    ),
    "gpqa": Published(
        make(
            lambda n, q, c, g: {
                "Pre-Revision Question": "An older question",
                "Pre-Revision Correct Answer": "old",
                **{f"Pre-Revision Incorrect Answer {k}": f"older {k}" for k in range(1, 4)},
                **{f"Expert Validator {k}": "yes" for k in range(20)},
                "Record ID": f"rec{n}",
                "Question": q,
                "Correct Answer": c[g],
                **{f"Incorrect Answer {k}": text for k, text in enumerate([t for t in c if t != c[g]], start=1)},
                "Explanation": "Because,\nit is.",
                "Subdomain": "Physics",
                "High-level domain": "Physics",
            }
        ),
        [Expected(i.question, i.answer, i.choices, mixed=True) for i in expected(4)],
        "csv",
    ),
    "truthfulqa": Published(
        make(
            lambda n, q, c, g: {
                "question": q,
                "mc1_targets": {"choices": c, "labels": [int(place == g) for place in range(4)]},
                "mc2_targets": {"choices": c, "labels": [int(place != g) for place in range(4)]},
            }
        ),
        expected(4),
        "parquet",
    ),
    "anli": Published(nli(uid="u", reason="It is said"), NLI_QUESTIONS, "parquet"),
    "esnli": Published(nli(explanation_1="It is", explanation_2="", explanation_3=""), NLI_QUESTIONS, "parquet"),
    "svamp": Published(
        [
            {
                "ID": f"chal-{n}",
                "Body": PASSAGES[n],
                "Question": q,
                "Equation": "( 8.0 - 3.0 )",
                "Answer": NUMBERS[n],
                "Type": "Subtraction",
            }
            for n, (q, _, _) in enumerate(FACTS)
        ],
        with_passages(FREE),
        "json",
        whole=lambda rows: rows,
    ),
    "gsm8k": Published(
        [{"question": q, "answer": f"It is <<3+4=7>>7 here.\n#### {NUMBERS[n]}"} for n, (q, _, _) in enumerate(FACTS)],
        FREE,
        "jsonl",
    ),
}
