"""What is kept of a measurement: one JSON file, which the report needs nothing else to read."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

FORMAT: Final = 1
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
    status: str  # "ok", "unsupported", "failed"; "incomplete": failed, but some figures had been taken
    reason: str = ""
    took_s: float = 0.0
    figures: dict[str, float] = field(default_factory=dict[str, float])
    notes: list[str] = field(default_factory=list[str])


@dataclass(kw_only=True)
class Measurement:
    """One call of `python -m benchmarks`."""

    started: str  # ISO 8601, UTC
    command: str
    scale: str
    seed: int
    repeats: int
    revision: str
    machine: dict[str, str]
    entrants: dict[str, Entrant] = field(default_factory=dict[str, Entrant])
    cells: list[Cell] = field(default_factory=list[Cell])
    took_s: float = 0.0
    format: int = FORMAT

    def save(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, file: Path) -> "Measurement":
        read: dict[str, Any] = json.loads(file.read_text())
        if read["format"] != FORMAT:
            message = f"{file} has format {read['format']}, this code reads {FORMAT}: measure again"
            raise ValueError(message)
        read["entrants"] = {name: Entrant(**entrant) for name, entrant in read["entrants"].items()}
        read["cells"] = [Cell(**cell) for cell in read["cells"]]
        return cls(**read)

    def find(self, contender: str, workload: str) -> list[Cell]:
        """All repeats of one cell, in order."""
        return [cell for cell in self.cells if (cell.contender, cell.workload) == (contender, workload)]


def higher_is_better(figure: str) -> bool:
    """Rates are the only figures of which more is better; the rest are costs."""
    return figure.endswith("_per_s")
