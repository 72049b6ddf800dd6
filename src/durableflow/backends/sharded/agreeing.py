"""The map as the stores keep it: whoever has another one is refused, before it puts anything in a wrong place."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Final

import msgspec

from durableflow.backends.base import Backend, Query
from durableflow.backends.relaying import KeptMap
from durableflow.backends.sharded.routing import ShardMap
from durableflow.errors import UsageError

_PAGE: Final = 1_000


def kept_map(name: str, shard_map: ShardMap) -> KeptMap:
    """What the store of a shard keeps."""
    return KeptMap(name, msgspec.json.encode(shard_map))


async def agree(store: Backend, name: str, shard_map: ShardMap) -> None:
    """Have the store of a shard keep the map, if it keeps none.

    Raises:
        UsageError: it is another shard, or keeps another map, or holds what by this map belongs elsewhere.
    """
    there = await store.read_map()
    if there is None:
        await check_strays(store, name, shard_map)
        there = await store.keep_map(kept_map(name, shard_map), None)
    if there is None or there == kept_map(name, shard_map):
        return
    check_name(store, name, there)
    raise UsageError(
        f"{store!r} keeps another map than the one given here: {difference(known_map(there), shard_map)}; "
        "pass the map that all processes have, or adopt a later one by durableflow.sharding.adopt_map()"
    )


def known_map(there: KeptMap) -> ShardMap:
    """The map that a store keeps."""
    return msgspec.json.decode(there.map, type=ShardMap)


def check_name(store: Backend, name: str, there: KeptMap) -> None:
    """Raises `UsageError` for a store that is another shard."""
    if there.shard != name:
        raise UsageError(
            f"{store!r} is given as shard {name!r}, but it is shard {there.shard!r}: "
            "were two addresses exchanged, or was a shard renamed?"
        )


def difference(known: ShardMap, given: ShardMap) -> str:
    """What two maps do not agree in, in words."""
    told = [f"version {known.version} there, {given.version} here"] if known.version != given.version else []
    if known.shards != given.shards:
        told.append(f"shards {', '.join(known.shards)} there, {', '.join(given.shards)} here")
    moved = len(known.moved_slots(given))
    if moved:
        told.append(f"{moved:,} slots are another shard's")
    return "; ".join(told)


async def check_strays(store: Backend, name: str, shard_map: ShardMap) -> None:
    """Raises `UsageError` for a store that holds what by this map belongs elsewhere."""
    found = [each async for each in _strays(store, name, shard_map)]
    if found:
        raise UsageError(
            f"{store!r} as shard {name!r} holds {len(found):,} instances and schedules that by this map belong to "
            f"others, such as {found[0]!r}, which nobody would find there: move them first"
        )


async def _strays(store: Backend, name: str, shard_map: ShardMap) -> AsyncGenerator[str]:
    query = Query(limit=_PAGE)
    while page := await store.list_records(query):
        for record in page:
            if shard_map.shard_of(record.id) != name:
                yield record.id
        query = msgspec.structs.replace(query, after=(page[-1].created_us, page[-1].id))
    after = ""
    while rows := await store.list_schedules(after, _PAGE):
        for row in rows:
            if shard_map.shard_of_schedule(row.id) != name:
                yield row.id
        after = rows[-1].id
