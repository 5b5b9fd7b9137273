"""The published TinyLLM rationales: a folder of the reference repository in, Parquet stores and questions out.

In: <folder>/<name>/<name>_{train,valid,test}.json and <folder>/<name>/llm/<split>_CoT_<k>.json, lists of texts such as
    "Cork is light. Thus, the answer is (b) cork\\n\\nQ: ...\\nAnswer Choices:\\n... llama rationale: Let's think ..."
Out: <out>/<dataset>/{flan_t5,llama2}/<split>/part-00000.parquet with manifest.json, questions/<split>.parquet
"""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from tinyllm_ray import storage
from tinyllm_ray.config import UserError, digest
from tinyllm_ray.data import sources
from tinyllm_ray.data.answers import Tally
from tinyllm_ray.data.fields import BadRow
from tinyllm_ray.data.formats import Parts, read_parts, to_question
from tinyllm_ray.data.quality import find_flags
from tinyllm_ray.rows import Question, Rationale, to_table
from tinyllm_ray.schema import Dataset
from tinyllm_ray.tasks import choice
from tinyllm_ray.tasks.choice import letter

TEACHERS = ("flan_t5", "llama2")
_FILE_SPLITS = {"train": "train", "validation": "valid", "test": "test"}
_THUS = "Thus, the answer is"
_LLAMA = "llama rationale: "
_LETTER = re.compile(r"\s*\(([A-Za-z])\)")
_NUMBER = re.compile(r"_CoT_(\d+)\.json$")


@dataclass(frozen=True)
class Published:
    """One published string, taken apart; None where that teacher's rationale is absent."""

    flan_t5: str | None
    flan_t5_letter: str  # after "Thus, the answer is (x)"; empty where absent
    llama2: str | None


@dataclass(frozen=True)
class SourceQuestion:
    """One row of a question file; no question where the row cannot be used as one."""

    question_id: str
    question: Question | None


def import_reference(folder: str, *, dataset: str, out: str) -> dict[str, Any]:
    """Import what is there and report what is not.

    Returns {"dataset", "out", "missing": [files], "problems": [messages], "splits": {split: {"rows", "unusable",
    "rationales", <teacher>: {"absent", "nan", "content"}}}}. Raises UserError where no question file is found.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", dataset):
        raise UserError(
            f"--dataset: {dataset!r} is not a dataset's name, such as obqa; letters, digits, - _ . are allowed"
        )
    source, target = sources.absolute(folder), storage.join(sources.absolute(out), dataset)
    report: dict[str, Any] = {"dataset": dataset, "out": target, "missing": [], "problems": [], "splits": {}}
    for split, name in _FILE_SPLITS.items():
        uri = _question_file(source, dataset, name)
        if uri is None:
            report["missing"].append(f"{dataset}/{dataset}_{name}.json")
            continue
        rows = read_rows(uri, Dataset(name=dataset), split, report["problems"])
        strings = _read_strings(storage.join(uri.rpartition("/")[0], "llm"), name, report)
        report["splits"][split] = _import_split(split, rows, strings, target=target, report=report)
    if not report["splits"]:
        raise UserError(
            f"{folder} holds no question files of {dataset}; looked for {', '.join(report['missing'])}; "
            f"give the folder that holds {dataset}/, or another --dataset"
        )
    for teacher in TEACHERS:
        manifest = {
            "imported": "rationales published with TinyLLM",
            "dataset": dataset,
            "teacher": teacher,
            "content": {split: counts[teacher]["content"] for split, counts in report["splits"].items()},
        }
        storage.write_json(storage.join(target, teacher, "manifest.json"), manifest)
    return report


def take_apart(text: str) -> Published:
    """FLAN-T5: what stands before "Thus, the answer is"; LLaMA: what stands after "llama rationale: "."""
    head, has_llama, llama = text.partition(_LLAMA)
    flan, has_flan, answer = head.partition(_THUS)
    found = _LETTER.match(answer)
    return Published(
        flan_t5=flan.rstrip() if has_flan else None,
        flan_t5_letter=found[1].lower() if found else "",
        llama2=llama.strip() if has_llama else None,
    )


def _question_file(source: str, dataset: str, name: str) -> str | None:
    for path in (f"{dataset}/{dataset}_{name}.json", f"{dataset}_{name}.json"):
        if sources.find(source, path):
            return storage.join(source, path)
    return None


def read_rows(uri: str, dataset: Dataset, split: str, problems: list[str]) -> list[SourceQuestion]:
    """Every row of the file in its place, usable or not: rationales are listed by place."""
    rows: list[tuple[str, Parts | None]] = []
    ids: set[str] = set()
    tally, column = Tally(), dataset.columns.id or "id"
    for number, (value, problem) in enumerate(_values(uri), start=1):
        name, parts = f"{split}-{number}", None
        if isinstance(value, dict) and isinstance(value.get(column), str | int):
            name = str(value[column])
        if name in ids:
            problems.append(f"{uri} row {number}: duplicate id {name!r}; kept as {name}#{number}")
            name = f"{name}#{number}"
        ids.add(name)
        try:
            if problem:
                raise BadRow(problem)
            parts = read_parts(value, dataset=dataset, default_id=name, position=number)
            tally.add(parts.answer, parts.choices, where=f"row {number} of {split}")
        except BadRow as reason:
            problems.append(f"{uri} row {number}: {reason}")
        rows.append((name, parts))
    reading = tally.decide(dataset=dataset.name)
    return [SourceQuestion(name, _question(name, parts, dataset, reading, uri, problems)) for name, parts in rows]


def _question(
    name: str, parts: Parts | None, dataset: Dataset, reading: str, uri: str, problems: list[str]
) -> Question | None:
    if parts is None:
        return None
    try:
        return replace(to_question(parts, dataset=dataset, reading=reading), question_id=name)
    except BadRow as reason:
        problems.append(f"{uri} row {parts.position}: {reason}")
        return None


def _values(uri: str) -> Iterator[tuple[Any, str]]:
    """Rows and their problems; a row or a whole file that was encoded twice is decoded twice."""
    for row in sources.iterate(uri):
        value = decoded(row.value)
        for item in value if isinstance(value, list) else [value]:
            yield item, row.problem


def _read_strings(folder: str, name: str, report: dict[str, Any]) -> list[Any]:
    """The published strings of a split, files in the order of their numbers: CoT_10 follows CoT_9."""
    files = [uri for uri in storage.list_files(folder, ".json") if uri.rpartition("/")[2].startswith(f"{name}_CoT_")]
    numbered = sorted((int(match[1]), uri) for uri in files if (match := _NUMBER.search(uri)))
    if not numbered:
        report["missing"].append(f"{report['dataset']}/llm/{name}_CoT_0.json")
    for expected, (number, uri) in enumerate(numbered):
        if number != expected:
            report["problems"].append(
                f"{uri}: number {expected} is missing before it, so its strings may not fit their rows"
            )
            break
    return [string for _, uri in numbered for string in _strings_of(uri, report["problems"])]


def _strings_of(uri: str, problems: list[str]) -> Iterator[Any]:
    """A file's list of strings; one that was encoded twice (a JSON string that holds JSON) is decoded twice."""
    try:
        value = decoded(json.loads(storage.read_bytes(uri).decode("utf-8-sig")))
    except (ValueError, RecursionError) as error:
        problems.append(f"{uri} cannot be read: {error}")
        return
    if not isinstance(value, list):
        problems.append(f"{uri} holds {type(value).__name__}, not a list of strings")
        return
    yield from value


