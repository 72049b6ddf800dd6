"""Where an instance comes from, and what a later round of it begins with; the rules of `events.py` hold here, too."""

from __future__ import annotations

import msgspec


class Origin(msgspec.Struct, frozen=True, array_like=True):
    """Where an instance comes from, when it was not simply started.

    Attributes:
        parent_id, parent_task: the instance whose child it is, and the number of the call there.
        forked_from, forked_at: the instance of which it is a copy up to that event.
        seed: what its dice are seeded with; empty for its own id.
    """

    parent_id: str = ""
    parent_task: int = 0
    forked_from: str = ""
    forked_at: int = 0
    seed: str = ""


class KeptEvent(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An external event that nobody had waited for when a round ended; `name` is casefolded."""

    name: str
    payload: bytes


class KeptRequest(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A request that no handler had taken when a round ended."""

    request_id: str
    name: str
    arguments: bytes


class Round(msgspec.Struct, frozen=True, array_like=True):
    """What a later round of an instance begins with: replay needs nothing from before it.

    Attributes:
        number: 1 for the first that follows the beginning.
        tasks: how many task numbers earlier rounds have used; they are never used again.
        kept: external events that wait for a waiter, in order.
        event_ids: of the latest events, so that a repeated one is not delivered again.
        requests: requests that wait for a handler, in order.
        request_ids: of the latest requests.
        state: what was passed to `checkpoint`; None after `continue_as_new`.
        patches: after a checkpoint, the patches that this instance takes the new way at.
        unpatched: after a checkpoint, those that it had passed before they were made.
        custom_status: what the workflow last said of itself.
        in_queue: whether it may have a place in a queue, or activities in one.
        cancel_requested: after a checkpoint, whether its code had been told of a cancellation.
    """

    number: int
    tasks: int
    kept: tuple[KeptEvent, ...] = ()
    event_ids: tuple[str, ...] = ()
    requests: tuple[KeptRequest, ...] = ()
    request_ids: tuple[str, ...] = ()
    state: bytes | None = None
    patches: tuple[str, ...] = ()
    unpatched: tuple[str, ...] = ()
    custom_status: bytes | None = None
    cancel_requested: bool = False
    in_queue: bool = False
