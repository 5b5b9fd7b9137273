import pytest
import torch
from support.rounding import rounding
from support.tiny_teachers import experiment

from tinyllm_ray.cluster import arithmetic
from tinyllm_ray.cluster.arithmetic import LARGE_MATRIX, lay_out_for_onednn, slow_number_formats
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


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this build of PyTorch has no oneDNN")
def test_a_model_of_large_matrices_computes_the_same_in_the_other_order() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(512, LARGE_MATRIX // 512), torch.nn.Linear(LARGE_MATRIX // 512, 4))
    rows = torch.randn(3, 512)
    with torch.inference_mode():
        before = model(rows)
        lay_out_for_onednn(model)
        after = model(rows)
    assert not any(isinstance(layer, torch.nn.Linear) for layer in model)
    torch.testing.assert_close(after, before, rtol=rounding(512), atol=rounding(512))


def test_small_matrices_and_other_formats_stay_as_they_are() -> None:
    small = torch.nn.Sequential(torch.nn.Linear(511, LARGE_MATRIX // 512))
    half = torch.nn.Sequential(torch.nn.Linear(512, LARGE_MATRIX // 512)).to(torch.bfloat16)
    for model in (small, half):
        lay_out_for_onednn(model)
        assert isinstance(model[0], torch.nn.Linear)
