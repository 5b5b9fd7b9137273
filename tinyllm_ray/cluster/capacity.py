"""Compares what the pools ask for with what the machines have: before a run, and while a worker waits.

In: an experiment and the live cluster, its autoscaler's declared maximum, or this machine. Out: lines for `plan`,
a UserError that names the key to change, or a sentence on what a pending worker waits for.
"""

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from tinyllm_ray.cluster.connect import cluster_address, join
from tinyllm_ray.cluster.pools import GIB, bundle, local_node
from tinyllm_ray.config import UserError
from tinyllm_ray.schema import Experiment, Pool, Pools
from tinyllm_ray.schema.base import counted

POOLS = ("teacher", "student")
LAUNCHER_CONFIG = "~/ray_bootstrap_config.yaml"  # where Ray's cluster launcher keeps its settings on the head
_KUBERAY = ("RAY_CLUSTER_NAME", "RAY_CLUSTER_NAMESPACE")
OBJECT_STORE_SHARE = 0.3  # of a machine's memory, which Ray keeps from the workers


@dataclass(frozen=True)
class NodeKind:
    """Nodes that are alike."""

    name: str
    count: int
    resources: Counter  # of numbers; what is not there counts 0
    labels: dict[str, str]

    cores: int | None = None  # where Ray is told of more CPUs than there are, as on a machine where it is started

    def room(self, pool: Pool) -> int:
        """How many workers of a pool have all they ask for, cores too."""
        if self.cores is None:
            return self.holds(pool)
        return replace(self, resources=Counter({**self.resources, "CPU": self.cores})).holds(pool)

    def holds(self, pool: Pool) -> int:
        """How many workers of a pool one such node holds. Memory counts where it is declared."""
        if not all(_label_fits(self.labels, key, wanted) for key, wanted in pool.labels.items()):
            return 0
        wanted = {key: amount for key, amount in bundle(pool).items() if key != "memory" or key in self.resources}
        return min((int(self.resources[key] / amount + 1e-6) for key, amount in wanted.items()), default=pool.workers)


def check_capacity(experiment: Experiment, names: Collection[str] = POOLS) -> list[str]:
    """Lines that say what each pool asks and what there is; needs Ray only where the run would join a cluster.

    `names`: the pools that the command works in. Raises UserError where a pool can never be placed.
    """
    kinds, where = _what_there_is(experiment.pools)
    used = pools_used(experiment, names)
    lines = []
    for name, pool in used.items():
        there = sum(kind.count * kind.holds(pool) for kind in kinds)
        least = pool.min_workers or pool.workers
        asked = f"{pool.workers} x ({_amounts(bundle(pool))}{_selector(pool)})"
        if there < least:
            raise UserError(f"pools.{name}: {asked} is asked, {where} {_shortage(name, pool, kinds, there)}")
        less = f", elastic from {least}" if least < pool.workers else ""
        room = sum(kind.count * kind.room(pool) for kind in kinds)
        shared = f", and {least} share its cores" if room < least else ""
        lines.append(f"{name} pool: {asked}{less}; {where} room for {room}{shared}")
    if len(used) > 1 and experiment.overlaps:
        _check_both(used, kinds)
    if "teacher" in used:
        _check_schedule(experiment)
        _check_spare(used["teacher"], sum(kind.count * kind.resources["CPU"] for kind in kinds))
    return lines


def pools_used(experiment: Experiment, names: Collection[str] = POOLS) -> dict[str, Pool]:
    """Those of the named pools that have work to do: teachers with a store generate nothing."""
    idle = [] if experiment.working_teachers else ["teacher"]
    return {name: getattr(experiment.pools, name) for name in POOLS if name in names and name not in idle}


def live_nodes() -> list[NodeKind]:
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]
    return [NodeKind(node["NodeManagerAddress"], 1, Counter(node["Resources"]), node["Labels"]) for node in alive]


def declared_nodes() -> list[NodeKind]:
    """The autoscaler's node types at their maximum, as the head knows them; empty without an autoscaler."""
    import ray

    read = ray.remote(num_cpus=0, resources={"node:__internal_head__": 0.001})(_read_autoscaler_config)
    declared = ray.get(read.remote())
    return node_kinds(declared) if declared else []


