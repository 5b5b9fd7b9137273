import re
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
from matplotlib.figure import Figure

from tinyllm_ray.report.data import Trained, chance, read_report
from tinyllm_ray.report.figures import _curve_titles, draw_curves, pareto_front, seconds_by_stage
from tinyllm_ray.report.make import make_report
from tinyllm_ray.report.page import method_rows, render_page, search_summary, winner_sentence
from tinyllm_ray.report.published import published
from tinyllm_ray.report.routers import Routed, RouterShown
from tinyllm_ray.report.search_figures import _heights, _size_order
from tinyllm_ray.report.style import words


@pytest.fixture(scope="session")
def page(study):
    experiment, uri = study
    made = make_report(experiment, output_dir=experiment.output.dir, uri=uri)
    return made, Path(made["report"]).read_text()


@pytest.fixture(scope="session")
def data(study):
    experiment, uri = study
    return read_report(experiment, output_dir=experiment.output.dir, uri=uri)


def test_the_page_is_one_file_that_loads_nothing(page):
    _, html = page
    loaded = re.findall(r"(?:src|srcset|href)=\"([^\"]{0,40})|url\(([^)]{0,40})", html)
    assert {(a or b)[:15] for a, b in loaded if not a.startswith("#")} == {"data:image/png;"}


def test_questions_that_two_splits_share_are_said_at_the_top(data):
    sentence = "2 of 5 test questions are in train too"
    html = render_page(replace(data, overlaps=[sentence]), [], [], uri="sqlite:///m.db")
    assert f'<p class="banner mild">{sentence}.</p>' in html.partition("</header>")[0]
    assert "questions are in" not in render_page(data, [], [], uri="sqlite:///m.db").partition("</header>")[0]


def test_the_page_opens_with_the_sentence_and_an_honest_banner(page):
    made, html = page
    title = re.search(r"<h1>(.*?)</h1>", html, re.DOTALL).group(1)
    assert title.replace("&#39;", "'") == made["headline"]
    assert "A miniature world." in html


def test_what_a_teacher_wrote_is_never_html(page):
    _, html = page
    assert "&lt;b&gt;Things&lt;/b&gt;" in html and "<b>Things</b>" not in html


def test_the_page_works_in_the_dark_on_a_phone_and_on_paper(page):
    _, html = page
    assert "prefers-color-scheme: dark" in html and 'name="viewport"' in html and "@media print" in html


def test_a_curve_of_one_evaluation_is_a_dot(data):
    from matplotlib.figure import Figure

    marks = []
    for points in ([(10, 0.5)], [(10, 0.5), (20, 0.75)]):
        axes = Figure().subplots()
        draw_curves(replace(data, curves={"eval/accuracy": {"label_only": points}}), "eval/accuracy", axes)
        line = next(line for line in axes.lines if line.get_label() == "label only")
        marks.append((line.get_marker(), list(line.get_ydata())))
    assert marks == [("o", [50.0]), ("None", [50.0, 75.0])]


def test_figures_lie_beside_the_page_and_with_it_in_mlflow(page, study):
    made, _ = page
    beside = {path.name for path in Path(made["report"]).parent.iterdir()} - {"report.json"}
    assert {"methods.png", "effects.png", "search-parallel.png", "time.png", "report.html"} <= beside
    experiment, uri = study
    client = mlflow.MlflowClient(uri)
    found = client.get_experiment_by_name(experiment.name)
    parent = client.search_runs([found.experiment_id], "tags.`tinyllm.key` LIKE 'parent:%'")[0]
    assert {path.path.removeprefix("report/") for path in client.list_artifacts(parent.info.run_id, "report")} == beside


