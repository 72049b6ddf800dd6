"""Dead letters: written with the commit, gone with what makes their instance go on."""

from __future__ import annotations

from durableflow.backends.base import Backend, Commit, DeadLetter, DeadLetterQuery, Rewrite
from durableflow.errors import AppendConflict
from durableflow.model.status import Status
from durableflow.testing.contract.store import StoreContract, a_lease, a_row, an_instance, contract, refused


def a_letter(instance_id: str, task: int = 0, at_us: int = 1, kind: str = "failed") -> DeadLetter:
    """A letter, with what a test does not care about filled in."""
    return DeadLetter(instance_id, task, kind, "order", at_us, 3, "ValueError", "no")


class LetterContract(StoreContract):
    """See `BackendContract`."""

    @contract
    async def test_dead_letters_are_listed_latest_first_and_filtered(self, backend: Backend) -> None:
        """In pages, by what is given."""
        lease = await a_lease(backend)
        letters = [
            a_letter("a", 0, 5),
            a_letter("a", 2, 5, "activity"),
            a_letter("b", 1, 9, "activity"),
            a_letter("c", 0, 1, "stalled")._replace(name="ship", type_name=""),
        ]
        new = [an_instance(each, Status.FAILED) for each in "abc"]
        await backend.commit(lease, Commit(new=new, dead_letters=letters))
        ordered = [letters[2], letters[1], letters[0], letters[3]]
        assert await backend.dead_letters(DeadLetterQuery()) == ordered
        assert await backend.dead_letters(DeadLetterQuery(limit=2)) == ordered[:2]
        assert await backend.dead_letters(DeadLetterQuery(after=(5, "a", 2))) == ordered[2:]
        assert await backend.dead_letters(DeadLetterQuery(kind="activity")) == [letters[2], letters[1]]
        assert await backend.dead_letters(DeadLetterQuery(name="ship")) == [letters[3]]
        assert await backend.dead_letters(DeadLetterQuery(type_name="ValueError")) == ordered[:3]
        assert await backend.dead_letters(DeadLetterQuery(instance_id="a")) == [letters[1], letters[0]]

    @contract
    async def test_a_dead_letter_written_again_takes_the_place_of_the_first(self, backend: Backend) -> None:
        """One for each activity, one for each instance."""
        lease = await a_lease(backend)
        await backend.commit(lease, Commit(new=[an_instance("a")], dead_letters=[a_letter("a")]))
        await backend.commit(lease, Commit(dead_letters=[a_letter("a", at_us=7)]))
        assert await backend.dead_letters(DeadLetterQuery()) == [a_letter("a", at_us=7)]

    @contract
    async def test_an_instance_that_is_redeemed_keeps_the_letters_of_its_activities(self, backend: Backend) -> None:
        """Its own goes."""
        lease = await a_lease(backend)
        letters = [a_letter("a"), a_letter("a", 1), a_letter("b")]
        await backend.commit(lease, Commit(new=[an_instance("a"), an_instance("b")], dead_letters=letters))
        await backend.commit(lease, Commit(redeemed=["a", "nobody"]))
        assert set(await backend.dead_letters(DeadLetterQuery())) == {letters[1], letters[2]}

    @contract
    async def test_dead_letters_go_with_their_instance(self, backend: Backend) -> None:
        """When it is purged, replaced, or goes on; not when that is refused."""
        lease = await a_lease(backend)
        new = [an_instance(each, Status.FAILED) for each in "abcd"]
        rows = [a_row(each) for each in "abcd"]
        letters = [a_letter(each, task) for each in "abcd" for task in (0, 1)]
        await backend.commit(lease, Commit(new=new, rows=rows, dead_letters=letters))
        await backend.purge(["a"])
        await backend.commit(lease, Commit(new=[an_instance("b", replace=True)]))
        await backend.rewrite([Rewrite(an_instance("c"), [a_row("c", 2)], [], 1)])
        with refused(AppendConflict):
            await backend.rewrite([Rewrite(an_instance("d"), [a_row("d", 2)], [], 9)])
        assert {each.instance_id for each in await backend.dead_letters(DeadLetterQuery())} == {"d"}

    @contract
    async def test_dead_letters_are_discarded_by_instance_and_task(self, backend: Backend) -> None:
        """What is not there is not counted."""
        lease = await a_lease(backend)
        letters = [a_letter("a"), a_letter("a", 1), a_letter("a", 2)]
        await backend.commit(lease, Commit(new=[an_instance("a")], dead_letters=letters))
        assert await backend.discard([("a", 0), ("a", 2), ("a", 3), ("nobody", 0)]) == 2
        assert await backend.dead_letters(DeadLetterQuery()) == [letters[1]]
        assert await backend.discard([]) == 0

    @contract
    async def test_dead_letters_survive_reopening(self, backend: Backend) -> None:
        """All of them."""
        lease = await a_lease(backend)
        await backend.commit(lease, Commit(new=[an_instance("a")], dead_letters=[a_letter("a"), a_letter("a", 1)]))
        await backend.close()
        async with self.opened() as again:
            assert len(await again.dead_letters(DeadLetterQuery())) == 2
        await backend.open()
