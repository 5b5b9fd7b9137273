"""What a teacher's model is: a local folder or a hub id in; its config, path, revision and limits out.

Weights are taken from safetensors only: the older formats are pickles, which run whatever code they hold when they
are read.
"""

import json
from pathlib import Path
from typing import Any, Literal

from tinyllm_ray.config import UserError
from tinyllm_ray.data.model_digest import folder_digest
from tinyllm_ray.schema import Teacher

RELATIVE_POSITIONS_LIMIT = 1024  # T5's positions set no limit of their own; the paper's students read so many tokens
_DECODERS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")


def is_folder(model: str) -> bool:
    """A path rather than a hub id: hub ids have at most one slash and name no existing folder."""
    return Path(model).is_dir() or model.startswith(("/", ".", "~")) or model.count("/") > 1


def model_of(teacher: Teacher) -> str:
    """The model that an engine of this package needs."""
    if teacher.model is None:
        raise UserError(f"teachers.{teacher.name}.model: missing; give the model's folder or hub id")
    return teacher.model


def read_config(teacher: Teacher) -> dict[str, Any]:
    """The model's config.json; raises UserError where the model is missing or cannot be used."""
    model, key = model_of(teacher), f"teachers.{teacher.name}.model"
    if not is_folder(model):
        return _parse_config(_hub_config(teacher), key)
    folder = Path(model).expanduser()
    if not folder.is_dir():
        near = sorted(str(path) for path in folder.parent.glob("*") if path.is_dir()) if folder.parent.is_dir() else []
        raise UserError(f"{key}: there is no folder {folder}; beside it: {', '.join(near[:8]) or 'nothing'}")
    if not (folder / "config.json").is_file():
        raise UserError(f"{key}: {folder} holds no config.json, so it is not a Hugging Face model folder")
    _check_weights(folder, key)
    return _parse_config(folder / "config.json", key)


def model_path(teacher: Teacher) -> str:
    """What the engines load: an absolute folder, or the hub id."""
    return resolved(model_of(teacher))


def resolved(model: str) -> str:
    """An absolute folder, or the hub id as it is."""
    return str(Path(model).expanduser().resolve()) if is_folder(model) else model


def model_key(teacher: Teacher) -> dict[str, Any]:
    """What exactly a model is: a folder's name and the digest of its files, or a hub id and its commit."""
    model = model_of(teacher)
    if not is_folder(model):
        return {"model": model, "revision": _hub_config(teacher).parent.name}
    read_config(teacher)
    return {"model": Path(model).name, "revision": folder_digest(model_path(teacher))}


def position_limit(config: dict[str, Any]) -> int | None:
    """Tokens that the model's positions allow; None where its config sets no limit."""
    text = config.get("text_config") or config
    for name in ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length"):
        if isinstance(text.get(name), int):
            return text[name]
    return None


Shape = Literal["decoder", "encoder_decoder"]
_COMMON_ENCODER_DECODERS = ("t5", "mt5", "umt5", "bart", "mbart", "pegasus")


def find_shape(teacher: Teacher, config: dict[str, Any]) -> Shape:
    """Decoder-only or encoder-decoder; raises UserError for a model that writes no text."""
    architectures = config.get("architectures") or []
    model_type = config.get("model_type")
    if config.get("is_encoder_decoder") and _writes_text(model_type):
        return "encoder_decoder"
    if not config.get("is_encoder_decoder") and any(name.endswith(_DECODERS) for name in architectures):
        return "decoder"
    raise UserError(
        f"teachers.{teacher.name}.model: {teacher.model} is {', '.join(architectures) or model_type}"
        ", which no engine runs: vllm and ray_data_llm run decoder-only language models (*ForCausalLM), seq2seq runs "
        "encoder-decoder ones (T5, BART ...); choose another model, or serve it and use an engine of type endpoint"
    )


def _writes_text(model_type: Any) -> bool:
    """Whether an encoder-decoder is a language model. The library that knows all of them takes seconds to load."""
    if model_type in _COMMON_ENCODER_DECODERS:
        return True
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES

    return model_type in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES


def check_model(teacher: Teacher, *, wanted: Shape) -> None:
    """Refuse a model that is damaged or that the chosen engine cannot run."""
    check_shape(teacher, read_config(teacher), wanted=wanted)
    _check_libraries_config(teacher)
    if is_folder(model_of(teacher)):
        _check_files(Path(model_path(teacher)), f"teachers.{teacher.name}.model")


def check_shape(teacher: Teacher, config: dict[str, Any], *, wanted: Shape) -> None:
    found: Shape = "encoder_decoder" if config.get("is_encoder_decoder") else "decoder"
    if found != wanted:
        raise UserError(
            f"teachers.{teacher.name}.engine.type: {teacher.engine.type} runs {wanted.replace('_', '-')} models, and "
            f"{teacher.model} is a model of the other kind; set the type to auto"
        )


def _check_libraries_config(teacher: Teacher) -> None:
    from transformers import AutoConfig

    try:
        AutoConfig.from_pretrained(
            model_path(teacher), revision=teacher.revision, trust_remote_code=teacher.trust_remote_code
        )
    except Exception as error:  # noqa: BLE001 - each model's own code reads its config, with errors of its own
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"teachers.{teacher.name}.model: the config of {teacher.model} cannot be used: "
            f"{type(error).__name__}: {reason}"
        ) from None


def _check_files(folder: Path, key: str) -> None:
    """A file of weights that is cut off or is none does not open; an index may name files that are not there."""
    from safetensors import SafetensorError, safe_open

    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="numpy") as opened:
                tensors = len(opened.keys())
        except (SafetensorError, OSError) as error:
            raise UserError(f"{key}: {file} is damaged: {error}; copy or download the model again") from None
        if not tensors:
            raise UserError(f"{key}: {file} holds no weights; copy or download the model again")
    for index in folder.glob("*.safetensors.index.json"):
        named = _parse_config(index, key).get("weight_map")
        files = set(named.values()) if isinstance(named, dict) else set()
        lost = sorted(str(name) for name in files if not (folder / str(name)).is_file())
        if lost or not files:
            raise UserError(
                f"{key}: {index} names {lost[0] if lost else 'no files'}, which is not there; copy it again"
            )


def _parse_config(path: Path, key: str) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of JSON or of UTF-8
        raise UserError(f"{key}: {path} is not valid JSON: {error}") from None
    if not isinstance(config, dict):
        raise UserError(f"{key}: {path} holds {type(config).__name__}, not the mapping that a model's config is")
    return config


def _check_weights(folder: Path, key: str) -> None:
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
    if pickles:
        raise UserError(
            f"{key}: {folder} holds its weights only as {pickles[0]}, a pickle that runs code when it is read; convert "
            "them to safetensors (load and save_pretrained them where you trust them)"
        )
    raise UserError(f"{key}: {folder} holds no weights (*.safetensors)")


def _hub_config(teacher: Teacher) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(model_of(teacher), "config.json", revision=teacher.revision))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"teachers.{teacher.name}.model: {teacher.model!r} is neither a folder here nor a model that the hub "
            f"gives ({reason}); give the path of a folder, or check the id and revision"
        ) from None
