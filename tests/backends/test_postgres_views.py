"""What people see in the views is what happened."""

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest

from durableflow import Context, Engine, WorkflowFailed, activity, workflow
from durableflow.model import events as ev


@activity(retry=1)
async def charge(order: dict[str, Any]) -> dict[str, Any]:
    if order["cents"] < 0:
        raise ValueError("negative: ü")
    return {"paid": order["cents"], "part": 0.1, "deep": [None, True, {"ü": -1}]}


@workflow
async def pay(ctx: Context, cents: int) -> Any:
    ctx.set_custom_status({"step": 1})
    await ctx.sleep(0.001)
    return await ctx.call_activity(charge, {"cents": cents})


async def _ask(url: str, sql: str) -> list[dict[str, Any]]:
    address, _, schema = url.partition("?schema=")
    connection = await asyncpg.connect(address)
    try:
        await connection.execute(f'set search_path = "{schema}"; set time zone "UTC"')
        return [dict(row) for row in await connection.fetch(sql)]
    finally:
        await connection.close()


async def test_views_show_instances_and_events_as_they_are(store_url: Callable[[object], str], tmp_path: Path) -> None:
    url = store_url(tmp_path)
    async with Engine(url, name="worker a") as engine:
        good = await engine.start(pay.options(instance_id="good", tags={"of": "test"}), 2**40)
        bad = await engine.start(pay.options(instance_id="bad"), -5)
        await good.result()
        with pytest.raises(WorkflowFailed):
            await bad.result()
        histories = {each.id: await each.history() for each in (good, bad)}
        records = {each.id: await each.status() for each in (good, bad)}
        shown = await _ask(url, "select * from instances_view order by id")
    assert [row["id"] for row in shown] == ["bad", "good"]
    for row in shown:
        record = records[row["id"]]
        assert (row["workflow"], row["status"], row["worker_name"]) == ("pay", record.status.value, "worker a")
        assert json.loads(row["custom_status"]) == {"step": 1}
        assert abs(row["created_at"] - record.created_at) < timedelta(milliseconds=1)
    for instance_id, history in histories.items():
        rows = await _ask(url, f"select * from events_view where instance = '{instance_id}' order by seq")
        assert [(row["seq"], row["kind"]) for row in rows] == [(each.seq, each.kind) for each in history]
        for row, each in zip(rows, history, strict=True):
            assert json.loads(row["event"]) == _plain(each.event), row["kind"]


def _plain(event: ev.Event) -> Any:
    """The event as the view shows it: bytes as the JSON that they are, else in hexadecimal digits."""

    def plain(value: Any) -> Any:
        if isinstance(value, bytes):
            try:
                return json.loads(value)
            except ValueError:
                return f"0x{value.hex()}"
        if isinstance(value, (list, tuple)):
            return [plain(each) for each in value]
        if isinstance(value, dict):
            return {key: plain(each) for key, each in value.items()}
        return value

    packed = msgspec.msgpack.decode(ev.dump_event(event))[1:]
    return dict(zip(event.__struct_fields__, map(plain, packed), strict=True))


@pytest.mark.parametrize(
    "number",
    [
        0,
        1,
        127,
        128,
        255,
        256,
        65_535,
        65_536,
        2**32,
        2**63 - 1,
        -1,
        -32,
        -33,
        -129,
        -(2**31),
        -(2**63),
        0.1,
        -2.5,
        1e300,
        5e-324,
        0.0,
    ],
)
async def test_numbers_are_read_exactly(store_url: Callable[[object], str], number: float) -> None:
    url = store_url("numbers")
    async with Engine(url):
        packed = msgspec.msgpack.encode([number]).hex()
        (row,) = await _ask(url, f"select value from unpack(decode('{packed}', 'hex'), 0)")
    assert [type(number)(each) for each in json.loads(row["value"])] == [number]


async def test_maps_and_long_texts_are_read(store_url: Callable[[object], str]) -> None:
    url = store_url("numbers")
    value = {"a" * 40: ["x" * 300, "y" * 70_000, list(range(20))], "b": {str(n): n for n in range(20)}}
    async with Engine(url):
        packed = msgspec.msgpack.encode(value).hex()
        (row,) = await _ask(url, f"select value from unpack(decode('{packed}', 'hex'), 0)")
    assert json.loads(row["value"]) == value
