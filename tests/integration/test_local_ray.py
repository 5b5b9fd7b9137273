"""A Ray that is started here, as teachers in parallel or `pools.schedule: overlap` start it: from a thread."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.engine
SCRIPT = """
import sys, threading, time
from tinyllm_ray.cluster.connect import connect
from tinyllm_ray.schema import Pools
thread = threading.Thread(target=connect, args=(Pools(),), kwargs={"log_dir": sys.argv[1]})
thread.start()
thread.join()
time.sleep(2)  # a raylet that is killed with the thread is gone by now
import ray
print(ray.get(ray.remote(num_cpus=0)(lambda: 6 * 7).remote(), timeout=300))
"""


def test_a_ray_that_a_thread_started_outlives_the_thread(tmp_path: Path) -> None:
    """In a process of its own, which ends with its raylet."""
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "42"), done.stderr
