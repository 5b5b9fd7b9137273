"""What `ray job submit` runs for `tinyllm-ray run`: python jobs/pipeline.py EXPERIMENT.yaml key.path=value ..."""

import sys

from tinyllm_ray.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "run")
    main()
