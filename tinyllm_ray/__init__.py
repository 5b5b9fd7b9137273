"""Distill several teacher language models into one small student, on Ray.

What a question goes through: question file -> `data.questions` -> Question -> `data.prompts` -> prompt -> a teacher
actor in the teacher pool -> Rationale row -> Parquet store -> `data.features` -> DDP ranks in the student pool ->
`student.objective` (one component for the label, one for each teacher) -> `student.evaluate` -> metrics -> Tune and
MLflow -> `report`.
"""

__version__ = "0.1.0"
