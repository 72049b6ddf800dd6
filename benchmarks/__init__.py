"""The same durable work, given to durableflow and to its peers, one process each.

`python -m benchmarks` measures and writes JSON; `python -m benchmarks.report` turns it into `docs/benchmarks.md`.
Only the standard library is needed here: each contender gets a virtual environment of its own.

- `contract`, `work`: what a contender must offer, and the work all of them do
- `contenders/`: one file each, and the catalogue that names them
- `workloads`: the list; `rates`, `waiting`, `recovery`, `files`, `fleet`: its phases, inside the contender's process
  (`child`) and those that it starts (`member`)
- `bench`, `load`, `process`, `postgres`: what phases work with
- `run`, `plan`, `environments`, `machine`, `slow_sync`: the parent that installs, starts, times out and collects
- `results`, `report`, `curves`, `plots`: what is kept and how it is shown
"""
