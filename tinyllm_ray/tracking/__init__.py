"""MLflow as a view of the trials' files: a parent run per output folder, a child run per trial and seed.

The only package that imports mlflow. address.py says where the store is, server.py opens it; tracker.py and uploads.py
write to it while trainings run; champion.py logs and registers the winner; read.py reads all of it back for the report.
"""

import os

os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_ENABLE_ASYNC_LOGGING", "false")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
