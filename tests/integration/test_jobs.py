"""`ray job submit` for real: token authentication, the pipeline as a job, one stopped in mid-run and continued."""

import contextlib
import re
import secrets
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from ray.job_submission import JobStatus, JobSubmissionClient
from support.ray_head import RAY, Head, running_head
from support.small_experiment import COMMAND, wait_until, write_experiment

from tinyllm_ray import storage
from tinyllm_ray.cluster.submit import package
from tinyllm_ray.config import load_experiment
from tinyllm_ray.data import store

pytestmark = pytest.mark.engine
ROWS = 2400  # so many that the job is not done before it is stopped


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
    """The log shows how far it is: loss, accuracy, rate and time, as on a terminal."""
    steps = {"steps": 60, "log_every_steps": 1, "eval_every_steps": 20}
    experiment = write_experiment(tmp_path, seeds=[0], training=steps)
    done = submit(head, experiment, RAY_AUTH_TOKEN=head.env["RAY_AUTH_TOKEN"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCEEDED" in done.stdout
    for words in (f"{head.dashboard}/#/jobs/", "MLflow:", "questions: 96 train"):
        assert words in done.stderr, done.stderr
    progress = r"methods: 120/120 steps, \d+\.\d steps/s, done in \d\d:\d\d, .*loss \d\.\d{3}, best accuracy \d\.\d{3}"
    assert re.search(progress, done.stderr), done.stderr
    out = tmp_path / "out"
    assert (out / "report" / "report.html").is_file()
    assert list(out.glob("trials/*/result.json"))
    assert not [path for path in out.rglob("*") if path.name.startswith((".tmp-", ".probe-"))]


def test_ctrl_c_leaves_the_job_and_says_how_to_stop_it_and_a_second_submit_is_refused(
    head: Head, tmp_path: Path
) -> None:
    experiment = write_experiment(tmp_path, sizes={"train": ROWS, "validation": 16, "test": 16})
    command = [COMMAND, "submit", str(experiment), "--address", head.dashboard]
    following = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=head.env)
    assert following.stderr is not None
    lines: list[str] = []
    while not any("questions:" in line for line in lines):
        lines.append(following.stderr.readline())
        assert lines[-1], lines
    following.send_signal(signal.SIGINT)
    rest = following.communicate(timeout=60)[1]
    assert following.returncode == 130, rest
    stop = re.search(r"still runs on the cluster\nfollow it with: .* logs --follow .*\nstop it with: (.*)", rest)
    assert stop is not None, rest
    second = submit(head, experiment, RAY_AUTH_TOKEN=head.env["RAY_AUTH_TOKEN"])
    assert second.returncode == 2
    assert "works in it, RUNNING since" in second.stderr and f"stop it with: {stop[1]}" in second.stderr
    locked = subprocess.run(
        [COMMAND, "generate", str(experiment)], capture_output=True, text=True, env=head.env, timeout=300, check=False
    )
    assert locked.returncode == 2 and "in use by `run` on host" in locked.stderr, locked.stderr
    stopped = subprocess.run(["bash", "-c", stop[1]], capture_output=True, text=True, env=head.env, check=False)
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr


def test_a_relative_output_folder_is_refused_inside_the_job_too(head: Head, tmp_path: Path) -> None:
    experiment = write_experiment(tmp_path, output={"dir": "outputs/small"})
    folder, inside = packaged(experiment)
    command = [RAY, "job", "submit", "--address", head.dashboard, "--working-dir", folder]
    command += ["--", "python", "jobs/pipeline.py", inside]
    job = subprocess.run(command, capture_output=True, text=True, env=head.env, timeout=600, check=False)
    assert job.returncode != 0
    assert "temporary copy" in job.stdout, job.stdout + job.stderr


def test_a_job_stopped_in_mid_run_leaves_no_process_and_no_half_file_and_is_continued(
    head: Head, tmp_path: Path
) -> None:
    experiment = write_experiment(tmp_path, sizes={"train": ROWS, "validation": 16, "test": 16})
    folder, inside = packaged(experiment)
    jobs = JobSubmissionClient(head.dashboard, headers={"Authorization": f"Bearer {head.env['RAY_AUTH_TOKEN']}"})
    job = {"entrypoint": f"python jobs/generate.py {inside}", "runtime_env": {"working_dir": folder}}
    out = str(tmp_path / "out")
    first = jobs.submit_job(**job)
    wait_until(lambda: parts(out) or ended(jobs, first))
    assert not ended(jobs, first), jobs.get_job_logs(first)
    jobs.stop_job(first)
    wait_until(lambda: ended(jobs, first))
    assert jobs.get_job_status(first) == JobStatus.STOPPED
    wait_until(lambda: workers(head) == [])
    stored = parts(out)
    assert 1 <= len(stored) < ROWS // 8, "all was done before the job was stopped"
    assert all(len(storage.read_table(part)) <= 8 for part in stored)
    assert not [path for path in Path(out).rglob("*") if path.name.startswith(".tmp-")]

    again = jobs.submit_job(**job)
    wait_until(lambda: ended(jobs, again))
    assert jobs.get_job_status(again) == JobStatus.SUCCEEDED, jobs.get_job_logs(again)
    (rationales,) = {str(Path(part).parents[1]) for part in stored}
    table = store.read(rationales, "train", ["question_id"])
    assert len(table) == ROWS and store.count_twice(rationales, "train") == 0


def test_the_runs_of_a_training_job_that_is_stopped_are_killed_and_finished_when_it_is_continued(
    head: Head, tmp_path: Path
) -> None:
    known = str(tmp_path / "known")
    store.open_store(known, {"dataset": "words", "teacher": "one"})
    training = {"steps": 20_000, "eval_every_steps": 10_000, "checkpoint_every_steps": 50}
    path = write_experiment(
        tmp_path,
        training=training,
        seeds=[0],
        teachers=[{"name": "one", "model": "m", "store": known}],
        loss={"rationale_weights": {"one": 0.0}},
        tracking={"sync_every_s": 0.5},
    )
    folder, inside = packaged(path)
    jobs = JobSubmissionClient(head.dashboard, headers={"Authorization": f"Bearer {head.env['RAY_AUTH_TOKEN']}"})
    job = {"entrypoint": f"python jobs/train.py {inside}", "runtime_env": {"working_dir": folder}}
    first = jobs.submit_job(**job)
    wait_until(lambda: list(tmp_path.glob("out/trials/*/checkpoints/*")) or ended(jobs, first))
    wait_until(lambda: statuses(tmp_path) == ["RUNNING", "RUNNING"] or ended(jobs, first))
    assert not ended(jobs, first), jobs.get_job_logs(first)
    jobs.stop_job(first)
    wait_until(lambda: ended(jobs, first))
    assert jobs.get_job_status(first) == JobStatus.STOPPED
    assert statuses(tmp_path) == ["KILLED", "KILLED"]  # the parent and its training
    assert "stopped; the same command continues from here" in jobs.get_job_logs(first)

    again = jobs.submit_job(**job | {"entrypoint": f"python jobs/train.py {inside} training.steps=51"})
    wait_until(lambda: ended(jobs, again))
    assert jobs.get_job_status(again) == JobStatus.SUCCEEDED, jobs.get_job_logs(again)
    assert statuses(tmp_path) == ["FINISHED", "FINISHED", "KILLED"]


def statuses(folder: Path) -> list[str]:
    database = folder / "out" / "mlflow" / "mlflow.db"
    if not database.is_file():
        return []
    with contextlib.closing(sqlite3.connect(database)) as records:
        return sorted(status for (status,) in records.execute("SELECT status FROM runs"))


def packaged(experiment: Path) -> tuple[str, str]:
    """The working directory of a job, and the experiment file's path in it."""
    folder = experiment.parent / "package"
    folder.mkdir()
    return str(folder), package(load_experiment(experiment), experiment, folder)


def parts(out: str) -> list[str]:
    return storage.list_files(f"{out}/stores", ".parquet")


def ended(jobs: JobSubmissionClient, job: str) -> bool:
    return jobs.get_job_status(job).is_terminal()


def workers(head: Head) -> list[list[str]]:
    """Command lines of what a job of teachers runs: its driver and its engines."""
    found = []
    for process in head.descendants():
        with contextlib.suppress(psutil.NoSuchProcess):
            if "generate" in " ".join(process.cmdline()) or "Seq2Seq" in " ".join(process.cmdline()):
                found.append(process.cmdline())
    return found
