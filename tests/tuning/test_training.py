"""From a wanted training to the trial that does it: a student that comes as one .gguf file."""

import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
from support.tiny_gguf import save_both
from support.tiny_teachers import experiment, question_files

from tinyllm_ray import storage
from tinyllm_ray.config import UserError, with_overrides
from tinyllm_ray.student.checks import check_student
from tinyllm_ray.student.records import read_evaluations
from tinyllm_ray.student.train import run_trial
from tinyllm_ray.tuning.training import Inputs, Training, TrainingSpec, resolve


def training_of(model: str, folder: Path, output_dir: Path) -> Training:
    """`folder` is of the questions."""
    student = {"model": model, "max_input_tokens": 400}
    given = experiment(
        {"name": "unused", "store": "unused"},
        student=student,
        loss={"rationale_weights": {"unused": 0}},
        training={"steps": 2, "batch_size": 4, "learning_rate": 1e-3, "log_every_steps": 1},
        evaluation={"student_rationales": 0},
    )
    files = question_files(folder, train=8, validation=4)
    spec = TrainingSpec("label_only", given, seed=0, ranks=1, score_test=False)
    return resolve(spec, Inputs(str(output_dir), files, {}))


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return save_both(tmp_path_factory.mktemp("gguf"))


def test_a_student_in_a_gguf_file_trains_as_the_same_weights_in_a_folder(both: tuple[str, str], tmp_path: Path) -> None:
    losses = []
    for name, model in zip(("gguf", "folder"), both, strict=True):
        trial = training_of(model, tmp_path, tmp_path / name).trial
        run_trial(trial, report=lambda row: None)
        losses.append(read_evaluations(trial.dir)[-1]["eval/loss/label"])
        assert asdict(trial)["experiment"]["student"]["model"].startswith(str(tmp_path / "gguf")) == (name == "gguf")
    assert losses[0] == losses[1]


def test_the_trial_of_a_gguf_file_is_named_by_its_content_and_by_no_place(
    both: tuple[str, str], tmp_path: Path
) -> None:
    elsewhere = tmp_path / "moved" / Path(both[0]).name
    elsewhere.parent.mkdir()
    shutil.copy(both[0], elsewhere)
    models = {"here": both[0], "there": str(elsewhere), "plain": both[1]}
    here, there, plain = (training_of(model, tmp_path, tmp_path / name).trial.key for name, model in models.items())
    assert here == there != plain


def test_a_gguf_student_is_looked_at_before_anything_starts(both: tuple[str, str], tmp_path: Path) -> None:
    student = with_overrides(experiment({"name": "t", "store": "s"}), {"student.model": both[0]}).student
    line = check_student(student, output_dir=str(tmp_path))
    assert storage.exists(line.partition("unpacked to ")[2] + "/config.json")
    damaged = tmp_path / "cut.gguf"
    damaged.write_bytes(Path(both[0]).read_bytes()[:5000])
    with pytest.raises(UserError, match=r"student\.model: .*cut\.gguf cannot be read as a GGUF model"):
        check_student(student.model_copy(update={"model": str(damaged)}), output_dir=str(tmp_path))
