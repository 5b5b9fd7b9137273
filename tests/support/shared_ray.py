"""One Ray on this machine, in a process of its own, for tests that do not break it: they join it in place of a start.

As a script: the address of its GCS as one line out; it ends when its stdin does.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

TRIES = 4  # Ray gives a node 30 s to start, which busy cores do not always keep


@contextlib.contextmanager
def running_ray() -> Iterator[str]:
    """The address of a Ray with room for one teacher and two ranks, whose workers have this process's environment."""
    process, address = started()
    assert process.stdin is not None
    try:
        yield address
    finally:
        process.stdin.close()
        process.wait()


def started() -> tuple[subprocess.Popen, str]:
    for _ in range(TRIES):
        process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        if address:
            return process, address
        process.wait()
    raise RuntimeError(f"Ray did not start in {TRIES} tries; it says why above")


def main() -> None:
    import ray

    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what Ray prints is no answer
    pools = {"teacher_pool": 1, "student_pool": 2}
    ray.init("local", num_cpus=8, resources=pools, include_dashboard=False, log_to_driver=False)
    print(ray.get_runtime_context().gcs_address, file=out, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
