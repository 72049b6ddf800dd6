"""What is kept of a measurement: one JSON file, which the report needs nothing else to read.

A measurement may be made in several sittings, as long as they are of one piece: see `Measurement.differences`.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

FORMAT: Final = 2
DIRECTORY: Final = Path(__file__).resolve().parent / "results"


@dataclass(kw_only=True)
class Entrant:
    """A contender as it was found here."""

    title: str
    status: str  # "ok" or "not runnable"
    reason: str = ""
    versions: dict[str, str] = field(default_factory=dict[str, str])
    durability: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(kw_only=True)
class Cell:
    """One workload of one contender, measured once."""

    contender: str
    workload: str
    repeat: int
    # "ok", "unsupported", "failed"; "incomplete": failed, but some figures had been taken; "skipped": `plan.refusal`
    status: str
    reason: str = ""
    took_s: float = 0.0
    figures: dict[str, float] = field(default_factory=dict[str, float])
    samples: dict[str, list[float]] = field(default_factory=dict[str, list[float]])  # taken several times in one cell
    notes: list[str] = field(default_factory=list[str])

    def values(self, figure: str) -> list[float]:
        """All that was measured of a figure: its samples, or the figure itself."""
        return self.samples.get(figure) or [self.figures[figure]] if figure in self else []

    def __contains__(self, figure: str) -> bool:
        return figure in self.figures or figure in self.samples


@dataclass(kw_only=True)
class Sitting:
    """One call of `python -m benchmarks`."""

    started: str  # ISO 8601, UTC
    command: str
    conditions: dict[str, str]  # of the machine, which may be others in the next sitting
    took_s: float = 0.0


@dataclass(kw_only=True)
class Measurement:
    """What was measured with one revision on one machine, in one sitting or in several."""

    scale: str
    seed: int
    repeats: int
    revision: str
    machine: dict[str, str]
    sittings: list[Sitting] = field(default_factory=list[Sitting])
    entrants: dict[str, Entrant] = field(default_factory=dict[str, Entrant])
    cells: list[Cell] = field(default_factory=list[Cell])
    format: int = FORMAT

    @property
    def took_s(self) -> float:
        return sum(sitting.took_s for sitting in self.sittings)

    def save(self, file: Path) -> None:
        """Write it, whole or not at all: whoever is interrupted here keeps what was there."""
        file.parent.mkdir(parents=True, exist_ok=True)
        beside = file.with_suffix(".new")
        beside.write_text(json.dumps(asdict(self), indent=1) + "\n")
        beside.replace(file)

    @classmethod
    def load(cls, file: Path) -> "Measurement":
        read: dict[str, Any] = json.loads(file.read_text())
        if read["format"] != FORMAT:
            message = f"{file} has format {read['format']}, this code reads {FORMAT}: measure again"
            raise ValueError(message)
        read["entrants"] = {name: Entrant(**entrant) for name, entrant in read["entrants"].items()}
        read["cells"] = [Cell(**cell) for cell in read["cells"]]
        read["sittings"] = [Sitting(**sitting) for sitting in read["sittings"]]
        return cls(**read)

    def find(self, contender: str, workload: str) -> list[Cell]:
        """All repeats of one cell, in order."""
        return [cell for cell in self.cells if (cell.contender, cell.workload) == (contender, workload)]

    def differences(self, now: "Measurement") -> list[str]:
        """Why what is measured now may not be added to this, one line each; empty when it may."""
        found = [
            f"{name}: was {before!r}, is {today!r}"
            for name in ("revision", "scale", "seed", "machine")
            for before, today in _parted(getattr(self, name), getattr(now, name))
        ]
        for name, entrant in now.entrants.items():
            if name in self.entrants and self.entrants[name] != entrant:
                found += [
                    f"{entrant.title}, {what}: was {before!r}, is {today!r}"
                    for what in ("status", "versions", "durability")
                    for before, today in _parted(getattr(self.entrants[name], what), getattr(entrant, what))
                ]
        return found


def _parted(before: Any, today: Any) -> list[tuple[Any, Any]]:
    """The two, if they differ; of facts by name, only those that do."""
    if before == today:
        return []
    if isinstance(before, dict):
        names = [each for each in before | today if before.get(each) != today.get(each)]
        return [({each: before.get(each) for each in names}, {each: today.get(each) for each in names})]
    return [(before, today)]


def higher_is_better(figure: str) -> bool:
    """Rates are the only figures of which more is better; the rest are costs."""
    return figure.endswith("_per_s")
