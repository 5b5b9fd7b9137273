"""Secrets planted in a config, the environment and what servers say; then looked for in all that is written or said.

The pieces that write are called as a run calls them: config, store, questions, failures, MLflow, report, log, messages.
"""

import contextlib
import io
import logging
import os
import random
import shlex
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from unittest import mock

import yaml
from fuzz.counting import Counts
from fuzz.planted import IN_ENVIRONMENT, PLACES, REFUSED, engine_arguments, find_secrets, make_secrets
from support.small_experiment import write_experiment
from support.trial_folders import write_trial

from tinyllm_ray import redact, storage
from tinyllm_ray.config import load_experiment, public
from tinyllm_ray.data import store
from tinyllm_ray.data.questions import prepare_questions
from tinyllm_ray.report.make import make_report
from tinyllm_ray.schema import Experiment
from tinyllm_ray.teachers.engines.base import failed, outcome
from tinyllm_ray.terminal.failures import message_of
from tinyllm_ray.tracking.tracker import Tracker


def fuzz_secrets(number: int, *, seed: int, folder: Path) -> Counts:
    """`number` secrets, each with a value of its own, in as many places and shapes in turn."""
    counts, rng = Counts(), random.Random(seed)
    secrets = make_secrets(PLACES[:number], rng)
    variables = {place: secrets[place] for place in IN_ENVIRONMENT if place in secrets}
    said = io.StringIO()
    with mock.patch.dict(os.environ, variables), contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        arguments = engine_arguments(secrets)
        path = write_experiment(
            folder,
            teachers=[
                {"name": "one", "model": "m", "engine": {"type": "vllm", "engine_kwargs": arguments}},
                {"name": "two", "model": "m", "engine": SERVER},
            ],
            loss={},
            tracking={"uri": f"sqlite:///{folder}/mlflow/mlflow.db"},
        )
        experiment = load_experiment(path)
        _write_everything(experiment, folder / "out")
        for place in REFUSED:
            if place in secrets:
                print(_refusal(path, REFUSED[place](secrets[place])))
    counts.tried = len(secrets)
    folders = [folder / "out", folder / "mlflow"]
    for place, where in find_secrets(secrets, folders=folders, said={"messages": said.getvalue()}).items():
        counts.fault("secrets_found", f"{place}: {secrets[place]} in {where}")
    return counts


SERVER = {"type": "endpoint", "url": "http://host/v1", "api_key_env": "MY_SERVER"}


def _refusal(path: Path, override: str) -> str:
    try:
        load_experiment(path, [override])
    except ValueError as error:
        return message_of(error) or repr(error)
    return f"not refused: {override}"


def _write_everything(experiment: Experiment, out: Path) -> None:
    """A server says the values of the environment again, in an error and in a text."""
    environment = " ".join(os.environ[name] for name in IN_ENVIRONMENT if name in os.environ)
    folder = storage.join(str(out), "stores", "one")
    for teacher in experiment.teachers:
        store.open_store(f"{folder}-{teacher.name}", {"dataset": "words", **teacher.model_dump(mode="json")})
    said = outcome(f"You sent {environment}", "stop", input_tokens=1, output_tokens=1)
    storage.write_json(str(out / "outcomes.json"), [asdict(said), asdict(failed(f"answered 401: {environment}"))])
    prepare_questions(experiment.dataset, output_dir=str(out))
    storage.write_bytes(str(out / "config.yaml"), yaml.safe_dump(public(experiment)).encode())
    trial = str(out / "trials" / "one")
    write_trial(trial, key="one", seed=0, accuracy=0.5)
    storage.write_bytes(f"{trial}/model/README.md", redact.redact_text(f"by {environment}").encode())
    with _log(out / "logs" / "ray.log"):
        logging.getLogger("fuzz").warning("with %s", environment)
    command = ["tinyllm-ray", "run", shlex.quote(environment)]
    with mock.patch.object(sys, "argv", command), Tracker(experiment, output_dir=str(out), lineage={}) as tracker:
        tags = {"variant": "tinyllm", "ranks": "1", "note": environment}
        tracker.watch("one", folder=trial, name="one", config=experiment, seed=0, tags=tags)
    with contextlib.suppress(ValueError):  # there is little to report
        make_report(experiment, output_dir=str(out), uri=str(experiment.tracking.uri))


@contextlib.contextmanager
def _log(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path)
    handler.addFilter(redact.RedactingFilter())
    logging.getLogger("fuzz").addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger("fuzz").removeHandler(handler)
        handler.close()
