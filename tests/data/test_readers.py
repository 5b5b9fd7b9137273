import bz2
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tinyllm_ray.config import UserError
from tinyllm_ray.data import sources
from tinyllm_ray.data.readers import Unreadable

ROWS = [{"id": "1", "text": "é, then\na line"}, {"id": "2", "text": 'a "quote"'}, {"id": "3", "text": None}]
CSV = 'id,text\n1,"é, then\na line"\n2,"a ""quote"""\n3,\n'


def write(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


def values(uri: str, **settings: Any) -> list[Any]:
    return [row.value for row in sources.iterate(uri, **settings)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", CSV),
        ("t.tsv", CSV.replace("id,", "id\t").replace(",", "\t").replace("é\t", "é,")),
        ("semicolons.csv", CSV.replace("id,", "id;").replace(",", ";").replace("é;", "é,")),
        ("windows.csv", CSV.replace("\n", "\r\n").replace("then\r\n", "then\n")),
    ],
)
def test_separated_values_are_read_with_their_quotes_and_empty_cells(tmp_path: Path, name: str, text: str) -> None:
    expected = ROWS
    if name == "t.tsv":
        expected = [{**ROWS[0], "text": "é, then\na line"}, *ROWS[1:]]
    assert values(write(tmp_path / name, text.encode())) == expected
    assert values(write(tmp_path / name, b"\xef\xbb\xbf" + text.encode())) == expected
    assert values(write(tmp_path / f"{name}.gz", gzip.compress(text.encode()))) == expected


def test_a_csv_file_may_have_another_name_where_the_format_says_so(tmp_path: Path) -> None:
    assert values(write(tmp_path / "t.txt", CSV.encode()), form="csv") == ROWS


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_with_its_mark_is_read(tmp_path: Path, encoding: str) -> None:
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)
    assert values(write(tmp_path / "t.jsonl", ("\ufeff" + lines).encode(encoding))) == ROWS
    assert values(write(tmp_path / "t.csv", ("\ufeff" + CSV).encode(encoding))) == ROWS
    with pytest.raises(UserError, match=r"t\.jsonl cannot be read: .*utf-16"):
        values(write(tmp_path / "t.jsonl", ("\ufeff" + lines).encode(encoding)[:-1]))


def test_packed_files_are_unpacked_by_what_is_in_them(tmp_path: Path) -> None:
    lines = "\n".join(json.dumps(row) for row in ROWS).encode()
    zstd = pa.compress(lines, codec="zstd", asbytes=True)
    for packed in (gzip.compress(lines), bz2.compress(lines), zstd):
        assert values(write(tmp_path / "t.packed", packed)) == ROWS
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "t.parquet")
    whole = (tmp_path / "t.parquet").read_bytes()
    assert values(write(tmp_path / "t.parquet.gz", gzip.compress(whole))) == ROWS


