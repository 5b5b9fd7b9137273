import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tinyllm_ray import storage
from tinyllm_ray.config import UserError
from tinyllm_ray.data import store
from tinyllm_ray.rows import SOFT_COLUMNS, Question, Rationale, schema_of, to_table

SCHEMA = schema_of(Rationale)
PLAIN = pa.schema([field for field in SCHEMA if field.name not in SOFT_COLUMNS])
MANIFEST = {"dataset": "toy", "teacher": "owl", "sampling": {"seed": 0}}


def rationale(key: str, text: str = "because", failure: str = "") -> Rationale:
    return Rationale(key, f"q-{key}", 0, text, "", "failed" if failure else "stop", failure, 0, 5, 3, ["looping"])


def keys(table: pa.Table) -> list[str]:
    return table["key"].to_pylist()


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    rows = [rationale("b"), rationale("a"), rationale("c")]
    store.append(str(tmp_path), "train", rows)
    plain = [{name: value for name, value in asdict(row).items() if name in PLAIN.names} for row in rows]
    assert store.read(str(tmp_path), "train").to_pylist() == plain
    assert store.read(str(tmp_path), "train", ["rationale"]).column_names == ["rationale"]


def test_an_empty_store_has_its_columns(tmp_path: Path) -> None:
    assert store.read(str(tmp_path), "train").schema == PLAIN
    assert store.read(str(tmp_path), "train", ["key"], failures=True).num_rows == 0
    assert store.count_twice(str(tmp_path), "train") == 0


def test_a_failed_row_that_later_succeeded_counts_once(tmp_path: Path) -> None:
    folder = str(tmp_path)
    store.append(folder, "train", [rationale("a", "", "engine error"), rationale("b")])
    store.append(folder, "train", [rationale("a", "", "engine error"), rationale("c", "", "too long")])
    store.append(folder, "train", [rationale("a", "at last")])
    good = store.read(folder, "train")
    assert sorted(keys(good)) == ["a", "b"]
    assert "at last" in good["rationale"].to_pylist()
    with_failures = store.read(folder, "train", ["key", "failure"], failures=True)
    assert sorted(zip(keys(with_failures), with_failures["failure"].to_pylist(), strict=True)) == [
        ("a", ""),
        ("b", ""),
        ("c", "too long"),
    ]
    assert store.count_twice(folder, "train") == 0


def test_a_key_in_two_parts_is_read_once_and_counted(tmp_path: Path) -> None:
    folder = str(tmp_path)
    store.append(folder, "train", [rationale("a"), rationale("b")])
    store.append(folder, "train", [rationale("b"), rationale("c")])
    assert sorted(keys(store.read(folder, "train"))) == ["a", "b", "c"]
    assert store.count_twice(folder, "train") == 1


def test_the_same_rows_written_again_replace_themselves(tmp_path: Path) -> None:
    first = store.append(str(tmp_path), "train", [rationale("a")])
    assert store.append(str(tmp_path), "train", [rationale("a", "again")]) == first
    assert store.append(str(tmp_path), "train", [rationale("a", "", "failed")]) != first


def test_a_store_of_other_settings_is_refused_with_the_difference(tmp_path: Path) -> None:
    folder = str(tmp_path)
    store.open_store(folder, MANIFEST)
    store.open_store(folder, MANIFEST)
    with pytest.raises(UserError, match=r'sampling: stored {"seed": 0}, configured {"seed": 1}'):
        store.open_store(folder, {**MANIFEST, "sampling": {"seed": 1}})
    assert store.read_manifest(folder) == MANIFEST


def test_other_settings_have_another_folder() -> None:
    one, other = (store.store_folder("/o", {**MANIFEST, "sampling": seed}) for seed in (0, 1))
    assert one.startswith("/o/stores/toy/owl/")
    assert one != other


def test_a_folder_that_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is no rationale store; check teachers\.\*\.store"):
        store.read_manifest(str(tmp_path))


