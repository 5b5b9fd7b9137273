"""The page's figures: ReportData and effects in, a list of Figure (PNG bytes, light and dark) out."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from tinyllm_ray.data.quality import FLAGS
from tinyllm_ray.report.data import ReportData, Trained
from tinyllm_ray.report.effects import Effect, interval
from tinyllm_ray.report.growth import draw_growth, grown
from tinyllm_ray.report.overlap_figure import draw_pools, overlap_caption
from tinyllm_ray.report.published import published, published_teachers
from tinyllm_ray.report.search_figures import draw_parallel, draw_progress
from tinyllm_ray.report.style import DARK, LIGHT, color, legend_below, log_axis, render, words

WEIGHT = "train/weight/"
ROW = 0.36  # inches of a row in a dot plot


@dataclass(frozen=True)
class Figure:
    name: str  # of the PNG file
    section: str
    title: str
    caption: str
    light: bytes
    dark: bytes


def draw_all(data: ReportData, effects: Sequence[Effect]) -> list[Figure]:
    """Only what there is data for."""
    figures: list[Figure] = []

    def add(
        name: str, section: str, title: str, caption: str, draw: Callable[[Any], None], height: float = 3.4
    ) -> None:
        light, dark = (render(draw, height=height, theme=theme) for theme in (LIGHT, DARK))
        figures.append(Figure(name, section, title, caption, light, dark))

    if data.methods:
        rows = 1.5 + ROW * (len(data.methods) + 1)
        caption = "Each dot is a seed, the bar the mean; the line is a 95% interval over questions and seeds."
        add("methods", "methods", "Accuracy by method", caption, partial(draw_methods, data), rows)
    if effects:
        caption = "Differences on the same questions and seeds, 95% intervals; grey where zero is inside."
        height = 1.3 + ROW * len(effects)
        add("effects", "methods", "What each teacher adds", caption, partial(draw_effects, data, effects), height)
    if rows_of_growth := grown(data.grown_scores):
        caption = "Mean over seeds, with the experiment's first teachers: for each question all of them or one."
        draw = partial(draw_growth, rows_of_growth)
        add("growth", "growth", "Accuracy as teachers are added", caption, draw)
    for name, label, cost in COSTS:
        if sum(cost(data, trial) is not None for trial in data.trials) > 1:
            caption = "Validation accuracy of every training; the line joins those that nothing beats on both axes."
            draw = partial(draw_tradeoff, data, label=label, cost=cost)
            add(f"accuracy-by-{name}", "tradeoff", f"Accuracy against {name}", caption, draw)
    searched = [trial for trial in data.of("search") if trial.differs and "eval/accuracy" in trial.metrics]
    if searched:
        caption = "One line a trial; brighter is more accurate, dashed was stopped early."
        add("search-parallel", "search", "Searched values", caption, partial(draw_parallel, searched))
        caption = "Trials in order of their start; hollow ones were stopped early by the scheduler."
        add("search-progress", "search", "Accuracy over trials", caption, partial(draw_progress, searched))
    for metric, title in _curve_titles(data):
        caption = "Mean over seeds." if len(data.experiment.seeds) > 1 else "One seed."
        if metric == "train/loss":
            caption += " A weighted sum over the components that a variant has: compare a variant with itself only."
        add(_file_name(metric), "curves", title, caption, partial(draw_curves, data, metric))
    if flags := _flags(data):
        caption = (
            "Share of a teacher's rationales that carry a flag; it masks a rationale only where the config says so."
        )
        draw = partial(draw_flags, data, flags)
        add("rationale-flags", "rationales", "Flags by teacher", caption, draw, max(1.2 + 0.26 * len(flags), 2.2))
    if data.timeline:
        caption = overlap_caption(data.timeline)
        add("overlap", "cost", "Both pools over time", caption, partial(draw_pools, data.timeline), 2.2)
    if any(trial.device_s for trial in data.trials):
        add(
            "time", "cost", "Seconds by stage", "Seconds of wall time, summed over trainings.", partial(draw_time, data)
        )
    return figures


def draw_methods(data: ReportData, axes: Any) -> None:
    names, teachers = list(data.methods), [teacher.name for teacher in data.experiment.teachers]
    dataset, student = data.experiment.dataset.name, data.experiment.student.model
    for row, name in enumerate(names):
        accuracies = [100 * trial.metrics["test/accuracy"] for trial in data.methods[name]]
        tint, mean = color(name, teachers), float(np.mean(accuracies))
        matrix = _matrix(data, name)
        if matrix.size:
            low, high = interval(100 * matrix)
            axes.plot([low, high], [row, row], color=tint, lw=2.2, solid_capstyle="round")
        axes.plot([mean, mean], [row - 0.22, row + 0.22], color=tint, lw=3)
        axes.plot(accuracies, [row] * len(accuracies), "o", color=tint, ms=5, alpha=0.75, mec="none")
        paper = published(dataset, name, student=student)
        if paper is not None:
            label = "paper" if "paper" not in axes.get_legend_handles_labels()[1] else None
            axes.plot([paper], [row], "D", mfc="none", mec=tint, ms=7, label=label)
    _teacher_lines(data, axes.axvline)
    _chance_line(data, axes.axvline)
    axes.set_yticks(range(len(names)), [words(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.6)
    axes.set_xlabel("test accuracy, %")
    legend_below(axes)


def draw_effects(data: ReportData, effects: Sequence[Effect], axes: Any) -> None:
    teachers = [teacher.name for teacher in data.experiment.teachers]
    for row, effect in enumerate(effects):
        tint = color(effect.about if effect.kind in ("added", "alone") else effect.better, teachers)
        tint = tint if effect.sign else axes.yaxis.label.get_color()
        axes.plot([effect.low, effect.high], [row, row], color=tint, lw=2.2, alpha=1 if effect.sign else 0.45)
        axes.plot([effect.points], [row], "o", color=tint, ms=6, alpha=1 if effect.sign else 0.45)
    axes.axvline(0, color=axes.yaxis.label.get_color(), lw=1)
    axes.set_yticks(range(len(effects)), [effect_label(effect) for effect in effects])
    axes.set_ylim(len(effects) - 0.5, -0.5)
    axes.set_xlabel("points of test accuracy")


def effect_label(effect: Effect) -> str:
    match effect.kind:
        case "together":
            return "all teachers − label only"
        case "chosen":
            return f"one teacher by {effect.about} − all"
        case "added":
            return f"{effect.about}, added to the rest"
        case "alone":
            return f"{effect.about} alone − label only"
    return "all teachers − shuffled"


def draw_tradeoff(
    data: ReportData, axes: Any, *, label: str, cost: Callable[[ReportData, Trained], float | None]
) -> None:
    teachers = [teacher.name for teacher in data.experiment.teachers]
    points = []
    for trial in data.trials:
        value = cost(data, trial)
        if value is not None and "eval/accuracy" in trial.metrics:
            points.append((value, 100 * trial.metrics["eval/accuracy"], trial.variant))
    for variant in dict.fromkeys(point[2] for point in points):
        xs, ys = zip(*[(x, y) for x, y, name in points if name == variant], strict=True)
        marker = {"search": "^", "final": "*"}.get(variant) or "o"
        tint = color(variant, teachers)
        axes.plot(xs, ys, marker, color=tint, ms=9 if marker == "*" else 6, alpha=0.8, mec="none", label=words(variant))
    front = pareto_front([(x, y) for x, y, _ in points])
    axes.plot(*zip(*front, strict=True), drawstyle="steps-post", color=axes.yaxis.label.get_color(), lw=1, alpha=0.6)
    _teacher_lines(data, axes.axhline)
    _chance_line(data, axes.axhline)
    if max(x for x, _, _ in points) > 5 * max(min(x for x, _, _ in points), 1e-9):
        log_axis(axes)
    axes.set_xlabel(label)
    axes.set_ylabel("validation accuracy, %")
    legend_below(axes)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of (cost, accuracy) those that no other point beats on both, by rising cost."""
    front: list[tuple[float, float]] = []
    for cost, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or accuracy > front[-1][1]:
            front.append((cost, accuracy))
    return front


