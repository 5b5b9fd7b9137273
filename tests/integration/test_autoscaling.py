"""Ray's own autoscaler on one machine: both pools start from no node at all, and their nodes go when idle."""

import json
import secrets
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from ray_head import running_head
from small_experiment import COMMAND, run, write_experiment

pytestmark = pytest.mark.engine
NODE = {"node_config": {}, "min_workers": 0, "max_workers": 1}
LAUNCHER: dict[str, Any] = {
    "cluster_name": "small",
    "provider": {"type": "fake_multinode"},
    "max_workers": 2,
    "idle_timeout_minutes": 0.2,
    "head_node_type": "ray.head.default",
    "available_node_types": {
        "ray.head.default": {"node_config": {}, "resources": {"CPU": 0}, "max_workers": 0},
        "teacher": {**NODE, "resources": {"CPU": 2, "teacher_pool": 1}},
        "student": {**NODE, "resources": {"CPU": 2, "student_pool": 1}},
    },
}
NODES = "import json, ray; ray.init(log_to_driver=False); print(json.dumps(ray.nodes()))"


def test_both_pools_come_from_zero_and_go_again(tmp_path: Path) -> None:
    path = write_experiment(tmp_path)
    settings = {"token": secrets.token_hex(32), "resources": "{}", "cpus": 0, "autoscaler": LAUNCHER}
    with running_head(**settings) as head:
        env = {**head.env, "RAY_ADDRESS": head.address}
        assert kinds(env) == {}
        plan = subprocess.run([COMMAND, "plan", path], env=env, capture_output=True, text=True, check=False)
        assert "teacher pool: 1 x (CPU 1, teacher_pool 1); the autoscaler's maximum has room for 1" in plan.stdout
        made = run("generate", path, env=env)
        assert made["teacher_rows_generated"] == 112
        assert run("train", path, env=env)["trials"][0]["steps"] == 20
        assert kinds(env)["student"] == 1
        began = time.monotonic()
        while kinds(env):
            assert time.monotonic() - began < 120, "idle nodes stayed"
            time.sleep(3)


def kinds(env: dict[str, str]) -> Counter:
    """Live nodes by pool."""
    asked = subprocess.run([sys.executable, "-c", NODES], env=env, capture_output=True, text=True, check=True)
    alive = [node["Resources"] for node in json.loads(asked.stdout.splitlines()[-1]) if node["Alive"]]
    return Counter(pool for node in alive for pool in ("teacher", "student") if f"{pool}_pool" in node)
