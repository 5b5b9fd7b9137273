"""`ray job submit` for real: token authentication, the pipeline as a job, one stopped in mid-run and continued."""

import secrets
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support.ray_head import RAY, Head, running_head
from support.small_experiment import COMMAND, write_experiment

from tinyllm_ray import storage
from tinyllm_ray.cluster.submit import package
from tinyllm_ray.config import load_experiment
from tinyllm_ray.data import store

pytestmark = pytest.mark.engine
ROWS = 4000  # so many that the job is not done before it is stopped


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with running_head(token=secrets.token_hex(32), resources='{"teacher_pool": 1, "student_pool": 2}') as running:
        yield running


def submit(head: Head, experiment: Path, *overrides: str, **env: str) -> subprocess.CompletedProcess:
    command = [COMMAND, "submit", str(experiment), *overrides, "--address", head.dashboard]
    clean = {name: value for name, value in head.env.items() if name != "RAY_AUTH_TOKEN"}
    return subprocess.run(command, capture_output=True, text=True, env={**clean, **env}, timeout=600, check=False)


def test_a_wrong_token_is_refused_and_a_missing_one_says_how_to_get_it(head: Head, tmp_path: Path) -> None:
    experiment = write_experiment(tmp_path)
    wrong = submit(head, experiment, RAY_AUTH_TOKEN="0" * 64)
    assert wrong.returncode == 2
    assert "is not this cluster's" in wrong.stderr
    missing = submit(head, experiment, HOME=str(tmp_path))
    assert missing.returncode == 2
    for words in ("no token was found here", "ray get-auth-token", "RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token"):
        assert words in missing.stderr, missing.stderr


def test_dashboard_and_jobs_listen_on_loopback_only(head: Head) -> None:
    port = int(head.dashboard.rpartition(":")[2])
    listening = {c.laddr.ip for c in psutil.net_connections("tcp") if c.status == "LISTEN" and c.laddr.port == port}
    assert listening == {"127.0.0.1"}


def test_a_submitted_pipeline_is_followed_to_its_end_with_links(head: Head, tmp_path: Path) -> None:
    experiment = write_experiment(tmp_path, seeds=[0])
    done = submit(head, experiment, RAY_AUTH_TOKEN=head.env["RAY_AUTH_TOKEN"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCEEDED" in done.stdout
    for words in (f"{head.dashboard}/#/jobs/", "MLflow:", "questions: 96 train"):
        assert words in done.stderr, done.stderr
    out = tmp_path / "out"
    assert (out / "report.html").is_file() or list(out.rglob("*.html")), list(out.iterdir())
    assert list(out.glob("trials/*/result.json"))
    assert not [path for path in out.rglob("*") if path.name.startswith((".tmp-", ".probe-"))]


def test_a_relative_output_folder_is_refused_inside_the_job_too(head: Head, tmp_path: Path) -> None:
    experiment = write_experiment(tmp_path, output={"dir": "outputs/small"})
    folder = tmp_path / "package"
    folder.mkdir()
    inside = package(load_experiment(experiment), experiment, folder)
    job = ray_job(head, "submit", "--working-dir", str(folder), "--", "python", "jobs/pipeline.py", inside)
    assert job.returncode != 0
    assert "temporary copy" in job.stdout, job.stdout


def test_a_job_stopped_in_mid_run_leaves_no_process_and_no_half_file_and_is_continued(
    head: Head, tmp_path: Path
) -> None:
    experiment = write_experiment(tmp_path, sizes={"train": ROWS, "validation": 16, "test": 16})
    folder = tmp_path / "package"
    folder.mkdir()
    inside = package(load_experiment(experiment), experiment, folder)
    entry = ["--", "python", "jobs/generate.py", inside]
    submitted = ray_job(head, "submit", "--no-wait", "--submission-id", "first", "--working-dir", str(folder), *entry)
    assert submitted.returncode == 0, submitted.stdout
    out = str(tmp_path / "out")
    deadline = time.monotonic() + 200
    while not (parts := storage.list_files(f"{out}/stores", ".parquet")):
        assert time.monotonic() < deadline, ray_job(head, "logs", "first").stdout
        time.sleep(0.2)
    assert ray_job(head, "stop", "first").returncode == 0
    assert "was stopped" in ray_job(head, "status", "first").stdout
    time.sleep(3)
    left = [p.cmdline() for p in head.descendants() if "generate" in " ".join(p.cmdline()) or "Seq2Seq" in p.name()]
    assert left == []
    stored = storage.list_files(f"{out}/stores", ".parquet")
    assert len(parts) <= len(stored) < ROWS // 8
    assert all(len(storage.read_table(part)) <= 8 for part in stored)
    assert not [path for path in Path(out).rglob("*") if path.name.startswith(".tmp-")]

    again = ray_job(head, "submit", "--working-dir", str(folder), *entry)
    assert "succeeded" in again.stdout, again.stdout
    (rationales,) = {str(Path(part).parents[1]) for part in stored}
    table = store.read(rationales, "train", ["question_id"])
    assert len(table) == ROWS and store.count_twice(rationales, "train") == 0


def ray_job(head: Head, command: str, *arguments: str) -> subprocess.CompletedProcess:
    call = [RAY, "job", command, "--address", head.dashboard, *arguments]
    return subprocess.run(
        call, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=head.env, timeout=600, check=False
    )
