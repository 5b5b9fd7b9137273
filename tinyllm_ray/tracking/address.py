"""Where MLflow's records are: SQLite under the output folder, or a configured server that must answer.

In: `tracking` of an experiment. Out: a URI. MLflow itself is not imported.
"""

import time
import urllib.error
import urllib.request

from tinyllm_ray import storage
from tinyllm_ray.config import UserError
from tinyllm_ray.schema import Experiment


def tracking_uri(experiment: Experiment, *, output_dir: str) -> str:
    """The configured server, or SQLite under the output folder, which must then be on this machine."""
    if experiment.tracking.uri:
        return experiment.tracking.uri
    if not storage.is_local(output_dir):
        raise UserError(f"output.dir is {output_dir}, where SQLite cannot write; set tracking.uri to an MLflow server")
    folder = storage.local_path(output_dir) / "mlflow"
    folder.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{folder}/mlflow.db"


def wait_for_answer(uri: str, *, timeout_s: float) -> None:
    """Raises UserError where the server at `uri` does not answer in time; a refusal is an answer."""
    deadline = time.monotonic() + timeout_s
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
