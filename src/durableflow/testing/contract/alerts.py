"""Alerts and their notices, who took over, and instances of which nothing is heard."""

from __future__ import annotations

from durableflow.backends.base import Backend, Commit
from durableflow.errors import LeaseLost
from durableflow.model.alert import (
    NOTICES_MAX,
    AlertChanges,
    AlertKind,
    AlertRecord,
    DelayedNotice,
    NewNotice,
    Severity,
)
from durableflow.model.status import Status
from durableflow.testing.contract.store import (
    ODD_IDS,
    StoreContract,
    a_change,
    a_lease,
    a_row,
    an_instance,
    contract,
    refused,
)


def an_alert(subject: str, kind: AlertKind = AlertKind.STALLED, told_us: int = 2) -> AlertRecord:
    """An alert about `subject`."""
    return AlertRecord(kind, subject, Severity.ERROR, 1, told_us, f"about {subject}")


class AlertContract(StoreContract):
    """See `BackendContract`."""

    @contract
    async def test_alerts_are_kept_one_of_a_kind_and_subject_until_they_are_resolved(self, backend: Backend) -> None:
        """A new value takes the place of the old one; all of them survive a reopening."""
        lease = await a_lease(backend)
        alerts = [an_alert(each) for each in ODD_IDS] + [an_alert("plain", AlertKind.OVERDUE)]
        await backend.change_alerts(lease, AlertChanges(kept=alerts))
        later = an_alert("plain", told_us=3)
        await backend.change_alerts(lease, AlertChanges(kept=[later]))
        async with self.opened() as other:
            kept = await other.alerts()
            assert [alert.key for alert in kept] == sorted(alert.key for alert in alerts)
            assert later in kept
        gone = [(AlertKind.STALLED, each) for each in [*ODD_IDS, "unknown"]]
        await backend.change_alerts(lease, AlertChanges(resolved=gone))
        assert await backend.alerts() == [an_alert("plain", AlertKind.OVERDUE)]

    @contract
    async def test_notices_wait_in_order_until_they_are_settled(self, backend: Backend) -> None:
        """Each sink's on their own, with how often they were tried in vain."""
        lease = await a_lease(backend)
        new = [NewNotice("a", b"1", 5), NewNotice("b", b"2", 5), NewNotice("a", b"3", 6)]
        await backend.change_alerts(lease, AlertChanges(notices=new))
        first, third = await backend.notices("a", 10)
        (second,) = await backend.notices("b", 10)
        assert first[1:] == ("a", b"1", 0, 5)
        assert third[1:] == ("a", b"3", 0, 6)
        assert first.number < second.number < third.number
        assert await backend.notices("a", 1) == [first]
        await backend.change_alerts(lease, AlertChanges(delayed=[DelayedNotice(first.number, 2, 9)]))
        async with self.opened() as other:
            assert await other.notices("a", 10) == [first._replace(attempts=2, due_us=9), third]
        await backend.change_alerts(lease, AlertChanges(settled=[first.number, third.number]))
        assert await backend.notices("a", 10) == []
        late = DelayedNotice(third.number, 1, 9)
        await backend.change_alerts(lease, AlertChanges(delayed=[late], notices=[NewNotice("a", b"4", 7)]))
        (fourth,) = await backend.notices("a", 10)
        assert fourth.number > third.number, "a number is never used again"

    @contract
    async def test_notices_that_nobody_fetches_do_not_fill_the_store(self, backend: Backend) -> None:
        """The oldest go."""
        lease = await a_lease(backend)
        many = [NewNotice("a", b"%d" % n, 0) for n in range(NOTICES_MAX)]
        await backend.change_alerts(lease, AlertChanges(notices=many))
        await backend.change_alerts(lease, AlertChanges(notices=[NewNotice("b", b"last", 0)]))
        kept = await backend.notices("a", NOTICES_MAX + 1)
        assert (len(kept), kept[0].body) == (NOTICES_MAX - 1, b"1")
        assert len(await backend.notices("b", 10)) == 1

    @contract
    async def test_a_stale_lease_changes_no_alerts(self, backend: Backend) -> None:
        """Not a part of it."""
        first = await a_lease(backend)
        await backend.change_alerts(first, AlertChanges(kept=[an_alert("a")], notices=[NewNotice("a", b"1", 0)]))
        (notice,) = await backend.notices("a", 10)
        await backend.release(first)
        with refused(LeaseLost):
            await backend.change_alerts(
                first,
                AlertChanges(
                    kept=[an_alert("b")], resolved=[an_alert("a").key], notices=[NewNotice("a", b"2", 0)],
                    settled=[notice.number],
                ),
            )  # fmt: skip
        assert await backend.alerts() == [an_alert("a")]
        assert await backend.notices("a", 10) == [notice]

    @contract
    async def test_instances_of_which_nothing_is_heard_are_found(self, backend: Backend) -> None:
        """Those that are not due, or over, or of which something was recorded, are not among them."""
        lease = await a_lease(backend)
        new = {
            "waits": an_instance("waits"),
            "later": an_instance("later", wake_us=9_000),
            "running": an_instance("running", wake_us=0),
            "heard of": an_instance("heard of", wake_us=0),
            "overdue": an_instance("overdue", wake_us=2_000),
            "untouched": an_instance("untouched", Status.PENDING, wake_us=0, created_us=900),
            "stalled": an_instance("stalled", wake_us=0, created_us=8_000),
            "over": an_instance("over", wake_us=0),
        }
        rows = [a_row(each)._replace(at_us=1_500) for each in ("running", "overdue", "over")]
        rows += [a_row("heard of")._replace(at_us=1_500), a_row("heard of", 2)._replace(at_us=6_000)]
        await backend.commit(lease, Commit(new=list(new.values()), rows=rows))
        await backend.commit(
            lease,
            Commit(
                changes=[
                    a_change("over", Status.COMPLETED),
                    a_change("stalled", Status.STALLED, wake_us=0, stall_reason="no code"),
                ]
            ),
        )
        found = await backend.quiet(5_000, 10)
        assert [(each.id, each.recorded_us) for each in found] == [
            ("untouched", 900), ("overdue", 1_500), ("running", 1_500), ("stalled", 8_000),
        ]  # fmt: skip
        assert (found[3].status, found[3].stall_reason, found[1].wake_us) == (Status.STALLED, "no code", 2_000)
        assert await backend.quiet(5_000, 2) == found[:2]
