"""Do all ways to ask a student give the answers of `evaluate`? Counts the answers that differ.

    python experiments/benchmarks/four_ways.py --model outputs/miniature/trials/KEY/model \
        --questions outputs/miniature/miniature/test.jsonl --json

The ways are MLflow's pyfunc in this process, `mlflow models serve`, `tinyllm-ray predict` and `tinyllm-ray serve`. The
folder is registered in an MLflow store of its own for the first two.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from tinyllm_ray.student.evaluate import evaluate  # noqa: E402
from tinyllm_ray.student.predict import open_student, read_rows  # noqa: E402

BIN = Path(sys.executable).parent
START_S = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="only the result, as the last line")
    parser.add_argument("--model", action="append", required=True, help="a model folder; may be given several times")
    parser.add_argument("--questions", required=True, help="JSON lines of question and choices")
    parser.add_argument("--rows", type=int, default=500)
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in Path(arguments.questions).read_text(encoding="utf-8").splitlines()]
    rows = [{"question": row["question"], "choices": row["choices"]} for row in rows[: arguments.rows]]
    results = [compare(str(Path(model).resolve()), rows) for model in arguments.model]
    print(json.dumps(results, indent=None if arguments.json else 2))


def compare(model: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    saved = open_student(model)
    asked = read_rows(rows, task=saved.task, labels=saved.labels)
    reader = saved.reader
    _, expected = evaluate(
        reader.model, reader.tokenizer, questions=asked, student=reader.student, evaluation=saved.evaluation
    )
    answers = [row.predicted for row in expected]
    with tempfile.TemporaryDirectory() as folder:
        ways = {
            **by_mlflow(model, rows, folder),
            "predict": by_predict(model, rows, folder),
            "serve": by_serve(model, rows),
        }
    differences = {way: sum(a != b for a, b in zip(found, answers, strict=True)) for way, found in ways.items()}
    kind = "encoder-decoder" if reader.tokenizer.encoder_decoder else "decoder-only"
    return {"kind": kind, "questions": len(rows), "different_answers": differences, "answers": len(set(answers))}


def by_mlflow(model: str, rows: list[dict[str, Any]], folder: str) -> dict[str, list[str]]:
    import mlflow

    from tinyllm_ray.tracking.models import register_model

    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
    mlflow.set_tracking_uri(os.environ["MLFLOW_TRACKING_URI"])
    experiment = mlflow.create_experiment("asked", artifact_location=f"{folder}/artifacts")
    with mlflow.start_run(experiment_id=experiment) as run:
        pass
    registered = register_model(
        mlflow.MlflowClient(), model, run_id=run.info.run_id, key="asked", name="asked", example=rows[0], about=""
    )
    here = mlflow.pyfunc.load_model(registered.uri).predict(rows)
    port = free_port()
    command = [str(BIN / "mlflow"), "models", "serve", "--model-uri", registered.uri, "--env-manager", "local"]
    with process([*command, "--host", "127.0.0.1", "--port", str(port)]):
        wait_for(f"http://127.0.0.1:{port}/ping")
        served = ask(f"http://127.0.0.1:{port}/invocations", {"dataframe_records": rows})["predictions"]
    return {"pyfunc": list(here["answer"]), "mlflow_models_serve": [row["answer"] for row in served]}


def by_predict(model: str, rows: list[dict[str, Any]], folder: str) -> list[str]:
    """The file holds questions without their answers."""
    (Path(folder) / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    command = [str(BIN / "tinyllm-ray"), "predict", model, "asked.jsonl", "--workers", "2", "--json"]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, env=environment())
    lines = Path(json.loads(done.stdout)["out"]).read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["answer"] for line in lines]


def by_serve(model: str, rows: list[dict[str, Any]]) -> list[str]:
    command = [str(BIN / "tinyllm-ray"), "serve", model, "--port", str(free_port()), "--json"]
    with process(command) as started, ThreadPoolExecutor(8) as several:
        url = json.loads(started.stdout.readline())["url"]
        return [row["answer"] for row in several.map(lambda row: ask(f"{url}/answer", row), rows)]


@contextmanager
def process(command: list[str]) -> Iterator[Any]:
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment(), start_new_session=True)
    try:
        yield started
    finally:
        os.killpg(started.pid, signal.SIGINT)
        started.wait(timeout=START_S)


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "PATH": f"{BIN}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait_for(url: str) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def ask(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=START_S) as response:
        return json.loads(response.read())


if __name__ == "__main__":
    main()
