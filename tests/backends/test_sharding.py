"""Which shard an instance is in: for ever the same, evenly, and with a new shard as few as can be change theirs."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durableflow.backends.base import Commit, Outgoing
from durableflow.backends.sharded import SLOTS, ShardMap, slot_of, with_outbox
from durableflow.errors import UsageError

NAMES = ["north", "east", "south", "west", "far"]


def test_the_slot_of_an_id_is_the_same_for_ever() -> None:
    assert [slot_of(each) for each in ("order-1", "order-2", "ü", "x" * 500)] == [573, 2459, 3895, 2312]


@pytest.mark.parametrize("count", range(1, 6))
def test_ids_are_spread_evenly(count: int) -> None:
    placed = ShardMap.over(NAMES[:count])
    found = Counter(placed.shard_of(f"order-{n}") for n in range(10_000))
    assert set(found) == set(NAMES[:count])
    assert max(found.values()) - min(found.values()) < 500


def test_a_new_shard_takes_its_share_and_nothing_else_moves() -> None:
    placed = ShardMap.over(NAMES[:1])
    for count, name in enumerate(NAMES[1:], 2):
        later = placed.with_shard(name)
        moved = placed.moved_slots(later)
        assert len(moved) == SLOTS // count
        assert {to for _, to in moved.values()} == {name}
        owned = Counter(later.owners)
        assert max(owned.values()) - min(owned.values()) <= 1
        assert later.version == placed.version + 1
        assert later.home == NAMES[0]
        placed = later


@given(st.text(min_size=1, max_size=20), st.integers(1, 4))
def test_an_instance_whose_slot_does_not_move_stays(instance_id: str, count: int) -> None:
    placed = ShardMap.over(NAMES[:count])
    later = placed.with_shard("new")
    is_moved = slot_of(instance_id) in placed.moved_slots(later)
    assert later.shard_of(instance_id) == ("new" if is_moved else placed.shard_of(instance_id))


@pytest.mark.parametrize("names", [[], ["a", "a"]])
def test_shards_have_names_each_another(names: list[str]) -> None:
    with pytest.raises(UsageError, match="names"):
        ShardMap.over(names)


def test_a_map_has_all_slots_and_knows_their_shards() -> None:
    for owners in ((0,) * (SLOTS - 1), (0,) * (SLOTS - 1) + (1,)):
        with pytest.raises(UsageError, match="slots"):
            ShardMap(("a",), owners)


def test_messages_to_other_shards_leave_by_the_outbox_in_their_order() -> None:
    sends = [Outgoing(each, each.encode(), sender="s") for each in ("here-1", "far-1", "here-2", "far-2")]
    commit = with_outbox(Commit(sends=sends, consumed=[7]), lambda each: each.startswith("here"))
    assert [message.instance_id for message in commit.sends] == ["here-1", "here-2"]
    assert [message.instance_id for message in commit.outbox] == ["far-1", "far-2"]
    assert commit.consumed == [7]
    local = Commit(sends=sends[:1])
    assert with_outbox(local, lambda _: True) is local
