from pathlib import Path

import numpy as np

from tinyllm_ray.data.arrays import ArrayWriter


def test_an_array_written_in_parts_is_read_as_one(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    writer = ArrayWriter(path, np.int64, (2,))
    writer.add(np.array([[1, 2]]))
    writer.add(np.array([[3, 4], [5, 6]], dtype=np.int32))
    writer.add(np.zeros((0, 2)))
    writer.finish()
    assert np.load(path, mmap_mode="r").tolist() == [[1, 2], [3, 4], [5, 6]]
    assert np.load(path).dtype == np.int64


def test_an_array_to_which_nothing_was_added_is_empty(tmp_path: Path) -> None:
    writer = ArrayWriter(tmp_path / "a.npy", np.dtype("<U3"))
    writer.finish()
    assert np.load(tmp_path / "a.npy").shape == (0,)


def test_the_header_leaves_room_for_a_long_first_axis(tmp_path: Path) -> None:
    writer = ArrayWriter(tmp_path / "a.npy", np.int32)
    for _ in range(100):
        writer.add(np.arange(1000))
    writer.finish()
    read = np.load(tmp_path / "a.npy")
    assert read.shape == (100_000,)
    assert read[[0, 999, 1000, -1]].tolist() == [0, 999, 0, 999]