def test_the_key_follows_the_questions_content() -> None:
    question = Question("1", "What floats?", ["iron", "cork"], "cork")
    other_answer = Question("1", "What floats?", ["iron", "cork"], "iron")

    def key(of: Question, sample: int = 0, settings: str = "s", forced: bool = True) -> str:
        return store.row_key(of, sample, settings=settings, teacher_forcing=forced)

    assert key(question) == key(Question("1", "What floats?", ["iron", "cork"], "cork"))
    assert len({key(question), key(other_answer), key(question, 1), key(question, 0, "t")}) == 4
    assert key(question, forced=False) == key(other_answer, forced=False)


def write_part(path: Path, rows: list[Rationale]) -> None:
    pq.write_table(to_table(rows, Rationale), path)


def test_the_content_digest_follows_the_rationales_and_not_the_parts_they_are_in(tmp_path: Path) -> None:
    folder = str(tmp_path)
    store.open_store(folder, MANIFEST)
    empty = store.content_digest(folder)
    first, second = (Path(store.append(folder, "train", [rationale(key)])) for key in "ab")
    both = store.content_digest(folder)
    assert both != empty
    assert store.content_digest(folder + "/") == both
    first.unlink(), second.unlink()
    store.append(folder, "train", [rationale("b"), rationale("a"), rationale("c", "", "failed")])
    assert store.content_digest(folder) == both


def test_a_part_whose_content_changes_is_another_store_and_said_once(tmp_path: Path) -> None:
    folder, said = str(tmp_path), list[str]()
    store.open_store(folder, MANIFEST)
    part = Path(store.append(folder, "train", [rationale("a", "because")]))
    before = store.content_digest(folder, say=said.append)
    write_part(part, [rationale("a", "no reason")])
    after = store.content_digest(folder, say=said.append)
    assert after != before
    assert said == [f"the store {folder} has changed since it was last read: train/{part.name} holds other rationales"]
    store.append(folder, "train", [rationale("b")])
    part.unlink()
    assert store.content_digest(folder, say=said.append) not in (before, after)
    assert said[1:] == [f"the store {folder} has changed since it was last read: train/{part.name} is gone"]


def test_a_part_is_read_once_for_the_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, reads = str(tmp_path), list[str]()
    store.open_store(folder, MANIFEST)
    store.append(folder, "train", [rationale("a")])
    read_table = storage.read_table
    monkeypatch.setattr(storage, "read_table", lambda uri, columns: reads.append(uri) or read_table(uri, columns))
    first = store.content_digest(folder)
    new = store.append(folder, "train", [rationale("b")])
    second = store.content_digest(folder)
    assert reads[1:] == [new]
    (tmp_path / "content.json").write_text("{")
    assert (store.content_digest(folder), len(reads)) == (second, 4)
    assert first != second


