"""The Ray Serve application of a student: one replica for each worker of the student pool.

jobs/serve.yaml names `build` as its import path; `tinyllm-ray serve` calls it on this machine.
"""

import asyncio
import time
from typing import Any

from pydantic import BaseModel, Field
from ray import serve

from tinyllm_ray.cluster.pools import actor_options
from tinyllm_ray.config import UserError
from tinyllm_ray.deploy.api import build_api
from tinyllm_ray.rows import Question
from tinyllm_ray.schema import StudentPool
from tinyllm_ray.student.predict import answer_row, open_student, predict
from tinyllm_ray.tracking.find import find_model, name_of_model

MAX_BATCH = 64  # questions that are answered together
WAIT_SHARE = 0.1  # of the time of a batch: so long the next one waits for more questions


class Served(BaseModel):
    """`args` of the application in jobs/serve.yaml."""

    model: str = Field(description="a model folder, a trial's folder, models:/NAME@champion or a hub id")
    pool: StudentPool = Field(StudentPool(), description="as pools.student; a replica for each of its workers")
    uri: str = Field("", description="MLflow's tracking URI, for models:/")


def build(served: Served) -> serve.Application:
    options = {"ray_actor_options": actor_options(served.pool), "num_replicas": served.pool.workers}
    return Replica.options(**options).bind(served.model, served.uri)  # type: ignore[attr-defined]


@serve.deployment(max_ongoing_requests=2 * MAX_BATCH, max_constructor_retry_count=2)
@serve.ingress()
class Replica:
    """One loaded student. It answers in a thread of its own, so that the next requests are read meanwhile."""

    def __init__(self, model: str, uri: str) -> None:
        self.student = open_student(find_model(model, uri=uri))
        self.name, self.fault = name_of_model(model), ""
        self.task, self.labels = self.student.task, self.student.labels

    def __serve_build_asgi_app__(self) -> Any:
        return build_api(self)

    def check_health(self) -> None:
        """Ray Serve replaces a replica that can answer no more, such as one whose GPU has failed."""
        if self.fault:
            raise RuntimeError(self.fault)

    async def answer(self, question: Question, rationales: bool) -> dict[str, Any]:
        return await self._answer_batch((question, rationales))

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=0)
    async def _answer_batch(self, asked: list[tuple[Question, bool]]) -> list[dict[str, Any]]:
        began = time.monotonic()
        try:
            return await asyncio.to_thread(self._predict, asked)
        except UserError:
            raise
        except Exception as error:
            self.fault = f"{type(error).__name__}: {error}"
            raise
        finally:
            self._answer_batch.set_batch_wait_timeout_s(WAIT_SHARE * (time.monotonic() - began))

    def _predict(self, asked: list[tuple[Question, bool]]) -> list[dict[str, Any]]:
        """Questions with rationales and those without go through the student apart."""
        answers: dict[int, dict[str, Any]] = {}
        for wanted in (False, True):
            places = [place for place, (_, rationales) in enumerate(asked) if rationales is wanted]
            if places:
                predictions = predict(self.student, [asked[place][0] for place in places], rationales=wanted)
                answers.update(zip(places, map(answer_row, predictions), strict=True))
        return [answers[place] for place in range(len(asked))]
