"""The plan of a simulated universe: all of it that is not chance, as plain data that can be printed and cut down."""

from __future__ import annotations

import random
from typing import Any, Final, Literal, TypeAlias, get_args

import msgspec

from durableflow.model.schedule import Overlap
from durableflow.testing.simulation.programs import EVENT_NAMES, draw_program
from durableflow.testing.simulation.weather import Climate

StoreKind: TypeAlias = Literal["memory", "fleet", "sqlite"]
SpokenKind: TypeAlias = Literal["event", "suspend", "resume", "terminate", "cancel", "request", "result"]
BlowKind: TypeAlias = Literal["kill", "freeze", "close", "jump"]

_SPOKEN_KINDS: Final[tuple[SpokenKind, ...]] = (
    "event", "event", "event", "event", "event", "event", "event", "suspend", "suspend", "suspend",
    "resume", "resume", "resume", "terminate", "cancel", "request", "request", "result",
)  # fmt: skip
LEASE_S: Final = 4.0
VIA_LEADER: Final = -2


class Spoken(msgspec.Struct, frozen=True):
    """Something that a client says to an instance.

    Attributes:
        by: number of the client; what one client says, it says in order.
        via: number of the process in which it says so; -1 for a process of its own, which only asks, and
            `VIA_LEADER` for whichever leads then.
        name: of an event.
        has_id: whether the event has an id, so that it may be repeated.
        repeats: how often it says so again without need.
    """

    by: int
    pause_s: float
    kind: SpokenKind
    instance_id: str
    via: int = -1
    name: str = ""
    has_id: bool = True
    repeats: int = 0


class Birth(msgspec.Struct, frozen=True):
    """An instance that clients start, perhaps several at once."""

    instance_id: str
    at_s: float
    program: list[Any]
    via: tuple[int, ...]
    queue: bool = False


class Scheduled(msgspec.Struct, frozen=True):
    """A schedule that a client makes; its last slot is before `until_s`."""

    schedule_id: str
    at_s: float
    every_s: float
    until_s: float
    overlap: Overlap
    program: list[Any]
    via: int


class Blow(msgspec.Struct, frozen=True):
    """Something that befalls a process; `seconds` are until it is back, or by how much its clock jumps."""

    at_s: float
    kind: BlowKind
    process: int
    seconds: float


class Plan(msgspec.Struct, frozen=True):
    """One universe.

    Attributes:
        seed: of all dice that fall while it runs.
        rates: how many seconds the clock of each process counts in one.
        only: numbers of the faults of the network that are to happen; None for all.
    """

    seed: int
    store: StoreKind
    rates: tuple[float, ...]
    settings: dict[str, Any]
    climate: Climate
    births: list[Birth]
    spoken: list[Spoken]
    blows: list[Blow]
    lasts_s: float
    ahead: int = 16
    schedules: list[Scheduled] = []
    only: tuple[int, ...] | None = None

    @property
    def size(self) -> tuple[int, ...]:
        """For comparing: what is smaller is easier to understand."""
        words = len(msgspec.json.encode([birth.program for birth in self.births]))
        faults = -1 if self.only is None else len(self.only)
        return len(self.births), len(self.schedules), len(self.blows), faults, len(self.spoken), len(self.rates), words


def draw_plan(seed: int, store: StoreKind | None = None) -> Plan:
    """The universe of a seed."""
    return plan_by(random.Random(f"durableflow universe {seed}"), seed, store)  # noqa: S311  # repeatable on purpose


