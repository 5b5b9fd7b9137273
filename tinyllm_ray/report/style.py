"""How figures look: a light and a dark theme, one color per method everywhere, PNG bytes out."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter, StrMethodFormatter

DPI = 160
WIDTH = 5.2  # inches: readable on a phone, two abreast on a desktop
TEACHER_COLORS = ("#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6BB1")
ALL, FINAL, LABEL, SHUFFLED, SEARCH = "#2F7ED8", "#9B6DD6", "#7F8794", "#B0A160", "#4C9BB8"


@dataclass(frozen=True)
class Theme:
    name: str
    page: str
    ink: str
    faint: str


LIGHT = Theme("light", "#ffffff", "#1d2330", "#d9dde5")
DARK = Theme("dark", "#171b24", "#e4e8f0", "#39404e")


def color(variant: str, teachers: Sequence[str]) -> str:
    """The same for a variant in every figure; a teacher's own variants share its color."""
    if variant in ("all_teachers", "tinyllm"):
        return ALL
    if variant == "final":
        return FINAL
    if variant == "shuffled_rationales":
        return SHUFFLED
    if variant == "search":
        return SEARCH
    for number, teacher in enumerate(teachers):
        if variant in (f"only_{teacher}", f"without_{teacher}", teacher):
            return TEACHER_COLORS[number % len(TEACHER_COLORS)]
    return LABEL


def render(draw: Callable[[Any], None], *, height: float, theme: Theme) -> bytes:
    """A PNG of one axes that `draw` fills."""
    settings: dict[Any, Any] = {
        "figure.facecolor": theme.page,
        "axes.facecolor": theme.page,
        "axes.edgecolor": theme.faint,
        "axes.labelcolor": theme.ink,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": theme.faint,
        "grid.linewidth": 0.6,
        "text.color": theme.ink,
        "xtick.color": theme.ink,
        "ytick.color": theme.ink,
        "font.size": 10,
        "legend.frameon": False,
        "legend.fontsize": 8.5,
    }
    with plt.rc_context(settings):
        figure, axes = plt.subplots(figsize=(WIDTH, height), layout="constrained")
        draw(axes)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=DPI)
        plt.close(figure)
    return buffer.getvalue()


def legend_below(axes: Any) -> None:
    """Outside the axes, where it hides nothing; none where nothing is labeled."""
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        axes.figure.legend(handles, labels, loc="outside lower center", ncols=3)


def words(variant: str) -> str:
    """`only_my_teacher` reads `only my_teacher`: a teacher's name stays as the config has it."""
    start, _, teacher = variant.partition("_")
    return f"{start} {teacher}" if start in ("only", "without") else variant.replace("_", " ")


def log_axis(axes: Any, *, which: str = "x") -> None:
    """A logarithmic axis marked 1, 2, 5, 10."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(EngFormatter(sep="") if which == "x" else StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())
