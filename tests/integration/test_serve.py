"""`tinyllm-ray serve`: a real server on loopback, several questions at once, each answered as `evaluate` does."""

import json
import signal
import subprocess
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from support.champions import PREFIX, questions_asked
from support.ray_head import free_port
from support.rounding import STUDENT_TERMS, rounding
from support.small_experiment import COMMAND, PATIENCE_S
from support.tiny_students import save_model

from tinyllm_ray import storage
from tinyllm_ray.schema import Evaluation, Student
from tinyllm_ray.student.evaluate import evaluate
from tinyllm_ray.student.model import load_folder

pytestmark = pytest.mark.engine


def ask(url: str, body: dict) -> dict:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
        return json.loads(response.read())


def test_a_served_decoder_answers_as_evaluate_does_and_ends_on_a_signal(tmp_path):
    folder = str(tmp_path / "model")
    save_model(folder, "llama")
    settings = {"student": {"label_prefix": PREFIX}, "evaluation": {}, "dataset": {}, "task_prefixes": {}}
    storage.write_json(f"{folder}/student.json", settings)
    student, asked = Student(model=folder, label_prefix=PREFIX), questions_asked()
    _, expected = evaluate(*load_folder(student), questions=asked, student=student, evaluation=Evaluation())
    command = [COMMAND, "serve", "model", "--port", str(free_port()), "--json"]
    served = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    try:
        said = json.loads(served.stdout.readline())
        assert said["openai_command"].startswith(f"vllm serve {folder} ")
        bodies = [{"question": question.question, "choices": question.choices} for question in asked]
        with ThreadPoolExecutor(len(bodies)) as several:
            answers = list(several.map(lambda body: ask(f"{said['url']}/answer", body), bodies))
        assert [answer["answer"] for answer in answers] == [row.predicted for row in expected]
        close = rounding(STUDENT_TERMS)  # its batches are others
        assert [answer["scores"] for answer in answers] == [pytest.approx(r.choice_scores, rel=close) for r in expected]
        with urllib.request.urlopen(f"{said['url']}/health", timeout=PATIENCE_S) as response:
            assert json.loads(response.read())["status"] == "ok"
    finally:
        served.send_signal(signal.SIGINT)
        assert served.wait(timeout=PATIENCE_S) == 130


def test_the_configuration_for_a_cluster_is_one_that_ray_serve_takes(repository: Path):
    from ray.serve.schema import ServeDeploySchema

    from tinyllm_ray.deploy.application import Served

    config = yaml.safe_load((repository / "jobs/serve.yaml").read_text())
    (application,) = ServeDeploySchema(**config).applications
    module, _, builder = application.import_path.partition(":")
    assert (module, builder) == ("tinyllm_ray.deploy.application", "build")
    assert Served(**application.args).pool.workers == 2
    assert config["http_options"]["host"] == "127.0.0.1"
