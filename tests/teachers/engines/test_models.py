import json
from pathlib import Path

import pytest
from support.tiny_teachers import save_llama

from tinyllm_ray.config import UserError
from tinyllm_ray.data.model_digest import folder_digest
from tinyllm_ray.schema import Teacher
from tinyllm_ray.teachers.engines.decoders import decoder_prompt_limit
from tinyllm_ray.teachers.engines.models import (
    check_model,
    find_shape,
    model_key,
    position_limit,
    read_config,
)


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


def shape(teacher: Teacher) -> str:
    return find_shape(teacher, read_config(teacher))


def test_the_shape_follows_from_the_models_config(tmp_path: Path) -> None:
    assert shape(model(tmp_path / "llama", LLAMA)) == "decoder"
    assert shape(model(tmp_path / "t5", T5)) == "encoder_decoder"


def test_a_missing_folder_is_said_with_what_lies_beside_it(tmp_path: Path) -> None:
    model(tmp_path / "llama-2", LLAMA)
    with pytest.raises(UserError, match=r"teachers\.t\.model: there is no folder .*llama-3; beside it: .*llama-2"):
        shape(Teacher(name="t", model=str(tmp_path / "llama-3")))


def test_a_hub_id_that_cannot_be_had_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"teachers\.t\.model: 'no-such/model' is neither a folder here nor a model"):
        shape(Teacher(name="t", model="no-such/model"))


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "bert", "architectures": ["BertForMaskedLM"]},
        {"model_type": "whisper", "architectures": ["WhisperForConditionalGeneration"], "is_encoder_decoder": True},
        {"model_type": "vit", "architectures": ["ViTForImageClassification"]},
    ],
)
def test_a_model_that_no_engine_runs_is_refused(tmp_path: Path, config: dict) -> None:
    with pytest.raises(UserError, match=rf"{config['architectures'][0]}, which no engine runs"):
        shape(model(tmp_path, config))


def test_weights_that_are_pickles_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"only as pytorch_model\.bin, a pickle that runs code"):
        shape(model(tmp_path, LLAMA, weights="pytorch_model.bin"))


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no config\.json"):
        read_config(Teacher(name="t", model=str(tmp_path)))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="holds no weights"):
        read_config(Teacher(name="t", model=str(tmp_path)))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="is not valid JSON"):
        read_config(Teacher(name="t", model=str(tmp_path)))


def revision(teacher: Teacher) -> str:
    return model_key(teacher)["revision"]


def test_the_revision_of_a_folder_is_its_content_wherever_it_lies(tmp_path: Path) -> None:
    one, other = model(tmp_path / "one", LLAMA), model(tmp_path / "other", LLAMA)
    assert revision(one) == revision(other)
    (tmp_path / "other" / "model.safetensors").write_bytes(b"other weights")
    assert revision(one) != revision(other)
    before = folder_digest(str(tmp_path / "one"))
    (tmp_path / "one" / "model.safetensors").rename(tmp_path / "one" / "renamed.safetensors")
    assert folder_digest(str(tmp_path / "one")) != before


def test_a_config_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    damaged = model(tmp_path, LLAMA)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(UserError, match="holds list, not the mapping"):
        read_config(damaged)


def test_a_prompt_and_its_rationale_share_the_configured_length_or_the_models_own(tmp_path: Path) -> None:
    teacher = model(tmp_path, LLAMA)  # 128 new tokens
    assert decoder_prompt_limit(teacher, {}) == 512 - 128
    assert decoder_prompt_limit(teacher, {"max_model_len": 200}) == 200 - 128
    assert position_limit(T5) == 64
    assert position_limit({"text_config": {"max_position_embeddings": 7}}) == 7
    with pytest.raises(UserError, match=r"max_tokens=128 leaves no room for a prompt: the model takes 128"):
        decoder_prompt_limit(teacher, {"max_model_len": 128})
    (tmp_path / "config.json").write_text(json.dumps(LLAMA | {"max_position_embeddings": None}))
    with pytest.raises(UserError, match=r"engine_kwargs: \{max_model_len: TOKENS\}"):
        decoder_prompt_limit(teacher, {})


def damaged(folder: Path, **changes: object) -> Teacher:
    """A whole tiny model, of which one thing is then broken."""
    made = Teacher(name="t", model=save_llama(folder))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return made


def test_a_whole_model_passes_for_what_it_is(tmp_path: Path) -> None:
    whole = damaged(tmp_path)
    check_model(whole, wanted="decoder")
    with pytest.raises(UserError, match=r"teachers\.t\.engine\.type: .* runs encoder-decoder models"):
        check_model(whole, wanted="encoder_decoder")


@pytest.mark.parametrize("keep", [0, 5, 1000])
def test_weights_that_are_cut_off_are_refused(tmp_path: Path, keep: int) -> None:
    teacher = damaged(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"teachers\.t\.model: .*model\.safetensors is damaged"):
        check_model(teacher, wanted="decoder")


@pytest.mark.parametrize(
    "changes", [{"model_type": "nothing"}, {"hidden_size": "wide"}, {"num_attention_heads": []}, {"rope_parameters": 3}]
)
def test_a_config_that_the_library_cannot_use_is_refused(tmp_path: Path, changes: dict) -> None:
    with pytest.raises(UserError, match=r"teachers\.t\.model: the config of .* cannot be used: "):
        check_model(damaged(tmp_path, **changes), wanted="decoder")


@pytest.mark.parametrize("index", ["{}", "[]", '{"weight_map": {"a": "lost.safetensors"}}', "{"])
def test_an_index_of_files_that_are_not_there_is_refused(tmp_path: Path, index: str) -> None:
    teacher = damaged(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(UserError, match=r"teachers\.t\.model: .*index\.json"):
        check_model(teacher, wanted="decoder")
