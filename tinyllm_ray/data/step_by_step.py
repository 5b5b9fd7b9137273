"""Rationales as Distilling step-by-step publishes them: questions and lists of texts by row in, Parquet stores out.

In: <folder>/<name>/<name>_{train,valid,test}.json and <folder>/<name>/<teacher>/<split>_CoT_<k>.json, lists of texts
    such as "84 / 2 = 42. The answer is (84 / 2).\\n\\nQ: There are 120 students ...". Files of one split either hold
    its rows one after another, or each a text for every row, which makes them samples.
Out: <out>/<name>/<teacher>/<split>/part-00000.parquet with manifest.json, questions/<split>.parquet
A text ends where its model went on with another question.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tinyllm_ray import storage
from tinyllm_ray.config import UserError, digest
from tinyllm_ray.data import sources
from tinyllm_ray.data.quality import find_flags
from tinyllm_ray.data.reference import SourceQuestion, decoded, read_rows
from tinyllm_ray.rows import SPLITS, Question, Rationale, to_table
from tinyllm_ray.schema import Columns, Dataset, TaskName
from tinyllm_ray.schema.base import NAME_PATTERN
from tinyllm_ray.tasks import number
from tinyllm_ray.tasks.registry import task_of
from tinyllm_ray.tasks.statements import before_new_question

SPLIT_NAMES = {"train": ("train",), "validation": ("valid", "validation", "dev", "val"), "test": ("test",)}
NLI_LABELS = ["entailment", "neutral", "contradiction"]
TEXT_FIELDS = ("rationale", "text", "output", "completion", "response", "explanation")
_FILE = re.compile(r"(?P<split>[a-z]+)(?:_CoT)?(?:_(?P<number>\d+))?\.jsonl?$")


def import_step_by_step(folder: str, *, dataset: str, out: str) -> dict[str, Any]:
    """Import what is there and report what is not.

    Returns {"dataset", "task", "out", "missing": [files], "problems": [messages], "splits": {split: {"rows",
    "unusable", <teacher>: {"texts", "absent", "continued", "stated", "right", "content"}}}}: how many texts went on
    with another question, state an answer, and state a right one. Raises UserError where no question file is found.
    """
    if not re.fullmatch(NAME_PATTERN, dataset):
        raise UserError(f"--dataset: {dataset!r} is not a dataset's name, such as svamp")
    source = _folder_of(sources.absolute(folder), dataset)
    target = storage.join(sources.absolute(out), dataset)
    report: dict[str, Any] = {"dataset": dataset, "out": target, "missing": [], "problems": [], "splits": {}}
    rationales = _rationale_files(source)
    for split in SPLITS:
        uri = _question_file(source, dataset, split)
        if uri is None:
            report["missing"].append(f"{dataset}_{SPLIT_NAMES[split][0]}.json")
            continue
        section = _section(dataset, [row.value for row in sources.iterate(uri) if isinstance(row.value, Mapping)])
        report["task"] = section.task
        rows = read_rows(uri, section, split, report["problems"])
        report["splits"][split] = _import_split(split, rows, rationales, target=target, report=report)
    if not report["splits"]:
        raise UserError(
            f"{folder} holds no question files of {dataset}; looked for {', '.join(report['missing'])}; "
            f"give the folder that holds {dataset}/, or another --dataset"
        )
    for teacher in rationales:
        splits = {split: counts[teacher]["content"] for split, counts in report["splits"].items() if teacher in counts}
        manifest = {
            "imported": "rationales published by row",
            "dataset": dataset,
            "teacher": teacher,
            "content": splits,
        }
        storage.write_json(storage.join(target, teacher, "manifest.json"), manifest)
    return report


def _folder_of(source: str, dataset: str) -> str:
    """The dataset's own folder: below the one given, or that one."""
    inner = storage.join(source, dataset)
    return inner if storage.list_files(inner) else source


def _question_file(source: str, dataset: str, split: str) -> str | None:
    stems = [f"{stem}{name}" for stem in (f"{dataset}_", "") for name in SPLIT_NAMES[split]]
    names = [f"{stem}.{suffix}" for stem in stems for suffix in ("json", "jsonl")]
    return next((uri for name in names if storage.exists(uri := storage.join(source, name))), None)


def _rationale_files(source: str) -> dict[str, dict[str, list[tuple[int, str]]]]:
    """Teacher -> split -> (number, file) in the order of the numbers: CoT_10 follows CoT_9."""
    found: dict[str, dict[str, list[tuple[int, str]]]] = {}
    splits = {name: split for split, names in SPLIT_NAMES.items() for name in names}
    for uri in storage.list_files(source):
        teacher, _, name = uri.removeprefix(source).strip("/").rpartition("/")
        match = _FILE.fullmatch(name)
        if match and match["split"] in splits and re.fullmatch(NAME_PATTERN, teacher):
            numbered = found.setdefault(teacher, {}).setdefault(splits[match["split"]], [])
            numbered.append((int(match["number"] or 0), uri))
            numbered.sort()
    return found


