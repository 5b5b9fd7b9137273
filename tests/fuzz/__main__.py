"""`python -m tests.fuzz`: every area at its full size; prints what was found and writes outputs/fuzz.json."""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # as pytest's setting `pythonpath` does for the tests
os.environ.setdefault("TQDM_DISABLE", "1")

from fuzz.areas import AREAS, KINDS, run_area


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of every area; printed and written")
    parser.add_argument("--areas", nargs="*", default=list(AREAS), choices=list(AREAS))
    given = parser.parse_args(arguments)
    tried, found = {}, dict.fromkeys(KINDS, 0)
    for name in given.areas:
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            counts = run_area(name, seed=given.seed, folder=Path(folder), share=1.0)
        tried[name] = counts.tried
        for kind in KINDS:
            found[kind] += getattr(counts, kind)
        print(f"{name}: {counts.tried} tried, {counts.faults()} faults, {time.monotonic() - began:.0f} s")
        print("".join(f"  {example}\n" for example in counts.examples), end="")
    target = Path("outputs", "fuzz.json")
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps({"seed": given.seed, "tried": tried, **found}, indent=2) + "\n")
    print(target)
    return int(any(found.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
