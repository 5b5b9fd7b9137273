"""Question files: a dataset section in, one Parquet file of Question rows per split out, bad rows in a reject file.

In: experiments' `dataset:`   Out: <output_dir>/questions/<name>/{train,validation,test}.parquet, <split>.rejected.jsonl
"""

import tempfile
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tinyllm_ray import storage
from tinyllm_ray.config import UserError
from tinyllm_ray.data import sources
from tinyllm_ray.data.fields import BadRow
from tinyllm_ray.data.formats import Parts, to_question
from tinyllm_ray.data.overlap import count_shared, question_key, refuse_identical, shared_lines, short_hash
from tinyllm_ray.data.scan import Scan, scan
from tinyllm_ray.data.split_writer import BATCH_ROWS, SplitWriter
from tinyllm_ray.data.splits import find_files, iterate_rows
from tinyllm_ray.rows import SPLITS, Question, Rejected, from_table, schema_of
from tinyllm_ray.schema import Dataset

_MANIFEST = "manifest.json"


@dataclass(frozen=True)
class QuestionFile:
    """One split as it is on disk."""

    path: str  # parquet
    rows: int
    rejected: int
    rejected_path: str
    digest: str  # of the rows' content
    skipped: int = 0  # rows of a kind that the dataset does not ask, such as BioASQ's list questions
    shared: dict[str, int] = field(default_factory=dict)  # rows whose question is in that other split too; kept
    leaked: int = 0  # rows taken out of train because validation or test has their question
    unanswered: list[str] = field(default_factory=list)  # splits left out, for none of their rows has an answer


def prepare_questions(
    dataset: Dataset, *, output_dir: str, on_progress: Callable[[str, int], None] = lambda *_: None
) -> dict[str, QuestionFile]:
    """Read every split that there is; nothing is read again while the files and the section stay the same.

    `on_progress` gets the split and the rows read so far. Raises UserError where no file is found, a file is broken
    as a whole, or more rows are bad than `max_rejected_fraction` allows.
    """
    found = find_files(dataset)
    folder = storage.join(output_dir, "questions", dataset.name)
    manifest_uri = storage.join(folder, _MANIFEST)
    made_from = {
        "columns": schema_of(Question).names,
        "dataset": dataset.model_dump(mode="json"),
        "files": {split: [[uri, sources.stamp(uri)] for uri in uris] for split, uris in found.items()},
    }
    known = _known(manifest_uri, made_from)
    if known:
        return known
    done = _prepare_splits(dataset, found, folder=folder, on_progress=on_progress)
    splits = {split: {**asdict(file), "stamp": storage.stamp(file.path)} for split, file in done.items()}
    storage.write_json(manifest_uri, {"made_from": made_from, "splits": splits})
    return done


def describe(files: Mapping[str, QuestionFile]) -> list[str]:
    """What was read, and what the splits have in common, in sentences."""
    counts = ", ".join(f"{file.rows} {split}" for split, file in files.items())
    lines = [f"questions: {counts}; {sum(file.rejected for file in files.values())} rejected"]
    if any(file.leaked for file in files.values()):
        lines.append(f"{files['train'].leaked} training questions left out, for validation or test has them too")
    for split in next(iter(files.values())).unanswered:
        lines.append(f"the {split} file is left out, for none of its rows has an answer")
    return lines + _overlaps(files)


def known_overlaps(output_dir: str, dataset: str) -> list[str]:
    """What the splits of the questions below an output folder have in common; empty where none were made there."""
    try:
        manifest = storage.read_json(storage.join(output_dir, "questions", dataset, _MANIFEST))
        return _overlaps(_files_of(manifest))
    except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):
        return []


def _overlaps(files: Mapping[str, QuestionFile]) -> list[str]:
    rows = {split: file.rows for split, file in files.items()}
    return shared_lines(rows, {split: file.shared for split, file in files.items()})


def _files_of(manifest: dict[str, Any]) -> dict[str, QuestionFile]:
    return {
        split: QuestionFile(**{key: value for key, value in file.items() if key != "stamp"})
        for split, file in manifest["splits"].items()
    }


def _known(manifest_uri: str, made_from: dict[str, Any]) -> dict[str, QuestionFile] | None:
    """What an earlier run made of the same files, where all of it is still there as it was written."""
    try:
        manifest = storage.read_json(manifest_uri)
        if manifest["made_from"] != made_from:
            return None
        files = _files_of(manifest)
        whole = all(storage.stamp(file.path) == manifest["splits"][split]["stamp"] for split, file in files.items())
    except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):
        return None  # absent or damaged: it is made again
    return files if whole else None