def _section(dataset: str, rows: Sequence[Mapping[str, Any]]) -> Dataset:
    """How the question file is to be read: its kind of task and its columns, from the fields that it has."""
    fields = set(rows[0]) if rows else set()
    name = next((field for field in ("id", "uid") if field in fields), None)
    answer = next((field for field in ("label", "answer", "gold") if field in fields), "answer")
    question = next((field for field in ("hypothesis", "question", "input") if field in fields), "question")
    columns = Columns(id=name, question=question, answer=answer)
    if {"premise", "hypothesis"} <= fields:
        as_number = all(isinstance(row.get(answer), int) for row in rows)
        columns = columns.model_copy(update={"context": "premise", "answer_is": "index0" if as_number else "text"})
        return Dataset(name=dataset, format="columns", task="label", labels=NLI_LABELS, columns=columns)
    if "choices" in fields:
        return Dataset(name=dataset, format="columns", columns=columns)
    values = [number.value(str(row.get(answer))) for row in rows]
    task: TaskName = "number" if values and None not in values else "text"
    return Dataset(name=dataset, format="columns", task=task, columns=columns)


def _import_split(
    split: str,
    rows: Sequence[SourceQuestion],
    rationales: Mapping[str, Mapping[str, list[tuple[int, str]]]],
    *,
    target: str,
    report: dict[str, Any],
) -> dict[str, Any]:
    usable = [row.question for row in rows if row.question]
    storage.write_table(storage.join(target, "questions", f"{split}.parquet"), to_table(usable, Question))
    counts: dict[str, Any] = {"rows": len(rows), "unusable": len(rows) - len(usable)}
    for teacher, files in rationales.items():
        if split not in files:
            report["missing"].append(f"{teacher}/{split}_CoT_0.json")
            continue
        samples = _samples(files[split], len(rows), report["problems"])
        made = [
            _rationale(row, text, teacher, sample)
            for sample, texts in enumerate(samples)
            for row, text in zip(rows, texts, strict=True)
        ]
        storage.write_table(storage.join(target, teacher, split, "part-00000.parquet"), to_table(made, Rationale))
        counts[teacher] = _count(made, rows, [text for texts in samples for text in texts])
    return counts


def _samples(files: Sequence[tuple[int, str]], count: int, problems: list[str]) -> list[list[str | None]]:
    """The texts by row, a list for each sample; None where a row has no text."""
    lists = [_texts(uri, problems) for _, uri in files]
    if not all(len(texts) == count for texts in lists):
        numbers = [number for number, _ in files]
        if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
            problems.append(f"{files[0][1]}: the numbers {numbers} have a gap, so texts may not fit their rows")
        lists = [[text for texts in lists for text in texts]]
    for texts in lists:
        if len(texts) != count:
            problems.append(f"{files[0][1]}: {len(texts)} texts for {count} questions; matched from the first on")
    return [[*texts[:count], *[None] * (count - len(texts))] for texts in lists]


def _texts(uri: str, problems: list[str]) -> list[str | None]:
    """A list of texts, or of objects that hold one, as one JSON array or as lines."""
    content = storage.read_bytes(uri).decode("utf-8-sig", errors="replace")
    try:
        values = decoded(json.loads(content))
    except (ValueError, RecursionError):
        values = [decoded(row.value) for row in sources.iterate(uri)]
    if not isinstance(values, list):
        problems.append(f"{uri} holds {type(values).__name__}, not a list of texts")
        return []
    return [_text(value, f"{uri} text {place}", problems) for place, value in enumerate(values, start=1)]


def _text(value: Any, named: str, problems: list[str]) -> str | None:
    if isinstance(value, Mapping):
        value = next((value[field] for field in TEXT_FIELDS if isinstance(value.get(field), str)), value)
    if value is None or isinstance(value, str):
        return value
    problems.append(f"{named} is of type {type(value).__name__}, not text; left empty")
    return None


def _rationale(row: SourceQuestion, text: str | None, teacher: str, sample: int) -> Rationale:
    question = row.question or Question(row.question_id, "", [], "")
    kept = before_new_question(text or "")
    predicted = task_of(question.task).read(text or "", question) if row.question else ""
    return Rationale(
        key=digest([row.question_id, teacher, sample, "imported"], 24),
        question_id=row.question_id,
        sample=sample,
        rationale=kept,
        predicted_answer=predicted,
        finish_reason="failed" if text is None else "stop",
        failure="absent" if text is None else "",
        dropped_examples=0,
        input_tokens=0,
        output_tokens=0,
        flags=find_flags(kept, question, predicted=predicted, finish_reason="stop"),
    )


def _count(made: Sequence[Rationale], rows: Sequence[SourceQuestion], texts: Sequence[str | None]) -> dict[str, Any]:
    questions = {row.question_id: row.question for row in rows if row.question}
    right = 0
    for row in made:
        question = questions.get(row.question_id)
        right += question is not None and task_of(question.task).is_right(row.predicted_answer, question)
    return {
        "texts": len(made),
        "absent": sum(row.failure == "absent" for row in made),
        "continued": sum(row.rationale != (text or "").strip() for row, text in zip(made, texts, strict=True)),
        "stated": sum(bool(row.predicted_answer) for row in made),
        "right": right,
        "content": digest([asdict(row) for row in made]),
    }
