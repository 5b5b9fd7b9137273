import pytest

from tinyllm_ray.config import UserError, validate, with_overrides
from tinyllm_ray.schema.rationales import SELECT_MODES
from tinyllm_ray.tuning.methods import ablation, apply_method, comparison, growth


def experiment(method: str = "tinyllm", teachers=("a", "b"), **more):
    return validate(
        {
            "name": "x",
            "dataset": {"name": "toy", "path": "data"},
            "teachers": [given if isinstance(given, dict) else {"name": given, "model": "m"} for given in teachers],
            "student": {"model": "s"},
            "loss": {"rationale_weights": {"a": 0.5}},
            "training": {"method": method},
        }
        | more
    )


def test_tinyllm_gives_a_teacher_without_a_weight_the_weight_one():
    assert apply_method(experiment()).loss.rationale_weights == {"a": 0.5, "b": 1.0}


def test_label_only_turns_every_teacher_off_and_keeps_the_label_weight():
    loss = apply_method(experiment("label_only")).loss
    assert loss.rationale_weights == {"a": 0.0, "b": 0.0}
    assert loss.label_weight == 1.0


def test_step_by_step_keeps_one_teacher_with_its_weight():
    assert apply_method(experiment("step_by_step:a")).loss.rationale_weights == {"a": 0.5, "b": 0.0}


def test_inference_trains_no_step():
    assert apply_method(experiment("inference")).training.steps == 0


def test_lora_adds_adapters_to_label_only():
    resolved = apply_method(experiment("lora"))
    assert resolved.student.lora.rank == 8
    assert resolved.loss.rationale_weights == {"a": 0.0, "b": 0.0}


def test_shuffled_rationales_differ_from_tinyllm_by_one_flag():
    shuffled, whole = apply_method(experiment("shuffled_rationales")), apply_method(experiment("tinyllm"))
    assert shuffled.training.shuffle_rationales and not whole.training.shuffle_rationales
    assert shuffled.loss == whole.loss


SOFT = [{"name": "a", "model": "m", "soft_targets": {}}, {"name": "b", "model": "m", "soft_targets": {"top_k": 5}}]
ANSWERS = {"answer_splits": ["train"]}


def test_standard_kd_trains_on_soft_labels_of_the_teachers_own_answers_and_hard_kd_on_their_text():
    soft = apply_method(_soft("standard_kd:b"))
    hard = apply_method(_soft("hard_kd:b"))
    assert soft.training.label_source == hard.training.label_source == "teacher:b"
    assert soft.loss.rationale_weights == hard.loss.rationale_weights == {"a": 0.0, "b": 0.0}
    assert (soft.loss.soft_target_weights["label"], hard.loss.soft_target_weights["label"]) == (0.9, 0.0)


def test_standard_kd_needs_soft_targets_and_names_the_method_that_does_not():
    with pytest.raises(UserError, match=r"set teachers\.b\.soft_targets, or take hard_kd"):
        apply_method(experiment("standard_kd:b", prompts=ANSWERS))


def test_soft_targets_have_nine_tenths_of_their_teachers_weight_unless_it_is_given():
    assert apply_method(_soft("tinyllm")).loss.soft_target_weights == {"a": 0.9, "b": 0.9}
    given = {"loss": {"rationale_weights": {"a": 0.5}, "soft_target_weights": {"a": 0.5}}}
    assert apply_method(_soft("tinyllm", **given)).loss.soft_target_weights == {"a": 0.5, "b": 0.9}
    assert apply_method(experiment()).loss.soft_target_weights == {}


def test_a_weight_of_soft_targets_wants_a_teacher_that_keeps_them():
    with pytest.raises(
        UserError, match=r"loss\.soft_target_weights\.b is 0.5, but 'b' is no teacher with soft_targets"
    ):
        experiment(loss={"soft_target_weights": {"b": 0.5}})
    with pytest.raises(UserError, match=r"loss\.soft_target_weights\.label is 0.5, but 'gold' is no teacher"):
        experiment(loss={"soft_target_weights": {"label": 0.5}})


def test_weights_that_vary_are_refused_beside_soft_targets():
    with pytest.raises(UserError, match=r"loss\.weighting: uncertainty .* \(a, b\); set loss\.weighting to fixed"):
        _soft("tinyllm", loss={"weighting": "uncertainty"})


def _soft(method, **more):
    return experiment(method, SOFT, **({"prompts": ANSWERS} | more))


def test_standard_kd_without_answers_names_the_key_to_change():
    with pytest.raises(UserError, match=r"prompts\.answer_splits"):
        apply_method(experiment("standard_kd:b"))


def test_a_method_that_needs_one_of_two_teachers_asks_for_its_name():
    with pytest.raises(UserError, match=r"step_by_step:NAME; the teachers are \['a', 'b'\]"):
        apply_method(experiment("step_by_step"))


def test_an_unknown_method_is_refused_with_what_is_allowed():
    with pytest.raises(UserError, match="'distil' was given; allowed are inference"):
        apply_method(experiment("distil"))


def test_the_comparison_names_each_teacher_alone():
    assert list(comparison(experiment())) == ["label_only", "only_a", "only_b", "all_teachers"]


def test_the_ablation_of_two_teachers_trains_nothing_twice():
    assert list(ablation(experiment())) == ["label_only", "only_a", "only_b", "all_teachers", "shuffled_rationales"]


def test_the_ablation_of_three_teachers_leaves_out_each_one():
    names = list(ablation(experiment(teachers=("a", "b", "c"))))
    assert names[-4:] == ["without_a", "without_b", "without_c", "shuffled_rationales"]


def test_the_ablation_walks_the_ways_to_choose_a_teacher_where_there_are_own_answers():
    asked = with_overrides(experiment(), {"prompts.answer_splits": ["train"]})
    variants = ablation(asked)
    modes = ["random_one", "best_teacher", "majority", "agree", "correct", "router"]
    assert list(variants)[5:] == [f"select_{mode}" for mode in modes]
    assert [variants[f"select_{mode}"].rationales.select for mode in modes] == modes
    assert variants["all_teachers"].rationales.select == "all"


def test_teachers_are_added_in_their_order_and_one_alone_leaves_little_to_choose():
    asked = with_overrides(experiment(teachers=("a", "b", "c")), {"prompts.answer_splits": ["train"]})
    variants = growth(asked)
    chosen = [mode for mode in SELECT_MODES if mode != "agree"]
    names = ["first_1_all", "first_1_majority", "first_1_correct"]
    names += [f"first_{count}_{mode}" for count in (2, 3) for mode in ["all", *chosen]]
    assert list(variants) == names
    second = variants["first_2_correct"]
    assert [teacher.name for teacher in second.teachers] == ["a", "b"]
    assert (second.rationales.select, second.loss.rationale_weights) == ("correct", {"a": 0.5, "b": 1.0})
    assert variants["first_1_all"].loss.rationale_weights == {"a": 0.5}


def test_growing_needs_two_teachers_and_their_own_answers():
    for few in (experiment(), with_overrides(experiment(teachers=("a",)), {"prompts.answer_splits": ["train"]})):
        with pytest.raises(UserError, match=r"ablate --growing .* two teachers or more and train"):
            growth(few)
