"""An hour under load and faults, and what must not grow meanwhile.

Comes in: how long, how much, a seed. Goes out: what was measured, and a verdict with its rules. Never enters: another
server than its own, a verdict by eye.

`python -m benchmarks.soak --minutes 60` runs it, `python -m benchmarks.soak.report` turns what it has kept into
`docs/reliability/soak.md`.

- `kinds`: the workflows of the load
- `member`, `asker`: the worker's process, and the client's, which is paced
- `faults`: what is done to them, by seed
- `gauges`: what is measured from outside; `pulses`: from inside
- `judge`: nothing lost, nothing doubled, asked before retention removes it
- `run`: all of these at work; `record`, `verdict`, `plots`, `report`: what is kept, judged and shown

The judge of tables, the processes and most of the workflows are those of `tests/fleet`.
"""

import sys
from pathlib import Path
from typing import Final

TESTS: Final = Path(__file__).resolve().parents[2] / "tests"

sys.path += [
    str(TESTS / room) for room in ("fleet", "fleet/apps", "acceptance/apps") if str(TESTS / room) not in sys.path
]