def node_kinds(declared: dict[str, Any]) -> list[NodeKind]:
    """From the cluster launcher's YAML, or what Ray makes of a RayCluster."""
    kinds = []
    for name, given in declared["available_node_types"].items():
        kind = {"max_workers": 0, "resources": {}, "labels": {}, **given}
        most = 1 if name == declared["head_node_type"] else min(kind["max_workers"], declared["max_workers"])
        kinds.append(NodeKind(name, most, Counter(kind["resources"]), kind["labels"]))
    return kinds


def watch_pending(pools: Pools, *, say: Callable[[str], None]) -> Callable[[], None]:
    """Report what a worker waits for after `pools.pending_timeout_s`. Returns the function that ends the watch."""
    stop = threading.Event()
    thread = threading.Thread(target=_watch, args=(pools, say, stop), name="pending-watch", daemon=True)
    thread.start()
    return stop.set


def _watch(pools: Pools, say: Callable[[str], None], stop: threading.Event) -> None:
    import ray

    since: dict[tuple, float] = {}
    said: set[tuple] = set()
    while not stop.wait(min(5.0, pools.pending_timeout_s / 4)) and ray.is_initialized():
        try:
            waiting = pending_demand()
        except ray.exceptions.RpcError:  # the head is away; what waits is asked again
            continue
        now = time.monotonic()
        since = {shape: now for shape in waiting} | {shape: since[shape] for shape in waiting & since.keys()}
        said &= set(waiting)
        late = [shape for shape in waiting if now - since[shape] >= pools.pending_timeout_s and shape not in said]
        for shape in late:
            said.add(shape)
            reason = why_pending(dict(shape), pools, count=waiting[shape], waited_s=now - since[shape])
            if reason:
                say(reason)


def pending_demand() -> Counter:
    """What tasks, actors and placement groups wait for: sorted (resource, amount) pairs -> how many."""
    import ray
    from ray.autoscaler.v2.sdk import get_cluster_resource_state

    state = get_cluster_resource_state(ray._private.worker.global_worker.gcs_client)
    requests = [(item.request, item.count) for item in state.pending_resource_requests]
    for gang in state.pending_gang_resource_requests:
        selectors = gang.bundle_selectors[0].resource_requests if gang.bundle_selectors else gang.requests
        requests += [(request, 1) for request in selectors]
    demand: Counter = Counter()
    for request, count in requests:
        shape = tuple(sorted(request.resources_bundle.items()))
        if not any("_group_" in key for key, _ in shape):  # waits inside its own placement group, for its sibling
            demand[shape] += count
    return demand


def why_pending(wanted: dict[str, float], pools: Pools, *, count: int, waited_s: float) -> str:
    """One sentence; empty for what waits for its turn: ordinary tasks, or workers of a Ray that this run alone uses."""
    import ray

    names = [name for name in ("teacher", "student") if getattr(pools, name).resource in wanted]
    nodes = [kind for kind in live_nodes() if all(kind.resources[key] >= value for key, value in wanted.items())]
    if nodes and (not names or not cluster_address(pools)):
        return ""
    who = f"{names[0]} pool" if names else "a stage"
    start = f"{who}: {count} pending for {waited_s:.0f} s, each waits for {_amounts(wanted)}"
    if nodes:
        free, total = Counter(ray.available_resources()), ray.cluster_resources()
        used = ", ".join(f"{key} {free[key]:g} of {total[key]:g} free" for key in wanted)
        return f"{start}; {counted(len(nodes), 'node')} could hold it, all in use ({used})"
    keys = f"pools.{names[0]}.*" if names else "the pools"
    return f"{start}; no live node has that ({counted(len(live_nodes()), 'node')}); start such a node or lower {keys}"


def _what_there_is(pools: Pools) -> tuple[list[NodeKind], str]:
    import ray

    if not ray.is_initialized() and not cluster_address(pools):
        return [_this_machine(pools)], "this machine has"
    if not ray.is_initialized():
        join(pools)
    declared = declared_nodes()
    if declared:
        return declared, "the autoscaler's maximum has"
    return live_nodes(), "the live cluster has"


def _this_machine(pools: Pools) -> NodeKind:
    from ray._private.accelerators import get_accelerator_manager_for_resource

    declared = {"labels": {}, **local_node(pools)}
    gpus = get_accelerator_manager_for_resource("GPU").get_current_node_num_accelerators()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * (1 - OBJECT_STORE_SHARE)
    resources = {"CPU": declared["num_cpus"], "GPU": gpus, "memory": memory, **declared["resources"]}
    return NodeKind("this machine", 1, Counter(resources), declared["labels"], cores=os.cpu_count() or 1)


