"""A student in another form: a model folder in; ONNX files, a GGUF file or a repository on a hub out."""

from pathlib import Path
from typing import Any

from tinyllm_ray.config import UserError
from tinyllm_ray.deploy.gguf import export_gguf
from tinyllm_ray.deploy.hub import export_hub
from tinyllm_ray.schema.base import did_you_mean
from tinyllm_ray.tracking.find import name_of_model

FORMS = ("onnx", "gguf", "hub")


def check_export(to: str, *, out: str, repo: str) -> None:
    """Raises UserError for an unknown form and for options that do not fit it."""
    if to not in FORMS:
        raise UserError(f"--to {to!r} is unknown{did_you_mean(to, FORMS)}; there is {', '.join(FORMS)}")
    if to == "hub" and (out or not repo):
        raise UserError("--to hub needs --repo OWNER/NAME, and no --out")
    if to != "hub" and repo:
        raise UserError(f"--repo {repo} is for --to hub; --to {to} writes to --out")


def export(model: str, to: str, *, out: str, repo: str, public: bool) -> dict[str, Any]:
    """`model`: a folder. Without `out` the files are written here, under the name of the trial."""
    if to == "hub":
        return export_hub(model, repo, public=public)
    if to == "gguf":
        return export_gguf(model, str(Path(out or f"{name_of_model(model)}.gguf").resolve()))
    try:
        from tinyllm_ray.deploy.onnx import export_onnx
    except ModuleNotFoundError as error:
        raise UserError(f"--to onnx needs the extra `export` ({error}); pip install 'tinyllm-ray[export]'") from None
    return export_onnx(model, str(Path(out or f"{name_of_model(model)}-onnx").resolve()))
