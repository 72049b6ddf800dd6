"""What is asked, in which order, what is not asked again, and how long the rest will take."""

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Final, NamedTuple

from benchmarks.bench import Workload
from benchmarks.contract import Spec
from benchmarks.results import Cell, Measurement

GUESS_S: Final = 5.0  # of a cell, before anything is known
NOT_ASKED: Final = ("unsupported", "skipped")  # such cells took no time


class Asked(NamedTuple):
    """One cell that is to be measured."""

    repeat: int
    workload: Workload
    spec: Spec


class Refusal(NamedTuple):
    """Why a cell is not measured: what is written into it instead."""

    status: str
    reason: str


def plan(workloads: Sequence[Workload], specs: Sequence[Spec], repeats: int) -> list[Asked]:
    """All cells in order: contenders take turns within a workload, workloads within a repeat."""
    return [
        Asked(repeat, workload, spec)
        for repeat in range(repeats)
        for workload in workloads
        for spec in specs
        if repeat < times(workload, spec, repeats)
    ]


def times(workload: Workload, spec: Spec, repeats: int) -> int:
    """How often this contender is asked for this workload."""
    if workload.postgres and not spec.postgres:
        return 0
    most = workload.repeats_max if spec.ours else workload.peer_repeats_max
    return repeats if most is None else min(repeats, most)


def still_to_do(asked: Iterable[Asked], measurement: Measurement) -> list[Asked]:
    """Those of `asked` that an earlier sitting has not answered."""
    have = {(cell.repeat, cell.workload, cell.contender) for cell in measurement.cells}
    return [each for each in asked if (each.repeat, each.workload.name, each.spec.name) not in have]


def refusal(measurement: Measurement, asked: Asked) -> Refusal | None:
    """Why this cell is not to be measured, if there is a reason.

    The contender cannot do it at all; it could not do all of the smaller workload of this kind; it did not come to an
    end with this one in an earlier repeat.
    """
    spec, workload = asked.spec, asked.workload
    for cell in measurement.find(spec.name, workload.name):
        if cell.repeat < asked.repeat and cell.status != "ok":
            return Refusal("skipped", f"not asked again after repeat {cell.repeat + 1}")
    if workload.name in spec.unsupported:
        return Refusal("unsupported", spec.unsupported[workload.name])
    for cell in measurement.find(spec.name, workload.after):
        if cell.notes or cell.status != "ok":
            return Refusal("unsupported", f"already too much at {cell.workload}")
    return None


def remaining_s(left: Iterable[Asked], measured: Sequence[Cell], earlier: Sequence[Cell] = ()) -> float:
    """About how long these cells will take.

    Known best is what the same cell took before, in this measurement or an earlier one, then what others took with the
    same workload.
    """
    exact = _means((cell.contender, cell.workload, cell.took_s) for cell in earlier)
    exact |= _means((cell.contender, cell.workload, cell.took_s) for cell in measured)
    asked = [cell for cell in measured if cell.status not in NOT_ASKED]
    alike = _means(("", cell.workload, cell.took_s) for cell in asked)
    usual = fmean(cell.took_s for cell in asked) if asked else GUESS_S
    return sum(
        exact.get((each.spec.name, each.workload.name), alike.get(("", each.workload.name), usual)) for each in left
    )


def _means(taken: Iterable[tuple[str, str, float]]) -> dict[tuple[str, str], float]:
    gathered: dict[tuple[str, str], list[float]] = {}
    for contender, workload, took_s in taken:
        gathered.setdefault((contender, workload), []).append(took_s)
    return {key: fmean(values) for key, values in gathered.items()}
