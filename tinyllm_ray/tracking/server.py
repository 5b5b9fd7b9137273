"""Where MLflow's records are: SQLite under the output folder, or a configured server that must answer.

In: `tracking` of an experiment. Out: a URI, a client, and which errors mean that the server is away for a while.
"""

import logging
import time
import urllib.error
import urllib.request

import mlflow
import requests
from mlflow.exceptions import MlflowException

from tinyllm_ray import storage
from tinyllm_ray.config import UserError
from tinyllm_ray.redact import redact_text
from tinyllm_ray.schema import Experiment

for _chatty in ("mlflow.store.db.utils", "mlflow.system_metrics.system_metrics_monitor"):
    logging.getLogger(_chatty).setLevel(logging.WARNING)
AWAY = (MlflowException, requests.RequestException, OSError)
_MAY_PASS = {408, 429}


def tracking_uri(experiment: Experiment, *, output_dir: str) -> str:
    """The configured server, or SQLite under the output folder, which must then be on this machine."""
    if experiment.tracking.uri:
        return experiment.tracking.uri
    if not storage.is_local(output_dir):
        raise UserError(f"output.dir is {output_dir}, where SQLite cannot write; set tracking.uri to an MLflow server")
    folder = storage.local_path(output_dir) / "mlflow"
    folder.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{folder}/mlflow.db"


def connect(uri: str, *, timeout_s: float) -> mlflow.MlflowClient:
    """A client of a store that answers. Raises UserError within `timeout_s` where it does not, or refuses."""
    deadline = time.monotonic() + timeout_s
    if uri.startswith("http"):
        _wait_for_answer(uri, deadline, timeout_s)
    mlflow.set_tracking_uri(uri)
    client = mlflow.MlflowClient(uri)
    try:
        client.search_experiments(max_results=1)
    except MlflowException as error:
        raise UserError(
            f"tracking.uri {uri} refuses: {redact_text(str(error))[:300]}; set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD if the server asks for them, or change tracking.uri"
        ) from None
    return client


def is_lasting(error: Exception) -> bool:
    """A refusal that trying again will not change, as opposed to a server that is away."""
    if isinstance(error, MlflowException):
        status = error.get_http_status_code()
    elif isinstance(error, requests.HTTPError) and error.response is not None:
        status = error.response.status_code
    else:
        return False
    return 400 <= status < 500 and status not in _MAY_PASS


def _wait_for_answer(uri: str, deadline: float, timeout_s: float) -> None:
    while True:
        left = max(0.2, deadline - time.monotonic() - 1)
        try:
            urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=min(3.0, left)).close()
            return
        except urllib.error.HTTPError:
            return  # it answers; whether it lets us in is seen next
        except OSError as error:
            if time.monotonic() + 1.5 > deadline:
                raise UserError(
                    f"tracking.uri {uri} does not answer within {timeout_s:g} s ({error}); start that server, or "
                    "change tracking.uri (null keeps the records in SQLite under output.dir)"
                ) from None
        time.sleep(0.5)
