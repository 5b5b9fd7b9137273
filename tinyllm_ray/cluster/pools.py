"""Pools as Ray resource requests: what one worker, one training, one trial or a local node asks of Ray.

In: the experiment's `pools`. Out: actor options, bundles, scaling configs, and the resources of a Ray started here.
"""

import os
from typing import Any

from tinyllm_ray.schema import Pool, Pools

GIB = 1024**3
SPARE_CPUS = 4  # logical CPUs beside both pools' for reading, prompting and writing


def actor_options(pool: Pool) -> dict[str, Any]:
    """What one worker of a pool asks of Ray."""
    options: dict[str, Any] = {"num_cpus": pool.cpus_per_worker, "num_gpus": pool.gpus_per_worker}
    if pool.resource:
        options["resources"] = {pool.resource: 1}
    if pool.memory_gib_per_worker:
        options["memory"] = int(pool.memory_gib_per_worker * GIB)
    if pool.labels:
        options["label_selector"] = pool.labels
    return options


def bundle(pool: Pool) -> dict[str, float]:
    """One worker of a pool as a placement group's bundle; what is not asked for is left out."""
    wanted = {
        "CPU": pool.cpus_per_worker,
        "GPU": pool.gpus_per_worker,
        "memory": int(pool.memory_gib_per_worker * GIB),
        **({pool.resource: 1} if pool.resource else {}),
    }
    return {name: amount for name, amount in wanted.items() if amount}


def scaling_config(pool: Pool, workers: int) -> Any:
    """`ray.train.ScalingConfig` of one training run; elastic where the pool says how few ranks will do."""
    from ray.train import ScalingConfig

    elastic = pool.min_workers is not None and pool.min_workers < workers
    return ScalingConfig(
        num_workers=(pool.min_workers, workers) if elastic else workers,
        use_gpu=pool.gpus_per_worker > 0,
        resources_per_worker=bundle(pool),
        label_selector=pool.labels or None,
    )


def trial_resources(pool: Pool, ranks: int) -> Any:
    """`tune.PlacementGroupFactory` of a trial: its one rank, or the driver of several that ask for themselves."""
    from ray.tune import PlacementGroupFactory

    wanted = bundle(pool) if ranks == 1 else {"CPU": 0.01}
    if pool.labels:
        return PlacementGroupFactory([wanted], bundle_label_selector=[pool.labels])
    return PlacementGroupFactory([wanted])


def concurrent_trials(pool: Pool, ranks: int) -> int:
    """How many trials the student pool holds at once."""
    return max(1, pool.workers // ranks)


def local_node(pools: Pools) -> dict[str, Any]:
    """What a Ray started here declares: logical CPUs for both pools and the stages beside them, the pools' marks."""
    wanted = sum(pool.workers * pool.cpus_per_worker for pool in (pools.teacher, pools.student))
    resources: dict[str, float] = {}
    labels: dict[str, str] = {}
    for pool in (pools.teacher, pools.student):
        if pool.resource:
            resources[pool.resource] = max(resources.get(pool.resource, 0), pool.workers)
        labels.update({name: value for name, value in pool.labels.items() if not value.startswith("!")})
    cpus = max(os.cpu_count() or 1, int(wanted) + SPARE_CPUS)
    return {"num_cpus": cpus, "resources": resources, **({"labels": labels} if labels else {})}
