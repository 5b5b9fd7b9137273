import os
import threading
from pathlib import Path

import pyarrow as pa
import pytest

from tinyllm_ray import storage
from tinyllm_ray.schema.base import UserError


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    uri = f"{tmp_path}/new/folder/value.json"
    storage.write_json(uri, {"text": "é"})
    assert storage.read_json(uri) == {"text": "é"}
    table = pa.table({"a": [1, 2], "b": ["x", "y"]})
    storage.write_table(f"{tmp_path}/t.parquet", table)
    assert storage.read_table(f"{tmp_path}/t.parquet", ["b"]).to_pydict() == {"b": ["x", "y"]}


def test_a_file_uri_and_a_path_are_the_same_file(tmp_path: Path) -> None:
    storage.write_bytes(f"file://{tmp_path}/a", b"1")
    assert storage.read_bytes(f"{tmp_path}/a") == b"1"
    assert storage.exists(f"file://{tmp_path}/a")
    assert storage.list_files(f"file://{tmp_path}") == [f"file://{tmp_path}/a"]


def test_a_relative_path_is_below_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    storage.write_bytes("a", b"1")
    assert (tmp_path / "a").read_bytes() == b"1"


def test_names_that_look_compressed_stay_as_they_are(tmp_path: Path) -> None:
    storage.write_bytes(f"{tmp_path}/a.gz", b"plain")
    assert (tmp_path / "a.gz").read_bytes() == b"plain"
    assert storage.read_bytes(f"{tmp_path}/a.gz") == b"plain"


def test_a_reader_sees_the_old_or_the_new_file_and_never_a_half(tmp_path: Path) -> None:
    uri, contents = f"{tmp_path}/a", [bytes([value]) * 3_000_000 for value in (1, 2)]
    storage.write_bytes(uri, contents[0])
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            for content in contents:
                storage.write_bytes(uri, content)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert all(storage.read_bytes(uri) in contents for _ in range(50))
    finally:
        stop.set()
        writer.join()
    assert os.listdir(tmp_path) == ["a"]


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    storage.write_bytes(f"{tmp_path}/a", b"old")
    with pytest.raises(FileNotFoundError):
        storage.put_file(tmp_path / "missing", f"{tmp_path}/a")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_files_under_way_are_not_listed(tmp_path: Path) -> None:
    for name in ("b.parquet", "a.parquet", ".tmp-1-c.parquet", "d.json"):
        storage.write_bytes(f"{tmp_path}/s/{name}", b"")
    assert storage.list_files(f"{tmp_path}", ".parquet") == [f"{tmp_path}/s/a.parquet", f"{tmp_path}/s/b.parquet"]
    assert storage.list_files(f"{tmp_path}/none") == []


def test_a_missing_file_is_missing_at_once(tmp_path: Path) -> None:
    for read in (storage.read_bytes, storage.read_table, storage.open_file, storage.stamp):
        with pytest.raises(FileNotFoundError):
            read(f"{tmp_path}/none")
    assert not storage.exists(f"{tmp_path}/none")


@pytest.mark.parametrize("uri", ["foo://x/y", "s3:///x", "file://x", "s3://b/a b", "s3://b?x=1"])
def test_an_address_that_is_none_is_one_message(uri: str) -> None:
    with pytest.raises(UserError, match="is no address of storage"):
        storage.write_bytes(uri, b"")


def test_the_stamp_changes_with_the_file(tmp_path: Path) -> None:
    uri = f"{tmp_path}/a"
    storage.write_bytes(uri, b"1")
    before = storage.stamp(uri)
    assert storage.stamp(uri) == before
    storage.write_bytes(uri, b"2")
    assert storage.stamp(uri) != before


def test_folders_are_copied_and_removed(tmp_path: Path) -> None:
    (tmp_path / "source" / "below").mkdir(parents=True)
    (tmp_path / "source" / "below" / "a").write_bytes(b"1")
    storage.upload_folder(tmp_path / "source", f"{tmp_path}/target")
    assert storage.local_folder(f"file://{tmp_path}/target") == tmp_path / "target"
    assert (tmp_path / "target" / "below" / "a").read_bytes() == b"1"
    storage.remove_folder(f"{tmp_path}/target")
    storage.remove_folder(f"{tmp_path}/target")
    assert not (tmp_path / "target").exists()


def test_a_path_that_is_not_there_is_answered_with_the_nearest_one(tmp_path):
    (tmp_path / "questions.jsonl").write_text("")
    near = storage.nearest_path(str(tmp_path / "question.jsonl"))
    assert near == f"; did you mean {tmp_path}/questions.jsonl?"
    assert storage.nearest_path(str(tmp_path / "nothing" / "like")) == ""
    assert storage.nearest_path("s3://bucket/questions.jsonl") == ""