def test_the_method_table_holds_means_intervals_and_the_papers_numbers(data):
    rows = {row["name"]: row for row in method_rows(data)}
    assert next(iter(rows)) == "label_only"
    assert (rows["label_only"]["count"], rows["label_only"]["effect"], rows["label_only"]["paper"]) == (2, None, 41.6)
    mean = sum(100 * trial.metrics["test/accuracy"] for trial in data.methods["all_teachers"]) / 2
    assert rows["all_teachers"]["mean"] == pytest.approx(mean)
    difference = rows["all_teachers"]["mean"] - rows["label_only"]["mean"]
    assert rows["all_teachers"]["effect"].points == pytest.approx(difference)
    assert rows["all_teachers"]["paper"] == 47.6
    assert rows["only_llama"]["paper"] is None


def test_the_search_table_is_sorted_by_validation_accuracy(data):
    summary = search_summary(data)
    assert [trial.differs["loss.rationale_weights.llama"] for trial in summary["best"]] == ["0.7", "1.1", "2.5", "0.3"]
    assert (summary["count"], summary["stopped"], summary["final"]) == (4, 0, None)


def test_a_guess_and_the_teachers_stated_answers_are_measured(data, page):
    """Four choices each; every text of the stores states the gold answer."""
    assert data.chance == 0.25
    assert data.gold_share == {"llama": 1.0, "flan": 1.0}
    assert chance([{"choices": ["a", "b"]}, {"choices": ["a", "b", "c", "d"]}]) == (0.5 + 0.25) / 2
    assert "A guess scores 25.0%." in page[1]


def test_the_students_own_rationales_stand_beside_the_teachers(data, page):
    assert [row["question_id"] for row in data.own_rationales] == ["q0", "q1", "q2"]
    assert data.own_rationales[1]["own"] == {"llama": "It is red, <i>I</i> think (1)."}
    assert [text["teacher"] for text in data.own_rationales[1]["texts"]] == ["llama", "flan"]
    assert "It is red, &lt;i&gt;I&lt;/i&gt; think (1)." in page[1]


def test_the_winner_of_the_search_is_named_with_its_test_score():
    best = Trained("r", "search", 0, "result", 0, {}, {}, {"loss.label_weight": "0.3", "student.model": "base"})
    search = {"final": {"mean": 43.21, "count": 3}, "best": [best]}
    said = winner_sentence(search)
    assert said == "The search's winner (label weight 0.3, student base) scores 43.2% on test, mean of 3 seeds."
    assert winner_sentence(None) == winner_sentence({"final": None, "best": [best]}) == ""


def test_students_stand_by_size_on_their_axis():
    sizes = {"tiny": 10, "base": 900, "small": 50}
    trials = [Trained("r", "search", 0, "result", 0, {"result/parameters": size}, {}, {}) for size in sizes.values()]
    assert _size_order(list(sizes), trials) == ["tiny", "small", "base"]
    assert _heights(list(sizes), ["tiny", "small", "base"]) == [0.0, 1.0, 0.5]


def test_the_label_loss_comes_before_losses_that_not_every_variant_has(data):
    titles = [title for _, title in _curve_titles(data)]
    assert titles == ["Validation accuracy", "Loss: label", "Loss: llama", "Loss, all components weighted"]


def test_weights_that_vary_are_drawn_under_their_component(data):
    name, points = "train/weight/flan", {"all_teachers": [(10, 0.5), (20, 0.75)]}
    weighted = replace(data, curves={name: points})
    assert _curve_titles(weighted) == [(name, "Weight during training: flan")]
    axes = Figure().subplots()
    draw_curves(weighted, name, axes)
    assert axes.get_ylabel() == "weight" and axes.get_yscale() == "linear"
    assert axes.get_lines()[0].get_ydata().tolist() == [0.5, 0.75]


def test_the_page_shows_what_choosing_is_worth_as_teachers_are_added(data):
    right = {"q1": True, "q2": False}
    grown = [
        replace(data.trials[0], variant=f"first_{count}_{mode}", seed=0, correct={**right, "q2": mode == "correct"})
        for count, mode in ((1, "all"), (2, "all"), (2, "correct"))
    ]
    page = render_page(replace(data, grown=grown), [], [], uri="x")
    assert "As teachers are added" in page
    assert re.search(r"<td>correct</td><td class=\"n\">–</td><td class=\"n\">100.0</td>", page)
    assert "As teachers are added" not in render_page(data, [], [], uri="x")


