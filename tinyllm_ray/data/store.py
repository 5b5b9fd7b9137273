"""The rationale store: Rationale rows of one teacher for one dataset, as Parquet, keyed by what made them.

Layout: <folder>/manifest.json and <folder>/<split>/part-*.parquet; parts are written whole and never changed.
A question that failed and was tried again has several rows of one key: the one without a failure counts.
"""

import json
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tinyllm_ray import storage
from tinyllm_ray.config import UserError, digest
from tinyllm_ray.rows import Question, Rationale

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("question_id", pa.string()),
        ("sample", pa.int32()),
        ("rationale", pa.string()),
        ("predicted_answer", pa.string()),
        ("finish_reason", pa.string()),
        ("failure", pa.string()),
        ("dropped_examples", pa.int32()),
        ("input_tokens", pa.int32()),
        ("output_tokens", pa.int32()),
        ("flags", pa.list_(pa.string())),
    ]
)


def store_folder(output_dir: str, manifest: dict[str, Any]) -> str:
    """<output_dir>/stores/<dataset>/<teacher>/<digest of the manifest>: other settings, another folder."""
    return storage.join(output_dir, "stores", manifest["dataset"], manifest["teacher"], digest(manifest))


def row_key(question: Question, sample: int, *, settings: str, teacher_forcing: bool) -> str:
    """Key of one rationale: the question's content, the sample and the digest of the store's manifest."""
    answer = question.answer if teacher_forcing else None
    return digest([question.question_id, question.question, question.choices, answer, sample, settings], 24)


def open_store(folder: str, manifest: dict[str, Any]) -> None:
    """Write the manifest of a new store, or check it against the one that is there.

    Raises UserError with the difference where they disagree: rows of other settings are never mixed.
    """
    uri = storage.join(folder, "manifest.json")
    if not storage.exists(uri):
        storage.write_json(uri, manifest)
        return
    found = storage.read_json(uri)
    if found != manifest:
        raise UserError(
            f"the store {folder} was written by another configuration:\n{_difference(found, manifest)}\n"
            "use another output.dir, or set the named keys back"
        )


def read_manifest(folder: str) -> dict[str, Any]:
    try:
        return storage.read_json(storage.join(folder, "manifest.json"))
    except FileNotFoundError:
        raise UserError(f"{folder} holds no manifest.json, so it is no rationale store; check the teacher's `store`") from None


def append(folder: str, split: str, rows: list[Rationale]) -> str:
    """Write one part, named by its rows' keys, so that a repeated write of the same rows replaces itself."""
    failed = sum(bool(row.failure) for row in rows)
    name = digest([[row.key for row in rows], failed], 24)
    uri = storage.join(folder, split, f"part-{name}.parquet")
    storage.write_table(uri, pa.Table.from_pylist([row.row() for row in rows], schema=SCHEMA))
    return uri


def read(folder: str, split: str, columns: list[str] | None = None, *, failures: bool = False) -> pa.Table:
    """All rows of a split, each key once, in order of writing; `failures=True` adds keys that only failed."""
    wanted = columns or SCHEMA.names
    needed = list(dict.fromkeys([*wanted, "key", "failure"]))
    parts = [storage.read_table(uri, needed) for uri in storage.list_files(storage.join(folder, split), ".parquet")]
    if not parts:
        return SCHEMA.empty_table().select(wanted)
    table = pa.concat_tables(parts, promote_options="default")
    good = _first_of_key(table.filter(pc.equal(table["failure"], "")))
    if failures:
        bad = table.filter(pc.and_(pc.not_equal(table["failure"], ""), pc.invert(pc.is_in(table["key"], good["key"].combine_chunks()))))
        good = pa.concat_tables([good, _first_of_key(bad)])
    return good.select(wanted)


def count_twice(folder: str, split: str) -> int:
    """Rows without a failure that are in the store more than once."""
    parts = [storage.read_table(uri, ["key", "failure"]) for uri in storage.list_files(storage.join(folder, split), ".parquet")]
    keys = [key for part in parts for key, failure in zip(part["key"].to_pylist(), part["failure"].to_pylist(), strict=True) if not failure]
    return len(keys) - len(set(keys))


def content_digest(folder: str) -> str:
    """Digest of what a store holds: its manifest and the names of its parts, which follow from their keys."""
    names = [uri.removeprefix(folder) for uri in storage.list_files(folder, ".parquet")]
    return digest([read_manifest(folder), names])


def _first_of_key(table: pa.Table) -> pa.Table:
    position = pa.array(range(len(table)), pa.int64())
    firsts = table.select(["key"]).append_column("position", position).group_by("key").aggregate([("position", "min")])
    return table.take(pc.sort_indices(firsts["position_min"]).take(pa.array([], pa.int64())) if not len(table) else firsts["position_min"].combine_chunks().sort())


def _difference(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    keys = [key for key in sorted(set(found) | set(wanted)) if found.get(key) != wanted.get(key)]
    return "\n".join(f"  {key}: stored {json.dumps(found.get(key))}, configured {json.dumps(wanted.get(key))}" for key in keys)
