"""The champion as MLflow runs it: a DataFrame, a list of dicts or plain strings in, one row of answer each out.

MLflow copies this file into the model and runs it there ("models from code"), with the package's code beside it.
"""

from typing import Any

import mlflow
import pandas as pd

from tinyllm_ray.student.predict import SavedStudent, answer_row, open_student, predict, read_rows


class Champion(mlflow.pyfunc.PythonModel):
    student: SavedStudent

    def load_context(self, context: Any) -> None:
        self.student = open_student(context.artifacts["model"])

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        rows = [_row(record) for record in model_input.to_dict(orient="records")]
        asked = read_rows(rows, task=self.student.task, labels=self.student.labels)
        predictions = predict(self.student, asked, rationales=bool(params and params["rationales"]))
        return pd.DataFrame([answer_row(prediction) for prediction in predictions])


def _row(record: dict[Any, Any]) -> str | dict[str, Any]:
    """MLflow puts plain strings into a column named 0."""
    return record[0] if 0 in record and isinstance(record[0], str) else record


mlflow.models.set_model(Champion())
