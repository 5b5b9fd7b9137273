"""One rank of a gloo group: gradients of a trial's first step for each list of weights, to <folder>/rank-<rank>.pt."""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from tinyllm_ray.config import validate
from tinyllm_ray.data.features import open_features
from tinyllm_ray.schema import Training
from tinyllm_ray.student.loop import new_totals, step_examples, step_gradients
from tinyllm_ray.student.model import load_student
from tinyllm_ray.student.objective import StudentLoss


def main(job_file: str, rank: int) -> None:
    torch.set_num_threads(1)
    job = json.loads(Path(job_file).read_text())
    trial, ranks = job["trial"], job["ranks"]
    dist.init_process_group("gloo", init_method=f"file://{job['folder']}/meet", rank=rank, world_size=ranks)
    model, _ = load_student(validate(trial["experiment"]).student, tokenizer_folder=trial["tokenizer"], seed=0)
    features = open_features(trial["features"], "train")
    training = Training(batch_size=8, max_gradient_norm=None)
    module = DistributedDataParallel(StudentLoss(model.train()), forward_sync_buffers=False)
    found = []
    for weights in job["weights"]:
        indices = step_examples(features, 0, training=training, weights=weights, seed=0)
        totals = new_totals(features, torch.device("cpu"))
        step_gradients(module, features, indices, training=training, weights=weights, dtype="float32", totals=totals)
        gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
        found.append({"gradient": gradient, "sums": totals.sums.tolist()})
        module.zero_grad()
    torch.save(found, f"{job['folder']}/rank-{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
