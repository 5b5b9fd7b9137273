"""What would make a training pointless is refused with the key to change."""

import pytest

from tinyllm_ray.config import UserError
from tinyllm_ray.data.arrays import COMPONENT
from tinyllm_ray.data.features import open_features
from tinyllm_ray.data.store import StoreId
from tinyllm_ray.student.checks import check_ranks, check_weights, with_shards


def test_more_ranks_than_rows_or_shards_are_refused(experiment, make):
    check_ranks(experiment, 8, rows=40)
    with pytest.raises(UserError, match=r"9 ranks: a step has 8 rows .*pools.student.workers"):
        check_ranks(experiment, 9, rows=40)
    with pytest.raises(UserError, match=r"4 ranks: a step has 3 rows"):
        check_ranks(experiment, 4, rows=3)
    four = make.make_experiment(training={"shards": 4})
    check_ranks(four, 1, rows=40)
    with pytest.raises(UserError, match=r"5 ranks were asked for, but a step has 4 shards.*training.shards"):
        check_ranks(four, 5, rows=40)
    with pytest.raises(UserError, match=r"training.shards 9: a step has 8 rows"):
        check_ranks(make.make_experiment(training={"shards": 9}), 2, rows=40)


def test_shards_are_as_many_as_the_declared_ranks_unless_given(experiment, make):
    assert with_shards(experiment, 3).training.shards == 3
    assert with_shards(make.make_experiment(training={"shards": 4}), 3).training.shards == 4


def test_a_term_from_outside_has_a_name_of_its_own_and_components_that_exist(make):
    with pytest.raises(UserError, match=r"loss.custom: 'short' is the name of a component"):
        make.make_experiment(loss={"custom": {"short": {"path": "math:sqrt"}}})
    with pytest.raises(UserError, match=r"loss.custom.x.components: there is no component 'other'; there is .*'long'"):
        make.make_experiment(loss={"custom": {"x": {"path": "math:sqrt", "components": ["other"]}}})


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
    world.stores[StoreId("short")] = make.write_store(world.folder, "empty", {"train": rows})
    features = open_features(world.trial().features, "train")
    with pytest.raises(
        UserError, match=r"loss.rationale_weights.short is 2.0, but short has no usable text for the train"
    ):
        check_weights(experiment, features)


def test_a_teacher_that_is_chosen_for_no_question_is_no_mistake(world, make):
    for name, answer in (("long", "grey"), ("short", None)):
        rows = [make.rationale(q.question_id, "so", predicted_answer=answer or q.answer) for q in world.asked["train"]]
        world.stores[StoreId(name, answers=True)] = make.write_store(world.folder, f"own {name}", {"train": rows})
    changes = {"rationales": {"select": "best_teacher"}, "prompts": {"answer_splits": ["train"]}}
    features = open_features(world.trial(**changes).features, "train")
    assert set(features.examples[:, COMPONENT]) == {0, 2}
    check_weights(make.make_experiment(**changes), features)
