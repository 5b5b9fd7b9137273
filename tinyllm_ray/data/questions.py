"""Question files: a dataset section in, one Parquet file of Question rows per split out, bad rows in a reject file.

In: experiments' `dataset:`   Out: <output_dir>/questions/<name>/{train,validation,test}.parquet, <split>.rejected.jsonl
"""

import hashlib
import json
import tempfile
from array import array
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tinyllm_ray import storage
from tinyllm_ray.config import UserError, digest
from tinyllm_ray.data import sources
from tinyllm_ray.data.formats import BadRow, OtherKind, to_question
from tinyllm_ray.data.overlap import count_shared, question_key, refuse_identical, shared_lines, short_hash
from tinyllm_ray.rows import SPLITS, Question, Rejected, from_table, schema_of, to_table
from tinyllm_ray.schema import Dataset

_BATCH_ROWS = 4096
_PUBLISHED = {"train": ["train"], "validation": ["validation", "valid", "dev", "val"], "test": ["test"]}
_HUB_FOLDERS = ("", "main/", "ARC-Challenge/", "pqa_labeled/", "data/", "default/", "plain_text/")


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


def prepare_questions(
    dataset: Dataset, *, output_dir: str, on_progress: Callable[[str, int], None] = lambda *_: None
) -> dict[str, QuestionFile]:
    """Read every split that there is; nothing is read again while the files and the section stay the same.

    `on_progress` gets the split and the rows read so far. Raises UserError where no file is found, a file is broken
    as a whole, or more rows are bad than `max_rejected_fraction` allows.
    """
    found = find_files(dataset)
    folder = storage.join(output_dir, "questions", dataset.name)
    manifest_uri = storage.join(folder, "manifest.json")
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
    rows = {split: file.rows for split, file in files.items()}
    return lines + shared_lines(rows, {split: file.shared for split, file in files.items()})


def _known(manifest_uri: str, made_from: dict[str, Any]) -> dict[str, QuestionFile] | None:
    """What an earlier run made of the same files, where all of it is still there as it was written."""
    try:
        manifest = storage.read_json(manifest_uri)
        if manifest["made_from"] != made_from:
            return None
        stamps = {split: file.pop("stamp") for split, file in manifest["splits"].items()}
        files = {split: QuestionFile(**file) for split, file in manifest["splits"].items()}
        whole = all(storage.stamp(file.path) == stamps[split] for split, file in files.items())
    except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):
        return None  # absent or damaged: it is made again
    return files if whole else None


def _prepare_splits(
    dataset: Dataset, found: Mapping[str, list[str]], *, folder: str, on_progress: Callable[[str, int], None]
) -> dict[str, QuestionFile]:
    """Test and validation before train, so that train can leave out what they hold."""
    files: dict[str, QuestionFile] = {}
    keys: dict[str, array[int]] = {}
    contents: dict[str, tuple[int, int]] = {}
    for split in reversed([split for split in SPLITS if split in found]):
        drop = {key for other in keys.values() for key in other} if dataset.drop_leaked and split == "train" else set()
        files[split], written = _prepare_split(
            dataset, split, found[split], folder=folder, drop=drop, on_progress=on_progress
        )
        keys[split], contents[split] = written.keys, written.content
    refuse_identical(contents, dataset=dataset.name)
    if "train" in files and not files["train"].rows:
        raise UserError(
            f"all {files['train'].leaked} training questions of {dataset.name} are in validation or test too, and "
            "dataset.drop_leaked takes them out; name other files in dataset.splits"
        )
    shared = count_shared(keys)
    return {split: replace(files[split], shared=shared[split]) for split in SPLITS if split in files}


def read_questions(path: str) -> list[Question]:
    """Raises UserError for a file that is damaged."""
    return [question for batch in iterate_questions(path, _BATCH_ROWS) for question in batch]


def iterate_questions(path: str, batch_rows: int) -> Iterator[list[Question]]:
    """The same in batches, for files that should not be held in memory."""
    try:
        with storage.open_file(path) as file:
            table = pq.ParquetFile(file, page_checksum_verification=True)
            for batch in table.iter_batches(batch_size=batch_rows, columns=schema_of(Question).names):
                yield from_table(pa.table(batch), Question)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is missing or damaged ({error}); delete it, and the next run makes it again") from None


def find_files(dataset: Dataset) -> dict[str, list[str]]:
    """Source files by split: those that `dataset.splits` names, else those with the format's own names."""
    if not dataset.path:
        raise UserError(f"dataset.path: missing; set it to the folder that holds the files of {dataset.name}")
    folder = sources.absolute(dataset.path)
    found = {}
    looked_for = []
    for split in SPLITS:
        if dataset.splits and split not in dataset.splits:
            continue
        patterns = [dataset.splits[split]] if dataset.splits else _own_names(dataset, split)
        looked_for += patterns
        files = next((files for pattern in patterns if (files := sources.find(folder, pattern))), [])
        if dataset.splits and not files:
            raise UserError(f"dataset.splits.{split}: there is no file {patterns[0]} in {folder}")
        if files:
            found[split] = files
    if not found:
        raise UserError(
            f"dataset.path: {folder} holds no question files of format {dataset.format}; looked for "
            f"{', '.join(looked_for)}; set dataset.path, dataset.format or dataset.splits"
        )
    return found


