"""A model folder -> an MLflow transformers model, registered under a name with an alias.

transformers 5 has no pipeline for encoder-decoder text any more, so such a model is logged under `text-generation`,
which loads, and is used through its components: load_model(uri, return_type="components")["model"].generate(...).
"""

import importlib.metadata
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import mlflow
import mlflow.transformers
import transformers
from mlflow.models import ModelSignature
from mlflow.types.schema import ColSpec, DataType, Schema

from tinyllm_ray import storage
from tinyllm_ray.tracking.uploads import KEY_TAG

TASK = "text-generation"
ALIAS = "champion"
NEEDED = ("torch", "transformers", "tokenizers", "sentencepiece")


@dataclass(frozen=True)
class Registered:
    name: str
    version: str
    uri: str  # by alias
    run_id: str


def register_model(
    client: mlflow.MlflowClient, folder: str, *, run_id: str, key: str, name: str, input_example: str, description: str
) -> Registered:
    """Log the folder under a run, register it and move the alias there; a second call finds the first one's version."""
    versions = client.search_model_versions(f"name = '{name}'")
    known = [version for version in versions if version.tags.get(KEY_TAG) == key]
    version = known[0].version if known else _log(client, folder, run_id, name, input_example)
    client.set_model_version_tag(name, version, KEY_TAG, key)
    client.update_model_version(name, version, description)
    client.set_registered_model_alias(name, ALIAS, version)
    return Registered(name, str(version), f"models:/{name}@{ALIAS}", run_id)


def _log(client: mlflow.MlflowClient, folder: str, run_id: str, name: str, input_example: str) -> str:
    text = Schema([ColSpec(DataType.string)])
    with _quiet(), mlflow.start_run(run_id=run_id, log_system_metrics=False):
        info = mlflow.transformers.log_model(
            _components(folder),
            name="model",
            task=TASK,
            signature=ModelSignature(inputs=text, outputs=text),
            input_example=input_example,
            pip_requirements=[f"{package}=={_version(package)}" for package in NEEDED],
        )
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    return client.create_model_version(name, info.model_uri, run_id, model_id=info.model_id).version


@contextmanager
def _quiet() -> Iterator[None]:
    """Without progress bars, and without the search for a hub's model card and for a pipeline of the model's kind."""
    loggers = [logging.getLogger(name) for name in ("mlflow.transformers", "transformers.pipelines.base")]
    levels = [logger.level for logger in loggers]
    bars = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars:
            transformers.utils.logging.enable_progress_bar()


def _components(folder: str) -> dict[str, object]:
    local = str(storage.local_folder(folder))
    config = transformers.AutoConfig.from_pretrained(local)
    kind = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    tokenizer = transformers.AutoTokenizer.from_pretrained(local)
    return {"model": kind.from_pretrained(local), "tokenizer": tokenizer}


def _version(package: str) -> str:
    """Without the local part (2.13.0+cpu), which no registry has."""
    return importlib.metadata.version(package).partition("+")[0]
