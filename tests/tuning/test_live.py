"""The line of both pools, from counts and a training's metrics."""

import json
from pathlib import Path
from types import SimpleNamespace

from tinyllm_ray.tuning.live import Live, Progress, foremost


def training(folder: Path, steps: int, *, ended: bool = False) -> SimpleNamespace:
    """As much of a Training as is looked at: its folder, its settings and whether it has ended."""
    (folder / "metrics").mkdir(parents=True)
    rows = [
        {
            "step": step,
            "time": 1000 * step,
            "time/waited_s": 2.0 + (step > 10),
            "time/step_ms": 500.0,
            "tokens/trained": 600.0,
        }
        for step in range(10, steps + 1, 10)
    ]
    (folder / "metrics" / "part-000000-1.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = SimpleNamespace(training=SimpleNamespace(batch_size=8, log_every_steps=10))
    return SimpleNamespace(
        trial=SimpleNamespace(dir=str(folder)), spec=SimpleNamespace(experiment=settings), end=lambda: ended or None
    )


def test_the_foremost_training_says_how_far_it_is(tmp_path: Path) -> None:
    trainings = {"a": training(tmp_path / "a", 10), "b": training(tmp_path / "b", 30)}
    assert foremost(trainings) == Progress(240, 19.0, 120.0, ended=False)  # 20 s less one of waiting; 600 tokens in 5 s
    assert foremost({}) is None
    assert foremost({**trainings, "c": training(tmp_path / "c", 0, ended=True)}).ended


def test_the_line_names_both_sides() -> None:
    live = Live(rows=100)
    line = live.look({"north": 60, "south": 50}, ready=48, tokens=0, resting=False, progress=None)
    assert line.startswith(
        "north 60 and south 50 written, 48 waiting, tokens/s: teachers 0, student 0, idle: teachers 0%"
    )
    live.look({"north": 80, "south": 70}, ready=64, tokens=900, resting=False, progress=Progress(40, 0.0, 120.0, False))
    assert live.trained == 40
    assert live.figures["overlap/waiting"] == 24
    assert live.figures["overlap/student_tokens_per_second"] == 120
    assert live.figures["overlap/teacher_tokens_per_second"] > 0
    live.look({"north": 100, "south": 100}, ready=100, tokens=900, resting=True, progress=Progress(160, 9e9, 1.0, True))
    assert (live.trained, live.figures["overlap/waiting"]) == (100, 0)
    assert live.figures["overlap/student_idle_share"] == 0
    assert 0 < live.figures["overlap/teacher_idle_share"] < 1
