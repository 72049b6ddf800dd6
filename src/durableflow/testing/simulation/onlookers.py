"""Onlookers: those who look into workflows by their queries, and what they were shown."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import msgspec

from durableflow.errors import InstanceNotFound, StorageError, UsageError
from durableflow.testing.simulation.nodes import NoAnswer, Node
from durableflow.testing.simulation.plan import Birth

_LOOKS: Final = 4
_QUERY: Final = ["query"]


class Glimpse(NamedTuple):
    """What somebody was shown.

    Attributes:
        log: what the program had seen.
        unknown: payloads among that which no history had then.
        failure: why nothing could be shown, if somebody was there to show it.
    """

    instance_id: str
    log: list[Any]
    unknown: list[str]
    failure: str = ""


class Onlookers:
    """All who look into instances of one universe, each a few times.

    Args:
        nodes: the processes that run engines, as they are now; they know the code.
        received: gives the payloads of all external events that any history has.
    """

    def __init__(self, seed: str, nodes: list[Node], received: Callable[[], set[bytes]]) -> None:
        self._dice = random.Random(f"{seed} onlookers")  # noqa: S311  # repeatable on purpose
        self._nodes = nodes
        self._received = received
        self.glimpses: list[Glimpse] = []

    async def watch(self, birth: Birth, lasts_s: float) -> None:
        """Look at an instance now and then, if its program can be looked into."""
        if _QUERY not in birth.program:
            return
        await asyncio.sleep(birth.at_s)
        for _ in range(_LOOKS):
            await asyncio.sleep(self._dice.random() * lasts_s / _LOOKS)
            await self._look(birth.instance_id)

    async def _look(self, instance_id: str) -> None:
        node = self._dice.choice(self._nodes)
        try:
            answer: list[Any] = await node.ask(lambda client: client.query(instance_id, "seen"))
        except (NoAnswer, StorageError, InstanceNotFound, UsageError):  # nobody there, or not begun
            return
        except Exception as error:  # which no query may raise
            self.glimpses.append(Glimpse(instance_id, [], [], repr(error)))
        else:
            known = self._received()
            seen = (text for text in _texts(answer) if text.startswith(("from ", "closing ")))
            unknown = [text for text in seen if msgspec.json.encode(text) not in known]
            self.glimpses.append(Glimpse(instance_id, answer, unknown))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        parts: list[Any] = value  # pyright: ignore[reportUnknownVariableType]  # mypy calls a cast here redundant
        for each in parts:
            yield from _texts(each)
