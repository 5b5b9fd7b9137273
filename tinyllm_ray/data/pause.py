"""A gate for the teachers: while a file named `paused` lies beside their prompt files, none of these is begun.

It is a file because the processes that write rationales share nothing with the driver but the storage.
"""

import time

from tinyllm_ray import storage

PAUSED = "paused"
LOOK_S = 0.5


def pause(folder: str) -> None:
    storage.write_bytes(storage.join(folder, PAUSED), b"")


def resume(folder: str) -> None:
    storage.remove(storage.join(folder, PAUSED))


def wait_while_paused(file: str) -> None:
    gate = storage.join(file.rpartition("/")[0], PAUSED)
    while storage.exists(gate):
        time.sleep(LOOK_S)
