"""Two pools on a real cluster of several raylets: what runs where, what is refused, what is said of what waits."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cluster_process import RunningCluster, cluster_environment, start_cluster
from support.small_experiment import COMMAND, finish, run, start, write_experiment

pytestmark = pytest.mark.engine
TWO = {"teacher": {"workers": 2, "resource": "teacher_pool"}, "student": {"workers": 2, "resource": "student_pool"}}


@pytest.fixture(scope="module")
def nodes() -> Iterator[RunningCluster]:
    """A head without CPUs, two teacher nodes, two student nodes."""
    running = start_cluster(teachers=2, students=2)
    yield running
    running.stop()


@pytest.fixture
def experiment(nodes: RunningCluster, tmp_path: Path) -> Path:
    search = {"space": {"training.learning_rate": {"choice": [0.001, 0.002]}}, "num_samples": 2}
    return write_experiment(tmp_path, pools={"address": nodes.address, **TWO}, search=search)


def test_teachers_stay_on_teacher_nodes_and_trials_and_ranks_on_student_nodes(
    nodes: RunningCluster, experiment: Path
) -> None:
    assert run("generate", experiment, env=cluster_environment())["teacher_rows_generated"] == 112
    tuned = run("tune", experiment, env=cluster_environment())
    assert tuned["final"]["ranks"] == 2
    where = nodes.actors()
    kinds = {name: {kind for other, kind in where if other == name} for name, _ in where}
    assert kinds["MapWorker(MapBatches(Seq2SeqActor))"] == {"teacher"}
    assert kinds["RayTrainWorker"] == {"student"}
    assert kinds["ImplicitFunc"] == {"student"}
    assert where["RayTrainWorker", "student"] == 2


def test_what_the_live_cluster_cannot_hold_is_refused_with_the_key_to_change(experiment: Path) -> None:
    command = [COMMAND, "plan", str(experiment), "pools.teacher.workers=3"]
    refused = subprocess.run(command, capture_output=True, text=True, env=cluster_environment(), check=False)
    assert refused.returncode == 2
    for words in ("pools.teacher: 3 x (CPU 1, teacher_pool 1) is asked", "room for 2", "lower pools.teacher.workers"):
        assert words in refused.stderr, refused.stderr


def test_ranks_that_wait_say_what_for_and_go_on_when_it_comes(nodes: RunningCluster, experiment: Path) -> None:
    run("generate", experiment, env=cluster_environment())
    nodes.ask("hold student_pool")
    waiting = start("train", experiment, "pools.pending_timeout_s=5", env=cluster_environment())
    while "pending for" not in (said := waiting.said()):
        assert waiting.process.poll() is None, said
        time.sleep(0.1)
    nodes.ask("release")
    assert "student pool: 2 pending for 5 s, each waits for CPU 1, student_pool 1; 2 nodes could hold it" in said, said
    assert finish(waiting)["trials"][0]["steps"] == 20


@pytest.mark.skipif(
    not shutil.which("unshare") or os.geteuid() != 0, reason="a node with other disks needs root and unshare"
)
def test_an_output_folder_that_another_node_cannot_see_is_refused(
    nodes: RunningCluster, experiment: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    join = f"{Path(sys.executable).parent}/ray start --address={nodes.address} --block --num-cpus=1"
    ports = "--dashboard-agent-listen-port=0 --node-manager-port=0 --object-manager-port=0"
    script = f"mount -t tmpfs none {tmp_path}/out && exec {join} {ports} --object-store-memory=100000000"
    blind = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", script],
        env=cluster_environment(),
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        while "Ray runtime started" not in (line := blind.stdout.readline()):
            assert line
        time.sleep(2)
        command = [COMMAND, "generate", str(experiment)]
        refused = subprocess.run(command, capture_output=True, text=True, env=cluster_environment(), check=False)
    finally:
        os.killpg(blind.pid, signal.SIGTERM)
        blind.wait(30)
    assert refused.returncode == 2
    assert "is not seen by node" in refused.stderr and "change output.dir" in refused.stderr, refused.stderr