def _check_schedule(experiment: Experiment) -> None:
    """Teachers that run at the same time need a worker each."""
    pools, teachers = experiment.pools, experiment.working_teachers
    if pools.schedule != "sequential" and len(teachers) > pools.teacher.workers:
        workers = counted(pools.teacher.workers, "worker")
        raise UserError(
            f"pools.schedule is {pools.schedule}, but {len(teachers)} teachers would share {workers}; "
            f"set pools.teacher.workers to at least {len(teachers)}, or pools.schedule to sequential"
        )


def _check_both(used: Mapping[str, Pool], kinds: list[NodeKind]) -> None:
    """With schedule overlap both pools work at the same time."""
    wanted: Counter = Counter()
    for pool in used.values():
        wanted.update({name: amount * (pool.min_workers or pool.workers) for name, amount in bundle(pool).items()})
    for name in ("CPU", "GPU"):
        there = sum(kind.count * kind.resources[name] for kind in kinds)
        if wanted[name] > there:
            raise UserError(
                f"pools.schedule is overlap, so both pools work at once and ask for {name} {wanted[name]:g}, where "
                f"there is {there:g}; lower pools.teacher.workers or pools.student.workers, or set pools.schedule to "
                "sequential"
            )


def _check_spare(teacher: Pool, cpus: float) -> None:
    """Beside the teachers, one CPU must be left for the tasks that read, prompt and write."""
    if cpus - teacher.workers * teacher.cpus_per_worker < 1:
        raise UserError(
            f"pools.teacher: {teacher.workers} x {teacher.cpus_per_worker:g} CPU leaves none of {cpus:g} CPUs for "
            "reading and writing rows; lower pools.teacher.workers or pools.teacher.cpus_per_worker"
        )


def _shortage(name: str, pool: Pool, kinds: list[NodeKind], there: int) -> str:
    if there:
        elastic = " or set pools.student.min_workers" if name == "student" else ""
        return f"room for {there}; lower pools.{name}.workers to {there}{elastic}, or add nodes"
    totals = {key: sum(kind.count * kind.resources[key] for kind in kinds) for key in bundle(pool)}
    missing = [key for key, amount in bundle(pool).items() if totals[key] < amount]
    if missing:
        have = f"{_amounts({key: totals[key] for key in missing})} in all"
        keys = " and ".join(dict.fromkeys(f"pools.{name}.{_key_of(key)}" for key in missing))
        return f"{have}; change {keys}, or add nodes"
    if pool.labels:
        return f"no node of that size with these labels; change pools.{name}.labels, or add nodes"
    return f"no single node with all of that; lower what one worker asks under pools.{name}, or add larger nodes"


def _key_of(resource: str) -> str:
    match resource:
        case "CPU":
            return "cpus_per_worker"
        case "GPU":
            return "gpus_per_worker"
        case "memory":
            return "memory_gib_per_worker"
        case _:
            return "resource"


def _amounts(resources: Mapping[str, float]) -> str:
    parts = [
        f"memory {value / GIB:g} GiB" if key == "memory" else f"{key} {value:g}" for key, value in resources.items()
    ]
    return ", ".join(parts) or "nothing"


def _selector(pool: Pool) -> str:
    return "".join(f", label {key}={value}" for key, value in pool.labels.items())


def _label_fits(labels: Mapping[str, str], key: str, wanted: str) -> bool:
    """Ray's selectors: value, !value, in(a,b), !in(a,b)."""
    negative = wanted.startswith("!")
    wanted = wanted.removeprefix("!")
    values = wanted[3:-1].split(",") if wanted.startswith("in(") and wanted.endswith(")") else [wanted]
    return (key in labels and labels[key] in [value.strip() for value in values]) != negative


def _read_autoscaler_config() -> dict[str, Any] | None:
    """Runs on the head: the cluster launcher's file, or KubeRay's RayCluster as Ray's own autoscaler reads it."""
    path = Path(LAUNCHER_CONFIG).expanduser()
    if path.is_file():
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    if not all(name in os.environ for name in _KUBERAY):
        return None
    import requests
    from ray.autoscaler._private.kuberay.autoscaling_config import AutoscalingConfigProducer

    try:
        return AutoscalingConfigProducer(*(os.environ[name] for name in _KUBERAY))()
    except (requests.RequestException, OSError):  # KubeRay gives this right only where it autoscales
        return None
