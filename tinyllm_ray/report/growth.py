"""What choosing a teacher for each question is worth as teachers are added: who was right where in, rows out.

The variants are called first_<number of teachers>_<mode>. CMV is the figure of arXiv 2602.01064: the mean gain of a
mode over `all` as teachers are added, here from two teachers on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyllm_ray.report.effects import Effect, Scores, compare, interval, paired_difference
from tinyllm_ray.report.style import color, legend_below, words
from tinyllm_ray.schema.rationales import GROWN


@dataclass(frozen=True)
class Growth:
    """One way to choose among the first one, two, ... teachers. All in points of test accuracy."""

    mode: str
    accuracy: dict[int, float]  # number of teachers -> percent, mean of the seeds
    over_all: dict[int, Effect]  # number of teachers -> less `all` with the same teachers
    over_best: Effect | None  # with the most teachers, less `best_teacher`
    last_over_first: Effect | None  # with the most teachers, less `all` with one
    cmv: float | None
    cmv_low: float | None
    cmv_high: float | None


def grown(scores: Scores) -> list[Growth]:
    """A row for each mode that was trained, `all` first. `scores` of all variants."""
    found: dict[str, dict[int, str]] = {}
    for name in scores:
        if name.startswith(GROWN):
            count, _, mode = name.removeprefix(GROWN).partition("_")
            found.setdefault(mode, {})[int(count)] = name
    return [_row(mode, dict(sorted(by_count.items())), found, scores) for mode, by_count in found.items()]


def _row(mode: str, by_count: Mapping[int, str], found: Mapping[str, Mapping[int, str]], scores: Scores) -> Growth:
    every = found.get("all", {})
    over_all = {
        count: effect
        for count, name in by_count.items()
        if count in every and (effect := compare(scores, name, every[count], about=mode, kind="grown"))
    }
    most = max(by_count)
    best = found.get("best_teacher", {}).get(most, "")
    cmv = _mean_gain(scores, [(by_count[count], every[count]) for count in over_all if count > 1])
    return Growth(
        mode,
        {count: 100 * _accuracy(scores, name) for count, name in by_count.items()},
        over_all,
        compare(scores, by_count[most], best, about=mode, kind="grown"),
        compare(scores, by_count[most], every.get(1, ""), about=mode, kind="grown") if most > 1 else None,
        *(cmv or (None, None, None)),
    )


def _accuracy(scores: Scores, name: str) -> float:
    return float(np.mean([np.mean(list(right.values())) for right in scores[name].values()]))


def _mean_gain(scores: Scores, pairs: Sequence[tuple[str, str]]) -> tuple[float, float, float] | None:
    """Points and interval of the mean over the pairs; None where they have no seeds or questions in common."""
    differences = [paired_difference(scores, better, worse) for better, worse in pairs]
    if not differences or not differences[0].size or len({values.shape for values in differences}) > 1:
        return None
    mean = 100 * np.mean(differences, axis=0)
    return float(mean.mean()), *interval(mean)


def draw_growth(rows: Sequence[Growth], axes: Any) -> None:
    """Accuracy over the number of teachers, a line for each mode."""
    modes = [row.mode for row in rows if row.mode != "all"]
    for row in rows:
        counts, values = zip(*row.accuracy.items(), strict=True)
        tint = color("all_teachers" if row.mode == "all" else row.mode, modes)
        axes.plot(counts, values, "o-", color=tint, ms=4, lw=1.6, label=words(row.mode))
    axes.set_xticks(sorted({count for row in rows for count in row.accuracy}))
    axes.set_xlabel("number of teachers")
    axes.set_ylabel("test accuracy, %")
    legend_below(axes)
