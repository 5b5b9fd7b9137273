"""The HTTP interface without Ray: what is asked and answered, what is refused, the health check and its page."""

import pytest
from fastapi.testclient import TestClient
from support.champions import PREFIX
from support.tiny_students import save_model

from tinyllm_ray import storage
from tinyllm_ray.deploy.api import EXAMPLE, build_api
from tinyllm_ray.rows import Question
from tinyllm_ray.student.predict import answer_row, open_student, predict


class OneByOne:
    """Answers as a replica does, without batches."""

    def __init__(self, folder: str) -> None:
        self.student, self.name, self.fault = open_student(folder), "mine", ""
        self.task, self.labels = self.student.task, self.student.labels

    async def answer(self, question: Question, rationales: bool) -> dict:
        return answer_row(predict(self.student, [question], rationales=rationales)[0])


@pytest.fixture
def answerer(tmp_path):
    folder = str(tmp_path / "model")
    save_model(folder, "t5")
    settings = {"student": {"label_prefix": PREFIX, "max_rationale_tokens": 3}, "evaluation": {}, "dataset": {}}
    storage.write_json(f"{folder}/student.json", settings | {"task_prefixes": {"llama": "llama : "}})
    return OneByOne(folder)


def test_the_example_of_the_page_is_answered_with_one_of_its_choices(answerer):
    client = TestClient(build_api(answerer))
    schema = client.get("/openapi.json").json()
    (example,) = schema["components"]["schemas"]["Asked"]["examples"]
    assert example == EXAMPLE
    asked = {"question": "What color is thing red?", "choices": ["red", "green thing"]}
    answer = client.post("/answer", json=asked).json()
    expected = answer_row(predict(answerer.student, [Question("0", answer="", **asked)])[0])
    assert answer == expected and answer["answer"] in asked["choices"] and answer["rationales"] == {}
    explained = client.post("/answer", json=asked | {"rationales": True}).json()
    assert explained["answer"] == answer["answer"] and list(explained["rationales"]) == ["llama"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"question": "What?", "choices": ["red"]}, "1 choice given; a question needs 2 to 26"),
        ({"question": " ", "choices": ["red", "green"]}, "`question` must be a text"),
        ({"question": "What?", "choises": ["red", "green"]}, "Extra inputs are not permitted"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_the_reason(answerer, body, message):
    refused = TestClient(build_api(answerer)).post("/answer", json=body)
    assert refused.status_code == 422
    assert message in refused.text and "row 0" not in refused.text


def test_a_replica_that_can_answer_no_more_says_so(answerer):
    client = TestClient(build_api(answerer))
    assert client.get("/health").json() == {"status": "ok", "model": "mine"}
    answerer.fault = "CUDA error: an illegal memory access was encountered"
    assert (client.get("/health").status_code, client.get("/health").json()["detail"]) == (503, answerer.fault)


def test_the_page_in_the_browser_loads_nothing_from_elsewhere(answerer):
    client = TestClient(build_api(answerer))
    page = client.get("/")
    assert page.url.path == "/docs" and "SwaggerUIBundle" in page.text
    assert "//" not in page.text.replace("http://testserver", "").replace("<!--", "").partition("<script>")[0]
    for name in ("swagger-ui-bundle.js", "swagger-ui.css"):
        assert client.get(f"/static-offline-docs/{name}").status_code == 200
