"""What is a worker's, a server's or a mover's to do, and no client's: it is done in one store at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from durableflow.errors import UsageError


def _refused(name: str, instead: str) -> Callable[..., Any]:
    async def refuse(*_: object, **__: object) -> Any:
        raise UsageError(f"{name}() is done in one store at a time, and this is several that are one: {instead}")

    refuse.__name__ = name
    refuse.__doc__ = f"Refused: see `Backend.{name}`."
    return refuse


def _by_a_worker(name: str) -> Callable[..., Any]:
    return _refused(name, "to run workflows here use durableflow.Shards(...), which has an engine for each store")


def _by_a_mover(name: str) -> Callable[..., Any]:
    return _refused(name, "move each store by itself")


class OneStoreAtATime:
    """Methods of `Backend` that `ShardedBackend` refuses."""

    acquire = _by_a_worker("acquire")
    renew = _by_a_worker("renew")
    release = _by_a_worker("release")
    commit = _by_a_worker("commit")
    transact = _by_a_worker("transact")
    due = _by_a_worker("due")
    next_wake = _by_a_worker("next_wake")
    inbox = _by_a_worker("inbox")
    claim_instances = _by_a_worker("claim_instances")
    hand_over = _by_a_worker("hand_over")
    share = _by_a_worker("share")
    owned = _by_a_worker("owned")
    owners = _by_a_worker("owners")
    read_inbox = _by_a_worker("read_inbox")
    close_window = _by_a_worker("close_window")
    due_schedules = _by_a_worker("due_schedules")
    change_alerts = _by_a_worker("change_alerts")
    notices = _by_a_worker("notices")
    takeovers = _by_a_worker("takeovers")
    quiet = _by_a_worker("quiet")

    enlist_server = _by_a_worker("enlist_server")
    renew_server = _by_a_worker("renew_server")
    retire_server = _by_a_worker("retire_server")
    look_at_tasks = _by_a_worker("look_at_tasks")
    claim = _by_a_worker("claim")
    claimed_tasks = _by_a_worker("claimed_tasks")
    overdue_tasks = _by_a_worker("overdue_tasks")
    offer_task = _by_a_worker("offer_task")
    offer_claimed = _by_a_worker("offer_claimed")
    offered_tasks = _by_a_worker("offered_tasks")

    read_outbox = _by_a_worker("read_outbox")
    settle = _by_a_worker("settle")
    read_map = _by_a_worker("read_map")
    keep_map = _by_a_worker("keep_map")
    take_up_relay = _by_a_worker("take_up_relay")
    deliver = _by_a_worker("deliver")
    forget_delivered = _by_a_worker("forget_delivered")

    living = _by_a_mover("living")
    foreign_tables = _by_a_mover("foreign_tables")
    seal = _by_a_mover("seal")
    unseal = _by_a_mover("unseal")
    count_parts = _by_a_mover("count_parts")
    read_part = _by_a_mover("read_part")
    last_key = _by_a_mover("last_key")
    write_part = _by_a_mover("write_part")
