"""SQLite: the embedded default. One file, write-ahead log, `synchronous=FULL`.

All writing is done by one thread that owns the connection (`thread.py`): a whole transaction is one hop to it, nobody
can cancel it half way, and it is a daemon, so that an engine which was never closed does not hang the interpreter's
exit. A worker's commit is one statement (`commit.py`), because between two statements the thread would have to wait
for the interpreter. Listing and looking is done on a connection of its own (`reader.py`), so that a long list does not
hold up the commits.

Only one worker owns the file at a time. It holds a row of `workers` and, while its process lives, an operating-system
lock on a small file beside the database (`lock.py`), which tells the next worker at once that it is dead, without
waiting for the lease to end.

Comes in: commits, messages and questions of `backends/base.py`. Goes out: rows and refusals, in the same words. Never
enters: a clock of its own (times are given), the content of events, a connection of somebody else.
"""

from durableflow.backends.sqlite.backend import SqliteBackend
from durableflow.backends.sqlite.schema import MIGRATIONS

__all__ = ["MIGRATIONS", "SqliteBackend"]
