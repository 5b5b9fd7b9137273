"""An experiment as a job on a cluster: package what it needs, submit, follow the log, say where to look.

In: an experiment file, overrides, the cluster's dashboard address. Out: job id, status and links.
"""

import asyncio
import http.client
import json
import os
import shlex
import shutil
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

import tinyllm_ray
from tinyllm_ray import lock
from tinyllm_ray.cluster.connect import refuse_relative
from tinyllm_ray.config import UserError, load_experiment, output_dir
from tinyllm_ray.config.experiment_file import read_experiment_file
from tinyllm_ray.redact import holds_credentials, redact_text
from tinyllm_ray.schema import Experiment

MAX_PACKAGE_MIB = 100
DASHBOARD_TIMEOUT_S = 20
MOST_BYTES = 65536  # of a dashboard's version
DEFAULT_TOKEN = "~/.ray/auth_token"
_NOT_PACKAGED = shutil.ignore_patterns(
    "__pycache__", "*.pyc", ".venv", ".git", "outputs", "stores", "mlruns", "mlflow.db"
)


def submit(
    experiment_file: str | Path,
    overrides: list[str],
    *,
    address: str,
    entry: str = "pipeline",
    follow: bool = True,
    say: Callable[[str], object] = sys.stderr.write,
) -> dict[str, Any]:
    """Submit jobs/<entry>.py; with `follow` hand its log to `say` and wait for the end.

    Raises UserError for a relative output.dir, an input that the job could not have, an address that does not answer,
    a token that is missing or wrong, and an output.dir that another job or command works in.
    """
    experiment = load_experiment(experiment_file, overrides)
    refuse_relative(experiment.output.dir)
    _refuse_missing(experiment)
    address = _checked(address or os.environ.get("RAY_API_SERVER_ADDRESS", ""))
    client = _client(address)
    _refuse_running(client, output_dir(experiment), address=address)
    _refuse_locked(output_dir(experiment), say=say)
    with tempfile.TemporaryDirectory(prefix="tinyllm-job-") as folder:
        inside = package(experiment, Path(experiment_file), Path(folder))
        job = client.submit_job(
            entrypoint=shlex.join(["python", f"jobs/{entry}.py", inside, *overrides]),
            runtime_env={"working_dir": folder},
            metadata={"experiment": experiment.name, "entry": entry, "output.dir": output_dir(experiment)},
        )
    commands = job_commands(job, address=address)
    result = {"job_id": job, "dashboard": f"{address.rstrip('/')}/#/jobs/{job}", "mlflow": _mlflow(experiment)}
    say(f"job {job}: {result['dashboard']}\nMLflow: {result['mlflow']}\n{commands}\n")
    if follow:
        try:
            asyncio.run(_follow(client, job, say))
        except (SystemExit, KeyboardInterrupt):
            say(f"job {job} still runs on the cluster\n{commands}\n")
            raise
        except (RuntimeError, OSError) as error:  # what Ray's client makes of a connection that was lost
            raise UserError(
                f"the log of job {job} cannot be followed any more ({redact_text(str(error))}); the job still runs on "
                f"the cluster\n{commands}"
            ) from None
    return {**result, "status": client.get_job_status(job).value}


def job_commands(job: str, *, address: str) -> str:
    """The exact commands that follow and stop a job."""
    start = "RAY_AUTH_MODE=token ray job" if find_token() else "ray job"
    options = f"--address {shlex.quote(address)} {job}"
    return f"follow it with: {start} logs --follow {options}\nstop it with: {start} stop {options}"


def _refuse_running(client: Any, folder: str, *, address: str) -> None:
    for job in client.list_jobs():
        if (job.metadata or {}).get("output.dir") == folder and not job.status.is_terminal():
            since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime((job.start_time or 0) / 1000))
            raise UserError(
                f"output.dir {folder}: job {job.submission_id} works in it, {job.status.value} since {since}; wait for "
                f"its end, stop it, or give another output.dir\n{job_commands(job.submission_id, address=address)}"
            )


def _refuse_locked(folder: str, *, say: Callable[[str], object]) -> None:
    try:
        lock.refuse_held(folder)
    except OSError as error:
        say(f"output.dir {folder} cannot be looked at from here, so only the job itself will: {error}\n")


def _refuse_missing(experiment: Experiment) -> None:
    """A relative path travels with the job, so it must be here. A model's may be the hub's name of it."""
    named = [("dataset.path", experiment.dataset.path)]
    named += [(f"teachers.{teacher.name}.store", teacher.store) for teacher in experiment.teachers]
    for key, value in named:
        if value is not None and _is_relative(value) and not Path(value).exists():
            raise UserError(
                f"{key} is the relative path {value!r}, which is not here, so it cannot travel with the job; set "
                "it to a path that is here, to an absolute path of the cluster's nodes, or to a URI"
            )


