"""A worker's commit, and what clients send, as the arrays that the functions of the store take."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from operator import itemgetter
from typing import Any, Final

import msgspec

from durableflow.backends.base import Commit, InstanceChange, Outgoing
from durableflow.backends.rows import tags_text
from durableflow.backends.tasks import NewTask

COMMIT_ARRAYS: Final = (
    "text[]", "text[]", "int[]", "text[]", "bigint[]", "bigint[]", "bigint[]", "jsonb[]", "bytea[]", "bigint[]",
    "text[]", "text[]",
    "text[]", "bigint[]", "bigint[]", "bytea[]",
    "text[]", "text[]", "bigint[]", "bigint[]", "bytea[]", "text[]", "bigint[]", "int[]",
    "bigint[]",
)  # fmt: skip
"""The types of what `turn_arrays` gives."""
TASK_ARRAYS: Final = (
    "text[]", "bigint[]", "text[]", "text[]", "bytea[]", "bytea[]", "int[]", "text[]", "bigint[]", "bigint[]",
    "bigint[]",
)  # fmt: skip
"""The types of what `write_tasks` takes: the columns of `NewTask`."""
RARE_ARRAYS: Final = (
    "text[]",
    "text[]", "bigint[]", "int[]", "bytea[]",
    "text[]", "bigint[]", "text[]", "text[]", "bigint[]", "int[]", "text[]", "text[]",
    "text[]",
    *TASK_ARRAYS,
    "text[]", "bigint[]",
    "text[]", "bytea[]", "bytea[]", "text[]", "boolean[]", "boolean[]", "text[]", "int[]", "text[]", "bigint[]",
    "bigint[]", "jsonb[]", "text[]", "bigint[]", "jsonb[]", "bytea[]", "bytea[]", "bytea[]", "bytea[]",
)  # fmt: skip
"""The types of what `rare_arrays` gives."""
_SEND_COLUMNS: Final = 14
SEND_ARRAYS: Final = (
    "text[]", "bytea[]", "bytea[]", "boolean[]", "boolean[]", "text[]", "int[]", "text[]", "bigint[]", "bigint[]",
    "jsonb[]", "text[]", "bigint[]", "jsonb[]",
)  # fmt: skip
"""The types of what `send_arrays` gives."""


def places(types: Sequence[str], first: int) -> str:
    """Parameters of these types, numbered from `first` on."""
    return ", ".join(f"${number}::{each}" for number, each in enumerate(types, first))


WRITE_TASKS: Final = f"select {{s}}.write_tasks({places(TASK_ARRAYS, 1)})"


def event_key(event_id: str | None) -> bytes | None:
    """What stands for the id of an event where an index must hold it."""
    return None if event_id is None else blake2b(event_id.encode(), digest_size=16).digest()


def columns(rows: Sequence[Sequence[Any]], count: int) -> list[Sequence[Any]]:
    """Rows turned into columns."""
    return list(zip(*rows, strict=True)) if rows else [()] * count


def turn_arrays(commit: Commit) -> list[Sequence[Any]]:
    """What `commit_turns` takes behind the worker."""
    new = columns(
        [
            (
                i.id,
                i.workflow,
                i.version,
                i.status.value,
                i.created_us,
                i.finished_us,
                i.wake_us,
                tags_text(i) if i.tags else None,
                i.custom_status,
                i.base_seq,
                i.parent,
            )
            for i in sorted(commit.new, key=itemgetter(0))  # two who make the same ones do not wait for each other
        ],
        11,
    )
    changes = columns(
        [
            (
                c.id,
                c.status.value,
                c.wake_us,
                c.finished_us,
                c.custom_status,
                c.stall_reason,
                c.base_seq,
                c.version,
            )
            for c in _last_changes(commit.changes)
        ],
        8,
    )
    return [
        *new,
        [i.id for i in commit.new if i.replace],
        *columns(commit.rows, 4),
        *changes,
        commit.consumed,
    ]


def _last_changes(changes: Sequence[InstanceChange]) -> Iterable[InstanceChange]:
    """One of each instance: of two, what the later one leaves as it is comes from the earlier."""
    last: dict[str, InstanceChange] = {}
    for change in changes:
        before = last.get(change.id)
        if before is not None:
            change = change._replace(  # noqa: PLW2901  # the same, made whole
                base_seq=before.base_seq if change.base_seq is None else change.base_seq,
                version=before.version if change.version is None else change.version,
            )
        last[change.id] = change
    return last.values()


def has_rare(commit: Commit) -> bool:
    """Whether there is anything in it that `commit_turns` does not write."""
    return bool(commit.heartbeats or commit.sends or commit.dead_letters or commit.redeemed or touches_tasks(commit))


def touches_tasks(commit: Commit) -> bool:
    """Whether there may be more to claim after it."""
    return bool(commit.tasks or commit.tasks_dropped) or bool(_new_tasks(commit)) or brings_tasks(commit.sends)


def _new_tasks(commit: Commit) -> list[NewTask]:
    """The tasks that it writes itself, before its messages."""
    return [*(new.admission for new in commit.new if new.admission is not None), *commit.tasks]


def brings_tasks(messages: Iterable[Outgoing]) -> bool:
    """Whether any of these makes an instance that waits in a queue."""
    return any(message.new is not None and message.new.admission is not None for message in messages)


def rare_arrays(commit: Commit) -> list[Sequence[Any]]:
    """What `commit_rare` takes behind the worker."""
    beats = {(beat.instance_id, beat.task): beat for beat in commit.heartbeats}
    letters = {(letter.instance_id, letter.task): letter for letter in commit.dead_letters}
    sends = [
        (
            *values[:3],
            message.sender,
            *values[3:],
            *(message.answers.get(outcome) for outcome in ("exists", "delivered", "missing", "over")),
        )
        for message, values in ((message, _send_values(message)) for message in commit.sends)
    ]
    return [
        commit.finished_ids(),
        *columns(list(beats.values()), 4),
        *columns(list(letters.values()), 8),
        commit.redeemed,
        *task_arrays(_new_tasks(commit)),
        *columns(commit.tasks_dropped, 2),
        *columns(sends, _SEND_COLUMNS + 5),
    ]


def task_arrays(tasks: Sequence[NewTask]) -> list[Sequence[Any]]:
    """What `write_tasks` takes."""
    return columns(tasks, len(TASK_ARRAYS))


def send_arrays(messages: Sequence[Outgoing]) -> list[Sequence[Any]]:
    """What `send` takes."""
    return columns([_send_values(message) for message in messages], _SEND_COLUMNS)


def _send_values(message: Outgoing) -> tuple[Any, ...]:
    new = message.new
    key = event_key(message.event_id)
    if new is None:
        return (message.instance_id, message.data, key, False, False, *([None] * 9))
    return (
        message.instance_id,
        message.data,
        key,
        True,
        new.replace,
        new.workflow,
        new.version,
        new.status.value,
        new.created_us,
        new.wake_us,
        tags_text(new),
        new.parent,
        new.base_seq,
        None if new.admission is None else msgspec.json.encode(new.admission._asdict()).decode(),
    )
