"""A client of the tracking store, and which errors mean that its server is away for a while."""

import logging

import mlflow
import requests
from mlflow.exceptions import MlflowException

from tinyllm_ray.config import UserError
from tinyllm_ray.redact import redact_text
from tinyllm_ray.tracking.address import wait_for_answer

for _chatty in ("mlflow.store.db.utils", "mlflow.system_metrics.system_metrics_monitor"):
    logging.getLogger(_chatty).setLevel(logging.WARNING)
AWAY = (MlflowException, requests.RequestException, OSError)
_MAY_PASS = {408, 429}


def connect(uri: str, *, timeout_s: float) -> mlflow.MlflowClient:
    """A client of a store that answers. Raises UserError within `timeout_s` where it does not, or refuses."""
    if uri.startswith("http"):
        wait_for_answer(uri, timeout_s=timeout_s)
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
