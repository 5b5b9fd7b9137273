"""When both pools worked, from what was recorded: hand-made times in, segments and shares out."""

import json
from pathlib import Path

import pytest

from tinyllm_ray.data.timeline import Timeline, covered_s, read_timeline, without


def write_lines(folder: Path, rows: list[dict]) -> None:
    folder.mkdir(parents=True)
    (folder / "part-000000-000000001.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_time_that_two_segments_share_counts_once() -> None:
    assert covered_s([(0, 4), (2, 6), (10, 11)]) == 7


def test_a_pause_leaves_a_hole() -> None:
    assert without([(0, 10), (20, 30)], [(4, 6), (25, 40)]) == [(0, 4), (6, 10), (20, 25)]


def test_both_sides_come_from_what_was_recorded(tmp_path: Path) -> None:
    """Teachers from 100 to 110 with a pause of 2 s; steps at 104 and, after 1 s of waiting, 106; the end at 112."""
    (tmp_path / "arrivals").mkdir()
    recorded = {"teachers": [[100.0, 110.0]], "paused": [[107.0, 109.0]]}
    (tmp_path / "arrivals" / "timeline.json").write_text(json.dumps(recorded))
    steps = [{"step": 1, "time": 104_000, "waited_s": 3.0}, {"step": 2, "time": 106_000, "waited_s": 4.0}]
    write_lines(tmp_path / "trial" / "first_epoch", steps)
    write_lines(tmp_path / "trial" / "metrics", [{"step": 2, "time": 112_000, "train/loss": 1.0}])
    timeline = read_timeline(str(tmp_path / "arrivals"), [str(tmp_path / "trial")])
    assert timeline == Timeline([(100, 107), (109, 110)], [(104, 105), (106, 112)], 104)
    assert (timeline.start, timeline.end) == (100, 112)
    assert timeline.idle_share(timeline.teachers) == pytest.approx(1 - 8 / 12)
    assert timeline.idle_share(timeline.students) == pytest.approx(1 - 7 / 12)


def test_a_training_that_was_started_again_leaves_a_gap(tmp_path: Path) -> None:
    (tmp_path / "timeline.json").write_text(json.dumps({"teachers": [[0.0, 9.0]], "paused": []}))
    steps = [{"step": 1, "time": 2_000, "waited_s": 1.5}, {"step": 2, "time": 8_000, "waited_s": 0.0}]
    write_lines(tmp_path / "trial" / "first_epoch", steps)
    timeline = read_timeline(str(tmp_path), [str(tmp_path / "trial")])
    assert timeline is not None and timeline.students == [(8, 8)]


def test_without_recorded_times_there_is_no_timeline(tmp_path: Path) -> None:
    assert read_timeline(str(tmp_path), []) is None
