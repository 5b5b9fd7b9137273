"""Pools -> Ray resource requests; start or join Ray; say beforehand what cannot be had."""

from typing import Any

from tinyllm_ray.schema import Pool

GIB = 1024**3


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
