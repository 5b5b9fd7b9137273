from dataclasses import dataclass

import pytest
from ray.tune.schedulers import TrialScheduler

from tinyllm_ray.tuning.halving import SafeHalving


@dataclass
class Trial:
    trial_id: str


def decisions(results: list[tuple[str, int, float]], **changes: object) -> list[str]:
    """For each (trial, step, loss) in order of arrival, whether its trial goes on."""
    settings = {"metric": "loss", "mode": "min", "first_step": 10, "last_step": 90, "factor": 3} | changes
    scheduler = SafeHalving(**settings)
    return [scheduler.on_trial_result(None, Trial(name), {"step": step, "loss": loss}) for name, step, loss in results]


GO, STOP = TrialScheduler.CONTINUE, TrialScheduler.STOP


def test_no_trial_is_stopped_before_a_rung_has_three_results() -> None:
    assert decisions([("a", 10, 1.0), ("b", 10, 9.0)]) == [GO, GO]
    assert decisions([("a", 10, 1.0), ("b", 10, 2.0), ("c", 10, 9.0)]) == [GO, GO, STOP]


def test_the_two_best_of_a_rung_always_go_on() -> None:
    losses = [5.0, 4.0, 4.5, 3.0, 3.5, 3.2]  # third, first, second, first, second, second of those so far
    wanted = [GO, GO, GO, GO, GO, GO]
    assert decisions([(str(i), 10, loss) for i, loss in enumerate(losses)]) == wanted


def test_of_many_trials_one_in_factor_goes_on() -> None:
    first = [(str(i), 10, float(i)) for i in range(9)]  # each worse than all before
    assert decisions(first) == [GO, GO, STOP, STOP, STOP, STOP, STOP, STOP, STOP]
    late = [*first, ("fourth best of ten", 10, 2.5), ("third best of eleven", 10, 1.5), ("fifth of twelve", 10, 2.6)]
    assert decisions(late)[9:] == [GO, GO, STOP]  # ten trials keep four (10/3 rounded up), eleven four, twelve four


def test_rungs_lie_at_powers_of_the_factor_and_the_last_step_is_none() -> None:
    good = [("a", 10, 1.0), ("b", 10, 1.0), ("c", 10, 1.0)]
    assert decisions([*good, ("d", 20, 9.0)]) == [GO, GO, GO, STOP]  # 20 is past the first rung
    assert decisions([*good, ("d", 9, 9.0)])[3] == GO
    second = [("a", 30, 1.0), ("b", 30, 1.0), ("c", 30, 2.0)]
    assert decisions([*good, *second])[3:] == [GO, GO, STOP]
    last = [("a", 90, 1.0), ("b", 90, 1.0), ("c", 90, 2.0)]
    assert decisions([*good, *last])[3:] == [GO, GO, STOP]  # judged at the rung of step 30, which they had skipped
    assert decisions([*good, *second[:2], ("c", 30, 1.0), *last])[6:] == [GO, GO, GO]


def test_equal_results_go_on_together() -> None:
    assert decisions([(name, 10, 1.0) for name in "abcdef"]) == [GO] * 6


@pytest.mark.parametrize(("mode", "wanted"), [("min", [GO, GO, STOP]), ("max", [GO, GO, GO])])
def test_what_is_better_is_said_by_the_mode(mode: str, wanted: list[str]) -> None:
    assert decisions([("a", 10, 0.1), ("b", 10, 0.2), ("c", 10, 0.3)], mode=mode) == wanted


def test_a_trial_is_judged_once_at_a_rung() -> None:
    good = [("a", 10, 1.0), ("b", 10, 1.0), ("c", 10, 1.0)]
    assert decisions([*good, ("a", 20, 9.0)])[3] == GO
