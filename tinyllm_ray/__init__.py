"""Distil several teacher language models into one small student, on Ray.

The walk of the data: question file -> `data.questions` -> Question -> `data.prompts` -> prompt -> a teacher actor
in the teacher pool -> Rationale row -> Parquet store -> `data.features` -> DDP ranks in the student pool ->
`student.loss` (one component for each kind of target) -> `student.evaluate` -> metrics -> Tune and MLflow -> `report`.
"""

__version__ = "0.1.0"
