"""A row of the table of instances, alike in every store that is asked in SQL."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from durableflow.backends.records import InstanceRecord, NewInstance

RECORD_COLUMNS: Final = (
    "id, workflow, version, status, created_us, finished_us, wake_us, tags, custom_status, stall_reason, "
    "base_seq, parent"
)


def values_of(record: InstanceRecord) -> tuple[Any, ...]:
    """The values of `RECORD_COLUMNS` of which `as_record` of each store makes it again."""
    return (
        record.id,
        record.workflow,
        record.version,
        record.status.value,
        record.created_us,
        record.finished_us,
        record.wake_us,
        tags_text(record),
        record.custom_status,
        record.stall_reason,
        record.base_seq,
        record.parent,
    )


def tags_text(instance: InstanceRecord | NewInstance) -> str | None:
    """What the column `tags` holds."""
    return msgspec.json.encode(instance.tags).decode() if instance.tags else None
