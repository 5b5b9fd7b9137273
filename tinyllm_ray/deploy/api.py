"""The HTTP interface of a served student: what a request and its answer hold, the health check, the page that shows it.

POST /answer {"question": "What floats?", "choices": ["iron", "cork"]}
-> {"answer": "cork", "confidence": 0.87, "scores": [-2.1, -0.2], "rationales": {}}
"""

from importlib.metadata import version
from typing import Any, Protocol

from fastapi import FastAPI, HTTPException
from fastapi.responses import RedirectResponse
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel, ConfigDict, Field

from tinyllm_ray.config import UserError
from tinyllm_ray.rows import Question
from tinyllm_ray.schema import TaskName
from tinyllm_ray.student.predict import read_rows

EXAMPLE: dict[str, Any] = {"question": "What floats?", "choices": ["iron", "cork"]}


class Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE]})
    question: str = Field(description="the question's text")
    choices: list[str] = Field([], description="2 to 26 texts; empty for labels, numbers and free text")
    context: str = Field("", description="a passage that the question is about")
    rationales: bool = Field(False, description="also the student's own rationale as each teacher; slower")


class Answered(BaseModel):
    answer: str = Field(description="the choice with the highest score, or the answer that was generated")
    confidence: float | None = Field(description="0 to 1, among the choices; null where none were scored")
    scores: list[float] = Field(description="mean token log-likelihood of each choice, in their order")
    rationales: dict[str, str] = Field(description="the student's own, by teacher; empty unless asked for")


class Health(BaseModel):
    status: str = Field(description="ok")
    model: str = Field(description="the name of what is served")


class Answerer(Protocol):
    """Who answers behind the interface."""

    name: str  # of the model
    fault: str  # why it can answer no more; empty while it can
    task: TaskName
    labels: list[str]

    async def answer(self, question: Question, rationales: bool) -> dict[str, Any]: ...


def build_api(answerer: Answerer) -> FastAPI:
    """The page at /docs loads nothing from elsewhere, so it shows without a network too."""
    about = {"title": "A student of tinyllm_ray", "description": f"Model: {answerer.name}"}
    api = FastAPIOffline(**about, version=version("tinyllm-ray"), redoc_url=None)

    @api.get("/", include_in_schema=False)
    async def show_docs() -> RedirectResponse:
        return RedirectResponse("docs")

    @api.get("/health", tags=["student"])
    async def health() -> Health:
        """Whether this replica can answer."""
        if answerer.fault:
            raise HTTPException(503, answerer.fault)
        return Health(status="ok", model=answerer.name)

    @api.post("/answer", tags=["student"])
    async def answer(asked: Asked) -> Answered:
        """One question; requests that come at the same time are answered as one batch."""
        row = asked.model_dump(exclude={"rationales"})
        try:
            (question,) = read_rows([row], task=answerer.task, labels=answerer.labels)
        except UserError as error:
            raise HTTPException(422, str(error).removeprefix("row 0: ")) from None
        return Answered(**await answerer.answer(question, asked.rationales))

    return api
