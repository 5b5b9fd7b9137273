"""Features from questions and stores: joined by id, masked row by row, cut never in silence."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from tinyllm_ray import storage
from tinyllm_ray.config import UserError
from tinyllm_ray.data.features import build_features, open_features, read_meta
from tinyllm_ray.data.fit import count_choices, cut, new_counts
from tinyllm_ray.data.store import StoreId
from tinyllm_ray.data.tokenizer import StudentTokenizer
from tinyllm_ray.rows import Judged, Question, Routed, to_table


def texts(trial, features, row, component):
    """Target texts of one row and component."""
    tokenizer = StudentTokenizer.open(trial.tokenizer)
    table = features.examples[features.examples_of(np.array([row]))]
    spans = [(start, length) for _, of, _, _, start, length in table if of == component]
    return [tokenizer.decode(features.tokens[start : start + length].tolist()) for start, length in spans]


def test_each_row_has_its_answer_and_each_teachers_rationale(world):
    trial = world.trial()
    features = open_features(trial.features, "train")
    assert features.components == ["label", "long", "short"]
    assert texts(trial, features, 5, 0) == ["green"]
    assert texts(trial, features, 5, 2) == ["it is green"]
    assert features.question_ids[5] == "train-5"
    assert isinstance(features.tokens, np.memmap)


def test_inputs_hold_prefix_question_and_choices_and_end_with_the_end_mark(world):
    trial = world.trial()
    features = open_features(trial.features, "train")
    tokenizer = StudentTokenizer.open(trial.tokenizer)
    _, _, start, length, *_ = features.examples[features.examples_of(np.array([1]))[1]]
    ids = features.tokens[start : start + length].tolist()
    assert ids[-1] == tokenizer.eos
    choices = "(a) red\n(b) green\n(c) blue\n(d) grey"
    assert tokenizer.decode(ids) == f"explain: what color has thing 1 indeed\nAnswer Choices:\n{choices}"


def test_rationales_are_joined_by_question_id_whatever_the_order_of_the_store(world, make):
    rows = [make.rationale(q.question_id, f"about {q.question_id}") for q in reversed(world.asked["train"])]
    world.stores[StoreId("short")] = make.write_store(world.folder, "turned", {"train": rows})
    trial = world.trial()
    features = open_features(trial.features, "train")
    assert [texts(trial, features, row, 2) for row in (0, 39)] == [["about train-0"], ["about train-39"]]


def test_a_row_without_a_usable_rationale_keeps_its_other_tasks(world, make):
    unusable = {0: "", 1: " nan ", 2: "fine", 3: "loops", 4: "failed"}
    rows = [make.rationale(f"train-{i}", text, flags=["looping"] if i == 3 else []) for i, text in unusable.items()]
    rows[4] = make.rationale("train-4", "half a te", failure="engine error")
    world.stores[StoreId("short")] = make.write_store(world.folder, "poor", {"train": rows})
    trial = world.trial(training={"use_rationales": {"drop": ["looping"]}})
    features = open_features(trial.features, "train")
    assert [len(texts(trial, features, row, 2)) for row in range(6)] == [0, 0, 1, 0, 0, 0]
    assert all(len(texts(trial, features, row, component)) == 1 for row in range(6) for component in (0, 1))
    masked = read_meta(trial.features)["splits"]["train"]["masked"]
    assert masked["short/empty"] == 2 and masked["short/flagged"] == 1 and masked["short/missing"] == 39


def test_several_rationales_of_a_question_are_all_targets_and_share_its_input(world, make):
    rows = [make.rationale("train-7", text, sample=i) for i, text in enumerate(["it is grey", "grey it is"])]
    world.stores[StoreId("short")] = make.write_store(world.folder, "twice", {"train": rows})
    trial = world.trial()
    features = open_features(trial.features, "train")
    assert texts(trial, features, 7, 2) == ["it is grey", "grey it is"]
    sources = features.examples[features.examples_of(np.array([7])), 2]
    assert sources[2] == sources[3]


def test_a_store_with_rows_of_unknown_questions_is_counted_and_refused_above_the_share(world, make):
    rows = [make.rationale(q.question_id, "fine") for q in world.asked["train"]]
    rows += [make.rationale(f"stranger-{i}", "who") for i in range(10)]
    world.stores[StoreId("short")] = make.write_store(world.folder, "strange", {"train": rows})
    with pytest.raises(UserError, match=r"store of short holds 10 of 50 train rows .* raise training.max_unknown"):
        world.trial()
    trial = world.trial(training={"max_unknown_fraction": 0.2})
    assert read_meta(trial.features)["splits"]["train"]["unknown"]["short"] == 10


def test_an_input_that_would_be_cut_is_refused_with_the_length_it_needs(world):
    with pytest.raises(UserError, match=r"120 of 120 inputs are longer than .*max_input_tokens = 30.*set .* to 36,"):
        world.trial(student={"max_input_tokens": 30})
    trial = world.trial(student={"max_input_tokens": 30}, training={"max_truncated_fraction": 1.0})
    features = open_features(trial.features, "train")
    assert features.examples[:, 3].max() == 30


def test_answers_longer_than_max_label_tokens_are_refused(world):
    with pytest.raises(UserError, match=r"labels are longer than student.max_label_tokens = 1"):
        world.trial(student={"max_label_tokens": 1})


def test_rationales_that_are_cut_are_counted(world):
    trial = world.trial(student={"max_rationale_tokens": 20})
    counts = read_meta(trial.features)["splits"]["train"]
    lengths = open_features(trial.features, "train").examples
    assert 0 < counts["truncated"]["long"] < 40 and counts["truncated"]["short"] == 0
    assert lengths[lengths[:, 1] == 1, 5].max() == 20


def test_a_teachers_answers_can_be_the_labels_of_train_but_not_of_validation(world, make):
    rows = [make.rationale(q.question_id, "so", predicted_answer="blue") for q in world.asked["train"][:3]]
    world.stores[StoreId("long", answers=True)] = make.write_store(world.folder, "answers", {"train": rows})
    trial = world.trial(training={"label_source": "teacher:long"})
    train, validation = (open_features(trial.features, split) for split in ("train", "validation"))
    assert [texts(trial, train, row, 0) for row in (0, 3)] == [["blue"], []]
    assert texts(trial, validation, 0, 0) == ["red"]


def test_answers_that_were_never_generated_are_refused(world):
    with pytest.raises(UserError, match=r"add `train` to prompts.answer_splits"):
        world.trial(training={"label_source": "teacher:long"})


def test_features_are_built_once_and_again_only_when_what_they_depend_on_changes(world, make):
    trial = world.trial()
    stamp = Path(trial.features, "meta.json").stat().st_mtime_ns
    assert world.trial(training={"learning_rate": 0.5}).features == trial.features
    assert Path(trial.features, "meta.json").stat().st_mtime_ns == stamp
    assert world.trial(student={"label_prefix": "answer: "}).features != trial.features
    assert [path.name for path in Path(trial.features).parent.glob(".tmp-*")] == []
    plan = json.loads(Path(trial.features, "meta.json").read_text())["plan"]
    assert plan["prefixes"] == ["predict: ", "explain: ", "rationale: "]


def test_a_test_split_is_held_to_the_same_rule(world, make):
    long = [replace(question, question="what color " * 60) for question in world.asked["test"]]
    world.questions["test"] = make.write_questions(world.folder, "test", long)
    with pytest.raises(UserError, match=r"test: 8 of 8 inputs are longer than student.max_input_tokens = 60"):
        world.trial(student={"max_input_tokens": 60})


@pytest.fixture
def words_alone(tmp_path):
    """A tokenizer that knows six words and can write nothing else."""
    backend = Tokenizer(WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2, "red": 3, "it": 4, "is": 5}, unk_token="<unk>"))
    backend.pre_tokenizer = Whitespace()
    return StudentTokenizer(backend, encoder_decoder=True, bos=None, eos=1, pad=0, unknown=2)


def test_unknown_tokens_are_counted_by_kind_of_text(words_alone):
    counts = new_counts()
    cut(words_alone.targets(["it is red", "it is blue", "水"]), 8, "label", words_alone, counts)
    assert (counts["total"]["label"], counts["unknown_tokens"]["label"]) == (3, 2)


def test_questions_whose_choices_have_the_same_tokens_are_counted(words_alone):
    counts = new_counts()
    asked = [
        Question("1", "?", ["red", "it"], "it"),
        Question("2", "?", ["水", "火"], "火"),
        Question("3", "?", [], "5"),
    ]
    count_choices(asked, words_alone, counts)
    assert counts["choices"] == {"questions": 2, "indistinct": 1}


def test_a_student_that_cannot_tell_the_choices_apart_is_refused(world, make, experiment, tmp_path):
    chinese = [replace(question, choices=["水", "火"], answer="水") for question in world.asked["train"]]
    files = world.questions | {"train": make.write_questions(world.folder, "train", chinese)}
    folder = tmp_path / "words"
    backend = Tokenizer(WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2}, unk_token="<unk>"))
    backend.pre_tokenizer = Whitespace()
    folder.mkdir()
    backend.save(str(folder / "tokenizer.json"))
    (folder / "layout.json").write_text('{"encoder_decoder": true, "bos": null, "eos": 1, "pad": 0, "unknown": 2}')
    inputs = {"questions": files, "stores": {}, "tokenizer_folder": str(folder), "output_dir": str(tmp_path / "out")}
    with pytest.raises(UserError, match=r"train: 40 of 40 questions have choices .* cannot tell them apart"):
        build_features(experiment, **inputs)


def test_of_several_rationales_the_right_ones_are_kept_and_the_shortest_or_the_first_picked(world, make):
    # things 0 and 1 are red and green; of thing 2, which is blue, nobody says so
    said = {
        0: [("it is long and it is red", "red"), ("it is green", "green"), ("it is red", "red")],
        1: [("green it is", "green"), ("green", "green")],
        2: [("it is red", "red")],
    }
    rows = [
        make.rationale(f"train-{i}", text, sample=sample, predicted_answer=answer)
        for i, samples in said.items()
        for sample, (text, answer) in enumerate(samples)
    ]
    world.stores[StoreId("short")] = make.write_store(world.folder, "samples", {"train": rows})
    expected = {
        ("all", "all"): [
            ["it is long and it is red", "it is green", "it is red"],
            ["green it is", "green"],
            ["it is red"],
        ],
        ("correct", "all"): [["it is long and it is red", "it is red"], ["green it is", "green"], []],
        ("correct", "first"): [["it is long and it is red"], ["green it is"], []],
        ("correct", "shortest"): [["it is red"], ["green"], []],
        ("all", "first"): [["it is long and it is red"], ["green it is"], ["it is red"]],
    }
    for (keep, pick), wanted in expected.items():
        trial = world.trial(rationales={"keep": keep, "pick": pick})
        features = open_features(trial.features, "train")
        assert [texts(trial, features, row, 2) for row in range(3)] == wanted
        assert [texts(trial, features, row, 0) for row in range(3)] == [["red"], ["green"], ["blue"]]
    two = world.trial(rationales={"pick": "shortest", "per_question": 2})
    assert texts(two, open_features(two.features, "train"), 0, 2) == ["it is green", "it is red"]
    counts = read_meta(world.trial(rationales={"keep": "correct", "pick": "first"}).features)["splits"]["train"]
    assert (counts["masked"]["short/wrong"], counts["masked"]["short/not_picked"]) == (2, 2)


def test_one_teacher_is_chosen_for_each_training_question_and_said(world, make):
    own = {
        "long": ["red", "green", "red", "red"],  # right on things 0 and 1
        "short": ["red", "red", "blue", ""],  # right on things 0 and 2
    }
    for name, answers in own.items():
        rows = [
            make.rationale(f"train-{i}", "so", predicted_answer=answer, failure="" if answer else "none")
            for i, answer in enumerate(answers)
        ]
        world.stores[StoreId(name, answers=True)] = make.write_store(world.folder, f"own {name}", {"train": rows})
    prompts = {"answer_splits": ["train"]}
    trial = world.trial(rationales={"select": "correct"}, prompts=prompts)
    features = open_features(trial.features, "train")
    has = [[len(texts(trial, features, row, teacher)) for teacher in (1, 2)] for row in range(5)]
    assert sum(has[0]) == 1 and has[1:] == [[1, 0], [0, 1], [0, 0], [0, 0]]
    assert all(len(texts(trial, features, row, 0)) == 1 for row in range(40))
    chosen = pq.read_table(f"{trial.features}/train/selection.parquet").to_pylist()
    assert chosen[1] == {"question_id": "train-1", "teacher": "long", "by": "correct", "score": 0.5}
    assert chosen[3] == {"question_id": "train-3", "teacher": "", "by": "correct", "score": 0.0}
    validation = open_features(trial.features, "validation")
    assert len(texts(trial, validation, 0, 1)) == 1 == len(texts(trial, validation, 0, 2))
    agreed = world.trial(rationales={"select": "agree"}, prompts=prompts)
    teachers = pq.read_table(f"{agreed.features}/train/selection.parquet")["teacher"].to_pylist()
    assert teachers[0] in ("long", "short") and set(teachers[1:]) == {""}


def test_the_router_chooses_by_its_probabilities_and_other_routers_make_other_features(world, make, tmp_path):
    for name in ("long", "short"):
        rows = [make.rationale(q.question_id, "so", predicted_answer="red") for q in world.asked["train"]]
        world.stores[StoreId(name, answers=True)] = make.write_store(world.folder, f"own {name}", {"train": rows})
    folders = [str(tmp_path / "routers" / name) for name in ("one", "other")]
    for folder, share in zip(folders, (0.75, 0.25), strict=True):
        rows = [Routed(q.question_id, [share, 1 - share]) for q in world.asked["train"]]
        storage.write_table(f"{folder}/routed.parquet", to_table(rows, Routed))
    changes = {"rationales": {"select": "router"}, "prompts": {"answer_splits": ["train"]}}
    one, other = (world.trial(router=folder, **changes) for folder in folders)
    assert one.features != other.features
    chosen = [pq.read_table(f"{trial.features}/train/selection.parquet").to_pylist()[7] for trial in (one, other)]
    assert chosen[0] == {"question_id": "train-7", "teacher": "long", "by": "router", "score": 0.75}
    assert chosen[1] == {"question_id": "train-7", "teacher": "short", "by": "router", "score": 0.75}


def test_rationales_below_the_judges_threshold_are_not_used_and_counted(world, make, tmp_path):
    rows = [make.rationale(f"train-{i}", f"about {i}", key=f"k{i}") for i in range(4)]
    world.stores[StoreId("short")] = make.write_store(world.folder, "judged", {"train": rows, "validation": []})
    scores = [Judged("short", f"k{i}", score) for i, score in enumerate((2, 3, 0, 5))] + [Judged("long", "k0", 5)]
    folder = str(tmp_path / "judgements" / "one")
    storage.write_table(f"{folder}/judged.parquet", to_table(scores, Judged))
    judge = {"by": {"name": "critic", "model": "m"}, "threshold": 3}
    trial = world.trial(
        judged=folder, rationales={"judge": judge}, loss={"label_weight": 1.0, "rationale_weights": {"long": 0.0}}
    )
    features = open_features(trial.features, "train")
    assert [texts(trial, features, row, 2) for row in range(4)] == [[], ["about 1"], [], ["about 3"]]
    masked = read_meta(trial.features)["splits"]["train"]["masked"]
    assert (masked["short/below_threshold"], masked["short/not_judged"], masked["long/not_judged"]) == (1, 1, 40)
    higher = world.trial(judged=folder, rationales={"judge": judge | {"threshold": 4}})
    assert texts(higher, open_features(higher.features, "train"), 1, 2) == []


def test_rationales_of_a_question_that_moved_to_another_split_are_no_strangers(world, make):
    rows = [make.rationale(q.question_id, "fine") for q in world.asked["train"] + world.asked["validation"]]
    world.stores[StoreId("short")] = make.write_store(world.folder, "moved", {"train": rows})
    assert read_meta(world.trial().features)["splits"]["train"]["unknown"]["short"] == 0


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"rationales": {"select": "majority"}}, "needs the teachers' own answers; add train to prompts.answer_splits"),
        (
            {
                "rationales": {"keep": "correct"},
                "teachers": [{"name": "long", "model": "m"}],
                "loss": {"rationale_weights": {}},
            },
            "set prompts.teacher_forcing to false",
        ),
    ],
)
def test_a_choice_that_needs_what_the_teachers_do_not_write_is_refused(make, sections, message):
    with pytest.raises(UserError, match=message):
        make.make_experiment(**sections)


@pytest.mark.parametrize(
    ("name", "content"),
    [("meta.json", b"{"), ("meta.json", b"[]"), ("train/tokens.npy", b"\x93NUMPY"), ("train/examples.npy", None)],
)
def test_damaged_features_are_one_message_with_the_way_out(world, name, content):
    folder = world.trial().features
    path = Path(folder, name)
    path.write_bytes(path.read_bytes()[:-9] if content is None else content)
    with pytest.raises(UserError, match=rf"the features in {folder} are damaged .*; remove this folder"):
        open_features(folder, "train")


@pytest.mark.parametrize("name", ["tokenizer.json", "layout.json"])
def test_a_damaged_tokenizer_folder_is_one_message_with_the_way_out(world, name):
    folder = world.trial().tokenizer
    Path(folder, name).write_text("{")
    with pytest.raises(UserError, match=rf"{folder} is damaged .*; remove this folder"):
        StudentTokenizer.open(folder)
