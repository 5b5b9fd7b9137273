"""Starts Ray here or joins a cluster, and refuses an output folder that other nodes cannot see.

In: the experiment's `pools` and output folder. Out: an initialized Ray.
"""

import contextlib
import logging
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyllm_ray import storage
from tinyllm_ray.cluster.pools import local_node
from tinyllm_ray.config import UserError
from tinyllm_ray.patience import Silence, watched
from tinyllm_ray.redact import RedactingFilter, redact_text
from tinyllm_ray.schema import Pools

JOB_ENV = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # what Ray sets in the driver of a submitted job
PROBE_PATIENCE_S = 15.0  # a storage that does not answer at the start is said, and not waited for
JOIN_PATIENCE_S = 60.0  # for a cluster's answer
_QUIET: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
_START_TIMEOUT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune prints its tables even at verbosity 0 otherwise
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the command, not one stage of it
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # an actor for each training, whose news no rank asks for
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # else its C++ code writes remarks to the terminal
}


@dataclass(frozen=True)
class Connection:
    """The Ray this process is connected to."""

    address: str  # of the cluster's GCS
    started: bool  # a local Ray, started by this process
    nodes: int
    dashboard: str  # URL; empty where there is none
    logs: str  # folder of Ray's own logs on this node


def in_job() -> bool:
    return JOB_ENV in os.environ


def connect(pools: Pools, *, log_dir: str, dashboard: bool = False) -> Connection:
    """Use the Ray that is initialized, join `pools.address`, RAY_ADDRESS or the job's cluster, or start one here.

    Raises UserError where the address does not answer or refuses the token.
    """
    import ray

    started = not ray.is_initialized() and cluster_address(pools) is None
    if started:
        _set_environment(pools)  # the dashboard's host is loopback by Ray's default
        local = {"address": "local", "include_dashboard": dashboard, **local_node(pools), **_QUIET}
        with _silent_stderr(), _own_signals():
            _in_lasting_thread(lambda: ray.init(**local))
    elif not ray.is_initialized():
        join(pools)
    _log_to_file(log_dir)
    node = ray._private.worker._global_node
    return Connection(
        address=node.gcs_address,
        started=started,
        nodes=sum(row["Alive"] for row in ray.nodes()),
        dashboard=f"http://{node.webui_url}" if node.webui_url else "",
        logs=node.get_logs_dir_path(),
    )


def cluster_address(pools: Pools) -> str | None:
    """The cluster a run would join; null starts a local Ray. Ray sets RAY_ADDRESS in the driver of a submitted job."""
    return pools.address or os.environ.get("RAY_ADDRESS")


def join(pools: Pools) -> None:
    """Raises UserError where the cluster does not answer or refuses the token."""
    import ray

    address = cluster_address(pools)
    _set_environment(pools)
    try:
        with _silent_stderr():
            watched(lambda: ray.init(address=address, **_QUIET), f"Ray at {address}", answer_s=JOIN_PATIENCE_S)
    except (Silence, ConnectionError, RuntimeError, ValueError, ray.exceptions.AuthenticationError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"no Ray cluster could be joined at {address!r}: {reason}\n"
            "check pools.address (or RAY_ADDRESS; unset both to start a local Ray) and, where the cluster has token "
            "authentication, RAY_AUTH_MODE=token with RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"
        ) from None


def check_output(output_dir: str, *, given: str | None) -> None:
    """Refuse an output folder that is lost with the job or cannot be written. `given` is `output.dir` as written."""
    if in_job():
        refuse_relative(given)
    probe = storage.join(output_dir, f".probe-{uuid.uuid4().hex}")
    try:
        storage.write_bytes(probe, b"seen", patience_s=PROBE_PATIENCE_S)
        storage.remove(probe)
    except (OSError, UserError) as error:
        raise UserError(
            f"output.dir {output_dir} cannot be written: {redact_text(str(error))}; choose another output.dir"
        ) from None


