"""Circuits: the table has an answer to everything, and whatever happens no service is flooded or left for ever."""

from __future__ import annotations

from datetime import timedelta
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durableflow import CircuitBreaker, UsageError
from durableflow.model.circuit import MOVES, Circuit, CircuitMove, CircuitRule, CircuitState, may_probe, moved

RULE = CircuitRule(failures=3, reset_us=100, probes=2)
SUCCEED, FAIL, PROBE, GIVE_BACK = CircuitMove.SUCCEED, CircuitMove.FAIL, CircuitMove.PROBE, CircuitMove.PROBE_GIVE_BACK
PROBE_SUCCEED, PROBE_FAIL, RESET = CircuitMove.PROBE_SUCCEED, CircuitMove.PROBE_FAIL, CircuitMove.RESET
NEW = Circuit("pay")


def after(*moves: tuple[CircuitMove, int], circuit: Circuit = NEW, rule: CircuitRule = RULE) -> Circuit:
    for move, now_us in moves:
        circuit = moved(circuit, rule, move, now_us)
    return circuit


OPEN = after((FAIL, 1), (FAIL, 2), (FAIL, 3))


def test_every_move_has_an_answer_in_every_state() -> None:
    assert {(state, move) for state, row in MOVES.items() for move in row} == set(product(CircuitState, CircuitMove))


def test_so_many_failures_in_a_row_open_it() -> None:
    assert after((FAIL, 1), (FAIL, 2)).state is CircuitState.CLOSED
    assert (OPEN.state, OPEN.failures, OPEN.opened_us, OPEN.probe_at_us) == (CircuitState.OPEN, 3, 3, 103)


def test_a_success_begins_the_count_anew() -> None:
    assert after((FAIL, 1), (FAIL, 2), (SUCCEED, 3)) == NEW
    assert after((FAIL, 1), (FAIL, 2), (SUCCEED, 3), (FAIL, 4), (FAIL, 5)).state is CircuitState.CLOSED


def test_a_success_of_one_without_failures_changes_nothing_at_all() -> None:
    assert moved(NEW, RULE, SUCCEED, 1) is NEW


def test_probes_go_through_when_the_time_has_passed_and_no_more_than_allowed() -> None:
    assert not may_probe(OPEN, RULE, 102)
    assert moved(OPEN, RULE, PROBE, 102) is OPEN
    one = after((PROBE, 103), circuit=OPEN)
    assert (one.state, one.probes_out) == (CircuitState.HALF_OPEN, 1)
    two = after((PROBE, 104), circuit=one)
    assert two.probes_out == 2
    assert not may_probe(two, RULE, 105)
    assert moved(two, RULE, PROBE, 105) is two


def test_it_closes_when_all_probes_succeed() -> None:
    half = after((PROBE, 103), (PROBE, 103), (PROBE_SUCCEED, 104), circuit=OPEN)
    assert (half.state, half.successes, half.probes_out) == (CircuitState.HALF_OPEN, 1, 1)
    assert not may_probe(half, RULE, 105), "those that succeeded count"
    closed = after((PROBE_SUCCEED, 105), circuit=half)
    assert (closed.state, closed.failures, closed.successes) == (CircuitState.CLOSED, 0, 0)


def test_one_failed_probe_opens_it_again() -> None:
    again = after((PROBE, 103), (PROBE, 103), (PROBE_SUCCEED, 104), (PROBE_FAIL, 110), circuit=OPEN)
    assert (again.state, again.opened_us, again.probe_at_us, again.probes_out) == (CircuitState.OPEN, 110, 210, 0)


def test_a_probe_that_was_not_made_leaves_its_place_to_another() -> None:
    back = after((PROBE, 103), (PROBE, 103), (GIVE_BACK, 104), circuit=OPEN)
    assert may_probe(back, RULE, 104)


def test_probes_that_give_no_answer_are_replaced_after_a_while() -> None:
    lost = after((PROBE, 103), (PROBE, 104), circuit=OPEN)
    assert not may_probe(lost, RULE, 203)
    assert may_probe(lost, RULE, 204)
    assert after((PROBE, 204), circuit=lost).probes_out == 1


def test_what_began_before_it_opened_says_nothing() -> None:
    for state in (OPEN, after((PROBE, 103), circuit=OPEN)):
        assert moved(state, RULE, SUCCEED, 200) is state
        assert moved(state, RULE, FAIL, 200) is state