def _import_split(
    split: str, rows: list[SourceQuestion], strings: list[Any], *, target: str, report: dict[str, Any]
) -> dict[str, Any]:
    if strings and len(strings) != len(rows):
        report["problems"].append(
            f"{split}: {len(rows)} questions, but {len(strings)} rationales; matched from the first on"
        )
    usable = [row.question for row in rows if row.question]
    storage.write_table(storage.join(target, "questions", f"{split}.parquet"), to_table(usable, Question))
    padded = [*strings[: len(rows)], *[None] * (len(rows) - len(strings))]
    published = [
        _published(string, f"{split} rationale {number}", report["problems"])
        for number, string in enumerate(padded, start=1)
    ]
    counts: dict[str, Any] = {"rows": len(rows), "unusable": len(rows) - len(usable), "rationales": len(strings)}
    for teacher in TEACHERS:
        made = [_rationale(row, parts, teacher) for row, parts in zip(rows, published, strict=True)]
        storage.write_table(
            storage.join(target, teacher, split, "part-00000.parquet"),
            to_table(made, Rationale),
        )
        counts[teacher] = {
            "absent": sum(rationale.failure == "absent" for rationale in made),
            "nan": sum(rationale.rationale.lower() == "nan" for rationale in made),
            "content": digest([asdict(rationale) for rationale in made]),
        }
    return counts


def _published(string: Any, named: str, problems: list[str]) -> Published:
    if string is None:
        return Published(None, "", None)
    if isinstance(string, str):
        try:
            string.encode("utf-8")
        except UnicodeEncodeError:
            problems.append(f"{named} holds bytes that are no characters; left empty")
            return Published(None, "", None)
        inner = decoded(string) if string.startswith('"') else string
        return take_apart(inner if isinstance(inner, str) else string)
    problems.append(f"{named} is of type {type(string).__name__}, not text; left empty")
    return Published(None, "", None)


def decoded(value: Any) -> Any:
    """What a text that is itself JSON holds; any other value as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _rationale(row: SourceQuestion, parts: Published, teacher: str) -> Rationale:
    text = parts.flan_t5 if teacher == "flan_t5" else parts.llama2
    question = row.question or Question(row.question_id, "", [], "")
    if teacher == "flan_t5":
        stated = [choice for index, choice in enumerate(question.choices) if letter(index) == parts.flan_t5_letter]
        predicted = stated[0] if stated else ""
    else:
        predicted = choice.read(text or "", question)
    return Rationale(
        key=digest([row.question_id, teacher, "imported"], 24),
        question_id=row.question_id,
        sample=0,
        rationale=text or "",
        predicted_answer=predicted,
        finish_reason="stop" if text is not None else "failed",
        failure="" if text is not None else "absent",
        dropped_examples=0,
        input_tokens=0,
        output_tokens=0,
        flags=find_flags(text or "", question, predicted=predicted, finish_reason="stop"),
    )