def plan_by(dice: random.Random, seed: int, store: StoreKind | None = None) -> Plan:
    """A universe by these dice; any that have the methods of `random.Random` will do."""
    kinds: list[StoreKind] = ["memory", "memory", "fleet", "fleet", "fleet"]
    drawn = dice.choice(kinds)
    processes = dice.choice([1, 2, 2, 3, 3, 4])
    lasts_s = dice.choice([5.0, 10.0, 20.0])
    births = [_draw_birth(dice, number, processes, lasts_s) for number in range(dice.choice([4, 12, 24]))]
    talkers = dice.randint(1, 4)
    spoken = [_draw_spoken(dice, births, processes, talkers, lasts_s) for _ in range(dice.choice([8, 24, 60]))]
    drifts = dice.random() < 0.3
    return Plan(
        seed,
        store or drawn,
        tuple(dice.choice([0.99, 1.0, 1.01]) if drifts else 1.0 for _ in range(processes)),
        {
            "cached_instances": dice.choice([0, 1, 3, 100]),
            "commit_retries": dice.choice([0, 1, 6]),
            "turns_per_commit": dice.choice([1, 3, 100]),
            "activity_concurrency": dice.choice([1, 3, 100]),
            "queue_concurrency": dice.choice([1, 3, 100]),
            "grace_s": dice.choice([0.0, 0.3, 5.0]),
            "lease_s": LEASE_S,
        },
        _draw_climate(dice),
        births,
        spoken,
        sorted((_draw_blow(dice, processes, lasts_s) for _ in range(dice.choice([0, 3, 6, 10]))), key=_at_s),
        lasts_s,
        dice.choice([1, 4, 16]),
        [_draw_scheduled(dice, number, lasts_s) for number in range(dice.choice([0, 0, 1, 2]))],
    )


def _at_s(blow: Blow) -> float:
    return blow.at_s


def _draw_birth(dice: random.Random, number: int, processes: int, lasts_s: float) -> Birth:
    callers = dice.choice([1, 1, 1, 2, 4])
    return Birth(
        f"i{number}",
        round(dice.random() * lasts_s * 0.7, 3),
        draw_program(dice),
        tuple(dice.randrange(-1, processes) for _ in range(callers)),
        dice.random() < 0.15,
    )


def _draw_scheduled(dice: random.Random, number: int, lasts_s: float) -> Scheduled:
    return Scheduled(
        f"s{number}",
        round(dice.random() * lasts_s / 2, 3),
        dice.choice([0.5, 1.0, 2.0]),
        lasts_s,
        dice.choice(get_args(Overlap)),
        [dice.choice([["activity", "plain", 1], ["activity", "flaky", 1], ["timer", 2]]), ["wait", -1]],
        dice.choice([VIA_LEADER, -1]),
    )


def _draw_spoken(dice: random.Random, births: list[Birth], processes: int, talkers: int, lasts_s: float) -> Spoken:
    kind = dice.choice(_SPOKEN_KINDS)
    return Spoken(
        dice.randrange(talkers),
        round(dice.random() * lasts_s / 8, 3),
        kind,
        dice.choice(births).instance_id,
        dice.choice([VIA_LEADER, VIA_LEADER, -1, dice.randrange(processes)]),
        dice.choice(EVENT_NAMES),
        dice.random() < 0.5,
        dice.choice([0, 0, 0, 1, 2]),
    )


def _draw_climate(dice: random.Random) -> Climate:
    def share(most: float) -> float:
        return round(dice.random() * most, 3) if dice.random() < 0.6 else 0.0

    return Climate(
        share(0.15), share(0.1), share(0.1), share(0.05), share(0.5), dice.choice([0, 500, 3_000, 30_000]), 6_000_000
    )


def _draw_blow(dice: random.Random, processes: int, lasts_s: float) -> Blow:
    kind: BlowKind = dice.choice(["kill", "kill", "freeze", "freeze", "freeze", "close", "jump"])
    seconds = dice.choice([0.1, 1.0, LEASE_S * 1.5, LEASE_S * 4])
    if kind == "jump":
        seconds *= dice.choice([-1, 1])
    return Blow(round(dice.random() * lasts_s, 3), kind, dice.randrange(processes), seconds)


def dump_plan(plan: Plan) -> str:
    """The plan as one line of JSON."""
    return msgspec.json.encode(plan).decode()


def load_plan(text: str) -> Plan:
    """The plan of such a line."""
    return msgspec.json.decode(text, type=Plan)
