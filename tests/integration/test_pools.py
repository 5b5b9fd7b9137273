"""Two pools on a real cluster of several raylets: what runs where, what is refused, what is said of what waits."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cluster_process import RunningCluster, start_cluster
from support.small_experiment import (
    COMMAND,
    Running,
    finish,
    run,
    start,
    wait_until,
    write_experiment,
)

pytestmark = pytest.mark.engine
POOLS = {"teacher": {"workers": 1, "resource": "teacher_pool"}, "student": {"workers": 2, "resource": "student_pool"}}


@pytest.fixture(scope="module")
def cluster() -> Iterator[RunningCluster]:
    """A head without CPUs, a teacher node, two student nodes."""
    running = start_cluster(teachers=1, students=2)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def experiment(cluster: RunningCluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pools")
    search = {"space": {"training.learning_rate": {"choice": [0.001, 0.002]}}, "num_samples": 2}
    return write_experiment(folder, pools={"address": cluster.address, **POOLS}, search=search)


def test_teachers_stay_on_teacher_nodes_and_trials_and_ranks_on_student_nodes(
    cluster: RunningCluster, experiment: Path
) -> None:
    assert run("generate", experiment, env=cluster.env)["teacher_rows_generated"] == 112
    tuned = run("tune", experiment, env=cluster.env)
    assert tuned["final"]["ranks"] == 2
    where = cluster.actors()
    kinds = {name: {kind for other, kind in where if other == name} for name, _ in where}
    assert {kind for name, kind in where if "Seq2Seq" in name} == {"teacher"}
    assert kinds["RayTrainWorker"] == {"student"}
    assert kinds["ImplicitFunc"] == {"student"}
    assert where["RayTrainWorker", "student"] == 2


def test_what_the_live_cluster_cannot_hold_is_refused_with_the_key_to_change(
    cluster: RunningCluster, experiment: Path
) -> None:
    command = [COMMAND, "plan", str(experiment), "pools.teacher.workers=2"]
    refused = subprocess.run(command, capture_output=True, text=True, env=cluster.env, check=False)
    assert refused.returncode == 2
    for words in ("pools.teacher: 2 x (CPU 1, teacher_pool 1) is asked", "room for 1", "lower pools.teacher.workers"):
        assert words in refused.stderr, refused.stderr


def test_ranks_that_wait_say_what_for_and_go_on_when_it_comes(cluster: RunningCluster, experiment: Path) -> None:
    cluster.ask("hold student_pool")
    waiting = start("train", experiment, "pools.pending_timeout_s=5", env=cluster.env)
    wait_until(lambda: "pending for" in waiting.said(), running=waiting)
    said = waiting.said()
    cluster.ask("release")
    wanted = r"student pool: 2 pending for \d+ s, each waits for CPU 1, student_pool 1; 2 nodes could hold it"
    assert re.search(wanted, said), said
    assert finish(waiting)["trials"][0]["steps"] == 20


@pytest.mark.skipif(
    not shutil.which("unshare") or os.geteuid() != 0, reason="a node with other disks needs root and unshare"
)
def test_an_output_folder_that_another_node_cannot_see_is_refused(
    cluster: RunningCluster, experiment: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    elsewhere = f"output.dir={tmp_path}/out"
    seeing = cluster.ask("nodes")
    join = f"{Path(sys.executable).parent}/ray start --address={cluster.address} --block --num-cpus=1"
    ports = "--dashboard-agent-listen-port=0 --node-manager-port=0 --object-manager-port=0"
    script = f"mount -t tmpfs none {tmp_path}/out && exec {join} {ports} --object-store-memory=100000000"
    log = tmp_path / "blind.log"
    with log.open("w") as said:
        command = ["unshare", "--mount", "sh", "-c", script]
        blind = subprocess.Popen(command, env=cluster.env, start_new_session=True, stdout=said, stderr=said)
    try:
        wait_until(lambda: cluster.ask("nodes") == seeing + 1, running=Running(blind, log))
        command = [COMMAND, "generate", str(experiment), elsewhere]
        refused = subprocess.run(command, capture_output=True, text=True, env=cluster.env, check=False)
    finally:
        os.killpg(blind.pid, signal.SIGTERM)
        blind.wait(30)
        wait_until(lambda: cluster.ask("nodes") == seeing)  # tests that share the cluster must not meet it
    assert refused.returncode == 2
    assert "is not seen by node" in refused.stderr and "change output.dir" in refused.stderr, refused.stderr
