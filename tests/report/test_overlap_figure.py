"""The figure of both pools, from segments that were worked out by hand."""

from functools import partial

import matplotlib.pyplot as plt

from tinyllm_ray.data.timeline import Timeline
from tinyllm_ray.report.overlap_figure import draw_pools, overlap_caption
from tinyllm_ray.report.style import LIGHT, render

TIMELINE = Timeline([(100, 107), (109, 110)], [(104, 105), (106, 112)], 104)


def test_a_bar_is_where_a_pool_was_at_work() -> None:
    figure, axes = plt.subplots()
    draw_pools(TIMELINE, axes)
    bars = [[path.get_extents().intervalx.tolist() for path in bars.get_paths()] for bars in axes.collections]
    assert bars == [[[0, 7], [9, 10]], [[4, 5], [6, 12]]]
    assert [line.get_xdata()[0] for line in axes.lines] == [4]
    plt.close(figure)
    assert render(partial(draw_pools, TIMELINE), height=2.2, theme=LIGHT).startswith(b"\x89PNG")


def test_the_caption_says_the_wall_against_one_after_the_other() -> None:
    assert overlap_caption(TIMELINE) == (
        "Bars where a pool was at work. 12 s in all; to generate first and train then takes 15 s by the same bars. "
        "First step after 4 s. Idle: teacher pool 33%, student pool 42%."
    )
