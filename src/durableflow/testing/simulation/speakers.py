"""Those who talk to instances, and the log of what they were told: what was acknowledged may not be lost.

A speaker knows nothing but the answers that it gets. Without one it asks again, perhaps elsewhere, until it has one.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

from durableflow.client import Client
from durableflow.engine import Engine
from durableflow.errors import (
    DurableflowError,
    InstanceNotActive,
    InstanceNotFound,
    InstanceStalled,
    RequestFailed,
    StorageError,
)
from durableflow.model import converter
from durableflow.model.duration import to_datetime
from durableflow.model.schedule import Interval, Schedule
from durableflow.testing.simulation.activities import QUEUE
from durableflow.testing.simulation.clocks import START_US
from durableflow.testing.simulation.interpreter import PROGRAM, workflow_of
from durableflow.testing.simulation.invariants import Ack
from durableflow.testing.simulation.loop import SimulatedLoop
from durableflow.testing.simulation.nodes import NoAnswer, Node
from durableflow.testing.simulation.plan import VIA_LEADER, Birth, Scheduled, Spoken
from durableflow.testing.simulation.poison import KINDS, POISON

_TRIES_MAX: Final = 60
_PAUSE_S: Final = 0.5
_RESULT_S: Final = 8.0
_DEBOUNCE_S: Final = 1.5
_LIMIT_S: Final = 4.0
_CALLS: Final = 20


class Speakers:
    """All speakers of one universe.

    Args:
        nodes: the processes that run engines, as they are now.
        asker: a process that runs none.
    """

    def __init__(
        self, seed: str, nodes: list[Node], asker: Node, on_ack: Callable[[Ack], None], *, is_fleet: bool
    ) -> None:
        self._is_fleet = is_fleet
        self._dice = random.Random(f"{seed} speakers")  # noqa: S311  # repeatable on purpose
        self._nodes = nodes
        self._asker = asker
        self._on_ack = on_ack
        self.acks: list[Ack] = []
        self._numbers: dict[tuple[int, str, str], int] = {}

    # -- starting -------------------------------------------------------------------------------------------

    async def start(self, birth: Birth) -> None:
        """Start an instance, from several places at once."""
        await asyncio.sleep(birth.at_s)
        queue = QUEUE if birth.queue else None
        options = workflow_of(birth.program).options(instance_id=birth.instance_id, queue=queue)

        async def ask(client: Client) -> None:
            await client.start(options, birth.program)

        async def insist(caller: int, via: int) -> None:
            await self._insist("start", birth.instance_id, caller, via, ask, payload=birth.program)

        await asyncio.gather(*(insist(caller, via) for caller, via in enumerate(birth.via)))

    async def schedule(self, planned: Scheduled) -> None:
        """Make a schedule."""
        await asyncio.sleep(planned.at_s)
        schedule = Schedule(
            Interval(planned.every_s),
            overlap=planned.overlap,
            end=to_datetime(START_US + round(planned.until_s * 1_000_000)),
        )

        async def ask(client: Client) -> None:
            await client.schedules.put(planned.schedule_id, schedule, PROGRAM, planned.program)

        await self._insist("schedule", planned.schedule_id, 0, planned.via, ask)

    async def poison(self, number: int) -> None:
        """Start an instance that does what none should, and call it up again and again."""
        instance_id = f"poison {number}"
        options = POISON.options(instance_id=instance_id)
        kind = KINDS[number % len(KINDS)]

        async def ask(client: Client) -> None:
            await client.start(options, kind)

        await self._insist("start", instance_id, 0, number, ask, payload=kind)
        for each in range(_CALLS):
            await asyncio.sleep(_PAUSE_S)
            with suppress(NoAnswer, DurableflowError):
                await self._asker.ask(partial(_call_up, instance_id, each))

    # -- talking --------------------------------------------------------------------------------------------

    async def speak(self, spoken: Sequence[Spoken]) -> None:
        """Say all that one speaker says, in order."""
        for number, each in enumerate(spoken):
            await asyncio.sleep(each.pause_s)
            await self._say(each, number)

    async def _say(self, said: Spoken, number: int) -> None:
        instance_id, sender = said.instance_id, said.by
        event_id: str | None = None
        payload: Any = None
        if said.kind == "event":
            key = (sender, instance_id, said.name.casefold())
            self._numbers[key] = index = self._numbers.get(key, 0) + 1
            payload = f"from {sender}, {key[2]}: {index}"
            event_id = f"{sender}.{number}" if said.has_id else None

        async def ask(client: Client) -> Any:
            if said.kind == "event":
                return await client.raise_event(instance_id, said.name, payload, event_id=event_id)
            return await _ASKING[said.kind](client, said, f"{sender}.{number}")

        for _ in range(1 + said.repeats * (event_id is not None)):
            await self._insist(
                said.kind, instance_id, sender, said.via, ask, payload=payload, name=said.name, event_id=event_id
            )

    # -- insisting ------------------------------------------------------------------------------------------

    def _node(self, via: int, tries: int) -> Node:
        if via == -1:
            return self._asker
        if tries == 0 and via == VIA_LEADER:
            leaders = [node for node in self._nodes if node.engine is not None and node.engine.is_leading]
            return leaders[0] if leaders else self._asker
        if tries == 0:
            return self._nodes[via % len(self._nodes)]
        return self._dice.choice([*self._nodes, self._asker])

    async def _insist(
        self,
        kind: str,
        instance_id: str,
        sender: int,
        via: int,
        ask: Callable[[Client], Awaitable[Any]],
        *,
        payload: Any = None,
        name: str = "",
        event_id: str | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimulatedLoop)
        asked_us = loop.now_us
        for tries in range(_TRIES_MAX):
            node = self._node(via, tries)
            outcome, answer = "done", None
            is_direct = False

            async def put(client: Client) -> Any:
                nonlocal is_direct
                is_direct = isinstance(client, Engine) and client.is_leading and not self._is_fleet
                return await ask(client)

            try:
                answer = await node.ask(put)
            except (NoAnswer, StorageError):
                await asyncio.sleep(_PAUSE_S)
                continue
            except TimeoutError:
                outcome = "TimeoutError"
            except InstanceStalled:
                outcome = "InstanceStalled"
            except (InstanceNotFound, InstanceNotActive, RequestFailed, DurableflowError) as error:
                outcome = type(error).__name__
            told = payload if answer is None else answer
            ack = Ack(kind, instance_id, sender, name, told, event_id, is_direct, outcome, tries, node.name, asked_us)
            self.acks.append(ack)
            self._on_ack(ack)
            return


async def _call_up(instance_id: str, number: int, client: Client) -> None:
    await client.raise_event(instance_id, "called", number)


async def _suspend(client: Client, said: Spoken, _: str) -> None:
    await client.suspend(said.instance_id)


async def _resume(client: Client, said: Spoken, _: str) -> None:
    await client.resume(said.instance_id)


async def _terminate(client: Client, said: Spoken, _: str) -> None:
    await client.terminate(said.instance_id)


async def _cancel(client: Client, said: Spoken, _: str) -> None:
    await client.cancel(said.instance_id)


async def _request(client: Client, said: Spoken, name: str) -> Any:
    number = int(name.partition(".")[2])
    return await client.request(said.instance_id, "r", number, request_id=name, timeout=_RESULT_S)


async def _result(client: Client, said: Spoken, _: str) -> str:
    async with asyncio.timeout(_RESULT_S):
        return converter.dump(await client.result(said.instance_id), "the result").decode()


async def _rewind(client: Client, said: Spoken, _: str) -> None:
    await client.rewind(said.instance_id, force=True)


async def _redrive(client: Client, said: Spoken, _: str) -> None:
    await client.dead_letters.redrive(said.instance_id, force=True)


async def _discard(client: Client, said: Spoken, _: str) -> None:
    await client.dead_letters.discard(said.instance_id)


async def _fork(client: Client, said: Spoken, name: str) -> str:
    return (await client.fork(said.instance_id, new_id=f"{said.instance_id} again {name}")).id


async def _purge(client: Client, said: Spoken, _: str) -> None:
    await client.purge(said.instance_id)


async def _debounce(client: Client, said: Spoken, _: str) -> str:
    options = PROGRAM.options(instance_id=said.name, debounce=_DEBOUNCE_S, debounce_limit=_LIMIT_S)
    return (await client.start(options, said.program)).id


_ASKING: Final[dict[str, Callable[[Client, Spoken, str], Awaitable[Any]]]] = {
    "suspend": _suspend,
    "resume": _resume,
    "terminate": _terminate,
    "cancel": _cancel,
    "request": _request,
    "result": _result,
    "rewind": _rewind,
    "redrive": _redrive,
    "discard": _discard,
    "fork": _fork,
    "purge": _purge,
    "debounce": _debounce,
}
"""How each kind of word is said; with the word goes a name of its own, which is the same each time it is said."""
