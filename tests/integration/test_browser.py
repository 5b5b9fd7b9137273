"""A real browser on a finished search: nested runs, Compare and parallel coordinates in MLflow; the report's page.

Screenshots go to outputs/screenshots/.
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.mlflow_server import MlflowServer

from tinyllm_ray.report.make import make_report
from tinyllm_ray.tracking.read import Records

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync"
SLOW_MS = 300_000  # a bound that only what hangs can reach
pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)"),
]


@pytest.fixture(scope="module")
def search_page(finished_miniature, tmp_path_factory) -> Iterator[str]:
    """The address of MLflow's page of the runs of a finished search."""
    uri = finished_miniature.result["tracking_uri"]
    records = Records(uri)
    parent = records.parent("miniature", output_dir=str(finished_miniature.folder))
    experiment_id = records.client.get_run(parent.run_id).info.experiment_id
    with MlflowServer(tmp_path_factory.mktemp("server"), database=uri) as server:
        yield f"{server.uri}/#/experiments/{experiment_id}/runs"


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*QUIET.split(), "--no-first-run"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    page = browser.new_page(viewport={"width": 1500, "height": 1000})
    page.set_default_timeout(SLOW_MS)
    yield page
    page.close()


@pytest.fixture
def screenshots(repository) -> Path:
    folder = repository / "outputs" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_the_search_is_found_unfolded_and_compared(search_page, page, screenshots):
    page.goto(search_page)
    page.get_by_text("Model training", exact=True).click()
    page.get_by_role("button", name="Close", exact=True).click()  # the assistant's panel
    name = page.locator("[role=gridcell][col-id*='Run Name']")  # the grid shows each row in two parts
    parent_row = page.get_by_role("row").filter(has=name, has_text="miniature")
    parent_row.wait_for()
    page.screenshot(path=screenshots / "mlflow-parent.png")
    parent_row.locator("[col-id*='Run Name'] button").first.click()  # unfolds the children
    searched = page.get_by_role("row").filter(has_text=re.compile(r"search lw="))
    searched.first.wait_for()
    for variant in ("label_only", "only_north_llama", "only_south_t5", "all_teachers", "final"):
        page.get_by_text(f"{variant} seed 0").first.wait_for()
    boxes = searched.get_by_role("checkbox")
    assert boxes.count() == 3
    for number in range(3):
        boxes.nth(number).click()
    page.screenshot(path=screenshots / "mlflow-children.png")
    page.get_by_role("button", name="Compare").click()
    page.get_by_text("Comparing 3 Runs from 1 Experiment").wait_for()
    plot = page.locator(".js-plotly-plot .parcoords").first
    plot.wait_for(state="attached")
    axes = page.locator(".js-plotly-plot .axis-title")
    axes.first.wait_for()
    assert {"loss.label_weight", "loss.rationale_weights.north_llama"} <= set(axes.all_text_contents())
    for text in ("Parameters:", "Run details"):
        page.get_by_text(text, exact=True).first.wait_for()
    page.screenshot(path=screenshots / "mlflow-compare.png")


def test_the_report_reads_in_the_light_in_the_dark_and_on_a_phone(study, browser, screenshots):
    experiment, uri = study
    made = make_report(experiment, output_dir=str(experiment.output.dir), uri=uri)
    for name, width, scheme in (("desktop", 1200, "light"), ("dark", 1200, "dark"), ("phone", 390, "light")):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        failures: list[str] = []
        page.on("pageerror", lambda error, failures=failures: failures.append(str(error)))
        page.goto(f"file://{made['report']}")
        assert page.inner_text("h1") == made["headline"]
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 100)")
        page.fill("#filter", "thing 17?")
        assert page.locator("details.sample:visible").count() == 1
        page.fill("#filter", "")
        page.screenshot(path=screenshots / f"report-{name}.png", full_page=True)
        assert failures == []
        page.close()
