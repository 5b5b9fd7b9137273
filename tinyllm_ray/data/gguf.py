"""A model in one .gguf file, as llama.cpp keeps it: the file in, a folder with the same weights as safetensors out.

The weights are unpacked to float32 once; the folder lies below the output folder and is named by the file's digest.
"""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from tinyllm_ray import storage
from tinyllm_ray.config import UserError
from tinyllm_ray.terminal.progress import step

SUFFIX = ".gguf"


def is_gguf(model: str) -> bool:
    return model.lower().endswith(SUFFIX)


def unpack(model: str, *, key: str, output_dir: str) -> str:
    """The folder of the unpacked model, made where it is not there yet. `key` is where the file is named."""
    file = Path(model).expanduser()
    if not file.is_file():
        near = sorted(path.name for path in file.parent.glob(f"*{SUFFIX}")) if file.parent.is_dir() else []
        raise UserError(f"{key}: there is no file {file}; beside it: {', '.join(near[:8]) or f'no {SUFFIX} file'}")
    if not storage.is_local(output_dir):
        raise UserError(
            f"{key}: {file.name} is unpacked below output.dir, which is {output_dir}; give a folder of this machine or "
            "of a shared disk, or name a model folder that holds safetensors"
        )
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=12)).hexdigest()
    folder = storage.local_path(output_dir) / "models" / f"{file.stem}-{digest}"
    if not (folder / "config.json").is_file():
        _make(file, folder, key=key)
    return str(folder)


def _make(file: Path, folder: Path, *, key: str) -> None:
    """In a folder beside it first, so that one that is there is whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=".tmp-", dir=folder.parent))
    try:
        with step(f"unpacking {file.name}"):
            _convert(file, made, key=key)
        os.chmod(made, 0o755)
        if not folder.exists():
            made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _convert(file: Path, folder: Path, *, key: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # one line of our own is shown
    try:
        loaded = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except Exception as error:  # noqa: BLE001 - a damaged file fails in many libraries, each with errors of its own
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"{key}: {file} cannot be read as a GGUF model: {type(error).__name__}: {reason}") from None
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # the weights are plain now, and a model that says otherwise cannot be saved
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(loaded.state_dict())
    plain.generation_config = loaded.generation_config
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
