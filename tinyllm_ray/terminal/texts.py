"""Results of the commands as lines for people. In: what a stage returned. Out: text."""

from typing import Any

from tinyllm_ray.schema.base import counted


def text_of_methods(methods: dict[str, Any]) -> str:
    """A line for each method: its mean accuracy, then that of each seed."""
    lines = []
    for name, result in methods.items():
        seeds = ", ".join(f"{score:.3f}" for score in result["per_seed"].values())
        lines.append(f"{name:24} {result['split']} accuracy {result['mean']:.3f}  ({seeds})")
    return "\n".join(lines)


def text_of_growth(rows: list[dict[str, Any]]) -> str:
    """A line for each way to choose: its gain over all teachers as they are added, and over the best one."""
    lines = []
    for row in rows:
        by_count = ", ".join(f"{count}: {accuracy:.1f}" for count, accuracy in row["accuracy"].items())
        line = f"{row['mode']:14} accuracy by number of teachers {by_count}"
        if row["cmv"] is not None:
            line += f"; CMV {row['cmv']:+.1f} ({row['cmv_low']:.1f} to {row['cmv_high']:.1f})"
        if row["over_best"]:
            best = row["over_best"]
            line += f"; over best_teacher {best['points']:+.1f} ({best['low']:.1f} to {best['high']:.1f})"
        lines.append(line)
    return "\n".join(lines)


def text_of_run(result: dict[str, Any]) -> str:
    lines = [text_of_methods(result["methods"])]
    if result["search"]:
        search, final = result["search"], result["search"]["final"]
        lines.append(f"search: {counted(search['trials'], 'trial')}, best {search['best']['overrides']}")
        lines.append(f"{'winner, trained again':24} {final['split']} accuracy {final['mean']:.3f}")
    lines += [
        f"teacher rows generated: {result['teacher_rows_generated']}",
        result["headline"],
        f"report: {result['report']}",
        text_of_records(result["tracking_uri"]),
        f"all trainings side by side: {result['comparison']}",
    ]
    return "\n".join(lines)


def text_of_records(uri: str) -> str:
    """Where MLflow's records are, and how they are opened."""
    if uri.startswith("http"):
        return f"MLflow: {uri}"
    server = "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow ui --workers 1 --host 127.0.0.1 --port 5000"
    return f"MLflow: {uri}  (open it with: {server} --backend-store-uri {uri})"
