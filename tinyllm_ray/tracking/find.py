"""Where a model is: a folder, a trial, `models:/NAME@ALIAS` in MLflow, or a hub id in; a folder or hub id out."""

from pathlib import Path

from tinyllm_ray import storage
from tinyllm_ray.config import UserError
from tinyllm_ray.schema.base import did_you_mean


def find_model(name: str, *, uri: str = "") -> str:
    """Raises UserError for a folder without a model and for a registered model that is not there.

    `uri`: the tracking URI for `models:/`; empty looks below the current folder's outputs first.
    """
    if name.startswith("models:/"):
        return _registered(name, uri)
    inside = [folder for folder in (name, storage.join(name, "model")) if _is_model(folder)]
    if inside:
        return str(Path(inside[0]).resolve()) if storage.is_local(inside[0]) else inside[0]
    if "://" in name or Path(name).exists() or name.count("/") > 1 or name.startswith((".", "/")):
        hint = "" if Path(name).exists() else storage.nearest_path(name)
        raise UserError(
            f"{name} holds no model (config.json, here or in model/){hint}; give a model folder, a trial's folder, "
            "models:/NAME@champion or a hub id"
        )
    return name


def name_of_model(found: str) -> str:
    """outputs/mine/trials/KEY/model -> KEY; of any other folder or hub id its last part."""
    path = Path(found)
    return path.parent.name if path.name == "model" else path.name


def _is_model(folder: str) -> bool:
    return storage.exists(storage.join(folder, "config.json"))


def _registered(name: str, uri: str) -> str:
    import mlflow
    from mlflow.exceptions import MlflowException

    from tinyllm_ray.tracking.read import default_uri, stores_here

    known: list[str] = []
    for store in [uri] if uri else dict.fromkeys([default_uri(), *stores_here()]):
        mlflow.set_tracking_uri(store)
        try:
            return mlflow.artifacts.download_artifacts(f"{name}/artifacts/model")
        except MlflowException:
            known += [model.name for model in mlflow.MlflowClient(store).search_registered_models()]
    wanted = name.removeprefix("models:/").partition("@")[0].partition("/")[0]
    hint = did_you_mean(f"models:/{wanted}@champion", [f"models:/{other}@champion" for other in known])
    raise UserError(f"{name} is not registered{hint}; name the store with --uri where it is another")
