"""Several stores that are one: each instance is in one of them, whole, and its id says in which.

Comes in: what clients ask of a store. Goes out: the same, asked of the shards that know. Never enters: a clock, and
what only a worker does. What carries the messages from store to store is `runtime/relays.py`.
"""

from durableflow.backends.sharded.agreeing import agree
from durableflow.backends.sharded.backend import ShardedBackend
from durableflow.backends.sharded.routing import SLOTS, ShardMap, parted, placed_by, slot_of, with_outbox

__all__ = ["SLOTS", "ShardMap", "ShardedBackend", "agree", "parted", "placed_by", "slot_of", "with_outbox"]
