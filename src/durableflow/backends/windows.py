"""Windows of debounced starts: of many in a short time, one instance is made, and the latest counts."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from durableflow.backends.records import NewInstance


class DebouncedStart(NamedTuple):
    """A start that waits for others of the same key, of which the latest counts.

    Attributes:
        key: within the workflow and version of `new`.
        new: the instance that is made when no window of the key is open.
        started: its first message.
        changed: the message that it gets when the window closes, if no later start replaces it.
        start_at_us: the window stays open until then, but not beyond `until_us` of the start that opened it.
        until_us: None for as long as starts come.
    """

    key: str
    new: NewInstance
    started: bytes
    changed: bytes
    start_at_us: int
    until_us: int | None


class WindowStore(Protocol):
    """The part of a backend that keeps windows; each method is one transaction."""

    async def debounce(self, start: DebouncedStart) -> str:
        """Change the open window of the key, or open one, with its instance; the id of the instance.

        A window whose instance is over, or gone, is not open. `wake_us` of an instance that waits for its
        moment follows the window.

        Raises:
            InstancesExist: a window would have to be opened, but the id of `new` is taken; nothing was written.
        """
        ...

    async def close_window(self, instance_id: str, now_us: int) -> int | None:
        """Close the window of an instance if its time has come, and put its latest `changed` into the inbox.

        Returns:
            The moment before which it stays open; None when it is closed, or was before.
        """
        ...
