"""A question file in, a file of a student's answers out: parts of it go through Ray Data's actors in the student pool.

Parts that are done lie in <out>.parts/<digest of model, file and settings>/ until the whole is written, so that a run
that was stopped goes on. A row of the result:
{"question_id": "7", "question": "What floats?", "answer": "cork", "confidence": 0.9, "scores": [-2.1, -0.2],
 "rationales": {}, "gold": "cork", "correct": true}
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, get_args

import pyarrow as pa

from tinyllm_ray import storage
from tinyllm_ray.config import UserError, digest
from tinyllm_ray.data import sources
from tinyllm_ray.data.fields import BadRow, OtherKind
from tinyllm_ray.data.formats import read_parts, to_question
from tinyllm_ray.data.scan import scan
from tinyllm_ray.rows import Prediction, Question, Rejected, from_table, to_table
from tinyllm_ray.schema import Dataset, Pool, Pools, StudentPool
from tinyllm_ray.schema.base import did_you_mean
from tinyllm_ray.student.predict import answer_row, open_student, predict, read_answering, read_rows
from tinyllm_ray.terminal.progress import step

ROWS_PER_PART = 512


@dataclass(frozen=True)
class Job:
    """What is asked: a model folder or hub id, the files of questions, and how."""

    model: str
    files: list[str]
    dataset: Dataset
    rationales: bool
    out: str  # .jsonl or .parquet


def make_job(model: str, file: str, *, out: str, form: str, rationales: bool) -> Job:
    """Raises UserError where there is no such file or format, or the answers could not be written."""
    formats = get_args(Dataset.model_fields["format"].annotation)
    if form not in formats:
        raise UserError(f"--format {form!r} is unknown{did_you_mean(form, formats)}; there is {', '.join(formats)}")
    files = sources.find(sources.absolute("."), sources.absolute(file))
    if not files:
        raise UserError(f"there is no question file {file}{storage.nearest_path(file)}")
    out = sources.absolute(out or f"{file.rstrip('/').rpartition('/')[2].partition('.')[0]}.answers.jsonl")
    if not out.endswith((".jsonl", ".parquet")):
        raise UserError(f"--out {out} must end in .jsonl or .parquet")
    kind = (read_answering(model) or {"dataset": {}})["dataset"]
    return Job(model, files, Dataset.model_validate({"name": "asked", "format": form, **kind}), rationales, out)


@contextmanager
def student_pool(*, workers: int, address: str) -> Iterator[StudentPool]:
    """Ray with a student pool of so many workers, a GPU each where there are some."""
    import ray

    from tinyllm_ray.cluster.connect import connect

    pools = Pools(address=address or None, student=StudentPool(workers=workers, resource="student_pool"))
    with tempfile.TemporaryDirectory() as logs:
        with step("starting Ray"):
            started = connect(pools, log_dir=logs).started
        there = ray.cluster_resources()
        marked = {"resource": "student_pool" if "student_pool" in there else None}
        try:
            yield pools.student.model_copy(update=marked | {"gpus_per_worker": int(bool(there.get("GPU")))})
        finally:
            if started:
                ray.shutdown()


def predict_file(job: Job, *, pool: Pool) -> dict[str, Any]:
    """Answer every question of the files. Ray is running. Returns counts, the accuracy where gold answers are known,
    and where the answers are."""
    folder = storage.join(f"{job.out}.parts", _key(job))
    asked = _split(job, folder)
    if not asked["rows"]:
        raise UserError(f"{', '.join(job.files)}: no row is a question with choices; see {asked['rejected_path']}")
    missing = [part for part in range(asked["parts"]) if not storage.exists(_part(folder, "answers", part))]
    found = asked["rows"] - sum(asked["sizes"][part] for part in missing)
    with step("predict", total=asked["rows"], unit="questions", found=found) as bar:
        for rows in _answer(job, folder, missing, pool):
            bar.advance(rows)
    result = {"questions": asked["rows"], "found": found, "rejected": asked["rejected"], "out": job.out}
    result |= _write(job.out, [_part(folder, "answers", part) for part in range(asked["parts"])])
    if asked["rejected"]:
        storage.write_bytes(f"{job.out}.rejected.jsonl", storage.read_bytes(asked["rejected_path"]))
        result["rejected_path"] = f"{job.out}.rejected.jsonl"
    storage.remove_folder(f"{job.out}.parts")
    return result


def read_questions(files: list[str], *, dataset: Dataset) -> Iterator[Question | Rejected]:
    """Rows in the dataset's format, and rows without a gold answer as `predict.read_rows` takes them."""
    reading = _reading(files, dataset)
    rows = (row for uri in files for row in sources.iterate(uri, form=dataset.format))
    for number, row in enumerate(rows, start=1):
        if row.problem:
            yield Rejected(row.position, row.problem, row.text)
            continue
        name = _name(row.value, number)
        try:
            parts = read_parts(row.value, dataset=dataset, default_id=name, position=row.position)
            yield to_question(parts, dataset=dataset, reading=reading)
        except OtherKind:
            continue
        except BadRow as problem:
            rejected = Rejected(row.position, str(problem), repr(row.value)[:200])
            yield _without_answer(row.value, dataset, name, rejected)