def package(experiment: Experiment, experiment_file: Path, folder: Path) -> str:
    """Copy the package, the entry points, the experiment and the files it names by relative paths; nothing else.

    Returns the experiment file's path in the package. Outputs, stores and virtual environments stay where they are.
    """
    root = Path(tinyllm_ray.__file__).resolve().parents[1]
    if not (root / "jobs").is_dir():
        raise UserError(f"{root} holds no jobs/ folder; submit from a checkout of the project")
    shutil.copytree(root / "tinyllm_ray", folder / "tinyllm_ray", ignore=_NOT_PACKAGED)
    shutil.copytree(root / "jobs", folder / "jobs", ignore=_NOT_PACKAGED)
    inside = Path("experiments") / experiment_file.name
    (folder / "experiments").mkdir()
    merged = yaml.safe_dump(read_experiment_file(experiment_file), sort_keys=False, allow_unicode=True)
    (folder / inside).write_text(f"# {experiment_file.name} with what it extends\n{merged}", encoding="utf-8")
    for key, path in _relative_inputs(experiment):
        size = sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())
        if size > MAX_PACKAGE_MIB * 1024**2:
            raise UserError(
                f"{key} is the relative path {path} of {size / 1024**2:.0f} MiB; a package takes {MAX_PACKAGE_MIB}: "
                f"put it on storage that the nodes share and set {key} to its absolute path or URI"
            )
        if path.is_dir():
            shutil.copytree(path, folder / path, ignore=_NOT_PACKAGED, dirs_exist_ok=True)
        else:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / path)
    return inside.as_posix()


def _relative_inputs(experiment: Experiment) -> Iterator[tuple[str, Path]]:
    """Files and folders of this machine that the experiment names by a relative path."""
    named = [("dataset.path", experiment.dataset.path), ("prompts.template", experiment.prompts.template)]
    named += [("student.model", experiment.student.model), ("student.tokenizer", experiment.student.tokenizer)]
    for teacher in experiment.teachers:
        named += [(f"teachers.{teacher.name}.model", teacher.model), (f"teachers.{teacher.name}.store", teacher.store)]
    for key, value in named:
        if value is None or not _is_relative(value) or not Path(value).exists():
            continue
        if ".." in Path(value).parts:
            raise UserError(f"{key} is {value!r}, outside the working directory; give an absolute path or a URI")
        yield key, Path(value)


def _is_relative(path: str) -> bool:
    return "://" not in path and not path.startswith(("/", "~"))


def _checked(address: str) -> str:
    """The address of a dashboard that answers. Ray's own client would take other addresses, and wait without an end."""
    if not address:
        raise UserError("no cluster is named; give --address http://HOST:8265 (or set RAY_API_SERVER_ADDRESS)")
    try:
        parts = urllib.parse.urlsplit(address)
        good = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:  # a port out of range, a bracket that is not closed
        good = False
    if not good:
        raise UserError(f"--address {address!r} is no address of a dashboard; give one such as http://HOST:8265")
    if holds_credentials(address):
        raise UserError(f"--address {redact_text(address)} holds credentials; leave them out, and set RAY_AUTH_TOKEN")
    try:
        with urllib.request.urlopen(f"{address.rstrip('/')}/api/version", timeout=DASHBOARD_TIMEOUT_S) as answer:
            known = json.loads(answer.read(MOST_BYTES))["ray_version"]
    except urllib.error.HTTPError:
        return address  # it answers; whether it lets us in is seen next
    except (ValueError, TypeError, KeyError):
        known = ""
    except (OSError, http.client.HTTPException) as error:
        raise UserError(f"no Ray dashboard answers at {address!r}: {error}; check --address") from None
    if not known:
        raise UserError(f"what answers at {address!r} is no Ray dashboard; check --address")
    return address


def _client(address: str) -> Any:
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    token = find_token()
    try:
        return JobSubmissionClient(address, headers={"Authorization": f"Bearer {token}"} if token else None)
    except (AuthenticationError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        if "uthentic" not in reason and "oken" not in reason:
            raise UserError(f"the cluster at {address!r} refused: {reason}") from None
        found = "the token that was sent is not this cluster's" if token else "no token was found here"
        raise UserError(
            f"the cluster at {address!r} refused: {reason}; {found}. Run `ray get-auth-token` on its head, and put the "
            f"answer in RAY_AUTH_TOKEN, or in a file that RAY_AUTH_TOKEN_PATH names, or in {DEFAULT_TOKEN}"
        ) from None


def find_token() -> str | None:
    """Ray's own order: RAY_AUTH_TOKEN, the file of RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token."""
    if os.environ.get("RAY_AUTH_MODE") == "disabled":
        return None
    if os.environ.get("RAY_AUTH_TOKEN"):
        return os.environ["RAY_AUTH_TOKEN"]
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named or DEFAULT_TOKEN).expanduser()
    if path.is_file():
        return path.read_text(encoding="utf-8").strip()
    if named:
        raise UserError(f"RAY_AUTH_TOKEN_PATH names {named}, which is no file")
    return None


def _mlflow(experiment: Experiment) -> str:
    from tinyllm_ray.tracking.address import tracking_uri

    uri = tracking_uri(experiment, output_dir=output_dir(experiment))
    return uri if uri.startswith("http") else f"mlflow ui --host 127.0.0.1 --backend-store-uri {uri}"


async def _follow(client: Any, job: str, say: Callable[[str], object]) -> None:
    async for lines in client.tail_job_logs(job):
        say(lines)