def test_an_arrow_file_is_read(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    with pa.OSFile(str(tmp_path / "t.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    assert values(str(tmp_path / "t.arrow")) == ROWS
    with pa.OSFile(str(tmp_path / "s.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    assert values(str(tmp_path / "s.arrow")) == ROWS
    whole = (tmp_path / "t.arrow").read_bytes()
    with pytest.raises(UserError, match=r"t\.arrow cannot be read: .*repair the file"):
        values(write(tmp_path / "t.arrow", whole[: len(whole) // 2]))


@pytest.mark.parametrize("indent", [None, 2])
def test_one_object_holds_its_rows_in_a_list_or_by_id(tmp_path: Path, indent: int | None) -> None:
    inside = {"version": "1", "data": ROWS}
    by_id = {row["id"]: {"text": row["text"], "more": 1} for row in ROWS}
    assert values(write(tmp_path / "t.json", json.dumps(inside, indent=indent).encode())) == ROWS
    assert values(write(tmp_path / "t.json", json.dumps(by_id, indent=indent).encode())) == [
        {**row, "more": 1} for row in ROWS
    ]


@pytest.mark.parametrize("indent", [None, 2])
def test_a_file_of_one_row_is_that_row(tmp_path: Path, indent: int | None) -> None:
    row = {"question": {"stem": "?"}, "choices": [{"label": "A", "text": "a"}], "answer": "A"}
    assert values(write(tmp_path / "t.json", json.dumps(row, indent=indent).encode())) == [row]


def test_several_lists_in_one_object_are_refused(tmp_path: Path) -> None:
    both = json.dumps({"train": ROWS, "test": ROWS}).encode()
    with pytest.raises(UserError, match=r"several lists of rows: train, test; write each split into a file"):
        values(write(tmp_path / "t.json", both))


def test_a_repeated_id_in_one_object_is_not_lost(tmp_path: Path) -> None:
    twice = b'{"7": {"a": 1, "b": 2}, "7": {"a": 3, "b": 4}}'
    rows = list(sources.iterate(write(tmp_path / "t.json", twice)))
    assert [row.value for row in rows] != [{"id": "7", "a": 3, "b": 4}]


def test_a_bad_line_of_a_csv_file_is_yielded_with_its_number(tmp_path: Path) -> None:
    text = 'id,text\n1,"two\nlines"\n2\n3,a,b\n"4"x,b\n5,fine\n'
    rows = list(sources.iterate(write(tmp_path / "t.csv", text.encode())))
    assert [(row.position, row.problem.partition(":")[0]) for row in rows] == [
        (2, ""),
        (4, "broken CSV"),
        (5, "broken CSV"),
        (6, "broken CSV"),
        (7, ""),
    ]
    assert rows[2].problem == "broken CSV: 3 cells where the first line names 2 columns"


def test_a_csv_file_that_cannot_be_read_as_a_whole_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a quote is opened in line 3 and never closed"):
        values(write(tmp_path / "t.csv", b'id,text\n1,a\n2,"b\n3,c\n4,d\n'))
    with pytest.raises(UserError, match="two columns named 'text'"):
        values(write(tmp_path / "t.csv", b"id,text,text\n1,a,b\n"))


@pytest.mark.parametrize("cut", [0.3, 0.9, 0.999])
def test_a_cut_packed_file_is_one_message(tmp_path: Path, cut: float) -> None:
    lines = b"".join(json.dumps({"id": n, "text": str(n**7)}).encode() + b"\n" for n in range(3000))
    for pack in (gzip.compress, bz2.compress, lambda data: pa.compress(data, codec="zstd", asbytes=True)):
        packed = pack(lines)
        with pytest.raises(UserError, match=r"t\.packed cannot be read: .*repair the file"):
            values(write(tmp_path / "t.packed", packed[: int(len(packed) * cut)]))


def test_a_parquet_file_with_bad_pages_is_one_message(tmp_path: Path) -> None:
    rows = [{"id": n, "text": f"{n} {n**9}"} for n in range(5000)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    whole = (tmp_path / "t.parquet").read_bytes()
    third = len(whole) // 3
    for bad in (whole[:third] + b"\xff" * 64 + whole[third + 64 :], whole[:-30], whole[:8], whole[:third]):
        with pytest.raises(UserError, match=r"t\.parquet is not a whole Parquet file: .*repair the file"):
            values(write(tmp_path / "t.parquet", bad))


def test_a_parquet_file_whose_checksum_does_not_fit_is_refused(tmp_path: Path) -> None:
    """One letter of a text is another one, which nothing but the page's checksum shows."""
    table = pa.table({"id": [1, 2], "text": ["what floats", "cork"]})
    pq.write_table(table, tmp_path / "t.parquet", write_page_checksum=True, compression="none", write_statistics=False)
    whole = (tmp_path / "t.parquet").read_bytes()
    assert whole.count(b"floats") == 1
    with pytest.raises(UserError, match=r"t\.parquet is not a whole Parquet file: .*CRC.*repair the file"):
        values(write(tmp_path / "t.parquet", whole.replace(b"floats", b"boasts")))


def table_with_bad_cells() -> pa.Table:
    bad_text = pa.array([b"fine", b"\xff\xfe", None], pa.binary()).view(pa.string())
    return pa.table({"id": [1, 2, 3], "text": bad_text, "time": pa.array([2**62, 0, None], pa.timestamp("us"))})


def test_a_cell_that_is_no_value_spoils_neither_its_row_nor_the_others(tmp_path: Path) -> None:
    pq.write_table(table_with_bad_cells(), tmp_path / "t.parquet")
    rows = values(str(tmp_path / "t.parquet"))
    assert [row["id"] for row in rows] == [1, 2, 3]
    assert [type(row["text"]) for row in rows] == [str, Unreadable, type(None)]
    assert [isinstance(row["time"], Unreadable) for row in rows] == [True, False, False]
    assert values(str(tmp_path / "t.parquet"), columns=["id"]) == [{"id": 1}, {"id": 2}, {"id": 3}]


@pytest.mark.parametrize("data", [b"PK\x03\x04 rows.xlsx", b"SQLite format 3\x00", b"%PDF-1.4", b"\x80\x04\x95pickle"])
def test_a_file_of_another_kind_names_what_is_supported(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(UserError, match=r"t\.json is an? .*; supported are JSON lines, .*CSV.*Parquet"):
        values(write(tmp_path / "t.json", data))


def test_a_folder_means_the_files_of_rows_in_it(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    for part in range(2):
        pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / f"train/part-{part}.parquet")
    (tmp_path / "train/_SUCCESS").touch()
    (tmp_path / "train/state.json").write_text("{}")
    assert sources.find(str(tmp_path), "train") == [f"{tmp_path}/train/part-{part}.parquet" for part in range(2)]
    assert sources.find(str(tmp_path), "train/part-?.parquet") == sources.find(str(tmp_path), "train")