def _own_names(dataset: Dataset, split: str) -> list[str]:
    if dataset.format == "miniature":
        return [f"{split}.jsonl"]
    if dataset.format == "reference":
        file = f"{dataset.name}_{'valid' if split == 'validation' else split}.json"
        return [file, f"{dataset.name}/{file}"]
    stems = _PUBLISHED[split]
    names = [f"{stem}.{suffix}" for stem in stems for suffix in ("jsonl", "json", "parquet")]
    if sources.absolute(dataset.path).startswith("http"):
        return names
    return [*names, *(f"{folder}{stem}-*.parquet" for folder in _HUB_FOLDERS for stem in stems)]


def _prepare_split(
    dataset: Dataset,
    split: str,
    uris: list[str],
    *,
    folder: str,
    drop: Container[int],
    on_progress: Callable[[str, int], None],
) -> "tuple[QuestionFile, _Writers]":
    path, rejected_path = storage.join(folder, f"{split}.parquet"), storage.join(folder, f"{split}.rejected.jsonl")
    with tempfile.TemporaryDirectory() as scratch:
        good, bad = Path(scratch, "good.parquet"), Path(scratch, "bad.jsonl")
        with _Writers(good, bad, drop=drop) as writers:
            for item in _questions(dataset, split, uris):
                writers.add(item)
                if isinstance(item, Question) and writers.rows % _BATCH_ROWS == 0:
                    on_progress(split, writers.rows)
        on_progress(split, writers.rows)
        storage.put_file(bad, rejected_path)
        _check_rejected(dataset, split, writers, rejected_path)
        storage.put_file(good, path)
    file = QuestionFile(
        path=path,
        rows=writers.rows,
        rejected=writers.rejected,
        rejected_path=rejected_path,
        digest=writers.hasher.hexdigest(),
        skipped=writers.skipped,
        leaked=writers.leaked,
    )
    return file, writers


class _Writers:
    """The two files of a split under way, and its counts; questions whose key is in `drop` are left out."""

    def __init__(self, good: Path, bad: Path, *, drop: Container[int]) -> None:
        self.rows = self.rejected = self.skipped = self.leaked = 0
        self.keys = array("Q")
        self.content = (0, 0)  # of all questions, those left out too: their number and the sum of their hashes
        self.hasher = hashlib.blake2b(digest_size=16)
        self._drop = drop
        self.first_reasons: list[str] = []
        self._batch: list[Question] = []
        self._good = pq.ParquetWriter(good, schema_of(Question), compression="zstd", write_page_checksum=True)
        self._bad = bad.open("w", encoding="utf-8")

    def __enter__(self) -> "_Writers":
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self._good.close()
        self._bad.close()

    def add(self, item: Question | Rejected | None) -> None:
        if isinstance(item, Question):
            self._add_question(item)
        elif isinstance(item, Rejected):
            self.rejected += 1
            self._bad.write(json.dumps(asdict(item)) + "\n")
            if len(self.first_reasons) < 3:
                self.first_reasons.append(f"line {item.line}: {item.reason}")
        else:
            self.skipped += 1

    def _add_question(self, question: Question) -> None:
        count, total = self.content
        without_id = short_hash(digest({**vars(question), "question_id": ""}))
        self.content = count + 1, (total + without_id) % 2**64
        key = question_key(question)
        if key in self._drop:
            self.leaked += 1
            return
        self.rows += 1
        self.keys.append(key)
        self.hasher.update(digest(vars(question), 32).encode())
        self._batch.append(question)
        if len(self._batch) == _BATCH_ROWS:
            self._flush()

    def _flush(self) -> None:
        self._good.write_table(to_table(self._batch, Question))
        self._batch.clear()


def _questions(dataset: Dataset, split: str, uris: list[str]) -> Iterator[Question | Rejected | None]:
    """Good questions, rejected rows, and None for a row of another kind; at most `max_rows` good ones."""
    ids: set[int] = set()
    rows = (row for uri in uris for row in sources.iterate(uri))
    for number, row in enumerate(rows, start=1):
        if len(ids) == dataset.max_rows:
            return
        if row.problem:
            yield Rejected(row.position, row.problem, row.text)
            continue
        try:
            question = to_question(
                row.value,
                form=dataset.format,
                default_id=f"{split}-{number}",
                columns=dataset.columns,
                task=dataset.task,
                labels=dataset.labels,
            )
            if (short := short_hash(question.question_id)) in ids:
                raise BadRow(f"duplicate id {question.question_id!r}")
        except OtherKind:
            yield None
        except BadRow as problem:
            yield Rejected(row.position, str(problem), repr(row.value)[:200])
        else:
            ids.add(short)
            yield question


def _check_rejected(dataset: Dataset, split: str, written: _Writers, rejected_path: str) -> None:
    read = written.rows + written.rejected
    if written.rejected > dataset.max_rejected_fraction * read:
        raise UserError(
            f"{written.rejected} of {read} {split} rows of {dataset.name} cannot be used, more than "
            f"dataset.max_rejected_fraction={dataset.max_rejected_fraction} allows. All: {rejected_path}; the first: "
            + "; ".join(written.first_reasons)
        )
    if not written.rows and not written.leaked:
        raise UserError(
            f"the {split} split of {dataset.name} holds no questions; check dataset.path and dataset.splits"
        )
