"""Waiting for what a cluster comes to by itself."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

Found = TypeVar("Found")

PATIENCE_S: Final = 30.0


async def eventually(
    ask: Callable[[], Found | Awaitable[Found]], *, patience_s: float = PATIENCE_S, every_s: float = 0.05
) -> Found:
    """The first answer that is true.

    Raises:
        AssertionError: there is none; the message is the last one.
    """
    give_up_s = time.monotonic() + patience_s
    while True:
        answer = ask()
        found: Found = await answer if inspect.isawaitable(answer) else answer
        if found:
            return found
        assert time.monotonic() < give_up_s, f"after {patience_s} s it is still {found!r}"
        await asyncio.sleep(every_s)
