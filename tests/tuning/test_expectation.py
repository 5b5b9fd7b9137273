"""What `plan` says of an overlap: rates from recorded times, worked out by hand."""

import json
from pathlib import Path

import pytest
from support.tiny_teachers import experiment

from tinyllm_ray import storage
from tinyllm_ray.config import with_overrides
from tinyllm_ray.data.arrivals import Arrivals
from tinyllm_ray.tuning.expectation import Rates, expect, measured

SPEC = with_overrides(
    experiment({"name": "t", "model": "m"}),
    {"pools.schedule": "overlap", "training.steps": 100, "training.batch_size": 10, "pools.teacher.workers": 2},
)


def test_rates_are_those_of_recorded_times(tmp_path: Path) -> None:
    arrivals = Arrivals(str(tmp_path / "arrivals" / "x"))
    for number, (rows, at) in enumerate([(64, 100.0), (20, 104.0), (40, 110.0)]):
        storage.write_json(f"{arrivals.part(number)}/part.json", {"rows": list(range(rows)), "at": at})
    steps = [(1, 10_000, 5.0), (2, 11_000, 5.5), (3, 12_000, 5.5), (3, 60_000, 0.0)]  # the last one was started again
    lines = [
        json.dumps({"step": step, "time": time, "waited_s": waited_s, "shards": [["a"] * 5, ["b"] * 4]}) + "\n"
        for step, time, waited_s in steps
    ]
    (tmp_path / "trials" / "one" / "first_epoch").mkdir(parents=True)
    (tmp_path / "trials" / "one" / "first_epoch" / "part-0.jsonl").write_text("".join(lines))
    assert measured(arrivals, output_dir=str(tmp_path)) == Rates(60 / 10, 18 / 1.5)


def test_nothing_is_measured_where_nothing_ran(tmp_path: Path) -> None:
    assert measured(Arrivals(str(tmp_path)), output_dir=str(tmp_path)) == Rates(None, None)


@pytest.mark.parametrize(
    ("rates", "bottleneck", "workers", "saves"),
    [
        (
            Rates(10.0, 40.0),
            "the teachers are the bottleneck",
            "8 teacher workers",
            "writing takes 50 s and a training 25 s.* most 25 s",
        ),
        (
            Rates(40.0, 10.0),
            "the student is the bottleneck",
            "1 teacher worker",
            "writing takes 12 s and a training 100 s.* most 12 s",
        ),
    ],
)
def test_the_plan_names_bottleneck_replicas_and_the_shorter_side(
    rates: Rates, bottleneck: str, workers: str, saves: str
) -> None:
    import re

    first, second, third = expect(SPEC, rates, rows=500)
    assert bottleneck in first
    assert second == f"overlap: {workers} would keep the ranks busy, where 2 are asked for"
    assert re.search(saves, third), third


def test_given_rates_go_before_measured_ones_and_unknown_ones_are_asked_for() -> None:
    given = with_overrides(SPEC, {"pools.overlap.teacher_rate": 20.0})
    assert "write 20 questions/s, a training reads 40" in expect(given, Rates(10.0, 40.0), rows=500)[0]
    (line,) = expect(given, Rates(None, None), rows=500)
    assert "at most the shorter of writing and training" in line and "pools.overlap.student_rate" in line
