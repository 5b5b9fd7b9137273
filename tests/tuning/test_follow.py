"""The line on trainings under way is read from their folders."""

import json

from tinyllm_ray import storage
from tinyllm_ray.tuning.follow import State, _note, read_state


def write_part(folder, first, rows):
    text = "".join(json.dumps({"time": 1, **row}) + "\n" for row in rows)
    storage.write_bytes(f"{folder}/metrics/part-{first:09d}.jsonl", text.encode())


def test_a_training_is_as_far_as_its_newest_line(tmp_path):
    folder = str(tmp_path)
    assert read_state(folder) == State(0, None, None)
    write_part(folder, 5, [{"step": 5, "train/loss": 3.0}, {"step": 10, "train/loss": 2.0}])
    write_part(folder, 15, [{"step": 15, "train/loss": 1.5}, {"step": 20, "eval/accuracy": 0.4}])
    storage.write_json(
        f"{folder}/evaluations.json", [{"step": 10, "eval/accuracy": 0.5}, {"step": 20, "eval/accuracy": 0.4}]
    )
    assert read_state(folder) == State(20, 1.5, 0.5)


def test_the_note_names_the_loss_of_a_running_one_and_the_best_accuracy_of_all():
    states = [State(20, 1.5, 0.5), State(5, 2.25, None), State(0, None, None)]
    assert _note(states, [True, False, False], 3) == "1 of 3 trainings, loss 2.250, best accuracy 0.500"
    assert _note([State(20, 1.5, 0.5)], [True], 1) == "loss 1.500, best accuracy 0.500"
    assert _note([State(0, None, None)], [False], 1) == ""
