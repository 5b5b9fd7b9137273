import gzip
import http.server
import json
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tinyllm_ray.config import UserError
from tinyllm_ray.data import sources

ROWS = [{"id": index, "text": "é" * 5} for index in range(3)]


def values(path: Path | str) -> list[object]:
    return [row.value for row in sources.iterate(str(path))]


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_the_same_rows_come_from_lines_arrays_parquet_and_gzip(tmp_path: Path) -> None:
    lines = "\n".join(json.dumps(row) for row in ROWS).encode()
    table = tmp_path / "t.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), table)
    array = json.dumps(ROWS, indent=2, ensure_ascii=False).encode()
    assert values(write(tmp_path / "lines.json", lines)) == ROWS
    assert values(write(tmp_path / "bom.jsonl", b"\xef\xbb\xbf" + lines)) == ROWS
    assert values(write(tmp_path / "array.json", array)) == ROWS
    assert values(write(tmp_path / "bom.json", b"\xef\xbb\xbf" + array)) == ROWS
    assert values(write(tmp_path / "wrapped.json", b'{"questions": ' + array + b"}")) == ROWS
    assert values(write(tmp_path / "lines.jsonl.gz", gzip.compress(lines))) == ROWS
    assert values(table) == ROWS


def test_a_broken_line_is_yielded_with_its_number_and_reason(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", b'{"a": 1}\n\n{"a": \n{"a": "\xff"}\n' + b"[" * 100_000 + b"\n2\n")
    rows = list(sources.iterate(str(path)))
    assert [row.position for row in rows] == [1, 3, 4, 5, 6]
    assert [row.problem.partition(":")[0] for row in rows] == [
        "",
        "broken JSON",
        "broken UTF-8 at byte 8",
        "broken JSON",
        "",
    ]
    assert rows[1].text == '{"a": '


def test_an_array_longer_than_the_buffer_is_read_whole(tmp_path: Path) -> None:
    rows = [{"id": index, "text": "x" * size} for index, size in enumerate([3_000_000, 10, 900_000, 200_000, 5])]
    assert values(write(tmp_path / "t.json", json.dumps(rows).encode())) == rows
    assert values(write(tmp_path / "n.json", b"[" + b"12345," * 400_000 + b"6]"))[-2:] == [12345, 6]


@pytest.mark.parametrize("text", ['[{"a": 1}, {"a"', '[{"a": 1}', "[", '[{"a": 1} oops]', '[{"a": 1}]\n{"b": 2}'])
def test_a_broken_array_is_one_error(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "t.json", text.encode())
    with pytest.raises(UserError, match=r"t\.json .*repair the file"):
        values(path)


def test_a_broken_parquet_file_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a whole Parquet file"):
        values(write(tmp_path / "t.parquet", b"PAR1 and nothing else"))


def test_a_variable_in_an_address_is_filled_in_when_the_file_is_opened(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t.jsonl").write_text('{"question": "q"}\n')
    address = f"{server}/${{FILE}}.jsonl?sig=${{DATA_SIGNATURE}}"
    with pytest.raises(UserError, match="the environment variable FILE is not set") as error:
        list(sources.iterate(address))
    monkeypatch.setenv("FILE", "t")
    monkeypatch.setenv("DATA_SIGNATURE", "abcdef")
    assert "abcdef" not in str(error.value)
    assert len(list(sources.iterate(address))) == 1
    monkeypatch.setenv("FILE", "none")
    with pytest.raises(UserError, match=r"sig=\$\{DATA_SIGNATURE\}") as error:
        list(sources.iterate(address))
    assert "abcdef" not in str(error.value)


def test_http_files_are_read_and_missing_ones_are_missing(tmp_path: Path, server: str) -> None:
    write(tmp_path / "t.jsonl", json.dumps(ROWS[0]).encode())
    assert sources.find(server, "t.jsonl") == [f"{server}/t.jsonl"]
    assert sources.find(server, "other.jsonl") == []
    assert values(f"{server}/t.jsonl") == [ROWS[0]]
    assert sources.stamp(f"{server}/t.jsonl") == sources.stamp(f"{server}/t.jsonl")


def test_a_server_that_refuses_is_a_users_error() -> None:
    with pytest.raises(UserError, match="cannot be read"):
        sources.find("http://127.0.0.1:9", "t.jsonl")


def test_a_pattern_finds_the_parts_in_order(tmp_path: Path) -> None:
    for name in ("train-00001.parquet", "train-00000.parquet", "test-00000.parquet"):
        write(tmp_path / name, b"")
    assert sources.find(str(tmp_path), "train-*.parquet") == [f"{tmp_path}/train-0000{n}.parquet" for n in (0, 1)]
    assert sources.find(str(tmp_path), "valid-*.parquet") == []


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "http://[bad/t.jsonl"])
def test_a_name_that_no_storage_takes_is_a_users_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"cannot be looked up: .*check dataset\.path and dataset\.splits"):
        sources.find(str(tmp_path), name)
    with pytest.raises(UserError, match="cannot be looked up"):
        sources.find("/dev/null", "data-*.parquet")


def test_what_was_set_aside_is_no_file_of_questions() -> None:
    names = ["train.parquet", "train.jsonl.gz", "train.rejected.jsonl", "out/questions/x/dev.rejected.jsonl"]
    assert [sources.is_data(name) for name in names] == [True, True, False, False]