def refuse_relative(given: str | None) -> None:
    """Refuse an output folder in a job's working directory, which Ray deletes."""
    if given is None or not ("://" in given or Path(given).is_absolute()):
        raise UserError(
            f"output.dir is {given!r}, not an absolute path: in a submitted job the working directory is a temporary "
            "copy that Ray deletes with the session, and all results with it; set output.dir to an absolute shared "
            "folder or a cloud URI such as s3://bucket/folder"
        )


def check_visible(output_dir: str) -> None:
    """Refuse an output folder that some live node cannot see. Nodes that the autoscaler adds later are not asked."""
    probe = storage.join(output_dir, f".probe-{uuid.uuid4().hex}")
    storage.write_bytes(probe, b"seen")
    try:
        blind = _nodes_that_miss(probe)
    finally:
        storage.remove(probe)
    if blind:
        raise UserError(
            f"output.dir {output_dir} is not seen by node {', '.join(blind)}; on a cluster of several nodes it must be "
            "a folder that all of them share, or a cloud URI such as s3://bucket/folder; change output.dir"
        )


def _nodes_that_miss(probe: str) -> list[str]:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    others = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] != here]
    look = ray.remote(num_cpus=0)(_sees)
    pinned = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in others]
    sees = ray.get([look.options(scheduling_strategy=strategy).remote(probe) for strategy in pinned])
    return [node["NodeManagerAddress"] for node, seen in zip(others, sees, strict=True) if not seen]


def _sees(uri: str) -> bool:
    """Shared folders may show a new file late, so it looks for a few seconds."""
    for _ in range(10):
        if storage.exists(uri):
            return True
        time.sleep(0.5)
    return False


def _set_environment(pools: Pools) -> None:
    """Ranks may wait long for the autoscaler, and `watch_pending` reports it. Elastic ranks wait less: just after a
    node was lost Ray still counts it, and sees only at the end of the wait that fewer ranks can be placed."""
    wanted = _ENVIRONMENT | {_START_TIMEOUT: "600" if pools.student.min_workers is None else "45"}
    os.environ.update({name: value for name, value in wanted.items() if name not in os.environ})


def _in_lasting_thread(start: Callable[[], Any]) -> None:
    """Start Ray in a thread that lives as long as the process: Linux kills Ray's processes with the thread that
    started them, because Ray asks for it (PR_SET_PDEATHSIG). Raises what `start` raises."""
    if threading.current_thread() is threading.main_thread():
        start()
        return
    started: Future[None] = Future()

    def work() -> None:
        try:
            start()
        except BaseException as error:  # noqa: BLE001 - who waits for the start raises it
            started.set_exception(error)
            return
        started.set_result(None)
        threading.Event().wait()

    threading.Thread(target=work, name="ray", daemon=True).start()
    started.result()


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Ray puts in a handler of SIGTERM of its own, which would end a command without a word."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():  # elsewhere Ray leaves it as it is, and nobody may
            signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """C++ code that starts writes to the descriptor, which no Python logger sees; errors come as exceptions."""
    sys.stderr.flush()
    saved = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


def _log_to_file(log_dir: str) -> None:
    """What Ray's libraries log in this process goes to <log_dir>/ray.log, where that is on this machine's disks.

    The terminal sees errors only.
    """
    import ray.data  # noqa: F401  it sets its own handlers when imported

    path = storage.local_path(log_dir) / "ray.log" if storage.is_local(log_dir) else None
    for name in ("ray", "ray.data"):
        logger = logging.getLogger(name)
        for handler in logger.handlers:
            if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
                handler.setLevel(logging.ERROR)
        known = [handler.baseFilename for handler in logger.handlers if isinstance(handler, logging.FileHandler)]
        if path and str(path) not in known:
            path.parent.mkdir(parents=True, exist_ok=True)
            handler = logging.FileHandler(path, encoding="utf-8", delay=True)
            handler.setLevel(logging.INFO)
            handler.addFilter(RedactingFilter())
            handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
            logger.addHandler(handler)
