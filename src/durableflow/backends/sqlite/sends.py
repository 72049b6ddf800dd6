"""What instances send to others, as a part of the one statement of a commit (see `commit.py`).

Each message is a row that is inserted into a view, whose trigger does as `inbox.send_for` does: one after the other, so
that a later one sees what became of an earlier one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from durableflow.backends.base import Outgoing
from durableflow.backends.rows import tags_text
from durableflow.backends.sqlite.instances import HANGING_TABLES, TERMINAL_SQL

_OUTCOMES: Final = ("exists", "delivered", "missing", "over")
_PLAIN: Final = (
    "target", "sender", "event_id", "is_birth", "may_replace", "workflow", "version", "status", "created_us", "wake_us",
    "tags", "parent",
)  # fmt: skip
_PIECES: Final = ("data", *(f"when_{outcome}" for outcome in _OUTCOMES))


def _column(place: int) -> str:
    return f"json_extract(value, '$[{place}]')"


def _columns() -> str:
    plain = [_column(place) for place in range(len(_PLAIN))]
    pieces = [
        f"substr(new.bytes, {_column(place)}, {_column(place + 1)})"
        for place in range(len(_PLAIN), len(_PLAIN) + 2 * len(_PIECES), 2)
    ]
    return ", ".join([*plain, *pieces])


SENDS_SQL: Final = (
    f"insert into sends ({', '.join((*_PLAIN, *_PIECES))}) select {_columns()} from json_each(new.sends) order by key;"
)
"""How the list of messages is written."""

_THERE: Final = "exists (select 1 from instances where id = new.target)"
_HEARD: Final = "exists (select 1 from instances where id = new.sender)"
_OVER: Final = f"exists (select 1 from instances where id = new.target and status in {TERMINAL_SQL})"
_REPLACED: Final = f"new.is_birth and new.may_replace and {_OVER}"

SENDS_VIEWS: Final = (
    "create temp view sends as select "
    + ", ".join([*(f"'' as {name}" for name in _PLAIN), *(f"x'' as {name}" for name in _PIECES)]),
    f"""
    create temp trigger write_send instead of insert on sends begin
        {" ".join(f"delete from {table} where instance = new.target and {_REPLACED};" for table in HANGING_TABLES)}
        delete from instances where id = new.target and new.is_birth and new.may_replace and status in {TERMINAL_SQL};
        insert into inbox (instance, data)
            select new.sender, new.when_exists
            where new.is_birth and new.when_exists is not null and {_THERE} and {_HEARD};
        insert into inbox (instance, data) select new.target, new.data where new.is_birth and not {_THERE};
        insert into inbox (instance, data)
            select new.sender, new.when_delivered
            where new.is_birth and new.when_delivered is not null and not {_THERE}
                and ({_HEARD} or new.sender = new.target);
        insert into tags (key, value, instance)
            select key, value, new.target from json_each(coalesce(new.tags, '{{}}'))
            where new.is_birth and not {_THERE};
        insert into instances (id, workflow, version, status, created_us, wake_us, tags, parent)
            select new.target, new.workflow, new.version, new.status, new.created_us, new.wake_us, new.tags, new.parent
            where new.is_birth and not {_THERE};
        insert into inbox (instance, data, event_id)
            select new.target, new.data, new.event_id
            where not new.is_birth and {_THERE} and not {_OVER} and (new.event_id is null or not exists (
                select 1 from inbox where instance = new.target and event_id = new.event_id));
        insert into inbox (instance, data)
            select new.sender, answer from (
                select case
                    when not {_THERE} then new.when_missing when {_OVER} then new.when_over else new.when_delivered
                end as answer
            ) where not new.is_birth and answer is not null and {_HEARD};
    end
    """,
)


def pack_send(message: Outgoing, piece: Callable[[bytes], Sequence[int]]) -> list[Any]:
    """A message as an item of the list; `piece` puts bytes by and says where they are."""
    new = message.new
    values: list[Any] = [message.instance_id, message.sender, message.event_id]
    if new is None:
        values += [0, 0, None, None, None, None, None, None, None]
    else:
        values += [1, int(new.replace), new.workflow, new.version, new.status, new.created_us, new.wake_us]
        values += [tags_text(new), new.parent]
    values += piece(message.data)
    for outcome in _OUTCOMES:
        answer = message.answers.get(outcome)
        values += (None, None) if answer is None else piece(answer)
    return values
