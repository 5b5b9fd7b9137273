"""A student served on this machine or on a joined cluster: a model in, an address that answers until the end.

with serving("outputs/mine/trials/KEY", pool=pool, host="127.0.0.1", port=8000) as url: ...
"""

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from tinyllm_ray.config import UserError
from tinyllm_ray.schema import StudentPool
from tinyllm_ray.terminal.progress import step

NAME = "tinyllm-ray-student"


def check_server(host: str, port: int) -> None:
    """Raises UserError where the extra is not installed, or the address is not free on this machine."""
    if find_spec("fastapi_offline") is None:
        raise UserError("serve needs the extra `serve`: pip install 'tinyllm-ray[serve]'")
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((host, port))
        except OSError as error:
            raise UserError(f"{host}:{port} cannot be listened on ({error.strerror}); give another --port") from None


@contextmanager
def serving(model: str, *, pool: StudentPool, host: str, port: int) -> Iterator[str]:
    """Ray is running. The application is removed at the end; on a cluster Ray itself goes on."""
    from ray import serve

    from tinyllm_ray.deploy.application import Served, build

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    quiet = {"log_level": "WARNING", "enable_access_log": False}
    with step("loading the student"):
        try:
            serve.start(http_options={"host": host, "port": port}, logging_config=quiet)
        except RuntimeError as error:  # another program has taken it since it was free
            reason = str(error).strip().rpartition("\n")[2].removeprefix("RuntimeError: ").rstrip(".")
            raise UserError(f"{host}:{port} cannot be listened on ({reason}); give another --port") from None
        try:
            serve.run(build(Served(model=model, pool=pool)), name=NAME, logging_config=quiet)
        except RuntimeError:
            reason = _reason(serve.status())
            serve.delete(NAME)
            raise UserError(f"{model} cannot be served: {reason}") from None
    try:
        yield f"http://{host}:{port}"
    finally:
        serve.delete(NAME)


def openai_command(model: str) -> str:
    """The command of an OpenAI-compatible server for a decoder-only student; empty for an encoder-decoder.

    Raises UserError where the student cannot be loaded, which is known here before Ray is started.
    """
    from tinyllm_ray.student.predict import open_student

    if open_student(model).reader.tokenizer.encoder_decoder:
        return ""
    return f"vllm serve {model} --host 127.0.0.1 --port 8001"


def _reason(status: Any) -> str:
    """The last line of what a replica raised, which is all that Ray Serve hands on of it."""
    said = [deployment.message for deployment in status.applications[NAME].deployments.values()]
    lines = [line.strip() for text in said for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no replica could be started; see Ray's logs"
