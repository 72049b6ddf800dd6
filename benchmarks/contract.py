"""What a contender must offer, so that every one of them is given exactly the same work."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable


class UnsupportedError(Exception):
    """This contender cannot do this workload; the message says why and lands in the results."""


class WrongResultError(Exception):
    """A workload came back with something else than the one right answer."""


class Contender(Protocol):
    """One engine, used in the way its own documentation shows, with its default durability.

    `workflow` names one of `work.WORKFLOWS`; each takes one integer and returns one integer, so results can be checked.
    """

    async def open(self, directory: Path) -> None:
        """Start the engine with all its state below `directory`; what is there already is taken up again.

        For those that keep it in PostgreSQL the directory stands for a database: `postgres.database(directory)`.
        """

    async def close(self) -> None:
        """Stop everything that `open` started."""

    async def call(self, workflow: str, argument: int) -> int:
        """Start an instance, wait for it, return its result."""

    async def begin(self, workflow: str, argument: int) -> str:
        """Start an instance and return its id as soon as the start is acknowledged."""

    async def raise_event(self, instance_id: str, value: int) -> None:
        """Deliver the event `go` to an instance of `wait`."""

    async def result(self, instance_id: str) -> int:
        """Wait for an instance that `begin` started, also one from an earlier process."""

    def server_pids(self) -> Sequence[int]:
        """Processes beside our own whose CPU time and memory belong to this contender."""

    async def durability(self) -> Mapping[str, str]:
        """The settings in force now, asked from the engine itself where it can be asked."""


@runtime_checkable
class CopiesFinished(Protocol):
    """A contender that can fill its file faster than by doing all the work."""

    async def copy_finished(self, source: Path, target: Path, count: int) -> None:
        """Fill `target` with `count` finished instances, all of them copies of those in `source`.

        The copies get fresh ids and times and are written as the engine writes them; neither directory is open.
        """


@runtime_checkable
class InFleet(Protocol):
    """A contender of which several processes may share one database."""

    lease_s: float
    """After so long without a sign of life another process takes its instances over; may be set before `open`."""

    async def open_client(self, directory: Path) -> None:
        """Instead of `open`: be able to begin, send events and ask for results, but run no instances here."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One row of the catalogue: where a contender lives and what it needs."""

    name: str
    title: str
    factory: str  # "module:callable", imported in the contender's own environment only
    imports: str  # the statement with which a first program gets at it
    distributions: tuple[str, ...]  # whose versions are printed
    requirements: tuple[str, ...]  # for pip; "-e ." stands for this repository
    npm: tuple[str, ...] = ()
    bare_import: str = ""  # of ours: loads next to nothing by itself, so it is shown only beside the other
    ours: bool = False
    durable: bool = True
    postgres: bool = False  # keeps its state in the PostgreSQL server of its cell
    quick: bool = True  # takes part in a quick measurement unless asked for by name
    unsupported: Mapping[str, str] = field(default_factory=dict[str, str])  # workload -> reason
