from pathlib import Path

import pytest

from tinyllm_ray.config import load_experiment

EXPERIMENTS = sorted((Path(__file__).resolve().parents[1] / "experiments").glob("*.yaml"))
SIX = ("obqa", "arc", "piqa", "riddle", "pubmedqa", "bioasq")


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_loads_and_says_how_to_launch_it(path: Path) -> None:
    load_experiment(path)
    assert f"experiments/{path.name}" in path.read_text().partition("\nname:")[0]


@pytest.mark.parametrize("name", SIX)
def test_the_six_datasets_have_the_papers_teachers_prompts_and_weights(repository: Path, name: str) -> None:
    experiment = load_experiment(repository / "experiments" / f"{name}.yaml")
    assert experiment.dataset.name == name
    assert {teacher.name: (teacher.model, teacher.task_prefix) for teacher in experiment.teachers} == {
        "flan_t5": ("google/flan-t5-xl", "explain: "),
        "llama2": ("meta-llama/Llama-2-7b-chat-hf", "rationale: "),
    }
    assert (experiment.prompts.in_context.examples, experiment.prompts.teacher_forcing) == (2, True)
    assert experiment.training.learning_rate == 5e-5
    for key in ("loss.label_weight", "loss.rationale_weights.flan_t5", "loss.rationale_weights.llama2"):
        assert experiment.search.space[key].choice == [0.01, 0.1, 0.5, 1, 2, 3]


def test_published_rationales_take_a_teachers_place(repository: Path) -> None:
    experiment = load_experiment(repository / "experiments" / "obqa.yaml", ["teachers.flan_t5.store=/imported/flan_t5"])
    assert [teacher.store for teacher in experiment.teachers] == ["/imported/flan_t5", None]
