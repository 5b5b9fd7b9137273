"""One self-contained HTML page per experiment, made from MLflow and the rationale stores alone.

data.py reads, effects.py says what the numbers support, figures.py draws, page.py writes; reproduce.py rebuilds a run.
"""
