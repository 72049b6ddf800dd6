"""Messages on their way to other stores, in their table."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from durableflow.backends.base import Outgoing
from durableflow.backends.relaying import dump_message


def write_outbox(connection: sqlite3.Connection, messages: Iterable[Outgoing]) -> None:
    """Put messages out; in a transaction of the caller's."""
    connection.executemany(
        "insert into outbox (message) values (?)", [(dump_message(message),) for message in messages]
    )
