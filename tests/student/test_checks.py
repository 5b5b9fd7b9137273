"""What would make a training pointless is refused with the key to change."""

import pytest

from tinyllm_ray.config import UserError
from tinyllm_ray.data.features import open_features
from tinyllm_ray.student.checks import check_ranks, check_weights, component_weights


def test_component_weights_follow_the_order_of_the_components(make):
    loss = make.make_experiment(loss={"label_weight": 0.5, "rationale_weights": {"short": 3.0}}).loss
    assert component_weights(loss, ["label", "long", "short"]) == [0.5, 0.0, 3.0]


def test_more_ranks_than_rows_are_refused(experiment):
    check_ranks(experiment, 8, rows=40)
    with pytest.raises(UserError, match=r"9 ranks were asked for, but a step has 8 rows .*pools.student.workers"):
        check_ranks(experiment, 9, rows=40)
    with pytest.raises(UserError, match=r"4 ranks .* has 3 rows"):
        check_ranks(experiment, 4, rows=3)


def test_all_weights_zero_are_refused(make):
    with pytest.raises(
        UserError, match=r"all weights are zero; set loss.label_weight or one of loss.rationale_weights"
    ):
        make.make_experiment(loss={"label_weight": 0, "rationale_weights": {"long": 0, "short": 0}})


def test_float16_is_refused_with_the_reason(make):
    with pytest.raises(UserError, match=r"float16 overflows in T5.*use bfloat16 or float32"):
        make.make_experiment(student={"dtype": "float16"})


def test_a_teacher_none_of_whose_texts_can_be_used_needs_weight_zero(world, make, experiment):
    rows = [make.rationale(q.question_id, "nan") for q in world.asked["train"]]
    world.stores["short"] = make.write_store(world.folder, "empty", {"train": rows})
    features = open_features(world.trial().features, "train")
    with pytest.raises(
        UserError, match=r"loss.rationale_weights.short is 2.0, but short has no usable text for the train"
    ):
        check_weights(experiment, features)
