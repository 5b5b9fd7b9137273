"""A model folder -> an MLflow transformers model, registered under a name with an alias.

transformers 5 has no pipeline for encoder-decoder text any more, so such a model is logged under `text-generation`,
which loads, and is used through its components: load_model(uri, return_type="components")["model"].generate(...).
"""

import importlib.metadata
import logging
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
    version = known[0].version if known else _log(folder, run_id, name, input_example)
    client.set_model_version_tag(name, version, KEY_TAG, key)
    client.update_model_version(name, version, description)
    client.set_registered_model_alias(name, ALIAS, version)
    return Registered(name, str(version), f"models:/{name}@{ALIAS}", run_id)


def _log(folder: str, run_id: str, name: str, input_example: str) -> str:
    text = Schema([ColSpec(DataType.string)])
    logger = logging.getLogger("mlflow.transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it looks for a model card and a licence on the hub, where this model is not
    try:
        with mlflow.start_run(run_id=run_id, log_system_metrics=False):
            info = mlflow.transformers.log_model(
                _components(folder),
                name="model",
                task=TASK,
                signature=ModelSignature(inputs=text, outputs=text),
                input_example=input_example,
                registered_model_name=name,
                pip_requirements=[f"{package}=={_version(package)}" for package in NEEDED],
            )
    finally:
        logger.setLevel(level)
    return info.registered_model_version


def _components(folder: str) -> dict[str, object]:
    local = str(storage.local_folder(folder))
    config = transformers.AutoConfig.from_pretrained(local)
    kind = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    tokenizer = transformers.AutoTokenizer.from_pretrained(local)
    return {"model": kind.from_pretrained(local), "tokenizer": tokenizer}


def _version(package: str) -> str:
    """Without the local part (2.13.0+cpu), which no registry has."""
    return importlib.metadata.version(package).partition("+")[0]
