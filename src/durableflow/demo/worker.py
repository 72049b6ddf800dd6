"""The worker's process: `python -m durableflow.demo.worker STORE LEDGER [SLOW_ACTIVITY]`.

It knows nothing of the plan to kill it. It ends when its standard input does, so that it
does not outlive the demo.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from durableflow import Engine, Settings
from durableflow.backends.sqlite import SqliteBackend
from durableflow.demo import order
from durableflow.demo.ledger import Ledger
from durableflow.observe import facts


class _IntoLedger(logging.Handler):
    """What workflows say with `ctx.logger`."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(logging.INFO)
        self._ledger = ledger

    def emit(self, record: logging.LogRecord) -> None:
        """Append it to the ledger."""
        instance_id: str = getattr(record, "instance_id", "")
        self._ledger.note("says", instance_id, record.getMessage().removeprefix(f"[{instance_id}] "))


async def work(store: Path, ledger: Ledger) -> None:
    """Run the store's instances until killed."""

    def listen(fact: facts.Fact) -> None:
        match fact:
            case facts.WorkerLeads():
                ledger.note("leads")
            case facts.InstanceRecovered(instance_id=instance_id, events=events):
                ledger.note("recovers", instance_id, f"{events}")
            case _:
                pass

    # Where a dead process cannot be told from a slow one (no file locks), the lease decides: not for long.
    settings = Settings(lease_s=2.0)
    async with Engine(SqliteBackend(store), settings=settings, listeners=[listen]):
        await asyncio.Event().wait()


def _end_with_input() -> None:
    while os.read(0, 1024):
        pass
    os._exit(0)


def main(argv: Sequence[str]) -> None:
    """Work on the store named in the arguments."""
    store, ledger, slow = Path(argv[0]), Ledger(Path(argv[1])), "".join(argv[2:3])
    order.Desk.ledger, order.Desk.slow = ledger, slow
    logger = logging.getLogger("durableflow.workflow")
    logger.setLevel(logging.INFO)
    logger.addHandler(_IntoLedger(ledger))
    threading.Thread(target=_end_with_input, name="watch over stdin", daemon=True).start()
    asyncio.run(work(store, ledger))


if __name__ == "__main__":
    main(sys.argv[1:])
