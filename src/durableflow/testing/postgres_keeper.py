"""Looks after the server of a `PostgresServer`, as a program of its own, so that nothing is left whatever happens.

Comes in: its folder, as an argument; on standard input, a line with the server's process id whenever that changes
(0: there is none). Goes out, when the input ends: the server is stopped and the folder removed. The input ends
when its owner does, also when that was killed. Never enters: anything of the library, or of anybody's environment.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

PATIENCE_S: Final = 10.0


def main() -> None:
    """Wait for the input's end, then clear up."""
    folder, server = Path(sys.argv[1]), 0
    for line in sys.stdin:
        server = int(line)
    if server:
        _stop(server, folder / "data" / "postmaster.pid")
    shutil.rmtree(folder, ignore_errors=True)


def _stop(server: int, its_file: Path) -> None:
    """Have it leave at once; unlike a killed one it removes its shared memory, and its file when it is done."""
    with suppress(ProcessLookupError):
        os.kill(server, signal.SIGQUIT)
        give_up_s = time.monotonic() + PATIENCE_S
        while its_file.exists():
            os.kill(server, signal.SIGKILL if time.monotonic() > give_up_s else 0)
            time.sleep(0.02)


if __name__ == "__main__":
    main()
