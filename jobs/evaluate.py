"""What `ray job submit` runs for `tinyllm-ray evaluate`: python jobs/evaluate.py EXPERIMENT.yaml key.path=value ..."""

import sys

from tinyllm_ray.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "evaluate")
    main()
