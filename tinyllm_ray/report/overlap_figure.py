"""The figure of both pools at work: a Timeline in, a drawing function and its caption out."""

from typing import Any

from tinyllm_ray.data.timeline import Timeline
from tinyllm_ray.report.style import color

POOLS = ("teacher pool", "student pool")


def draw_pools(timeline: Timeline, axes: Any) -> None:
    """A bar where a pool was at work, over seconds since the first of them began; a line at the first step."""
    for row, (name, segments) in enumerate(zip(POOLS, (timeline.teachers, timeline.students), strict=True)):
        bars = [(first - timeline.start, last - first) for first, last in segments]
        axes.broken_barh(bars, (row - 0.3, 0.6), facecolor=color(name, list(POOLS)), lw=0)
    if timeline.first_step is not None:
        axes.axvline(timeline.first_step - timeline.start, color=axes.yaxis.label.get_color(), lw=1, ls=":")
    axes.set_yticks(range(len(POOLS)), POOLS)
    axes.set_ylim(len(POOLS) - 0.5, -0.5)
    axes.set_xlim(0, timeline.end - timeline.start)
    axes.set_xlabel("seconds")


def overlap_caption(timeline: Timeline) -> str:
    """The wall time against generating first and training then, the first step, and both idle shares."""
    wall = timeline.end - timeline.start
    first = "" if timeline.first_step is None else f" First step after {timeline.first_step - timeline.start:,.0f} s."
    return (
        f"Bars where a pool was at work. {wall:,.0f} s in all; to generate first and train then takes "
        f"{timeline.one_after_the_other_s:,.0f} s by the same bars.{first} Idle: teacher pool "
        f"{timeline.idle_share(timeline.teachers):.0%}, student pool {timeline.idle_share(timeline.students):.0%}."
    )
