"""Several stores that are one: each instance is in one of them, whole, and its id says in which.

Comes in: ids. Goes out: names of shards, and the messages of a commit that are for others. Never enters: a store, a
clock. What carries the messages from store to store is `runtime/relays.py`.
"""

from durableflow.backends.sharded.routing import SLOTS, ShardMap, slot_of, with_outbox

__all__ = ["SLOTS", "ShardMap", "slot_of", "with_outbox"]