def test_a_damaged_part_is_one_message_without_waiting(tmp_path: Path) -> None:
    part = Path(store.append(str(tmp_path), "train", [rationale(str(n), str(n) * 30) for n in range(500)]))
    whole = part.read_bytes()
    start = (
        time.monotonic()
    )  # waiting for one of the eight reads to come right would take as long as this allows for all
    for data in (whole[: len(whole) // 2], whole[:100] + b"\xff" * 50 + whole[150:], b"", b"PAR1 and PAR1"):
        part.write_bytes(data)
        with pytest.raises(UserError, match=rf"{part.name} is damaged .*delete this file"):
            store.read(str(tmp_path), "train")
        with pytest.raises(UserError, match="is damaged"):
            list(store.iterate(str(tmp_path), "train", ["rationale"]))
    assert time.monotonic() - start < storage.RETRY_S


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[1]"])
def test_a_damaged_manifest_is_written_again_where_its_content_is_known(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(data)
    with pytest.raises(UserError, match=r"manifest\.json (is damaged|holds list)"):
        store.read_manifest(str(tmp_path))
    store.open_store(str(tmp_path), MANIFEST)
    assert store.read_manifest(str(tmp_path)) == MANIFEST


def test_a_large_store_is_read_in_seconds(tmp_path: Path) -> None:
    rows, parts = 250_000, 4
    for part in range(parts):
        names = [f"{part}-{index}" for index in range(rows // parts)]
        columns: dict[str, object] = {name: [""] * len(names) for name in SCHEMA.names}
        for name in ("sample", "dropped_examples", "input_tokens", "output_tokens"):
            columns[name] = [0] * len(names)
        columns |= {"key": names, "flags": [[]] * len(names)}
        storage.write_table(f"{tmp_path}/train/part-{part}.parquet", pa.table(columns, schema=SCHEMA))
    start = time.process_time()  # of this process alone, so that other work on the machine does not count
    assert store.read(str(tmp_path), "train", ["key"], failures=True).num_rows == rows
    assert time.process_time() - start < 15


def soft(key: str, tokens: int, k: int, *, seed: int = 0) -> Rationale:
    """A row with the soft targets of so many tokens, log-probabilities as a model gives them."""
    drawn = np.random.default_rng(seed)
    logits = drawn.normal(scale=4, size=(tokens, 50))
    values = np.sort(logits - np.log(np.exp(logits).sum(1, keepdims=True)), axis=1)[:, ::-1][:, :k]
    fields = {
        "token_ids": drawn.integers(0, 50, tokens, dtype=np.int32),
        "top_logprobs": values.astype(np.float16).ravel(),
    }
    return replace(rationale(key), top_ids=drawn.integers(0, 50, tokens * k, dtype=np.int32), **fields)


def test_soft_targets_come_back_as_float16_holds_them(tmp_path: Path) -> None:
    rows = [soft("a", 7, 5), rationale("b"), soft("c", 1, 5, seed=1)]
    store.append(str(tmp_path), "train", rows)
    found = store.read(str(tmp_path), "train", ["key", *SOFT_COLUMNS])
    for row, (key, *cells) in zip(rows, zip(*found.itercolumns(), strict=True), strict=True):
        assert key.as_py() == row.key
        for cell, name in zip(cells, SOFT_COLUMNS, strict=True):
            given, back = np.asarray(getattr(row, name)), store.array_of(cell)
            assert np.array_equal(given, back) and (not len(given) or given.dtype == back.dtype)


def test_a_store_may_hold_parts_without_soft_targets(tmp_path: Path) -> None:
    folder = str(tmp_path)
    store.append(folder, "train", [rationale("a", "", "engine error")])
    store.append(folder, "train", [soft("b", 2, 3)])
    assert len(storage.list_files(f"{folder}/train", ".parquet")) == 2
    for table in store.iterate(folder, "train", ["key", *SOFT_COLUMNS]):
        assert table["key"].to_pylist() == ["b"]
        assert [len(row) for row in table["top_ids"].to_pylist()] == [6]
    assert store.read(folder, "train", ["key", "token_ids"], failures=True)["token_ids"].to_pylist()[1] is None


def test_the_size_of_soft_targets_is_that_of_their_columns_on_disk(tmp_path: Path) -> None:
    folder, k = str(tmp_path), 20
    assert store.soft_size(folder, "train") == {"rows": 0, "tokens": 0, "bytes": 0}
    store.append(folder, "train", [soft(str(i), 40, k, seed=i) for i in range(20)] + [rationale("plain")])
    size = store.soft_size(folder, "train")
    assert (size["rows"], size["tokens"]) == (20, 800)
    assert 2 * k < size["bytes"] / size["tokens"] < 6 * k + 4 + 8  # six bytes a kept token, the token itself, headers


def test_the_content_digest_follows_the_soft_targets(tmp_path: Path) -> None:
    digests = []
    for number, row in enumerate([rationale("a"), soft("a", 3, 2), soft("a", 3, 2, seed=1), soft("a", 3, 2)]):
        folder = f"{tmp_path}/{number}"
        store.open_store(folder, MANIFEST)
        store.append(folder, "train", [row])
        digests.append(store.content_digest(folder))
    assert len(set(digests)) == 3 and digests[1] == digests[3]
