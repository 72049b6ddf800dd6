"""What is done to a fleet follows from a seed, is of every kind, and leaves time to come to rest."""

from itertools import pairwise

from benchmarks.soak.faults import WEIGHTS, plan
from benchmarks.soak.record import Terms

VICTIMS = ("w2", "w3")


def test_an_hour_has_faults_of_every_kind_and_one_crash_of_the_server_in_its_middle() -> None:
    terms = Terms(duration_s=3_600.0, seed=1)
    planned = plan(terms, VICTIMS)
    assert {each.what for each in planned} == {*WEIGHTS, "crash of the server"}
    assert [place for place, each in enumerate(planned) if each.what == "crash of the server"] == [len(planned) // 2]
    gaps = [after.at_s - before.at_s for before, after in pairwise(planned)]
    least, most = terms.fault_every_s
    assert least <= min(gaps) <= max(gaps) <= most
    assert planned[-1].at_s < terms.duration_s - terms.lease_s


def test_only_those_named_are_killed_or_frozen() -> None:
    planned = plan(Terms(), VICTIMS)
    assert {each.whom for each in planned if each.what in ("kill", "freeze")} == set(VICTIMS)
    assert {each.whom for each in planned if each.what not in ("kill", "freeze")} == {""}


def test_the_same_seed_plans_the_same_and_another_one_something_else() -> None:
    assert plan(Terms(seed=3), VICTIMS) == plan(Terms(seed=3), VICTIMS)
    assert plan(Terms(seed=3), VICTIMS) != plan(Terms(seed=4), VICTIMS)


def test_the_shortest_plan_is_a_kill() -> None:
    for seed in range(20):
        (only,) = plan(Terms(duration_s=7.0, fault_every_s=(3.0, 3.5), lease_s=1.5, seed=seed), VICTIMS)
        assert only.what == "kill"
