"""Which trainings may start before the teachers end."""

import pytest
from support.tiny_teachers import experiment

from tinyllm_ray.config import with_overrides
from tinyllm_ray.data.feature_parts import can_follow


@pytest.mark.parametrize(
    ("changes", "follows"),
    [
        ({}, True),
        ({"rationales.select": "random_one", "rationales.pick": "shortest"}, True),
        ({"rationales.select": "majority", "prompts.answer_splits": ["train"]}, False),
        ({"training.label_source": "teacher:north", "prompts.answer_splits": ["train"]}, False),
        ({"teachers.north.soft_targets": {}}, False),
    ],
)
def test_what_needs_all_that_the_teachers_write_waits_for_it(changes: dict, follows: bool) -> None:
    assert can_follow(with_overrides(experiment({"name": "north", "model": "m"}), changes)) is follows
