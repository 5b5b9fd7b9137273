"""What `ray job submit` runs for `tinyllm-ray generate`: python jobs/generate.py EXPERIMENT.yaml key.path=value ..."""

import sys

from tinyllm_ray.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "generate")
    main()
