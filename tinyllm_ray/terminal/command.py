"""One command from its start to its exit code: the streams, the signals, and one message where it fails.

In: the commands and `sys.argv`. Out: exit code 0, 2 and one message for a user's mistake, 130 or 143 when stopped.
"""

import os
import signal
import sys
import traceback
from types import TracebackType

import typer

from tinyllm_ray.patience import is_waiting
from tinyllm_ray.redact import redact_text
from tinyllm_ray.terminal.failures import message_of
from tinyllm_ray.terminal.output import Output

OUTPUT = Output()


def run_command(app: typer.Typer) -> None:
    """With --json, stdout holds one JSON object also where the command fails: {"error": the message}.

    Libraries of storage wait at their end for what they were asked, so a command that gave a storage up leaves at once.
    """
    try:
        _run(app)
    except SystemExit as end:
        if not is_waiting():
            raise
        OUTPUT.flush()
        os._exit(end.code if isinstance(end.code, int) else 0)


def _run(app: typer.Typer) -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TQDM_DISABLE", "1")  # libraries' own bars; ours are made by rich
    OUTPUT.claim_stdout(as_json="--json" in sys.argv[1:])
    sys.excepthook = _print_fault
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        sys.exit(app(standalone_mode=False))
    except typer.TyperException as error:  # an unknown command or option
        _fail(f"error: {error.format_message()}", error.exit_code)
    except Exception as error:
        message = message_of(error)
        if message is not None:
            _fail(f"error: {message}", 2)
        OUTPUT.write_error(redact_text(f"{type(error).__name__}: {error}"))
        raise


def _print_fault(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A fault of this program: Python's own traceback, without secrets."""
    sys.stderr.write(redact_text("".join(traceback.format_exception(kind, error, trace))))


def _stop(number: int, _: object) -> None:
    """A signal may come in the middle of a print, which takes no second one, so this writes to the descriptor."""
    ends = sys.argv[1:2] in (["submit"], ["serve"])  # what still runs is said by `submit` itself
    message = "stopped" if ends else "stopped; the same command continues from here"
    os.write(sys.stderr.fileno(), f"{message}\n".encode())
    OUTPUT.write_error(message)
    sys.exit(128 + number)


def _fail(message: str, code: int) -> None:
    print(message, file=sys.stderr)
    OUTPUT.write_error(message.removeprefix("error: "))
    sys.exit(code)