def draw_curves(data: ReportData, metric: str, axes: Any) -> None:
    teachers = [teacher.name for teacher in data.experiment.teachers]
    scale = 100 if metric == "eval/accuracy" else 1
    for variant, points in data.curves[metric].items():
        steps, values = zip(*points, strict=True)
        dash = "--" if variant.startswith("without_") or variant == "final" else "-"
        tint = color(variant, teachers)
        mark = "o" if len(steps) == 1 else None  # a line through one point is not seen
        axes.plot(steps, [scale * y for y in values], dash, marker=mark, color=tint, lw=1.6, label=words(variant))
    if scale == 1 and not metric.startswith(WEIGHT):
        log_axis(axes, which="y")
    elif data.chance is not None:
        _chance_line(data, axes.axhline)
    axes.set_xlabel("step")
    units = "weight" if metric.startswith(WEIGHT) else "cross-entropy a token"
    axes.set_ylabel("validation accuracy, %" if scale == 100 else units)
    legend_below(axes)


def draw_flags(data: ReportData, flags: Sequence[str], axes: Any) -> None:
    names = [teacher.name for teacher in data.experiment.teachers]
    height = 0.8 / len(data.teachers)
    for number, teacher in enumerate(data.teachers):
        shares = [100 * teacher.quality["flag_share"][flag] for flag in flags]
        places = [row + height * (number - (len(data.teachers) - 1) / 2) for row in range(len(flags))]
        axes.barh(places, shares, height=height * 0.9, color=color(teacher.name, names), label=teacher.name)
    axes.set_yticks(range(len(flags)), [words(flag) for flag in flags])
    axes.invert_yaxis()
    axes.set_xlabel("share of rationales, %")
    legend_below(axes)


