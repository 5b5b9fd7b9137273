"""Prompt rows in a file, as an engine's actor gets them."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tinyllm_ray.rows import PromptRow, Question, to_table


def prompt_file(folder: Path, *, rows: int) -> pa.Table:
    """A batch that names one file of prompts."""
    prompts = [
        PromptRow(
            key=str(i),
            target=0,
            sample=0,
            question=Question(str(i), "?", ["a"], "a"),
            dropped_examples=0,
            seed=i,
            prompt=f"prompt {i}",
            prompt_ids=[],
        )
        for i in range(rows)
    ]
    pq.write_table(to_table(prompts, PromptRow), folder / "prompts.parquet")
    return pa.table({"file": [str(folder / "prompts.parquet")]})
