"""What every area of the fuzz run counts, and one attempt of anything, bounded in time.

A case is good (it must pass, and read as expected), bad (it must be refused with one message) or wild (either will do).
"""

import random
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tinyllm_ray.terminal.failures import message_of

EXAMPLES = 12
ANY = object()  # an expected value that is not looked at


@dataclass
class Counts:
    tried: int = 0
    tracebacks: int = 0
    good_refused: int = 0
    bad_accepted: int = 0
    wrong_readings: int = 0
    unbounded: int = 0
    secrets_found: int = 0
    examples: list[str] = field(default_factory=list)

    def fault(self, kind: str, case: object) -> None:
        setattr(self, kind, getattr(self, kind) + 1)
        if len(self.examples) < EXAMPLES:
            self.examples.append(f"{kind}: {str(case)[:600]}")

    def faults(self) -> int:
        passed_on = self.unbounded + self.secrets_found
        return self.tracebacks + self.good_refused + self.bad_accepted + self.wrong_readings + passed_on


def attempt(
    counts: Counts,
    action: Callable[[], Any],
    *,
    case: object,
    kind: str,
    expected: object = ANY,
    limit_s: float = 20,
) -> None:
    """Run one case of a kind (good, bad, wild) and count what should not have been."""
    counts.tried += 1
    start = time.monotonic()
    try:
        value, refused = action(), ""
    except Exception as error:  # noqa: BLE001 whatever is no single message is what is looked for
        value, refused = None, message_of(error) or ""
        if not refused:
            counts.fault("tracebacks", f"{case!r}\n{''.join(traceback.format_exception(error)[-3:])}")
            return
    if time.monotonic() - start > limit_s:
        counts.fault("unbounded", case)
    if kind == "good" and refused:
        counts.fault("good_refused", f"{case!r}: {refused}")
    elif kind == "bad" and not refused:
        counts.fault("bad_accepted", f"{case!r}: {value!r}")
    elif kind == "good" and expected is not ANY and value != expected:
        counts.fault("wrong_readings", f"{case!r}: {value!r} instead of {expected!r}")


def flip_bytes(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)
