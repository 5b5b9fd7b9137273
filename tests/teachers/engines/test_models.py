import json
import logging
from pathlib import Path

import pytest

from tinyllm_ray.config import UserError
from tinyllm_ray.schema import Teacher
from tinyllm_ray.teachers.engines.models import context_limit, find_kind, folder_digest, model_revision, read_config


def model(folder: Path, config: dict, *, weights: str = "model.safetensors") -> Teacher:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / weights).write_bytes(b"weights")
    return Teacher(name="t", model=str(folder))


LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "max_position_embeddings": 512}
T5 = {
    "model_type": "t5",
    "architectures": ["T5ForConditionalGeneration"],
    "is_encoder_decoder": True,
    "n_positions": 64,
}


def test_the_kind_follows_from_the_model(tmp_path: Path) -> None:
    assert find_kind(model(tmp_path / "llama", LLAMA)) == "vllm"
    assert find_kind(model(tmp_path / "t5", T5)) == "seq2seq"
    assert find_kind(Teacher(name="t", model="any", endpoint={"url": "http://127.0.0.1:1/v1"})) == "endpoint"


def test_a_missing_folder_is_said_with_what_lies_beside_it(tmp_path: Path) -> None:
    model(tmp_path / "llama-2", LLAMA)
    with pytest.raises(UserError, match=r"teachers\.t\.model: there is no folder .*llama-3; beside it: .*llama-2"):
        find_kind(Teacher(name="t", model=str(tmp_path / "llama-3")))


def test_a_hub_id_that_cannot_be_had_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"teachers\.t\.model: 'no-such/model' is neither a folder here nor a model"):
        find_kind(Teacher(name="t", model="no-such/model"))


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "bert", "architectures": ["BertForMaskedLM"]},
        {"model_type": "whisper", "architectures": ["WhisperForConditionalGeneration"], "is_encoder_decoder": True},
        {"model_type": "vit", "architectures": ["ViTForImageClassification"]},
    ],
)
def test_a_kind_that_neither_engine_runs_is_refused(tmp_path: Path, config: dict) -> None:
    with pytest.raises(UserError, match=rf"{config['architectures'][0]}, which neither engine runs"):
        find_kind(model(tmp_path, config))


def test_weights_that_are_pickles_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"only as pytorch_model\.bin, a pickle that runs code"):
        find_kind(model(tmp_path, LLAMA, weights="pytorch_model.bin"))


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no config\.json"):
        read_config(Teacher(name="t", model=str(tmp_path)))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="holds no weights"):
        read_config(Teacher(name="t", model=str(tmp_path)))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="is not valid JSON"):
        read_config(Teacher(name="t", model=str(tmp_path)))


def test_code_that_comes_with_a_model_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trusted = model(tmp_path, LLAMA).model_copy(update={"trust_remote_code": True})
    with caplog.at_level(logging.WARNING):
        find_kind(trusted)
    assert "trust_remote_code is on" in caplog.text


def test_the_revision_of_a_folder_is_its_content_wherever_it_lies(tmp_path: Path) -> None:
    one, other = model(tmp_path / "one", LLAMA), model(tmp_path / "other", LLAMA)
    assert model_revision(one) == model_revision(other)
    (tmp_path / "other" / "model.safetensors").write_bytes(b"other weights")
    assert model_revision(one) != model_revision(other)
    before = folder_digest(str(tmp_path / "one"))
    (tmp_path / "one" / "model.safetensors").rename(tmp_path / "one" / "renamed.safetensors")
    assert folder_digest(str(tmp_path / "one")) != before


def test_the_context_limit_is_the_configured_one_or_the_models_own(tmp_path: Path) -> None:
    teacher = model(tmp_path, LLAMA)
    assert context_limit(teacher, LLAMA, kind="vllm") == 512
    assert context_limit(teacher, T5, kind="seq2seq") == 64
    assert context_limit(teacher, {"text_config": {"max_position_embeddings": 7}}, kind="vllm") == 7
    longer = teacher.model_copy(update={"engine_kwargs": {"max_model_len": 99}})
    assert context_limit(longer, LLAMA, kind="vllm") == 99
    with pytest.raises(UserError, match=r"engine_kwargs\.max_model_len"):
        context_limit(teacher, {}, kind="vllm")
