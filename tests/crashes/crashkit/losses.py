"""What somebody had been told and is not there."""

from pathlib import Path

from check_tables import Tables, read_acks, violations

from crashkit.disk import Crash, lay_out
from crashkit.tables import recover_and_read


def lost(crash: Crash, folder: Path) -> list[str]:
    """What is wrong with a state, by the acknowledgements that had been given by then."""
    place = folder / "looked at"
    lay_out(crash.files, place)
    store = place / "store.db"
    try:
        tables = recover_and_read(store) if store.exists() else Tables({}, {}, {})
        found = violations(tables, read_acks(place / "acks.jsonl"))
        return [f"{crash.moment}, call {crash.at}: {line}" for line in found]
    finally:
        for path in place.iterdir():
            path.unlink()
        place.rmdir()