def test_a_reset_closes_it_from_anywhere() -> None:
    for state in (OPEN, after((PROBE, 103), circuit=OPEN), after((FAIL, 1))):
        closed = moved(state, RULE, RESET, 200)
        assert (closed.state, closed.failures) == (CircuitState.CLOSED, 0)


rules = st.builds(CircuitRule, st.integers(1, 4), st.integers(1, 20), st.integers(1, 3))
steps = st.lists(st.tuples(st.sampled_from(CircuitMove), st.integers(0, 15)), max_size=60)


@given(rules, steps)
def test_whatever_happens_the_counts_make_sense_and_a_probe_comes_in_time(
    rule: CircuitRule, happened: list[tuple[CircuitMove, int]]
) -> None:
    circuit, now_us = NEW, 0
    for move, later in happened:
        now_us += later
        allowed = may_probe(circuit, rule, now_us)
        before, circuit = circuit, moved(circuit, rule, move, now_us)
        assert 0 <= circuit.probes_out <= rule.probes
        assert 0 <= circuit.successes < rule.probes
        assert circuit.opened_us >= before.opened_us
        if circuit.state is CircuitState.CLOSED:
            assert circuit.failures < rule.failures
            assert (circuit.probes_out, circuit.successes) == (0, 0)
            assert not may_probe(circuit, rule, now_us + 1_000), "there is nothing to find out"
        else:
            assert may_probe(circuit, rule, now_us + rule.reset_us), "nobody waits longer than `reset`"
        if circuit.state is CircuitState.OPEN:
            assert circuit.probes_out == 0
        if move is PROBE:
            assert (circuit is not before) == allowed
        if before.state is CircuitState.OPEN and circuit.state is CircuitState.CLOSED:
            assert move is RESET, "no way back without a probe"


@given(rules, st.integers(0, 10))
def test_a_service_that_is_well_again_closes_its_circuit(rule: CircuitRule, late: int) -> None:
    circuit = after(*[(FAIL, n) for n in range(rule.failures)], rule=rule)
    assert circuit.state is CircuitState.OPEN
    now_us = circuit.probe_at_us + late
    for _ in range(rule.probes):
        circuit = after((PROBE, now_us), (PROBE_SUCCEED, now_us), circuit=circuit, rule=rule)
    assert circuit.state is CircuitState.CLOSED


# -- what users write -----------------------------------------------------------------------------------------------


def test_the_rule_is_in_microseconds() -> None:
    assert CircuitRule.of(CircuitBreaker(4, reset=timedelta(seconds=2), probes=3)) == CircuitRule(4, 2_000_000, 3)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"failures": 0}, "failures is 0"),
        ({"probes": 0}, "probes is 0"),
        ({"reset": 0}, "reset is 0"),
        ({"reset": -1}, "reset is -1"),
        ({"key": "shop"}, "key is 'shop'"),
        ({"when_open": "wat"}, "when_open is 'wat'"),
    ],
)
def test_a_breaker_that_cannot_work_is_refused(changes: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        CircuitBreaker(**changes)  # type: ignore[arg-type]  # users pass anything


def test_a_name_that_no_store_can_hold_is_refused() -> None:
    with pytest.raises(UsageError, match="NUL"):
        CircuitBreaker(name="a\0")


def test_the_circuit_is_of_the_activity_unless_a_name_or_a_key_says_otherwise() -> None:
    def shop_of(shop: str, cents: int = 0) -> str:
        return shop

    assert CircuitBreaker().circuit_of("pay", ["north"], {}) == "pay"
    assert CircuitBreaker(name="bank").circuit_of("pay", ["north"], {}) == "bank"
    assert CircuitBreaker(key=shop_of).circuit_of("pay", ["north"], {"cents": 3}) == "pay/north"
    assert CircuitBreaker(name="bank", key=shop_of).circuit_of("pay", ["north"], {}) == "bank/north"


def test_ignored_failures_count_with_their_subclasses_and_by_name() -> None:
    names = ("shop.Declined", "shop.PaymentError", "Exception")
    assert CircuitBreaker(ignore=["Declined"]).ignores(names)
    assert CircuitBreaker(ignore=["shop.PaymentError"]).ignores(names)
    assert CircuitBreaker(ignore=[Exception]).ignores(names)
    assert not CircuitBreaker(ignore=[KeyError]).ignores(names)