def _prepare_splits(
    dataset: Dataset, found: Mapping[str, list[str]], *, folder: str, on_progress: Callable[[str, int], None]
) -> dict[str, QuestionFile]:
    """Test and validation before train, so that train can leave out what they hold."""
    scanned = scan(dataset, found)
    files: dict[str, QuestionFile] = {}
    written: dict[str, SplitWriter] = {}
    unanswered: list[str] = []
    for split in reversed([split for split in SPLITS if split in found or split in dataset.split_from_train]):
        leaking = list(written.values()) if dataset.drop_leaked and split == "train" else []
        drop = {key for other in leaking for key in other.keys}
        items = _questions(dataset, split, found, scanned)
        files[split], written[split] = _write_split(
            dataset, split, items, folder=folder, drop=drop, on_progress=on_progress
        )
        if not files[split].rows and 0 < written[split].unanswered == written[split].rejected and split != "train":
            unanswered.append(split)
            del files[split], written[split]
        else:
            _check_split(dataset, split, written[split], files[split].rejected_path)
    refuse_identical({split: writer.content for split, writer in written.items()}, dataset=dataset.name)
    if "train" in files and not files["train"].rows:
        raise UserError(
            f"all {files['train'].leaked} training questions of {dataset.name} are in validation or test too, and "
            "dataset.drop_leaked takes them out; name other files in dataset.splits"
        )
    if not files:
        raise UserError(f"no row of {dataset.name} has an answer; check dataset.columns.answer")
    shared = count_shared({split: writer.keys for split, writer in written.items()})
    return {
        split: replace(files[split], shared=shared[split], unanswered=unanswered) for split in SPLITS if split in files
    }


def read_questions(path: str) -> list[Question]:
    """Raises UserError for a file that is damaged."""
    return [question for batch in iterate_questions(path, BATCH_ROWS) for question in batch]


def iterate_questions(path: str, batch_rows: int) -> Iterator[list[Question]]:
    """The same in batches, for files that should not be held in memory."""
    try:
        with storage.open_file(path) as file:
            table = pq.ParquetFile(file, page_checksum_verification=True)
            for batch in table.iter_batches(batch_size=batch_rows, columns=schema_of(Question).names):
                yield from_table(pa.table(batch), Question)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is missing or damaged ({error}); delete it, and the next run makes it again") from None


def _write_split(
    dataset: Dataset,
    split: str,
    items: Iterable[Question | Rejected | None],
    *,
    folder: str,
    drop: Container[int],
    on_progress: Callable[[str, int], None],
) -> tuple[QuestionFile, SplitWriter]:
    path, rejected_path = storage.join(folder, f"{split}.parquet"), storage.join(folder, f"{split}.rejected.jsonl")
    with tempfile.TemporaryDirectory() as scratch:
        good, bad = Path(scratch, "good.parquet"), Path(scratch, "bad.jsonl")
        with SplitWriter(good, bad, drop=drop) as writer:
            for item in items:
                writer.add(item)
                if isinstance(item, Question) and writer.rows % BATCH_ROWS == 0:
                    on_progress(split, writer.rows)
        on_progress(split, writer.rows)
        storage.put_file(bad, rejected_path)
        storage.put_file(good, path)
    file = QuestionFile(
        path=path,
        rows=writer.rows,
        rejected=writer.rejected,
        rejected_path=rejected_path,
        digest=writer.hasher.hexdigest(),
        skipped=writer.skipped,
        leaked=writer.leaked,
    )
    return file, writer


def _questions(
    dataset: Dataset, split: str, found: Mapping[str, list[str]], scanned: Scan
) -> Iterator[Question | Rejected | None]:
    """Good questions, rejected rows, and None for a row of another kind; at most `max_rows` good ones of a source.

    A split taken from train gets what the scan has chosen for it, and none of train's rejected rows.
    """
    source = "train" if split in dataset.split_from_train else split
    ids: set[int] = set()
    for number, item in iterate_rows(dataset, source, found[source]):
        if len(ids) == dataset.max_rows:
            return
        made = _question(dataset, item, number, ids, scanned) if isinstance(item, Parts) else item
        if isinstance(made, Question):
            ids.add(short_hash(made.question_id))
            if not scanned.chosen or scanned.chosen.get(question_key(made), "train") == split or source != "train":
                yield made
        elif source == split:
            yield made


def _question(dataset: Dataset, parts: Parts, number: int, ids: Container[int], scanned: Scan) -> Question | Rejected:
    try:
        question = to_question(parts, dataset=dataset, reading=scanned.reading)
        if short_hash(question.question_id) in ids:
            if dataset.repeated_ids == "reject":
                raise BadRow(f"duplicate id {question.question_id!r}; dataset.repeated_ids=number keeps such rows")
            question = replace(question, question_id=f"{question.question_id}#{number}")
    except BadRow as problem:
        return Rejected(parts.position, str(problem), f"{parts.question[:120]!r}, answer {parts.answer!r}"[:200])
    return question


def _check_split(dataset: Dataset, split: str, written: SplitWriter, rejected_path: str) -> None:
    read = written.rows + written.rejected
    if written.rejected > dataset.max_rejected_fraction * read:
        raise UserError(
            f"{written.rejected} of {read} {split} rows of {dataset.name} cannot be used, more than "
            f"dataset.max_rejected_fraction={dataset.max_rejected_fraction} allows. All: {rejected_path}; the first: "
            + "; ".join(written.first_reasons)
        )
    if not written.rows and not written.leaked:
        raise UserError(
            f"the {split} split of {dataset.name} holds no questions"
            + (f"; dataset.where skips all of its {written.skipped} rows" if written.skipped else "")
            + "; check dataset.path and dataset.splits"
        )
