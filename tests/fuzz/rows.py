"""Rows of question files whose right reading is known, and rows that must be set aside, through `prepare_questions`."""

import json
import random
from pathlib import Path
from typing import Any

from fuzz.counting import Counts

from tinyllm_ray import storage
from tinyllm_ray.data.questions import prepare_questions, read_questions
from tinyllm_ray.schema import Dataset
from tinyllm_ray.terminal.failures import message_of

ROWS_OF_A_FILE = 250
WORDS = (
    "sun",
    "Mond",
    "río",
    "雨",
    "камень",
    "cold soup",
    "x²",
    "a/b",
    'say "so"',
    "it's",
    "[1, 2)",
    "50 %",
    "null",
    "-3.5 mb",
)


def fuzz_rows(number: int, *, seed: int, folder: Path) -> Counts:
    counts, rng = Counts(), random.Random(seed)
    for start in range(0, number, ROWS_OF_A_FILE):
        form = rng.choice(FORMS)
        rows = [_case(f"q{start + n}", form, rng, first=n == 0) for n in range(min(ROWS_OF_A_FILE, number - start))]
        _check_file(counts, rows, folder / f"file{start}")
    return counts


FORMS = ("text", "letter", "position")


def _case(row_id: str, form: str, rng: random.Random, *, first: bool = False) -> tuple[str, str, dict[str, Any] | None]:
    """The line, the id, and what it must be read as; None where it must be rejected."""
    count = rng.randint(2, 6)
    choices = [f"{word} {n}" for n, word in enumerate(rng.sample(WORDS, count))]
    right = 0 if first else rng.randrange(count)
    text = f"{row_id}: what is {rng.choice(WORDS)}{rng.choice(['?', ' ...', ' (a) or (b)?', ' Answer: x'])}"
    answer = {"text": choices[right], "letter": "abcdef"[right], "position": right}[form]
    row = {"id": row_id, "question": text, "choices": choices, "answer": answer}
    good = {"question": text, "choices": choices, "answer": choices[right]}
    if first or rng.random() < 0.6:
        extra = {"extra": rng.choice([None, 3, {"deep": []}, "x" * 2000])} if rng.random() < 0.2 else {}
        return json.dumps(row | extra, ensure_ascii=rng.random() < 0.5), row_id, good
    return _broken(row, form, rng), row_id, None


def _broken(row: dict[str, Any], form: str, rng: random.Random) -> str:
    changes: list[dict[str, Any]] = [
        *({"question": value} for value in (None, "", "   ", [], {}, "half \ud800")),
        *({"choices": value} for value in (None, [], ["one"], {}, [None, "a"], ["a", ""], ["a", "a"], ["a", "  "], 7)),
        *({"answer": value} for value in (None, "", "  ", "none of these", [], {}, "\ud800")),
        {"answer": {"text": "zzz", "letter": "z", "position": 99}[form]},
    ]
    line = json.dumps(row | rng.choice(changes))
    drop = rng.choice(["question", "choices", "answer"])
    without = json.dumps({key: value for key, value in row.items() if key != drop})
    cut = json.dumps(row)[: rng.randint(1, 20)]
    return rng.choice([line, line, line, without, cut, "null", "[1]", "7", '"text"', "{", json.dumps(row) + " x"])


def _check_file(counts: Counts, rows: list[tuple[str, str, dict[str, Any] | None]], folder: Path) -> None:
    counts.tried += len(rows)
    folder.mkdir()
    (folder / "train.jsonl").write_bytes("\n".join(line for line, _, _ in rows).encode())
    dataset = Dataset(
        name="fuzz", format="jsonl", path=str(folder), columns={"id": "id"}, splits={"train": "train.jsonl"},
        max_rejected_fraction=1.0,
    )  # fmt: skip
    try:
        file = prepare_questions(dataset, output_dir=str(folder / "out"))["train"]
    except Exception as error:  # noqa: BLE001 whatever ends a whole file is what is looked for
        message = message_of(error)
        counts.fault("good_refused" if message else "tracebacks", message or repr(error))
        return
    found = {question.question_id: question for question in read_questions(file.path)}
    rejected = {json.loads(line)["line"] for line in storage.read_bytes(file.rejected_path).decode().splitlines()}
    for number, (line, row_id, good) in enumerate(rows, start=1):
        if good is None:
            if row_id in found or number not in rejected:
                counts.fault("bad_accepted", line)
        elif row_id not in found:
            counts.fault("good_refused", line)
        else:
            read = found[row_id]
            if {"question": read.question, "choices": read.choices, "answer": read.answer} != good:
                counts.fault("wrong_readings", f"{line}: {read}")
