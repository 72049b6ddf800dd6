"""A worker's commit, and what clients send, as the arrays that the functions of the store take."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from operator import itemgetter
from typing import Any, Final, TypeAlias

import msgspec

from durableflow.backends.base import Commit, InstanceChange, Outgoing
from durableflow.backends.rows import tags_text
from durableflow.backends.tasks import NewTask

_NEW: Final = (
    "text[]", "text[]", "int[]", "text[]", "bigint[]", "bigint[]", "bigint[]", "jsonb[]", "bytea[]", "bigint[]",
    "text[]",
)  # fmt: skip
_ROW: Final = ("text[]", "bigint[]", "bigint[]", "bytea[]")
_CHANGE: Final = ("text[]", "text[]", "bigint[]", "bigint[]", "bytea[]", "text[]", "bigint[]", "int[]")
COMMIT_ARRAYS: Final = (*_NEW, "text[]", *_ROW, *_CHANGE, "bigint[]")
"""The types of what `turn_arrays` gives."""
TASK_ARRAYS: Final = (
    "text[]", "bigint[]", "text[]", "text[]", "bytea[]", "bytea[]", "int[]", "text[]", "bigint[]", "bigint[]",
    "bigint[]",
)  # fmt: skip
"""The types of what `write_tasks` takes: the columns of `NewTask`."""
_BEAT: Final = ("text[]", "bigint[]", "int[]", "bytea[]")
_LETTER: Final = ("text[]", "bigint[]", "text[]", "text[]", "bigint[]", "int[]", "text[]", "text[]")
_DROPPED: Final = ("text[]", "bigint[]")
_SENT: Final = (
    "text[]", "bytea[]", "bytea[]", "text[]", "boolean[]", "boolean[]", "text[]", "int[]", "text[]", "bigint[]",
    "bigint[]", "jsonb[]", "text[]", "bigint[]", "jsonb[]", "bytea[]", "bytea[]", "bytea[]", "bytea[]",
)  # fmt: skip
RARE_ARRAYS: Final = ("text[]", *_BEAT, *_LETTER, "text[]", *TASK_ARRAYS, *_DROPPED, *_SENT)
"""The types of what `rare_arrays` gives."""
SEND_ARRAYS: Final = (
    "text[]", "bytea[]", "bytea[]", "boolean[]", "boolean[]", "text[]", "int[]", "text[]", "bigint[]", "bigint[]",
    "jsonb[]", "text[]", "bigint[]", "jsonb[]",
)  # fmt: skip
"""The types of what `send_arrays` gives."""
APART_ARRAYS: Final = (*SEND_ARRAYS[:4], *SEND_ARRAYS[5:13])
"""The types of what `apart_arrays` gives."""
_OF_TEXT: Final = frozenset({"text[]", "jsonb[]"})

Array: TypeAlias = str | Sequence[bytes | None]


def places(types: Sequence[str], first: int) -> str:
    """Where `arrays` of these types go in, numbered from `first` on."""
    return ", ".join(
        f"${number}::{each}" if each == "bytea[]" else f"${number}::text::{each}"
        for number, each in enumerate(types, first)
    )


WRITE_TASKS: Final = f"select {{s}}.write_tasks({places(TASK_ARRAYS, 1)})"


def event_key(event_id: str | None) -> bytes | None:
    """What stands for the id of an event where an index must hold it."""
    return None if event_id is None else blake2b(event_id.encode(), digest_size=16).digest()


def arrays(rows: Sequence[Sequence[Any]], types: Sequence[str]) -> list[Array]:
    """Rows turned into columns, each as what `places` has its place for."""
    if not rows:
        return [() if each == "bytea[]" else "{}" for each in types]
    return [_as_array(column, each) for column, each in zip(zip(*rows, strict=True), types, strict=True)]


def _as_array(values: Sequence[Any], array_type: str) -> Array:
    """Written out, as the server reads an array: a driver that is given one looks at each element, at great length."""
    if array_type == "bytea[]":
        return values
    if array_type not in _OF_TEXT:
        return f"{{{','.join(map(str, values)).replace('None', 'NULL')}}}"
    if None not in values:
        text = '","'.join(values)
        if "\\" not in text and text.count('"') == 2 * len(values) - 2:
            return f'{{"{text}"}}'
    elif values.count(None) == len(values):
        return f"{{NULL{',NULL' * (len(values) - 1)}}}"
    return f"{{{','.join('NULL' if value is None else _quoted(value) for value in values)}}}"


def _quoted(value: str) -> str:
    escaped = value.replace("\\", r"\\").replace('"', r"\"")
    return f'"{escaped}"'


def turn_arrays(commit: Commit) -> list[Array]:
    """What `commit_turns` takes behind the worker."""
    new = arrays(
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
        _NEW,
    )
    changes = arrays(
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
        _CHANGE,
    )
    return [
        *new,
        _as_array([i.id for i in commit.new if i.replace], "text[]"),
        *arrays(commit.rows, _ROW),
        *changes,
        _as_array(commit.consumed, "bigint[]"),
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


def rare_arrays(commit: Commit) -> list[Array]:
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
        _as_array(commit.finished_ids(), "text[]"),
        *arrays(list(beats.values()), _BEAT),
        *arrays(list(letters.values()), _LETTER),
        _as_array(commit.redeemed, "text[]"),
        *task_arrays(_new_tasks(commit)),
        *arrays(commit.tasks_dropped, _DROPPED),
        *arrays(sends, _SENT),
    ]


def task_arrays(tasks: Sequence[NewTask]) -> list[Array]:
    """What `write_tasks` takes."""
    return arrays(tasks, TASK_ARRAYS)


def send_arrays(messages: Sequence[Outgoing]) -> list[Array]:
    """What `send` takes."""
    return arrays([_send_values(message) for message in messages], SEND_ARRAYS)


def are_apart(messages: Sequence[Outgoing]) -> bool:
    """Whether `send_apart` can write them: none of the instances that they make is in a second one."""
    born = [message.new for message in messages if message.new is not None]
    if any(new.replace or new.admission is not None for new in born):
        return False
    ids = {new.id for new in born}
    return sum(message.instance_id in ids for message in messages) == len(ids)


def apart_arrays(messages: Sequence[Outgoing]) -> list[Array]:
    """What `send_apart` takes."""
    rows = [(*values[:4], *values[5:13]) for values in map(_send_values, messages)]
    return arrays(rows, APART_ARRAYS)


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
