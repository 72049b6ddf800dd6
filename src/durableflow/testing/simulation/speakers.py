"""Those who talk to instances, and the log of what they were told: what was acknowledged may not be lost.

A speaker knows nothing but the answers that it gets. Without one it asks again, perhaps elsewhere, until it has one.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
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
from durableflow.testing.simulation.clocks import START_US
from durableflow.testing.simulation.invariants import Ack
from durableflow.testing.simulation.nodes import NoAnswer, Node
from durableflow.testing.simulation.plan import VIA_LEADER, Birth, Scheduled, Spoken
from durableflow.testing.simulation.programs import PROGRAM, QUEUE

_TRIES_MAX: Final = 60
_PAUSE_S: Final = 0.5
_RESULT_S: Final = 8.0


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
        options = PROGRAM.options(instance_id=birth.instance_id, queue=QUEUE if birth.queue else None)

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
            match said.kind:
                case "event":
                    await client.raise_event(instance_id, said.name, payload, event_id=event_id)
                case "suspend":
                    await client.suspend(instance_id)
                case "resume":
                    await client.resume(instance_id)
                case "terminate":
                    await client.terminate(instance_id)
                case "cancel":
                    await client.cancel(instance_id)
                case "request":
                    asked = client.request(instance_id, "r", number, request_id=f"{sender}.{number}", timeout=_RESULT_S)
                    return await asked
                case "result":
                    async with asyncio.timeout(_RESULT_S):
                        return converter.dump(await client.result(instance_id), "the result").decode()
            return None

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
            ack = Ack(kind, instance_id, sender, name, told, event_id, is_direct, outcome, tries, node.name)
            self.acks.append(ack)
            self._on_ack(ack)
            return
