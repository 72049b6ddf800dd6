"""The world of the runtime's tests, for those of its clients: one store, one held clock, engines that can crash."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

SPEC = spec_from_file_location("world_of_the_runtime", Path(__file__).parents[1] / "runtime" / "conftest.py")
assert SPEC is not None
assert SPEC.loader is not None
shared = module_from_spec(SPEC)
SPEC.loader.exec_module(shared)
world, sqlite_world, memory_world, faulty = shared.world, shared.sqlite_world, shared.memory_world, shared.faulty
