import subprocess
import sys


def test_the_process_of_a_trial_does_not_load_mlflow() -> None:
    code = "import sys, tinyllm_ray.tuning.trials; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
