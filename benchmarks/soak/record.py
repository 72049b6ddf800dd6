"""What is kept of a soak: one JSON file, which verdict and page need nothing else to read."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

FORMAT: Final = 1
STEADY: Final = "w1"
CLIENT: Final = "client"
"""These two no fault is done to, but for what befalls the server and its sessions."""

Series = dict[str, list[float | None]]
"""Columns of equal length; `at_s`, seconds since the beginning, is one of them."""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What was asked for."""

    duration_s: float = 3_600.0
    rate: float = 60.0  # starts in a second, those of the schedule and of children not counted
    seed: int = 1
    lease_s: float = 10.0
    fault_every_s: tuple[float, float] = (30.0, 60.0)
    judge_after_s: float = 30.0  # after its end an instance is judged
    retention_s: float = 120.0  # and removed after this
    sample_every_s: float = 5.0


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What was done, when, to whom."""

    at_s: float
    what: str
    whom: str = ""


@dataclass(kw_only=True)
class Record:
    """A soak, over or under way."""

    terms: Terms
    started: str = ""  # ISO 8601, UTC
    command: str = ""
    revision: str = ""
    machine: dict[str, str] = field(default_factory=dict[str, str])
    planned_faults: int = 0
    faults: list[Fault] = field(default_factory=list[Fault])
    series: dict[str, Series] = field(default_factory=dict[str, Series])
    totals: dict[str, float] = field(default_factory=dict[str, float])
    violations: list[str] = field(default_factory=list[str])
    format: int = FORMAT

    def column(self, series: str, column: str) -> list[tuple[float, float]]:
        """Its values with their moments, those left out that could not be had."""
        columns = self.series.get(series, {})
        pairs = zip(columns.get("at_s", ()), columns.get(column, ()), strict=False)
        return [(at_s, value) for at_s, value in pairs if at_s is not None and value is not None]

    def save(self, file: Path) -> None:
        """Write it, whole or not at all, a line for each column."""
        kept = asdict(self)
        series = kept.pop("series")
        lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in kept.items()]
        told = [
            f"{json.dumps(name)}: {{\n"
            + ",\n".join(f"{json.dumps(column)}: {json.dumps(values)}" for column, values in columns.items())
            + "\n}"
            for name, columns in series.items()
        ]
        lines.append('"series": {\n' + ",\n".join(told) + "\n}")
        file.parent.mkdir(parents=True, exist_ok=True)
        beside = file.with_suffix(".new")
        beside.write_text("{\n" + ",\n".join(lines) + "\n}\n")
        beside.replace(file)

    @classmethod
    def load(cls, file: Path) -> "Record":
        read: dict[str, Any] = json.loads(file.read_text())
        if read["format"] != FORMAT:
            message = f"{file} has format {read['format']}, this code reads {FORMAT}: soak again"
            raise ValueError(message)
        terms = read["terms"] | {"fault_every_s": tuple(read["terms"]["fault_every_s"])}
        read["terms"] = Terms(**terms)
        read["faults"] = [Fault(**fault) for fault in read["faults"]]
        return cls(**read)


def columns(rows: Iterable[Mapping[str, float]], began_s: float) -> Series:
    """Rows with a moment each as columns; what one of them has not is None."""
    kept = list(rows)
    names = list(dict.fromkeys(name for row in kept for name in row))
    made: Series = {name: [row.get(name) for row in kept] for name in names}
    if kept:
        made["at_s"] = [round(row["at_s"] - began_s, 2) for row in kept]
    return made