def draw_time(data: ReportData, axes: Any) -> None:
    stages = list(seconds_by_stage(data).items())
    for row, (_, (name, seconds)) in enumerate(enumerate(stages)):
        axes.barh(row, seconds, color=color(name.removeprefix("teacher "), [t.name for t in data.experiment.teachers]))
        axes.annotate(f" {seconds:,.0f} s", (seconds, row), va="center", fontsize=8.5)
    axes.set_yticks(range(len(stages)), [words(name) for name, _ in stages])
    axes.invert_yaxis()
    axes.margins(x=0.18)
    axes.set_xlabel("seconds")


def seconds_by_stage(data: ReportData) -> dict[str, float]:
    """Teachers' wall time, then trainings' by variant."""
    stages: defaultdict[str, float] = defaultdict(float)
    for generation in data.generations:
        for name, report in generation.items():
            stages[f"teacher {name}"] += report["wall_s"]
    for trial in data.trials:
        if "result/wall_s" in trial.metrics:
            stages[trial.variant] += trial.metrics["result/wall_s"]
    return dict(stages)


def teacher_accuracies(data: ReportData) -> dict[str, float]:
    """In percent: the teachers' own answers on test where they were asked for, else the paper's."""
    own = {
        name: 100 * report["accuracy"]["test"]
        for generation in data.generations
        for name, report in generation.items()
        if "test" in report["accuracy"]
    }
    paper = published_teachers(data.experiment.dataset.name)
    return own or {f"{name} (paper)": accuracy for name, accuracy in paper.items()}


def _teacher_lines(data: ReportData, line: Callable[..., Any]) -> None:
    names = [teacher.name for teacher in data.experiment.teachers]
    for number, (name, accuracy) in enumerate(teacher_accuracies(data).items()):
        tint = color(name if name in names else names[number % len(names)], names) if names else None
        line(accuracy, color=tint, ls=":", lw=1.3, label=f"teacher {name}")


def _chance_line(data: ReportData, line: Callable[..., Any]) -> None:
    if data.chance is not None:
        line(100 * data.chance, color="#8a8f99", ls=(0, (5, 3)), lw=1.1, label="chance")


def _matrix(data: ReportData, variant: str) -> np.ndarray:
    """[seeds, questions] of 0 and 1, over the questions that every seed has."""
    by_seed = data.scores[variant]
    common = sorted(set.intersection(*map(set, by_seed.values()))) if by_seed else []
    return np.array([[scores[q] for q in common] for scores in by_seed.values()], float)


def _curve_titles(data: ReportData) -> list[tuple[str, str]]:
    first = ["eval/accuracy", "train/loss/label"]  # every variant has both, so they can be compared
    order = [name for name in first if name in data.curves]
    order += sorted(set(data.curves) - {*first, "train/loss"}) + ["train/loss"] * ("train/loss" in data.curves)
    titles = {"eval/accuracy": "Validation accuracy", "train/loss": "Loss, all components weighted"}
    weights = {
        name: f"Weight during training: {name.removeprefix(WEIGHT)}" for name in order if name.startswith(WEIGHT)
    }
    return [(name, (titles | weights).get(name) or f"Loss: {name.removeprefix('train/loss/')}") for name in order]


def _flags(data: ReportData) -> list[str]:
    """Those that some rationale carries."""
    return [flag for flag in FLAGS if any(teacher.quality["flag_share"][flag] for teacher in data.teachers)]


def _file_name(metric: str) -> str:
    return f"curve-{metric.replace('/', '-')}"


def _parameters(data: ReportData, trial: Trained) -> float | None:
    return trial.metrics.get("result/parameters")


def _cost(data: ReportData, trial: Trained) -> float | None:
    return trial.device_s or None


COSTS = (
    ("parameters", "parameters of the student", _parameters),
    ("cost", "device seconds of training", _cost),
)
