import pytest

from tinyllm_ray.config import UserError, validate
from tinyllm_ray.tuning.search import SearchBudget, WhenSpent, make_scheduler, search_digest
from tinyllm_ray.tuning.space import apply_sample, check_search, draw_samples
from tinyllm_ray.tuning.trials import most_ranks


def experiment(**search):
    return validate(
        {
            "name": "x",
            "dataset": {"name": "toy", "path": "data"},
            "teachers": [{"name": "a", "model": "m"}],
            "student": {"model": "small", "from_scratch": {"small": {}, "large": {"layers": 4}}},
            "search": search,
        }
    )


def test_a_sample_sets_dotted_paths_and_keeps_the_rest():
    sampled = apply_sample(experiment(), {"loss.rationale_weights.a": 0.25, "training.learning_rate": 0.01})
    assert sampled.loss.rationale_weights == {"a": 0.25}
    assert sampled.training.learning_rate == 0.01
    assert sampled.loss.label_weight == 1.0


def test_a_student_brings_its_own_batch_and_ranks():
    given = experiment(by_model={"large": {"training.batch_size": 4, "search.ranks_per_trial": 2}})
    large, small = (apply_sample(given, {"student.model": name}) for name in ("large", "small"))
    assert (large.training.batch_size, large.search.ranks_per_trial) == (4, 2)
    assert (small.training.batch_size, small.search.ranks_per_trial) == (16, 1)
    assert most_ranks(given.search) == 2


def test_a_grid_counts_every_combination():
    space = {"loss.label_weight": {"grid": [0, 1, 2]}, "training.learning_rate": {"grid": [1e-3, 1e-4]}}
    assert len(draw_samples(experiment(space=space, searcher="grid", num_samples=5).search)) == 6


def test_samples_multiply_with_a_grid_under_the_random_searcher():
    space = {"loss.label_weight": {"grid": [0, 1, 2]}, "training.learning_rate": {"loguniform": [1e-4, 1e-3]}}
    samples = draw_samples(experiment(space=space, num_samples=5).search)
    assert len(samples) == 15
    assert [sample["loss.label_weight"] for sample in samples] == [0, 1, 2] * 5
    assert all(1e-4 <= sample["training.learning_rate"] <= 1e-3 for sample in samples)


def test_more_samples_continue_the_same_sequence_and_another_seed_draws_others():
    space = {"training.learning_rate": {"uniform": [1e-4, 1e-3]}, "loss.label_weight": {"choice": [0.1, 1, 10]}}
    few, many = (draw_samples(experiment(space=space, num_samples=n).search) for n in (3, 6))
    assert many[:3] == few
    assert draw_samples(experiment(space=space, num_samples=3, seed=1).search) != few


def test_a_sample_that_was_drawn_before_is_not_trained_again():
    space = {"loss.label_weight": {"choice": [1, 2]}}
    assert len(draw_samples(experiment(space=space, num_samples=40).search)) == 2


SAMPLERS = """
def rising(search):
    return ({"loss.label_weight": weight} for weight in (0.5, 0.5, 1.0, 2.0))


def strange(search):
    return [{"training.steps": 3}]
"""


@pytest.fixture
def samplers(tmp_path, monkeypatch):
    (tmp_path / "my_samplers.py").write_text(SAMPLERS)
    monkeypatch.syspath_prepend(tmp_path)


def custom(name, **search):
    space = {"loss.label_weight": {"choice": [0.5, 1]}}
    return experiment(space=space, searcher="custom", searcher_path=f"my_samplers:{name}", **search)


def test_a_searcher_from_outside_gives_the_samples_each_once_and_not_more_than_asked(samplers):
    weights = [sample["loss.label_weight"] for sample in draw_samples(custom("rising", num_samples=3).search)]
    assert weights == [0.5, 1.0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent", "search.searcher_path: my_samplers:absent cannot be imported"),
        ("strange", r"a sample maps \['loss.label_weight'\] to values"),
    ],
)
def test_a_searcher_that_cannot_be_used_is_refused(samplers, name, message):
    with pytest.raises(UserError, match=message):
        draw_samples(custom(name).search)


def test_the_digest_of_a_search_does_not_depend_on_how_many_trials_are_asked_for():
    space = {"loss.label_weight": {"choice": [1, 2]}}
    few, many = (search_digest(experiment(space=space, num_samples=n)) for n in (4, 16))
    other = search_digest(experiment(space={"loss.label_weight": {"choice": [1, 3]}}))
    assert few == many != other


def test_asha_stops_by_validation_loss_unless_told_otherwise():
    assert make_scheduler(experiment()).metric == "eval/loss/label"
    assert make_scheduler(experiment(rung_metric="accuracy")).metric == "eval/accuracy"


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({}, "search.space is empty"),
        ({"searcher": "grid", "space": {"loss.label_weight": {"choice": [1]}}}, "every entry of search.space must be"),
        ({"searcher": "optuna", "space": {"loss.label_weight": {"grid": [1]}}}, "which optuna does not walk"),
        (
            {"objectives": ["accuracy", "parameters"], "space": {"loss.label_weight": {"choice": [1]}}},
            "needs searcher optuna",
        ),
        ({"searcher": "custom", "space": {"loss.label_weight": {"choice": [1]}}}, "set both or neither"),
    ],
)
def test_a_search_that_cannot_run_is_refused_before_it_starts(search, message):
    with pytest.raises(UserError, match=message):
        check_search(experiment(**search))


class FinishedTrial:
    def __init__(self, trial_id, accuracy):
        self.trial_id, self.config, self.last_result = trial_id, {"n": trial_id}, {"eval/accuracy": accuracy}


def finish(budget, accuracies):
    for number, accuracy in enumerate(accuracies):
        trial = FinishedTrial(str(number), accuracy)
        budget.on_trial_start(0, [], trial)
        budget.on_trial_complete(0, [], trial)


def test_the_search_stops_when_no_trial_was_better_for_as_long_as_its_patience():
    budget = SearchBudget(experiment(patience_trials=2).search, gpus_per_trial=0)
    finish(budget, [0.5, 0.6, 0.6])
    assert not WhenSpent(budget).stop_all()
    finish(budget, [0.4])
    assert WhenSpent(budget).stop_all()


def test_the_search_stops_when_its_gpu_hours_are_spent():
    budget = SearchBudget(experiment(max_gpu_hours=1).search, gpus_per_trial=2)
    finish(budget, [0.5])
    budget.gpu_seconds = 3599.0
    assert not WhenSpent(budget).stop_all()
    budget.gpu_seconds = 3600.0
    assert WhenSpent(budget).stop_all()
