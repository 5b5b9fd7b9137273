import pytest
from support.tiny_teachers import experiment

from tinyllm_ray.cluster import arithmetic
from tinyllm_ray.cluster.arithmetic import slow_number_formats
from tinyllm_ray.schema import Experiment

BFLOAT16 = {"dtype": "bfloat16"}


def asked(*, gpus: int = 0) -> Experiment:
    """Two teachers and a student, all in bfloat16."""
    pools = {name: {"gpus_per_worker": gpus} for name in ("teacher", "student")}
    return experiment(
        {"name": "llama", "model": "m", "engine": {"type": "vllm", "engine_kwargs": BFLOAT16}},
        {"name": "flan", "model": "m", "engine": {"type": "seq2seq", "model_kwargs": BFLOAT16}},
        {"name": "plain", "model": "m"},
        student={"model": "m", "dtype": "bfloat16"},
        pools=pools,
    )


def test_a_processor_without_the_arithmetic_is_said_for_each_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "bfloat16_slowdown", lambda: 14.2)
    lines = slow_number_formats(asked())
    assert [line.partition("=")[0] for line in lines] == [
        "student.dtype",
        "teachers.llama.engine.engine_kwargs.dtype",
        "teachers.flan.engine.model_kwargs.dtype",
    ]
    assert "takes 14 times the time of float32" in lines[0]


def test_nothing_is_said_where_it_is_fast_or_on_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "bfloat16_slowdown", lambda: 0.4)
    assert slow_number_formats(asked()) == []
    monkeypatch.setattr(arithmetic, "bfloat16_slowdown", lambda: 14.2)
    assert slow_number_formats(asked(gpus=1)) == []


def test_the_ratio_is_measured_here() -> None:
    assert 0.05 < arithmetic.bfloat16_slowdown() < 1000
