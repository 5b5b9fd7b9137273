"""One self-contained HTML page per experiment, made from MLflow and the rationale stores alone.

make.py is the entry: data.py reads, effects.py says what the numbers support, figures.py draws, page.py fills the
template; reproduce.py rebuilds a run.
"""
