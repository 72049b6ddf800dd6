"""Looks after the processes of a control plane and of its pods, so that nothing is left whatever happens to the tests.

Comes in: the plane's folder, as an argument; on standard input "+pid" and "-pid", as processes begin and end, each the
leader of a group of its own. Goes out, when the input ends: all groups are killed and the folder removed. The input
ends when its owner does, also when that was killed. Never enters: anything of the library.
"""

import os
import shutil
import signal
import sys
from contextlib import suppress


def main() -> None:
    """Wait for the input's end, then clear up."""
    alive: set[int] = set()
    for line in sys.stdin:
        sign, pid = line[0], int(line[1:])
        (alive.add if sign == "+" else alive.discard)(pid)
    for pid in alive:
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    shutil.rmtree(sys.argv[1], ignore_errors=True)


if __name__ == "__main__":
    main()