def test_seconds_are_summed_by_stage(data):
    assert seconds_by_stage(data) == {
        "teacher llama": 8.0,
        "teacher flan": 8.0,
        "label_only": 30.0,
        "only_llama": 30.0,
        "only_flan": 30.0,
        "all_teachers": 30.0,
        "shuffled_rationales": 30.0,
        "search": 60.0,
    }


def test_samples_show_every_teachers_text_with_its_flags(data):
    assert [sample["question_id"] for sample in data.samples] == [f"q{i}" for i in range(40)]  # no more than 50: all
    first = data.samples[0]
    assert [(text["teacher"], text["flags"]) for text in first["texts"]] == [
        ("llama", ["short", "cut_off"]),
        ("flan", ["short", "cut_off"]),
    ]


def test_the_pareto_front_keeps_what_nothing_beats():
    points = [(10, 50), (20, 55), (20, 52), (30, 54), (40, 60), (5, 40)]
    assert pareto_front(points) == [(5, 40), (10, 50), (20, 55), (40, 60)]


def test_published_numbers_follow_the_student():
    assert published("arc", "tinyllm", student="google/flan-t5-large") == 64.29
    assert published("bioasq", "label_only", student="google/flan-t5-base") == 89.43
    assert published("bioasq", "label_only", student="tiny") == 78.86
    assert published("miniature", "label_only", student="tiny") is None


def test_a_teachers_name_is_written_as_the_config_has_it():
    assert [words(name) for name in ("only_north_llama", "all_teachers")] == ["only north_llama", "all teachers"]


def test_the_teachers_own_answers_show_how_far_choosing_could_go(page, data):
    own = data.conflict.found
    assert (data.conflict.split, data.conflict.forced) == ("train", False)
    assert own.accuracy == {"llama": 0.75, "flan": 0.25}  # of four colors, ten questions each
    (pair,) = own.pairs
    assert (pair.questions, pair.agree, pair.agreed_right) == (40, 0.5, 0.5)  # on red, right, and on blue, wrong
    assert (own.oracle, own.nobody) == (0.75, 10)
    _, html = page
    assert "10 questions are solved by nobody" in html and "llama and flan" in html


def test_teachers_that_contradict_each_other_stand_side_by_side(page, data):
    assert len(data.contradictions) == 10
    html = page[1].partition("Where the teachers contradict each other")[2]
    assert "llama answers “green”, which is right" in html and "flan answers “red”, which is wrong" in html


def test_what_the_rationales_state_carries_its_caveat(data):
    forced = replace(data, conflict=replace(data.conflict, forced=True))
    html = render_page(forced, [], [], uri="sqlite:///m.db")
    assert "What the rationales state" in html and "as the published rationales were made, mostly repeats it" in html


def test_a_router_is_explained(data):
    held_out = {"questions": 8, "router": 0.75, "best_teacher": 0.5, "best_teacher_name": "llama", "oracle": 0.875}
    teachers = [
        Routed("llama", 0.625, ["iron", "sink"], [("Does iron sink?", 0.61)]),
        Routed("flan", 0.375, [], []),
    ]
    html = render_page(replace(data, router=RouterShown(40, held_out, teachers)), [], [], uri="sqlite:///m.db")
    text = " ".join(re.sub(r"<[^>]*>", " ", html).split())
    assert "right on 75.0% of the other 8; the best single teacher, llama, is right on 50.0%" in text
    assert "llama 62.5 iron, sink Does iron sink? (0.61)" in text
    assert "What the router has learned" not in render_page(data, [], [], uri="sqlite:///m.db")
