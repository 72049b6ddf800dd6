"""The filled file of the benchmark is one that the engine could have written."""

from pathlib import Path

import pytest

from durableflow import Status


async def test_copies_of_finished_instances_are_finished_instances(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.contenders import ours  # here, so that its workflows are those of this test only
    from benchmarks.contract import CopiesFinished

    monkeypatch.setattr(ours, "COPIED_EVERY_US", 1_000)  # a millisecond each: ids of one millisecond have no order
    contender = ours.sqlite()
    assert isinstance(contender, CopiesFinished)
    source, target = tmp_path / "source", tmp_path / "target"
    for directory in (source, target):
        directory.mkdir()
    await contender.open(source)
    results = [await contender.call("one", argument) for argument in range(3)]
    original = (await contender.engine.list()).instances[0]
    kinds = [entry.kind for entry in await contender.engine.history(original.instance_id)]
    await contender.close()

    await contender.copy_finished(source, target, 7)
    await contender.open(target)
    try:
        copies = (await contender.engine.list()).instances
        ids = [copy.instance_id for copy in copies]
        assert len(copies) == 7
        assert ids == sorted(ids, reverse=True)  # newest first: ids follow the time
        assert {copy.status for copy in copies} == {Status.COMPLETED}
        assert {await contender.result(each) for each in ids} == set(results)
        assert [entry.kind for entry in await contender.engine.history(ids[0])] == kinds
        assert await contender.call("one", 41) == 42
    finally:
        await contender.close()
