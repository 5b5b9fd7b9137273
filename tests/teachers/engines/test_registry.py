"""Which engine a teacher gets, and engines from outside the package."""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest

from tinyllm_ray.config import UserError
from tinyllm_ray.schema import Pool, Prompts, Teacher
from tinyllm_ray.teachers.engines.base import Engine
from tinyllm_ray.teachers.engines.registry import log_foreign_code, make_engine

CONFIGS = {
    "llama": {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "max_position_embeddings": 512},
    "t5": {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True},
}
OWN_ENGINE = """
class Echo:
    greedy_repeats = False

    def __init__(self, teacher, setting):
        self.teacher, self.words = teacher, teacher.engine.settings["words"]

    def key(self):
        return {"engine": "echo", "words": self.words}
"""


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for name, config in CONFIGS.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        (tmp_path / name / "model.safetensors").write_bytes(b"")
    return tmp_path


def make(model: str | None, *, gpus: float = 0, **teacher: Any) -> Engine:
    made = Teacher(name="t", model=model, **teacher)
    return make_engine(made, pool=Pool(gpus_per_worker=gpus), prompts=Prompts(), output_dir="out")


@pytest.mark.parametrize(
    ("model", "gpus", "engine"),
    [("llama", 0, "Vllm"), ("llama", 1, "RayDataLlm"), ("t5", 0, "Seq2Seq"), ("t5", 1, "Seq2Seq")],
)
def test_auto_goes_by_the_model_and_by_the_pools_gpus(models: Path, model: str, gpus: int, engine: str) -> None:
    assert type(make(str(models / model), gpus=gpus)).__name__ == engine


def test_both_engines_that_run_vllm_share_a_store_and_seq2seq_has_its_own(models: Path) -> None:
    auto, other = make(str(models / "llama")), make(str(models / "llama"), engine={"type": "ray_data_llm"})
    assert auto.key() == other.key()
    assert auto.key()["engine"] == "vllm"
    assert make(str(models / "t5")).key()["engine"] == "seq2seq"


@pytest.mark.parametrize(("model", "type"), [("t5", "vllm"), ("t5", "ray_data_llm"), ("llama", "seq2seq")])
def test_a_model_that_the_chosen_engine_cannot_run_is_refused(models: Path, model: str, type: str) -> None:
    with pytest.raises(UserError, match=rf"teachers\.t\.engine\.type: {type} runs .* set the type to auto"):
        make(str(models / model), engine={"type": type}).check()


@pytest.mark.parametrize(
    ("model", "engine"), [("t5", {"type": "seq2seq"}), ("llama", {"type": "endpoint", "url": "http://here/v1"})]
)
def test_an_engine_that_cannot_end_loops_refuses_the_key(models: Path, model: str, engine: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"sampling\.stop_at_repeats: 3 was given, .* type {engine['type']} cannot"):
        make(str(models / model), engine=engine, sampling={"stop_at_repeats": 3})
    assert make(str(models / "llama"), sampling={"stop_at_repeats": 3}).teacher.sampling.stop_at_repeats == 3


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_engines_of_a_test.py").write_text(OWN_ENGINE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "own_engines_of_a_test"
    sys.modules.pop("own_engines_of_a_test", None)


def test_an_engine_from_outside_is_made_with_its_settings_and_said(
    own_module: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine = make(None, engine={"type": "custom", "path": f"{own_module}:Echo", "settings": {"words": 3}})
    assert engine.key() == {"engine": "echo", "words": 3}
    with caplog.at_level(logging.WARNING):
        log_foreign_code(engine.teacher)
    assert f"the engine is {own_module}:Echo, from outside this package" in caplog.text


@pytest.mark.parametrize("path", ["no_such_module_anywhere:Echo", "own_engines_of_a_test:NoSuchClass"])
def test_an_engine_that_cannot_be_imported_is_said_with_its_key(own_module: str, path: str) -> None:
    with pytest.raises(UserError, match=r"teachers\.t\.engine\.path: .* cannot be imported"):
        make(None, engine={"type": "custom", "path": path})


def test_code_that_comes_with_a_model_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        log_foreign_code(Teacher(name="t", model="some/model", trust_remote_code=True))
    assert "trust_remote_code is on" in caplog.text


def test_a_teacher_needs_a_model_unless_its_engine_is_its_own(own_module: str) -> None:
    with pytest.raises(ValueError, match="neither `model` nor `store`"):
        Teacher(name="t")


def test_a_decoder_stops_at_the_templates_next_example_unless_it_is_told_where(models: Path) -> None:
    assert make(str(models / "llama")).teacher.sampling.stop == ["\nQuestion:"]
    assert make(str(models / "llama"), sampling={"stop": []}).teacher.sampling.stop == []
    assert make(str(models / "llama"), sampling={"stop": ["END"]}).teacher.sampling.stop == ["END"]
    assert make(str(models / "t5")).teacher.sampling.stop == []
