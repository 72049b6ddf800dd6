"""What one attempt leaves for the next: only an answer moves the number on."""

from __future__ import annotations

import pytest

from durableflow.kubernetes.progress import Progress, progress_in

HERE = Progress(
    deployment="d",
    namespace="n",
    number=3,
    infrastructure=2,
    is_sent=True,
    tokens=("a", "b"),
    beat_us=7,
    user={"step": 1},
)


def test_it_is_read_back_from_heartbeat_details() -> None:
    assert progress_in(HERE.dump()) == HERE
    assert HERE.dump()["details"] == {"step": 1}


@pytest.mark.parametrize(("is_infrastructure", "used"), [(True, 3), (False, 2)])
def test_an_answer_moves_the_number_on_and_keeps_what_the_pod_said(is_infrastructure: bool, used: int) -> None:
    after = HERE.after(is_infrastructure=is_infrastructure)
    assert (after.number, after.infrastructure, after.user) == (4, used, {"step": 1})
    assert (after.is_sent, after.tokens, after.beat_us) == (False, (), 0)


@pytest.mark.parametrize("details", [None, 1, "x", [], {}, {"step": 1}, {"kubernetes": 1}, {"kubernetes": {}}])
def test_details_of_anything_else_are_not_taken_for_it(details: object) -> None:
    assert progress_in(details) is None
