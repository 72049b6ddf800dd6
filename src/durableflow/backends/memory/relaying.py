"""Messages to and from other stores, in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

from durableflow.backends.base import Outgoing
from durableflow.backends.memory.rows import Rows
from durableflow.backends.relaying import KeptMap, OutboxRow, Outcome, RelayHold, Settled, answer_of
from durableflow.errors import LeaseLost


class MemoryRelays(Rows):
    """The part of `MemoryBackend` that talks to other stores."""

    def __init__(self) -> None:
        super().__init__()
        self._outbox: dict[int, Outgoing] = {}
        self._last_outbox = 0
        self._relays: dict[str, int] = {}
        self._delivered: dict[str, dict[int, Outcome]] = {}
        self._kept_map: KeptMap | None = None

    def _put_out(self, messages: Iterable[Outgoing]) -> None:
        for message in messages:
            self._last_outbox += 1
            self._outbox[self._last_outbox] = message

    def _go_on(self, data: bytes) -> Outcome:
        """Write histories that come from another store."""
        raise NotImplementedError

    async def read_outbox(self, after: int, limit: int) -> list[OutboxRow]:
        """See `RelayStore.read_outbox`."""
        return list(islice((OutboxRow(*each) for each in self._outbox.items() if each[0] > after), limit))

    async def settle(self, settled: Sequence[Settled]) -> None:
        """See `RelayStore.settle`."""
        self._check_seal()
        for number, outcome in settled:
            message = self._outbox.pop(number, None)
            answer = None if message is None else answer_of(message, outcome)
            if message is not None and answer is not None and message.sender in self._instances:
                self._put(message.sender, answer)
        self._notify()

    async def count_relayed(self) -> int:
        """See `RelayStore.count_relayed`."""
        return len(self._outbox) + sum(map(len, self._delivered.values()))

    async def read_map(self) -> KeptMap | None:
        """See `RelayStore.read_map`."""
        return self._kept_map

    async def keep_map(self, kept: KeptMap, before: KeptMap | None) -> KeptMap | None:
        """See `RelayStore.keep_map`."""
        self._check_seal()
        if self._kept_map == before:
            self._kept_map = kept
        return None if self._kept_map == kept else self._kept_map

    async def take_up_relay(self, source: str) -> RelayHold:
        """See `RelayStore.take_up_relay`."""
        self._check_seal()
        epoch = self._relays[source] = self._relays.get(source, 0) + 1
        return RelayHold(source, epoch, sorted(self._delivered.setdefault(source, {})))

    def _check_relay(self, hold: RelayHold) -> None:
        self._check_seal()
        if self._relays.get(hold.source) != hold.epoch:
            raise stale_relay(hold)

    async def deliver(self, hold: RelayHold, rows: Sequence[OutboxRow]) -> list[Outcome]:
        """See `RelayStore.deliver`."""
        self._check_relay(hold)
        known = self._delivered[hold.source]
        for number, message in rows:
            if number not in known:
                known[number] = self._go_on(message.rewrites) if message.rewrites else self._send_one(message).outcome
        self._notify()
        return [known[number] for number, _ in rows]

    async def forget_delivered(self, hold: RelayHold, numbers: Sequence[int]) -> None:
        """See `RelayStore.forget_delivered`."""
        self._check_relay(hold)
        for number in numbers:
            self._delivered[hold.source].pop(number, None)


def stale_relay(hold: RelayHold) -> LeaseLost:
    """What a relay is told that is not the latest of its source."""
    return LeaseLost(f"relay {hold.epoch} from {hold.source} was followed by another one; nothing was written")
