"""The small file beside the database that tells whether the process of a worker lives."""

from __future__ import annotations

from pathlib import Path
from typing import IO


class WorkerLock:
    """An operating-system lock, held from `take` to `release` or to the end of the process.

    Args:
        store: the database, whose name and place the lock files share.
        kind: what the process is to the store: its `worker`, or a `server` of its queues.
    """

    def __init__(self, store: Path, kind: str = "worker") -> None:
        self._store = store
        self._kind = kind
        self._held: tuple[IO[bytes], Path] | None = None

    def take(self, worker_id: int) -> None:
        """Show that this process is the worker's; an earlier worker of this object is forgotten."""
        self.release()
        path = self._path(worker_id)
        file = path.open("wb")
        if _try_lock(file):
            self._held = (file, path)
        else:
            file.close()

    def release(self) -> None:
        """Show it no longer; without a lock this does nothing."""
        held, self._held = self._held, None
        if held is not None:
            held[1].unlink(missing_ok=True)
            held[0].close()

    def is_dead(self, worker_id: int) -> bool:
        """True when the worker's process is known to have ended; False also when nothing is known."""
        try:
            file = self._path(worker_id).open("rb+")
        except FileNotFoundError:
            return False
        with file:
            return _try_lock(file)

    def bury(self, worker_id: int) -> None:
        """Remove what a worker left behind."""
        self._path(worker_id).unlink(missing_ok=True)

    def _path(self, worker_id: int) -> Path:
        return self._store.with_name(f"{self._store.name}-{self._kind}-{worker_id}")


def _try_lock(file: IO[bytes]) -> bool:
    """Lock `file` until it is closed or the process ends; False when another holds it, or none can be had."""
    try:
        import fcntl
    except ImportError:  # no such locks on this system: the lease alone decides
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
