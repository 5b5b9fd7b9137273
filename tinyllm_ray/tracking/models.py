"""A trial's model folder -> an MLflow model that answers questions, registered under a name with an alias.

The model is served.py (code, nothing pickled), the plain Hugging Face folder as its artifact `model`, and this package.
"""

import importlib.metadata
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import transformers
from mlflow.models import ModelSignature
from mlflow.types.schema import Array, ColSpec, DataType, Map, ParamSchema, ParamSpec, Schema

from tinyllm_ray import storage
from tinyllm_ray.tracking.uploads import KEY_TAG

ALIAS = "champion"
PACKAGE = Path(__file__).resolve().parents[1]
NEEDED = (
    "mlflow",
    "numpy",
    "pandas",
    "peft",
    "pyarrow",
    "pydantic",
    "pyyaml",
    "safetensors",
    "sentencepiece",
    "tokenizers",
    "torch",
    "transformers",
)
SIGNATURE = ModelSignature(
    inputs=Schema(
        [
            ColSpec(DataType.string, 0, required=False),  # MLflow's own column for plain strings; counts only as first
            ColSpec(DataType.string, "question", required=False),
            ColSpec(Array(DataType.string), "choices", required=False),
            ColSpec(DataType.string, "context", required=False),
        ]
    ),
    outputs=Schema(
        [
            ColSpec(DataType.string, "answer"),
            ColSpec(DataType.double, "confidence", required=False),
            ColSpec(Array(DataType.double), "scores"),
            ColSpec(Map(DataType.string), "rationales"),
        ]
    ),
    params=ParamSchema([ParamSpec("rationales", DataType.boolean, False)]),
)


@dataclass(frozen=True)
class Registered:
    name: str
    version: str
    uri: str  # by alias
    run_id: str


def register_model(
    client: mlflow.MlflowClient, folder: str, *, run_id: str, key: str, name: str, example: dict[str, Any], about: str
) -> Registered:
    """Log the folder under a run, register it and move the alias there; a second call finds the first one's version."""
    versions = client.search_model_versions(f"name = '{name}'")
    known = [version for version in versions if version.tags.get(KEY_TAG) == key]
    version = known[0].version if known else _log(client, folder, run_id, name, example)
    client.set_model_version_tag(name, version, KEY_TAG, key)
    client.update_model_version(name, version, about)
    client.set_registered_model_alias(name, ALIAS, version)
    return Registered(name, str(version), f"models:/{name}@{ALIAS}", run_id)


def _log(client: mlflow.MlflowClient, folder: str, run_id: str, name: str, example: dict[str, Any]) -> str:
    with _quiet(), mlflow.start_run(run_id=run_id, log_system_metrics=False):
        info = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(Path(__file__).with_name("served.py")),
            artifacts={"model": str(storage.local_folder(folder))},
            code_paths=[str(PACKAGE)],
            signature=SIGNATURE,
            input_example=pd.DataFrame([example]),
            pip_requirements=[f"{package}=={_version(package)}" for package in NEEDED],
        )
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    return client.create_model_version(name, info.model_uri, run_id, model_id=info.model_id).version


@contextmanager
def _quiet() -> Iterator[None]:
    """Without progress bars and notes."""
    log = logging.getLogger("mlflow.pyfunc")
    level, bars = log.level, transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
        if bars:
            transformers.utils.logging.enable_progress_bar()


def _version(package: str) -> str:
    """Without the local part (2.13.0+cpu), which no registry has."""
    return importlib.metadata.version(package).partition("+")[0]