def _reading(files: list[str], dataset: Dataset) -> str:
    """How the file writes its answers; as texts where no row has one."""
    try:
        return scan(dataset, {"test": files}).reading
    except UserError:
        return "text"


def _without_answer(value: Any, dataset: Dataset, name: str, rejected: Rejected) -> Question | Rejected:
    if not isinstance(value, str | dict) or (isinstance(value, dict) and value.get(dataset.columns.answer) is not None):
        return rejected
    try:
        (question,) = read_rows([value], task=dataset.task, labels=dataset.labels)
    except UserError as error:
        return replace(rejected, reason=str(error).removeprefix("row 0: "))
    return replace(question, question_id=name)


def _name(value: Any, number: int) -> str:
    """A row's id under one of its usual names, else its number from 1."""
    names = [value[key] for key in ("id", "question_id") if key in value] if isinstance(value, dict) else []
    return str(names[0]) if names else str(number)


def _key(job: Job) -> str:
    """Of everything that the answers depend on."""
    names = storage.list_files(job.model) if storage.exists(job.model) else []
    made_of = [[job.model, [[name, storage.stamp(name)] for name in names], read_answering(job.model)]]
    return digest(
        [
            *made_of,
            [[uri, sources.stamp(uri)] for uri in job.files],
            job.dataset.model_dump(mode="json"),
            job.rationales,
        ]
    )


def _part(folder: str, kind: str, part: int) -> str:
    return storage.join(folder, kind, f"{part:06d}.parquet")


def _split(job: Job, folder: str) -> dict[str, Any]:
    """The questions in parts on disk, once; returns counts."""
    manifest = storage.join(folder, "manifest.json")
    if storage.exists(manifest):
        return storage.read_json(manifest)
    sizes: list[int] = []
    part: list[Question] = []
    rejected: list[dict[str, Any]] = []

    def close() -> None:
        storage.write_table(_part(folder, "questions", len(sizes)), to_table(part, Question))
        sizes.append(len(part))
        part.clear()

    with step("reading questions", unit="rows") as bar:
        for item in read_questions(job.files, dataset=job.dataset):
            bar.advance()
            if isinstance(item, Rejected):
                rejected.append(asdict(item))
                continue
            part.append(item)
            if len(part) == ROWS_PER_PART:
                close()
    if part:
        close()
    rejected_path = storage.join(folder, "rejected.jsonl")
    storage.write_bytes(rejected_path, "".join(json.dumps(row) + "\n" for row in rejected).encode())
    counts = {"rows": sum(sizes), "sizes": sizes, "parts": len(sizes)}
    counts |= {"rejected": len(rejected), "rejected_path": rejected_path}
    storage.write_json(manifest, counts)
    return counts


def _answer(job: Job, folder: str, parts: list[int], pool: Pool) -> Iterator[int]:
    """Rows of each part as it is done."""
    if not parts:
        return
    import ray.data

    from tinyllm_ray.cluster.pools import actor_options

    settings = {"model": job.model, "folder": folder, "rationales": job.rationales}
    rows = ray.data.from_items([{"part": part} for part in parts], override_num_blocks=len(parts))
    workers = min(pool.workers, len(parts))
    answered = rows.map_batches(
        _Answerer,
        fn_constructor_kwargs=settings,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=workers),
        **actor_options(pool),
    )
    for row in answered.iter_rows():
        yield row["rows"]


class _Answerer:
    """An actor of the student pool."""

    def __init__(self, model: str, folder: str, rationales: bool) -> None:
        self.student, self.folder, self.rationales = open_student(model), folder, rationales

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        counts = [self._answer(int(part)) for part in batch["part"]]
        return {"part": batch["part"], "rows": counts}

    def _answer(self, part: int) -> int:
        questions = from_table(storage.read_table(_part(self.folder, "questions", part)), Question)
        predictions = predict(self.student, questions, rationales=self.rationales)
        storage.write_table(_part(self.folder, "answers", part), to_table(predictions, Prediction))
        return len(questions)


def _write(out: str, parts: list[str]) -> dict[str, Any]:
    """One file of all parts; the accuracy over the questions whose gold answer is known."""
    rows, known = [], []
    for part in parts:
        for prediction in from_table(storage.read_table(part), Prediction):
            gold = prediction.answer or None
            correct = prediction.correct if gold else None
            known += [prediction.correct] if gold else []
            asked = {"question_id": prediction.question_id, "question": prediction.question}
            rows.append(asked | answer_row(prediction) | {"gold": gold, "correct": correct})
    if out.endswith(".parquet"):
        storage.write_table(
            out, pa.Table.from_pylist([r | {"rationales": list(r["rationales"].items())} for r in rows])
        )
    else:
        storage.write_bytes(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
    return {"known": len(known), "accuracy": sum(known) / len(known) if known else None}
