"""A cluster of several raylets on this machine, in a process of its own: head, teacher nodes, student nodes.

Its nodes share a session folder, where one node deletes the packages of jobs that run on another: no jobs here.

As a script: the counts as JSON in; one JSON line out (address, raylets' process ids and node ids), then one more for
each line of input. `actors` answers with every actor there ever was and its node, `nodes` with the number of living
ones, `hold RESOURCE` takes all of a pool, `release` gives it back. It is killed at the end.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from typing import Any

import psutil

QUIET = {"REPORTER_UPDATE_INTERVAL_MS": "60000"}  # nobody looks at the load of the nodes
# A node counts as lost after five checks in vain, one each second (Ray's default: one every three seconds).
WATCHFUL = {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "5"}
holds: list[Any] = []  # placement groups of the script
POOLS = {"teacher": "teacher_pool", "student": "student_pool"}


@dataclass
class RunningCluster:
    address: str
    nodes: dict[str, dict[str, Any]]  # name -> {"kind", "node_id", "pid"}
    env: dict[str, str]  # of a process that joins it
    process: subprocess.Popen

    def kill_node(self, name: str) -> None:
        """The raylet and all that runs on its node, as when a machine goes."""
        raylet = psutil.Process(self.nodes[name]["pid"])
        for process in [raylet, *raylet.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):  # the raylet's workers end with it
                process.kill()

    def ask(self, command: str) -> Any:
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def actors(self) -> Counter:
        """(class, kind of node) of every actor there ever was."""
        kinds = {node["node_id"]: node["kind"] for node in self.nodes.values()}
        return Counter((name, kinds[node]) for name, node in self.ask("actors") if node in kinds)

    def stop(self) -> None:
        """Nothing of it is needed any more, so nothing is waited for."""
        for process in [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()


def start_cluster(*, teachers: int = 1, students: int = 1, cpus: int = 2) -> RunningCluster:
    """A head without CPUs and as many nodes of each kind; each holds one worker of its pool."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        [sys.executable, __file__, json.dumps({"teacher": teachers, "student": students, "cpus": cpus})],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment | QUIET | WATCHFUL,
    )
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"the cluster did not start: exit code {process.wait()}")
    return RunningCluster(process=process, env=environment, **json.loads(line))


def answer(command: list[str]) -> Any:
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    match command:
        case ["actors"]:
            rows = ray._private.state.actors().values()
            return [(row["ActorClassName"], row["Address"]["NodeID"]) for row in rows]
        case ["nodes"]:
            return sum(node["Alive"] for node in ray.nodes())
        case ["hold", resource]:
            held = placement_group([{resource: 1}] * int(ray.cluster_resources()[resource]))
            ray.get(held.ready())
            holds.append(held)
        case ["release"]:
            remove_placement_group(holds.pop())
    return None


def main(counts: dict[str, int]) -> None:
    import ray
    from ray.cluster_utils import Cluster

    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what Ray prints is no answer
    head_settings = {"num_cpus": 0, "object_store_memory": 200 * 1024**2, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head_settings)
    nodes = {}
    for kind, resource in POOLS.items():
        for number in range(counts[kind]):
            settings = {"num_cpus": counts["cpus"], "resources": {resource: 1}, "object_store_memory": 200 * 1024**2}
            node = cluster.add_node(wait=False, **settings)
            pid = node.all_processes["raylet"][0].process.pid
            nodes[f"{kind}-{number}"] = {"kind": kind, "node_id": node.node_id, "pid": pid}
    cluster.wait_for_nodes(timeout=120)
    head = cluster.head_node
    nodes["head"] = {"kind": "head", "node_id": head.node_id, "pid": head.all_processes["raylet"][0].process.pid}
    print(json.dumps({"address": cluster.address, "nodes": nodes}), file=out, flush=True)
    for line in sys.stdin:
        if not ray.is_initialized():
            ray.init(cluster.address, log_to_driver=False)
        print(json.dumps(answer(line.split())), file=out, flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
