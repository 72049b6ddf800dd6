"""Messages of clients, written in groups: those that come while a group is on its way are the next one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final, cast

from durableflow.backends.base import InstanceRecord, Outcome, Outgoing, SendResult
from durableflow.backends.postgres.commit import APART_ARRAYS, SEND_ARRAYS, apart_arrays, are_apart, places, send_arrays
from durableflow.backends.postgres.database import Refused
from durableflow.backends.postgres.records import as_record
from durableflow.backends.postgres.store import Store, owner_words
from durableflow.backends.rows import RECORD_COLUMNS

_SEND: Final = f"""
    with sent as materialized (select {{s}}.send({places(SEND_ARRAYS, 2)}, $1::bigint) as outcomes)
    select outcomes, {{s}}.owners_of($2::text::text[]) from sent
"""
_SEND_APART: Final = f"""
    with sent as materialized (select {{s}}.send_apart({places(APART_ARRAYS, 1)}) as outcomes)
    select outcomes, {{s}}.owners_of($1::text::text[]) from sent
"""
_RECORDS: Final = f"select {RECORD_COLUMNS} from {{s}}.instances where id = any($1::text[])"
_GROUP_MAX: Final = 1_000
_GROUP_MAX_BYTES: Final = 8 * 1024 * 1024

_Group = tuple[Sequence[Outgoing], asyncio.Future[list[str]]]


class Sending(Store):
    """The part of the backend that writes what clients send."""

    _waiting: list[_Group]
    _flight: asyncio.Task[None] | None

    async def send(self, messages: Sequence[Outgoing]) -> list[SendResult]:
        """See `Backend.send`."""
        if not messages:
            return []
        answer: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        self._waiting.append((messages, answer))
        if self._flight is None or self._flight.done():
            self._flight = asyncio.ensure_future(self._send_all())
        outcomes = await answer
        known: dict[str, InstanceRecord] = {}
        refused = [
            m.instance_id for m, outcome in zip(messages, outcomes, strict=True) if outcome in ("exists", "over")
        ]
        if refused:
            known = {row[0]: as_record(row) for row in await self._read(_RECORDS, refused)}
        return [
            SendResult(cast("Outcome", outcome), known.get(message.instance_id))
            for message, outcome in zip(messages, outcomes, strict=True)
        ]

    async def _send_all(self) -> None:
        while self._waiting:
            group = self._take_group()
            messages = [message for sent, _ in group for message in sent]
            try:
                rows = await self._write_messages(messages)
            except Refused as error:
                if len(group) == 1:
                    _fail(group, error)
                else:  # one of them hurts the others
                    for each in group:
                        await self._send_alone(each)
                continue
            except Exception as error:
                _fail(group, error)
                continue
            self._answer(group, *rows[0])

    async def _send_alone(self, each: _Group) -> None:
        try:
            rows = await self._write_messages(each[0])
        except Exception as error:
            _fail([each], error)
        else:
            self._answer([each], *rows[0])

    async def _write_messages(self, messages: Sequence[Outgoing]) -> Sequence[Any]:
        if are_apart(messages):
            return await self._write(_SEND_APART, *apart_arrays(messages))
        return await self._write(_SEND, None, *send_arrays(messages))

    def _take_group(self) -> list[_Group]:
        group: list[_Group] = []
        count = size = 0
        while self._waiting and (not group or (count < _GROUP_MAX and size < _GROUP_MAX_BYTES)):
            each = self._waiting.pop(0)
            group.append(each)
            count += len(each[0])
            size += sum(len(message.data) for message in each[0])
        return group

    def _answer(self, group: Sequence[_Group], outcomes: Sequence[str], owners: Sequence[int | None] | None) -> None:
        begin = 0
        for messages, answer in group:
            if not answer.done():
                answer.set_result(list(outcomes[begin : begin + len(messages)]))
            begin += len(messages)
        if "delivered" in outcomes:
            self._hint(owner_words(owners or ()))
            self._hint_tasks([message for messages, _ in group for message in messages])


def _fail(group: Sequence[_Group], error: Exception) -> None:
    for _, answer in group:
        if not answer.done():
            answer.set_exception(error)
            answer.exception()  # whoever waits still gets it; nobody waiting is no warning
