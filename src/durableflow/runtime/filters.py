"""Which instances are meant: what users say, as a question to the store, and its answer page by page."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping
from datetime import datetime
from typing import Any, TypedDict, cast

import msgspec

from durableflow.authoring.workflow import Workflow
from durableflow.backends.base import Backend, InstanceRecord, Query
from durableflow.errors import UsageError
from durableflow.model.duration import from_datetime
from durableflow.model.ids import check_text
from durableflow.model.status import Status


class InstanceFilter(TypedDict, total=False):
    """What instances must have in common; what is left out, or None, does not matter.

    Attributes:
        status: one of these.
        workflow: its name, or itself.
        tags: each must be there with this value.
        id_prefix: what the instance id begins with.
        created_from: not made before.
        created_before: made before.
    """

    status: Status | Iterable[Status] | None
    workflow: str | Workflow[..., Any] | None
    tags: Mapping[str, str] | None
    id_prefix: str | None
    created_from: datetime | None
    created_before: datetime | None


def query_of(where: InstanceFilter) -> Query:
    """The question that a filter is.

    Raises:
        UsageError: it says something that is no part of a filter, or what no store can be asked for.
        ValueError: a time without a time zone.
    """
    for name in where.keys() - InstanceFilter.__annotations__.keys():
        from difflib import get_close_matches

        close = get_close_matches(name, InstanceFilter.__annotations__, 1)
        known = ", ".join(sorted(InstanceFilter.__annotations__))
        raise UsageError(
            f"instances cannot be chosen by {name!r}"
            + (f"; did you mean {close[0]!r}?" if close else f", only by {known}")
        )
    status, workflow, id_prefix = where.get("status"), where.get("workflow"), where.get("id_prefix")
    if isinstance(workflow, Workflow):
        workflow = workflow.name
    texts: list[tuple[str, object]] = [("workflow", workflow), ("id_prefix", id_prefix)]
    texts += [("a tag", part) for tag in (where.get("tags") or {}).items() for part in tag]
    for what, text in texts:
        if text is not None or what == "a tag":
            check_text(text, what)
    created_from, created_before = where.get("created_from"), where.get("created_before")
    return Query(
        statuses=frozenset([status]) if isinstance(status, Status) else frozenset(status or ()),
        workflow=workflow,
        tags=where.get("tags") or {},
        id_prefix=id_prefix,
        created_from_us=None if created_from is None else from_datetime(created_from, "created_from"),
        created_before_us=None if created_before is None else from_datetime(created_before, "created_before"),
    )


def says_nothing(where: InstanceFilter) -> bool:
    """True when every instance of the store is meant."""
    return all(cast("Mapping[str, object]", where)[name] is None for name in where)


async def pages_of(backend: Backend, query: Query, size: int) -> AsyncGenerator[list[InstanceRecord]]:
    """All that match, newest first, in pages: what is made meanwhile is newer than what was seen, and left out."""
    while page := await backend.list_records(msgspec.structs.replace(query, limit=size)):
        yield page
        if len(page) < size:
            return
        query = msgspec.structs.replace(query, after=(page[-1].created_us, page[-1].id))
