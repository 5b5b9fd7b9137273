"""The page: ReportData and drawn figures in, one self-contained HTML text out."""

import base64
import statistics as stats
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import jinja2

from tinyllm_ray.data.quality import FLAGS
from tinyllm_ray.redact import redact_text
from tinyllm_ray.report.data import ReportData, Trained
from tinyllm_ray.report.effects import Effect, against_label_only, conclude
from tinyllm_ray.report.figures import Figure, effect_label, teacher_accuracies
from tinyllm_ray.report.growth import grown
from tinyllm_ray.report.published import paper_size, published, published_teachers
from tinyllm_ray.report.style import words

SHOWN_TRIALS = 10


def render_page(data: ReportData, effects: Sequence[Effect], figures: Sequence[Figure], *, uri: str) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tinyllm_ray.report"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {
        "short_path": _short_path,
        "percent": _percent,
        "signed": _signed,
        "count": _count,
        "words": words,
    }
    experiment = data.experiment
    return environment.get_template("report.html.j2").render(
        experiment=experiment,
        parent=data.parent,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        headline=conclude(effects),
        winner=winner_sentence(search_summary(data)),
        chance=None if data.chance is None else 100 * data.chance,
        gold_share=data.gold_share,
        own_rationales=data.own_rationales,
        miniature=experiment.dataset.format == "miniature",
        missing=[redact_text(line) for line in data.missing],
        overlaps=data.overlaps,
        methods=method_rows(data),
        effects=[(effect_label(effect), effect) for effect in effects],
        growth=grown(data.grown_scores),
        paper=paper_size(experiment.student.model) if published_teachers(experiment.dataset.name) else "",
        teacher_accuracies=teacher_accuracies(data),
        search=search_summary(data),
        teachers=data.teachers,
        agreement=data.agreement,
        samples=data.samples,
        conflict=data.conflict,
        contradictions=data.contradictions,
        router=data.router,
        flags=FLAGS,
        costs=cost_rows(data),
        generations=[report for generation in data.generations for report in generation.values()],
        datasets=data.datasets,
        uri=redact_text(uri),
        figures=_by_section(figures),
    )


def method_rows(data: ReportData) -> list[dict[str, Any]]:
    """One row a method, label only first: mean, deviation over seeds, the paired difference, the paper's number."""
    paired = against_label_only(data.scores)
    rows = []
    for name, trials in sorted(data.methods.items(), key=lambda item: item[0] != "label_only"):
        accuracies = [100 * trial.metrics["test/accuracy"] for trial in trials]
        paper = published(data.experiment.dataset.name, name, student=data.experiment.student.model)
        rows.append(
            {
                "name": name,
                "count": len(accuracies),
                "mean": stats.mean(accuracies),
                "deviation": stats.stdev(accuracies) if len(accuracies) > 1 else None,
                "effect": paired.get(name),
                "paper": paper,
            }
        )
    return rows


def search_summary(data: ReportData) -> dict[str, Any] | None:
    """The best trials by validation accuracy, and the winner's scores on test; None without a search."""
    ended = [trial for trial in data.of("search") if "eval/accuracy" in trial.metrics]
    if not ended:
        return None
    final = [100 * trial.metrics["test/accuracy"] for trial in data.of("final") if "test/accuracy" in trial.metrics]
    return {
        "paths": list(dict.fromkeys(path for trial in ended for path in trial.differs)),
        "best": sorted(ended, key=lambda trial: -trial.metrics["eval/accuracy"])[:SHOWN_TRIALS],
        "count": len(data.of("search")),
        "stopped": sum(trial.ended == "stopped" for trial in ended),
        "failed": sum(trial.ended == "failure" for trial in data.of("search")),
        "final": {"mean": stats.mean(final), "count": len(final)} if final else None,
        "champion": {k: v for k, v in data.parent.tags.items() if k.startswith("champion.")},
    }


def winner_sentence(search: dict[str, Any] | None) -> str:
    """What the search found; empty without a search whose winner was scored."""
    if not search or not search["final"]:
        return ""
    sampled = ", ".join(f"{_short_path(path)} {value}" for path, value in search["best"][0].differs.items())
    count = search["final"]["count"]
    return (
        f"The search's winner ({sampled}) scores {search['final']['mean']:.1f}% on test, "
        f"{'one seed' if count == 1 else f'mean of {count} seeds'}."
    )


def _short_path(path: str) -> str:
    """loss.rationale_weights.north -> north weight; student.model -> student."""
    if path == "student.model":
        return "student"
    last = path.rpartition(".")[2]
    return f"{last} weight" if ".rationale_weights." in path else last.replace("_", " ")


def cost_rows(data: ReportData) -> list[dict[str, Any]]:
    """Sums over the trainings of each variant."""
    by_variant: dict[str, list[Trained]] = {}
    for trial in data.trials:
        by_variant.setdefault(trial.variant, []).append(trial)
    return [
        {
            "name": name,
            "count": len(trials),
            "wall_s": _total(trials, "result/wall_s"),
            "train_s": _total(trials, "result/train_s"),
            "device_s": sum(trial.device_s for trial in trials),
            "tokens": _total(trials, "result/trained_tokens"),
        }
        for name, trials in by_variant.items()
    ]


def _total(trials: Sequence[Trained], metric: str) -> float:
    return sum(trial.metrics[metric] for trial in trials if metric in trial.metrics)


def _by_section(figures: Sequence[Figure]) -> Mapping[str, list[dict[str, str]]]:
    sections: dict[str, list[dict[str, str]]] = {}
    for figure in figures:
        light, dark = (base64.b64encode(data).decode() for data in (figure.light, figure.dark))
        entry = {"title": figure.title, "caption": figure.caption, "light": light, "dark": dark}
        sections.setdefault(figure.section, []).append(entry)
    return {
        "methods": [],
        "growth": [],
        "tradeoff": [],
        "search": [],
        "curves": [],
        "rationales": [],
        "cost": [],
    } | sections


def _percent(value: float) -> str:
    return f"{value:.1f}"


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")


def _count(value: float) -> str:
    return f"{value:,.0f}".replace(",", "\u202f")
