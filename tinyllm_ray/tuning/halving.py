"""Asynchronous successive halving that stops no trial on thin evidence, as a scheduler of Ray Tune.

In: the validation results of trials, as they come. Out: for each, whether its trial goes on.
"""

from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

LEAST_RESULTS = 3  # of a rung, before a trial may be stopped at it
ALWAYS_KEPT = 2  # the best of every rung


class SafeHalving(FIFOScheduler):
    """At each rung the best 1/factor of the trials seen there so far go on, and the two best in any case.

    Rungs lie at `first_step` times powers of the factor. Results that are equal go on together.
    """

    def __init__(self, *, metric: str, mode: str, first_step: int, last_step: int, factor: int) -> None:
        super().__init__()
        self._metric = metric  # what the base class names `metric`
        self._sign = 1.0 if mode == "max" else -1.0
        self._factor = factor
        self._rungs: dict[int, dict[str, float]] = {}  # step -> trial -> result, the larger the better
        step = first_step
        while step < last_step:  # the last evaluation is no reason to stop
            self._rungs[step] = {}
            step *= factor

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        reached = [step for step in self._rungs if step <= result["step"]]
        if not reached or trial.trial_id in self._rungs[reached[-1]]:
            return TrialScheduler.CONTINUE
        rung = self._rungs[reached[-1]]
        rung[trial.trial_id] = self._sign * result[self._metric]
        return TrialScheduler.CONTINUE if self._stays(rung, rung[trial.trial_id]) else TrialScheduler.STOP

    def _stays(self, rung: dict[str, float], own: float) -> bool:
        better = sum(other > own for other in rung.values())
        return len(rung) < LEAST_RESULTS or better < max(ALWAYS_KEPT, len(rung) / self._factor)
