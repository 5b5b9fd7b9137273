"""One process of a gloo group: runs a list of trials, each on the first `ranks` of the processes.

python gloo_rank.py <jobs.json> <rank>, where the file holds
{"folder": ..., "jobs": [{"trial": {...}, "ranks": 3, "stop_at": 4 | null}, ...]}
"""

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tinyllm_ray.config import validate
from tinyllm_ray.student.train import Trial, run_rank


class Stopped(Exception):
    """The trial reached the step at which it was to stop."""


def main(file: str, rank: int) -> None:
    given = json.loads(Path(file).read_text())
    for number, job in enumerate(given["jobs"]):
        if rank >= job["ranks"]:
            continue
        meet = f"file://{given['folder']}/meet-{number}"
        dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=job["ranks"])
        trial = Trial(**job["trial"])

        def report(row: dict[str, Any], stop_at: int | None = job["stop_at"]) -> None:
            dist.barrier()  # as ray.train.report is
            if row["step"] == stop_at:
                raise Stopped

        with contextlib.suppress(Stopped):
            run_rank(trial, validate(trial.experiment), report=report, device=torch.device("cpu"))
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
