"""Accuracies that the TinyLLM paper published (arXiv 2402.04616, first version), in percent.

Columns: OBQA, ARC, PIQA, RiddleSense, PubMedQA, BioASQ.
"""

DATASETS = ("obqa", "arc", "piqa", "riddle", "pubmedqa", "bioasq")
SIZES = {"google/flan-t5-small": "80M", "google/flan-t5-base": "250M", "google/flan-t5-large": "780M"}
TEACHERS = {
    "FLAN-T5-xl": (69.20, 68.24, 58.43, 53.73, 71.50, 65.85),
    "LLaMA-2": (58.60, 45.90, 78.80, 47.65, 54.50, 73.75),
}
STUDENTS = {
    ("80M", "inference"): (16.60, 19.31, 20.78, 13.33, 38.00, 47.97),
    ("80M", "lora"): (37.80, 27.12, 39.93, 39.80, 53.75, 78.05),
    ("80M", "label_only"): (41.60, 27.47, 42.33, 42.75, 56.25, 78.86),
    ("80M", "all_teachers"): (47.60, 31.93, 52.77, 49.22, 62.00, 82.11),
    ("250M", "label_only"): (56.60, 38.88, 47.55, 52.55, 64.75, 89.43),
    ("250M", "all_teachers"): (64.20, 47.98, 60.17, 60.78, 66.25, 90.24),
    ("780M", "label_only"): (71.20, 62.92, 58.43, 68.82, 70.25, 90.24),
    ("780M", "all_teachers"): (74.40, 64.29, 67.90, 70.98, 73.00, 92.68),
}


def paper_size(student: str) -> str:
    """The paper's student nearest to ours; its smallest where ours is none of them."""
    return next((size for name, size in SIZES.items() if name == student), "80M")


def published(dataset: str, variant: str, *, student: str) -> float | None:
    """The paper's accuracy of a variant, None where it has none."""
    key = (paper_size(student), "all_teachers" if variant == "tinyllm" else variant)
    if dataset not in DATASETS or key not in STUDENTS:
        return None
    return STUDENTS[key][DATASETS.index(dataset)]


def published_teachers(dataset: str) -> dict[str, float]:
    if dataset not in DATASETS:
        return {}
    return {name: row[DATASETS.index(dataset)] for name, row in TEACHERS.items()}
