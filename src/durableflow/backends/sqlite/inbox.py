"""Messages on their way in, each with an answer of its own, and those that no turn has taken yet."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from durableflow.backends.base import Message, Outgoing, SendResult
from durableflow.backends.sqlite.instances import insert_instances, taken_ids
from durableflow.backends.sqlite.records import read_record


def inbox(connection: sqlite3.Connection, after: int, limit: int) -> list[Message]:
    """See `Backend.inbox`."""
    rows = connection.execute(
        "select number, instance, data from inbox where number > ? order by number limit ?", (after, limit)
    )
    return [Message(*row) for row in rows]


def send(connection: sqlite3.Connection, messages: Sequence[Outgoing]) -> list[SendResult]:
    """See `Backend.send`; in a transaction of the caller's."""
    return [send_one(connection, message) for message in messages]


def send_for(connection: sqlite3.Connection, message: Outgoing) -> None:
    """Write what an instance sends, and for it what became of that; in a transaction of the caller's."""
    answer = message.answers.get(send_one(connection, message).outcome)
    if answer is not None:
        connection.execute(
            "insert into inbox (instance, data) select ?, ? where exists (select 1 from instances where id = ?)",
            (message.sender, answer, message.sender),
        )


def send_one(connection: sqlite3.Connection, message: Outgoing) -> SendResult:
    """Write a message, and the instance that it makes, or say why not; in a transaction of the caller's."""
    if message.new is not None:
        if taken_ids(connection, [message.new]):
            return SendResult("exists", read_record(connection, message.instance_id))
        insert_instances(connection, [message.new])
    else:
        record = read_record(connection, message.instance_id)
        if record is None:
            return SendResult("missing")
        if record.status.is_terminal:
            return SendResult("over", record)
    put_in(connection, message)
    return SendResult("delivered")


def put_in(connection: sqlite3.Connection, message: Outgoing) -> None:
    """Write a message, unless it waits already, for an instance of which the caller knows that it can take it."""
    waits = "select 1 from inbox where instance = ? and event_id = ?"  # a conflict would use up a number
    event_id = message.event_id
    if event_id is None or connection.execute(waits, (message.instance_id, event_id)).fetchone() is None:
        connection.execute(
            "insert into inbox (instance, data, event_id) values (?, ?, ?)",
            (message.instance_id, message.data, event_id),
        )
