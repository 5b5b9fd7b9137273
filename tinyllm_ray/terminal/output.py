"""The streams of a command: one result on stdout, everything else on stderr or in a log file.

In: the result or the error of a command. Out: with --json exactly one JSON object on stdout, otherwise plain text.
"""

import json
import os
import sys
from pathlib import Path


class Output:
    """Stdout, kept for the result of one command."""

    def __init__(self) -> None:
        self._stdout = sys.stdout
        self._as_json = False
        self._written = False

    def claim_stdout(self, *, as_json: bool) -> None:
        """Native code and child processes write to descriptor 1, which becomes stderr. With `as_json` so does print.

        `sys.stderr` gets a descriptor of its own, so that what is said is seen where descriptor 2 is silenced.
        """
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stderr = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="backslashreplace", buffering=1)
        self._as_json = as_json
        self._stdout = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
        os.dup2(2, 1)
        sys.stdout = sys.stderr if as_json else self._stdout

    def write_result(self, text: str) -> None:
        self._written = True
        print(text, file=self._stdout)

    def flush(self) -> None:
        for stream in (self._stdout, sys.stdout, sys.stderr):
            stream.flush()

    def write_error(self, message: str) -> None:
        """With --json {"error": message} on stdout, unless a result stands there already."""
        if self._as_json and not self._written:
            self.write_result(json.dumps({"error": message}, ensure_ascii=False))


def send_chatter_to(path: Path) -> None:
    """What native code and child processes write to descriptors 1 and 2 goes to the file.

    Both streams must have been kept before (`Output.claim_stdout`): `sys.stderr` stays the terminal's.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stderr.flush()
    with path.open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
