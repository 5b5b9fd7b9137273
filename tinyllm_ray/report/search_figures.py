"""Figures of a search: what was sampled as parallel coordinates, and accuracy over the trials."""

from collections.abc import Sequence
from typing import Any

import yaml
from matplotlib import colormaps

from tinyllm_ray.report.data import Trained
from tinyllm_ray.report.style import ALL, SEARCH, legend_below


def draw_parallel(trials: Sequence[Trained], axes: Any) -> None:
    """One vertical axis per searched path, the last one validation accuracy."""
    paths = list(dict.fromkeys(path for trial in trials for path in trial.differs))
    columns: list[list[Any]] = [
        [yaml.safe_load(trial.differs[path]) if path in trial.differs else None for trial in trials] for path in paths
    ]
    accuracies = [100 * trial.metrics["eval/accuracy"] for trial in trials]
    orders = [
        _size_order(column, trials) if path == "student.model" else None
        for path, column in zip(paths, columns, strict=True)
    ]
    heights = [_heights(column, order) for column, order in zip(columns, orders, strict=True)] + [_heights(accuracies)]
    low, high = min(accuracies), max(accuracies)
    tints = colormaps["viridis"]
    for number, trial in sorted(enumerate(trials), key=lambda pair: accuracies[pair[0]]):
        share = (accuracies[number] - low) / (high - low) if high > low else 1.0
        path = [column[number] for column in heights]
        dash = "--" if trial.ended == "stopped" else "-"
        axes.plot(range(len(path)), path, dash, color=tints(0.3 + 0.55 * share), lw=1.2 + 1.4 * share, alpha=0.9)
    for place, (column, height) in enumerate(zip([*columns, accuracies], heights, strict=True)):
        axes.axvline(place, color=axes.yaxis.label.get_color(), lw=0.8, alpha=0.5)
        _mark(axes, place, column, height)
    names = [path.split(".", 1)[-1].replace("rationale_weights.", "weight of\n").replace("_", " ") for path in paths]
    axes.set_xticks(range(len(names) + 1), [*names, "validation\naccuracy, %"], fontsize=8.5)
    axes.set_yticks([])
    axes.set_ylim(-0.08, 1.08)
    axes.set_xlim(-0.15, len(names) + 0.45)
    axes.grid(False)
    axes.spines[:].set_visible(False)


def draw_progress(trials: Sequence[Trained], axes: Any) -> None:
    accuracies = [100 * trial.metrics["eval/accuracy"] for trial in trials]
    best = [max(accuracies[: number + 1]) for number in range(len(accuracies))]
    axes.plot(range(1, len(best) + 1), best, drawstyle="steps-post", color=ALL, lw=1.6, label="best so far")
    for stopped, label in ((False, "trial"), (True, "stopped early")):
        chosen = [number for number, trial in enumerate(trials) if (trial.ended == "stopped") is stopped]
        if chosen:
            fill = {"mfc": "none"} if stopped else {}
            xs, ys = [n + 1 for n in chosen], [accuracies[n] for n in chosen]
            axes.plot(xs, ys, "o", color=SEARCH, ms=6, label=label, **fill)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("trial")
    axes.set_ylabel("validation accuracy, %")
    legend_below(axes)


def _size_order(models: Sequence[Any], trials: Sequence[Trained]) -> list[str]:
    """Names of students, from the smallest to the largest; those without a known size come first."""
    sizes = {str(model): 0.0 for model in models}
    for model, trial in zip(models, trials, strict=True):
        for name in ("parameters", "result/parameters"):
            if name in trial.metrics:
                sizes[str(model)] = trial.metrics[name]
    return sorted(sizes, key=lambda model: (sizes[model], model))


def _heights(values: Sequence[Any], order: Sequence[str] | None = None) -> list[float]:
    """0 to 1 along an axis; what is not a number stands in even steps, in the given or sorted order."""
    if order is None and all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        low, high = min(values), max(values)
        return [(value - low) / (high - low) if high > low else 0.5 for value in values]
    kinds = list(order or sorted({str(value) for value in values}))
    return [kinds.index(str(value)) / (len(kinds) - 1) if len(kinds) > 1 else 0.5 for value in values]


def _mark(axes: Any, place: int, values: Sequence[Any], heights: Sequence[float]) -> None:
    """The ends of a number's axis, or each name on it."""
    marks = dict(zip(map(_text, values), heights, strict=True))
    numbers = all(isinstance(value, int | float) for value in values)
    for text, height in marks.items():
        if not numbers or height in (0.0, 1.0) or len(marks) <= 3:
            axes.annotate(f" {text}", (place, height), fontsize=8, va="center")


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value).rpartition("/")[2]
