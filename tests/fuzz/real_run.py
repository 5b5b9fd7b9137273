"""Secrets planted in a real run: the command, Ray, a teacher behind a server, MLflow in SQLite, a report.

Looked through afterwards: the output folder with MLflow's store, the whole session folder of Ray, what the commands
wrote to the terminal, and the title of every process that they started.
"""

import contextlib
import json
import os
import random
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import yaml
from fuzz.counting import Counts
from fuzz.planted import IN_ENVIRONMENT, PLACES, REFUSED, engine_arguments, find_secrets, make_secrets
from support.fake_endpoint import Reply, chat, server
from support.small_experiment import COMMAND, write_experiment

from tinyllm_ray.data import store
from tinyllm_ray.rows import Rationale

IN_ADDRESS = "DATA_PLACE"  # an environment variable that the address of the question files names
SIZES = {"train": 24, "validation": 8, "test": 8}
TRAINING = {"steps": 4, "batch_size": 4, "eval_every_steps": 4, "checkpoint_every_steps": 2, "log_every_steps": 1}


def fuzz_real_runs(number: int, *, seed: int, folder: Path) -> Counts:
    """So many runs of the whole pipeline, each with secrets in all places."""
    counts, rng = Counts(), random.Random(seed)
    for run in range(number):
        _fuzz_run(counts, rng, folder / f"run{run}")
    return counts


def _fuzz_run(counts: Counts, rng: random.Random, folder: Path) -> None:
    secrets = make_secrets([*PLACES, IN_ADDRESS], rng)
    counts.tried += len(secrets)
    ray_folder = Path(tempfile.mkdtemp(prefix="fz-", dir="/tmp"))  # a short path: Ray's sockets lie below it
    variables = {name: secrets[name] for name in (*IN_ENVIRONMENT, IN_ADDRESS)}
    environment = {**os.environ, **variables, "RAY_TMPDIR": str(ray_folder), "OMP_NUM_THREADS": "1"}
    try:
        with _files_behind_http(folder) as address, server(partial(_answer, variables)) as (url, _):
            path = _write(folder, secrets, address=address, url=url)
            commands = [["run"], *(["plan", refused(secrets[place])] for place, refused in REFUSED.items())]
            said = {" ".join(words[:1]): "" for words in commands} | {"process titles": ""}
            for name, *overrides in commands:
                code, text, titles = _run([COMMAND, name, str(path), *overrides], environment)
                said[name] += text
                said["process titles"] += titles if name != "plan" else ""  # `plan` was given one itself
                if code != (2 if name == "plan" else 0):
                    counts.fault("tracebacks", f"{name} {overrides} ended with {code}: {text[-400:]}")
        found = find_secrets(secrets, folders=[folder / "out", ray_folder], said=said)
        if not list(ray_folder.rglob("*.log")) or not list(folder.rglob("mlflow.db")):
            counts.fault("wrong_readings", "Ray's logs and MLflow's store were not where they are looked for")
    finally:
        shutil.rmtree(ray_folder, ignore_errors=True)
    for place, where in found.items():
        counts.fault("secrets_found", f"{place}: {secrets[place]} in {where}")


def _answer(variables: dict[str, str], number: int, request: dict[str, Any]) -> Reply:
    """A server that says what it was sent: in the text of an answer, and every third time in an error."""
    told = " ".join(variables.values())
    if number % 3 == 0:
        return 400, {"error": {"message": f"not with {told}"}}
    return chat(f"You sent {told}. Thus, the answer is (a).")


def _write(folder: Path, secrets: dict[str, str], *, address: str, url: str) -> Path:
    """One teacher brings its store and has secrets in its arguments; the other is asked through the server."""
    known = {"name": "one", "model": "m", "store": str(folder / "known")}
    store.open_store(known["store"], {"dataset": "words", "teacher": "one"})
    asked = {"type": "endpoint", "url": url, "api_key_env": "MY_SERVER", "max_retries": 0}
    limits = {"max_attempts": 1, "max_failed_fraction": 1.0}
    path = write_experiment(
        folder,
        sizes=SIZES,
        teachers=[
            {**known, "engine": {"type": "vllm", "engine_kwargs": engine_arguments(secrets)}},
            {"name": "two", "model": "m", "engine": asked, **limits},
        ],
        training=TRAINING,
        prompts={"chat_template": "always", "in_context": {"examples": 0}},
        seeds=[0],
    )
    raw = yaml.safe_load(path.read_text())
    raw["loss"] = {"rationale_weights": {"two": 0.5}}
    raw["dataset"] |= {
        "path": address,
        "splits": {split: f"{address}/{split}.jsonl?sig=${{{IN_ADDRESS}}}" for split in SIZES},
    }
    path.write_text(yaml.safe_dump(raw))
    _fill(known["store"], folder / "train.jsonl")
    return path


def _fill(folder: str, questions: Path) -> None:
    """A rationale for every question of the file, so that there is something to learn from this teacher."""
    ids = [json.loads(line)["question_id"] for line in questions.read_text().splitlines()]
    text: dict[str, Any] = {
        "sample": 0,
        "rationale": "It floats since it is light.",
        "predicted_answer": "",
        "finish_reason": "stop",
    }
    counts: dict[str, Any] = {"failure": "", "dropped_examples": 0, "input_tokens": 9, "output_tokens": 8}
    store.append(folder, "train", [Rationale(name, name, **text, **counts) for name in ids])


@contextlib.contextmanager
def _files_behind_http(folder: Path) -> Iterator[str]:
    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            """Its log would hold the signature; it is the stranger's log."""

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}"
    finally:
        httpd.shutdown()


def _run(command: list[str], environment: dict[str, str]) -> tuple[int, str, str]:
    """Exit code, all that it wrote, and the command line of every process below it, looked at twice a second."""
    titles: set[str] = set()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment, start_new_session=True)
        while process.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                for child in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        titles.add(json.dumps(child.cmdline()))
            time.sleep(0.5)
        output.seek(0)
        return process.returncode, output.read(), "\n".join(sorted(titles))
