"""Which engine runs a model: its config.json in, `vllm`, `seq2seq` or `endpoint` out, and one clear refusal.

A model is a local folder or a hub id. Weights are taken from safetensors only: the older formats are pickles, which
run whatever code they hold when they are read.
"""

import hashlib
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

from tinyllm_ray.config import UserError
from tinyllm_ray.schema import Teacher

LOG = logging.getLogger(__name__)
RELATIVE_POSITIONS_LIMIT = 1024  # T5's positions set no limit of their own; the paper's students read so many tokens
_DECODERS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")


def find_kind(teacher: Teacher) -> str:
    """The configured kind, or the one that follows from the model's config."""
    if teacher.kind == "endpoint" or (teacher.kind == "auto" and teacher.endpoint):
        return "endpoint"
    config = read_config(teacher)
    if teacher.trust_remote_code:
        LOG.warning("teacher %s: trust_remote_code is on, so code that comes with %s runs", teacher.name, teacher.model)
    return teacher.kind if teacher.kind != "auto" else _kind_of(config, teacher)


def is_folder(model: str) -> bool:
    """A path rather than a hub id: hub ids have at most one slash and name no existing folder."""
    return Path(model).is_dir() or model.startswith(("/", ".", "~")) or model.count("/") > 1


def read_config(teacher: Teacher) -> dict[str, Any]:
    """The model's config.json; raises UserError where the model is missing or cannot be used."""
    assert teacher.model is not None
    key = f"teachers.{teacher.name}.model"
    if not is_folder(teacher.model):
        return json.loads(_hub_config(teacher).read_text(encoding="utf-8"))
    folder = Path(teacher.model).expanduser()
    if not folder.is_dir():
        near = sorted(str(path) for path in folder.parent.glob("*") if path.is_dir()) if folder.parent.is_dir() else []
        raise UserError(f"{key}: there is no folder {folder}; beside it: {', '.join(near[:8]) or 'nothing'}")
    if not (folder / "config.json").is_file():
        raise UserError(f"{key}: {folder} holds no config.json, so it is not a Hugging Face model folder")
    _check_weights(folder, key)
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{key}: {folder / 'config.json'} is not valid JSON: {error}") from None


def model_path(teacher: Teacher) -> str:
    """What the engines load: an absolute folder, or the hub id."""
    assert teacher.model is not None
    return str(Path(teacher.model).expanduser().resolve()) if is_folder(teacher.model) else teacher.model


def model_revision(teacher: Teacher) -> str | None:
    """What exactly a model is: the digest of a local folder's files, or the hub's commit."""
    assert teacher.model is not None
    if teacher.kind == "endpoint" or (teacher.kind == "auto" and teacher.endpoint):
        return teacher.revision
    if not is_folder(teacher.model):
        return _hub_config(teacher).parent.name
    read_config(teacher)
    return folder_digest(model_path(teacher))


def folder_digest(folder: str) -> str:
    """Digest of the names and contents of all files below a folder."""
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file() and ".cache" not in path.parts)
    return _files_digest(folder, tuple((str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files))


@lru_cache(maxsize=64)
def _files_digest(folder: str, files: tuple[tuple[str, int, int], ...]) -> str:
    paths = [Path(name) for name, _, _ in files]
    with ThreadPoolExecutor(4) as threads:  # hashing releases the interpreter's lock
        contents = threads.map(_file_digest, paths)
    whole = hashlib.blake2b(digest_size=12)
    for path, content in zip(paths, contents, strict=True):
        whole.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return whole.hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=32)).hexdigest()


def context_limit(teacher: Teacher, config: dict[str, Any], *, kind: str) -> int:
    """Tokens that a prompt and its rationale may have together (seq2seq: that a prompt may have)."""
    if "max_model_len" in teacher.engine_kwargs:
        return int(teacher.engine_kwargs["max_model_len"])
    text = config.get("text_config") or config
    for name in ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length"):
        if isinstance(text.get(name), int):
            return text[name]
    if kind == "seq2seq":
        return RELATIVE_POSITIONS_LIMIT
    raise UserError(
        f"teachers.{teacher.name}: {teacher.model} does not say how many tokens it takes; set "
        f"teachers.{teacher.name}.engine_kwargs.max_model_len"
    )


def _kind_of(config: dict[str, Any], teacher: Teacher) -> str:
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES as SEQ2SEQ

    architectures = config.get("architectures") or []
    model_type = config.get("model_type")
    if config.get("is_encoder_decoder") and model_type in SEQ2SEQ:
        return "seq2seq"
    if not config.get("is_encoder_decoder") and any(name.endswith(_DECODERS) for name in architectures):
        return "vllm"
    raise UserError(
        f"teachers.{teacher.name}.model: {teacher.model} is of kind {', '.join(architectures) or model_type}, which "
        "neither engine runs: vllm runs decoder-only language models (*ForCausalLM), seq2seq runs encoder-decoder ones "
        "(T5, BART ...); choose another model, or serve it and use kind: endpoint"
    )


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
        return Path(hf_hub_download(teacher.model, "config.json", revision=teacher.revision))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"teachers.{teacher.name}.model: {teacher.model!r} is neither a folder here nor a model that the hub "
            f"gives ({reason}); give the path of a folder, or check the id and revision"
        ) from None
