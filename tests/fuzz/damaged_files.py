"""Files damaged on the way: question files in every format, a store's parts and manifest, the cache of questions."""

import bz2
import dataclasses
import gzip
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from fuzz.counting import Counts, attempt, flip_bytes
from support.tiny_teachers import questions

from tinyllm_ray.data import store
from tinyllm_ray.data.questions import prepare_questions, read_questions
from tinyllm_ray.rows import Question, Rationale
from tinyllm_ray.schema import Dataset

ROWS = 40
Damage = Callable[[bytes, random.Random], bytes | None]  # None: a folder takes the file's place
DAMAGES: dict[str, Damage] = {
    "cut": lambda data, rng: data[: rng.randrange(1, len(data))],
    "no start": lambda data, rng: data[rng.randrange(1, len(data)) :],
    "flipped": flip_bytes,
    "empty": lambda data, rng: b"",
    "noise": lambda data, rng: rng.randbytes(rng.randint(1, 400)),
    "zeros": lambda data, rng: bytes(len(data)),
    "folder": lambda data, rng: None,
}


def fuzz_damaged(number: int, *, seed: int, folder: Path) -> Counts:
    counts, rng = Counts(), random.Random(seed)
    areas = [_question_file, _question_file, _store_file, _question_cache]
    for case in range(number):
        place = folder / f"case{case}"
        place.mkdir()
        areas[case % len(areas)](counts, place, rng)
        shutil.rmtree(place)
    return counts


def _question_file(counts: Counts, place: Path, rng: random.Random) -> None:
    """Undamaged rows may be used, and a file with a checksum never gives a row that was not in it."""
    rows = [{"id": q.question_id, "question": q.question, "choices": q.choices, "answer": q.answer} for q in _good()]
    name, data, checked = rng.choice(_formats(rows, place))
    damage = rng.choice(sorted(DAMAGES))
    _write(place / name, DAMAGES[damage](data, rng))
    dataset = Dataset(
        name="fuzz", format="parquet" if "parquet" in name else "json" if name.endswith(".json") else "jsonl",
        path=str(place), columns={"id": "id"}, splits={"train": name}, max_rejected_fraction=1.0,
    )  # fmt: skip

    def read() -> bool:
        files = prepare_questions(dataset, output_dir=str(place / "out"))
        return not checked or set(map(_plain, read_questions(files["train"].path))) <= set(map(_plain, _good()))

    kind = "bad" if damage in ("empty", "zeros", "folder") else "wild"
    _attempt_whole(counts, read, case=f"{name} {damage}", kind=kind)


def _formats(rows: list[dict[str, Any]], place: Path) -> list[tuple[str, bytes, bool]]:
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    table = place / "made.parquet"
    pq.write_table(pa.Table.from_pylist(rows), table, write_page_checksum=True)
    packed = table.read_bytes()
    table.unlink()
    return [
        ("train.jsonl", lines, False),
        ("train.json", json.dumps(rows).encode(), False),
        ("train.jsonl.gz", gzip.compress(lines), False),
        ("train.jsonl.bz2", bz2.compress(lines), False),
        ("train.parquet", packed, True),
    ]


def _store_file(counts: Counts, place: Path, rng: random.Random) -> None:
    folder, rows = str(place / "store"), _rationales()
    store.open_store(folder, {"dataset": "words", "teacher": "one"})
    for start in range(0, ROWS, 10):
        store.append(folder, "train", rows[start : start + 10])
    whole = store.read(folder, "train").to_pylist()
    damage = rng.choice(sorted(DAMAGES))
    target = rng.choice(sorted(path for path in Path(folder).rglob("*") if path.is_file()))
    _write(target, DAMAGES[damage](target.read_bytes(), rng))

    def read() -> bool:
        store.read_manifest(folder)
        found = store.read(folder, "train").to_pylist()
        missing = damage == "folder"  # no file is there, as where a part was deleted: its rows are made again
        return all(row in whole for row in found) and (missing or len(found) == len(whole))

    _attempt_whole(counts, read, case=f"{target.name} {damage}", kind="wild")


def _question_cache(counts: Counts, place: Path, rng: random.Random) -> None:
    """A cache that is damaged is made again: the questions are the same, or the damage is said."""
    rows = [{"id": q.question_id, "question": q.question, "choices": q.choices, "answer": q.answer} for q in _good()]
    (place / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = Dataset(
        name="fuzz", format="jsonl", path=str(place), columns={"id": "id"}, splits={"train": "train.jsonl"}
    )
    made = prepare_questions(dataset, output_dir=str(place / "out"))["train"].path
    damage = rng.choice(sorted(DAMAGES))
    target = rng.choice([Path(made), Path(made).parent / "manifest.json"])
    _write(target, DAMAGES[damage](target.read_bytes(), rng))

    def read() -> bool:
        files = prepare_questions(dataset, output_dir=str(place / "out"))
        return [_plain(question) for question in read_questions(files["train"].path)] == list(map(_plain, _good()))

    _attempt_whole(counts, read, case=f"cache {target.name} {damage}", kind="wild")


def _attempt_whole(counts: Counts, read: Callable[[], bool], *, case: str, kind: str) -> None:
    """`read` says whether what it got is right; a wrong reading counts whatever the kind of the case."""
    results: list[bool] = []
    attempt(counts, lambda: results.append(read()), case=case, kind=kind)
    if results == [False]:
        counts.fault("wrong_readings", case)


def _write(path: Path, data: bytes | None) -> None:
    path.unlink(missing_ok=True)
    if data is None:
        path.mkdir()
    else:
        path.write_bytes(data)


def _good() -> list[Question]:
    return questions(ROWS)


def _plain(question: Question) -> str:
    return json.dumps([question.question_id, question.question, question.choices, question.answer])


def _rationales() -> list[Rationale]:
    kinds = {field.name: field.type for field in dataclasses.fields(Rationale)}
    made = []
    for number, question in enumerate(_good()):
        known = {"key": f"k{number}", "question_id": question.question_id, "split": "train", "text": f"text {number}"}
        made.append(Rationale(**{name: known.get(name, _blank(str(kind))) for name, kind in kinds.items()}))
    return made


def _blank(kind: str) -> object:
    if "list" in kind:
        return []
    if "str" in kind or "Literal" in kind:
        return ""
    return False if "bool" in kind else 0
