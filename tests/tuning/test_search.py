import pytest
from ray import tune

from tinyllm_ray.config import UserError, validate
from tinyllm_ray.tuning.search import (
    Budget,
    SearchWatch,
    apply_sample,
    check_search,
    make_scheduler,
    search_digest,
    trial_count,
)
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
    assert trial_count(experiment(space=space, searcher="grid", num_samples=5).search) == 6


def test_samples_multiply_with_a_grid_under_the_random_searcher():
    space = {"loss.label_weight": {"grid": [0, 1, 2]}, "training.learning_rate": {"loguniform": [1e-4, 1e-3]}}
    assert trial_count(experiment(space=space, num_samples=5).search) == 15


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
    ],
)
def test_a_search_that_cannot_run_is_refused_before_it_starts(search, message):
    with pytest.raises(UserError, match=message):
        check_search(experiment(**search))


class FinishedTrial:
    def __init__(self, trial_id, accuracy):
        self.trial_id, self.config, self.last_result = trial_id, {"n": trial_id}, {"eval/accuracy": accuracy}


def finish(watch, accuracies):
    for number, accuracy in enumerate(accuracies):
        trial = FinishedTrial(str(number), accuracy)
        watch.on_trial_start(0, [], trial)
        watch.on_trial_complete(0, [], trial)


def test_the_search_stops_when_no_trial_was_better_for_as_long_as_its_patience(tmp_path):
    watch = SearchWatch(experiment(patience_trials=2).search, str(tmp_path / "s.json"), [], gpus_per_trial=0)
    finish(watch, [0.5, 0.6, 0.6])
    assert not Budget(watch).stop_all()
    finish(watch, [0.4])
    assert Budget(watch).stop_all()


def test_the_search_stops_when_its_gpu_hours_are_spent(tmp_path):
    watch = SearchWatch(experiment(max_gpu_hours=1).search, str(tmp_path / "s.json"), [], gpus_per_trial=2)
    finish(watch, [0.5])
    watch.gpu_seconds = 3599.0
    assert not Budget(watch).stop_all()
    watch.gpu_seconds = 3600.0
    assert Budget(watch).stop_all()


def test_samples_are_written_down_once_in_their_order(tmp_path):
    log = tmp_path / "s.json"
    watch = SearchWatch(experiment().search, str(log), [{"n": "0"}], gpus_per_trial=0)
    finish(watch, [0.1, 0.2])
    assert watch.sampled == [{"n": "0"}, {"n": "1"}]
    assert isinstance(watch, tune.Callback)
