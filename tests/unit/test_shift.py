"""How far weights may be in force: one step, and whole lives of it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.api.shifting import ShiftArm, ShiftStatus
from slipway.api.traffic import WHOLE
from slipway.decide.shift import SETTLE_S, Party, Shift, Terms, step

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TERMS = Terms(now=NOW, deadline_s=60, deadline="60s")


def at(seconds: float, **more: object) -> Terms:
    return replace(TERMS, now=NOW + timedelta(seconds=seconds), **more)  # type: ignore[arg-type]


def takes(replicas: int) -> object:
    """For all requests; parts of them take their part."""
    return lambda share: -(-share * replicas // WHOLE)


def party(variant: str, share: int, wanted: int, *, ready: int = 0, all_take: int = 4, **more: object) -> Party:
    return Party(variant, share, wanted, ready=ready, needs=takes(all_take), **more)  # type: ignore[arg-type]


def stable(share: int, wanted: int, *, ready: int = 4, **more: object) -> Party:
    return party("", share, wanted, ready=ready, **more)  # type: ignore[arg-type]


def stands(shift: Shift) -> dict[str, str]:
    return {arm.variant: arm.stand for arm in shift.status.arms} if shift.status else {}


@pytest.mark.parametrize(
    ("ready", "share", "stand"),
    [(0, 0, "Scaling"), (1, 2250, "Scaling"), (3, 6750, "Scaling"), (4, 9000, "Settling"), (9, 9000, "Settling")],
)
def test_an_arm_gets_what_its_ready_replicas_carry(ready: int, share: int, stand: str) -> None:
    found = step(None, [stable(WHOLE, 1000), party("b", 0, 9000, ready=ready)], TERMS)
    assert found.shares == {"": WHOLE - share, "b": share}
    assert stands(found)["b"] == stand


def test_without_load_all_counts_at_once_and_nothing_is_to_be_remembered() -> None:
    found = step(None, [stable(WHOLE, 1000, all_take=0), party("b", 0, 9000, all_take=0)], TERMS)
    assert found == Shift({"": 1000, "b": 9000})


def test_where_weights_are_as_wanted_nothing_is_said() -> None:
    assert step(None, [stable(5000, 5000), party("b", 5000, 5000)], TERMS) == Shift({"": 5000, "b": 5000})


def test_a_load_that_is_not_known_is_not_taken_for_none() -> None:
    unknown = Party("b", 1000, 9000, ready=4, needs=lambda _share: None)
    found = step(None, [stable(9000, 1000), unknown], TERMS)
    assert (found.shares["b"], stands(found)) == (1000, {"b": "NoSignal"})
    late = step(found.status, [stable(9000, 1000), unknown], at(1e6))
    assert stands(late) == {"b": "NoSignal"}, "nobody is to blame"
    known = step(late.status, [stable(9000, 1000), party("b", 1000, 9000, ready=1)], at(1e6))
    assert (known.shares["b"], stands(known)) == (2250, {"b": "Scaling"})


def test_what_was_asked_for_is_not_asked_for_less_and_a_load_that_ends_waits_for_nothing() -> None:
    both = [stable(WHOLE, 1000), party("b", 0, 9000, ready=1)]
    first = step(None, both, TERMS)
    less = step(first.status, [both[0], party("b", 2250, 9000, ready=1, all_take=2)], at(2))
    assert less.status == first.status
    none = step(less.status, [stable(7750, 1000, all_take=0), party("b", 2250, 9000, ready=1, all_take=0)], at(4))
    assert none == Shift({"": 1000, "b": 9000})


def test_the_deadline_begins_anew_with_each_further_replica() -> None:
    shift = step(None, [stable(WHOLE, 1000), party("b", 0, 9000)], TERMS)
    shift = step(shift.status, [stable(WHOLE, 1000), party("b", 0, 9000, ready=1)], at(50))
    shift = step(shift.status, [stable(7750, 1000), party("b", 2250, 9000, ready=1)], at(100))
    assert (stands(shift), shift.requeue_after_s) == ({"b": "Scaling"}, 10)
    fallen = step(shift.status, [stable(7750, 1000), party("b", 2250, 9000, fault="no device")], at(110))
    assert stands(fallen) == {"b": "Stopped"}
    (news,) = fallen.events
    assert (news.reason, news.warning) == ("ProgressDeadlineExceeded", True)
    assert news.note == (
        "variant b stays at 22.5% of 90%: no more than 1 of its replicas became ready in 60s; the last: no device"
    )
    assert fallen.shares["b"] == 2250, "what it carries it keeps"
    again = step(fallen.status, [stable(7750, 1000), party("b", 2250, 9000, ready=1)], at(1e5))
    assert (stands(again), again.events) == ({"b": "Stopped"}, ())
    more = step(again.status, [stable(7750, 1000), party("b", 2250, 9000, ready=2)], at(1e5))
    assert (stands(more), more.shares["b"]) == ({"b": "Scaling"}, 4500)


def test_a_new_spec_lets_what_stopped_try_again() -> None:
    old = ShiftArm(variant="b", weight=9000, replicas=4, since="2020-01-01T00:00:00Z", stand="Stopped")
    parties = [stable(WHOLE, 1000), party("b", 0, 9000)]
    stopped = ShiftStatus(message="", arms=[old])
    assert stands(step(stopped, parties, TERMS)) == {"b": "Stopped"}
    assert stands(step(stopped, parties, replace(TERMS, is_new=True))) == {"b": "Scaling"}


def test_no_deadline_runs_while_the_cluster_has_no_room() -> None:
    parties = [stable(WHOLE, 1000), party("b", 0, 9000, lacks="nvidia.com/gpu")]
    shift = step(step(None, parties, TERMS).status, parties, at(1e5))
    assert stands(shift) == {"b": "CapacityLimited"}
    assert shift.status is not None
    assert shift.status.message.endswith("0 of 4 are ready; no nvidia.com/gpu is left")
    free = step(shift.status, [parties[0], party("b", 0, 9000)], at(1e5 + 50))
    assert stands(step(free.status, [parties[0], party("b", 0, 9000)], at(1e5 + 109))) == {"b": "Scaling"}
    assert stands(step(free.status, [parties[0], party("b", 0, 9000)], at(1e5 + 111))) == {"b": "Stopped"}


def test_what_moved_is_kept_until_gateways_serve_it_and_its_load_is_known() -> None:
    shift = step(None, [stable(WHOLE, 1000), party("b", 0, 9000, ready=4)], TERMS)
    parties = [stable(1000, 1000), party("b", 9000, 9000, ready=4)]
    assert stands(step(shift.status, parties, at(SETTLE_S - 1))) == {"b": "Settling"}
    assert stands(step(shift.status, parties, at(SETTLE_S + 1, is_served=False))) == {"b": "Settling"}
    assert step(shift.status, parties, at(SETTLE_S + 1)).status is None


def test_a_bound_of_its_own_is_no_reason_to_wait_and_what_would_be_right_is_told() -> None:
    before = step(None, [stable(WHOLE, 1000), party("b", 0, 9000, most=2)], TERMS)
    found = step(before.status, [stable(WHOLE, 1000), party("b", 0, 9000, ready=2, most=2)], at(5))
    assert found.shares["b"] == 9000
    (news,) = found.events
    assert (news.reason, news.warning) == ("CapacityLimited", True)
    assert news.note == "variant b gets 90%: 2 replicas are ready, as many as maxReplicas allows; 4 would be right"


def test_what_has_stopped_is_the_service_s_own_and_others_go_on() -> None:
    """b is to go, and c, which never comes up, to have what it had."""
    arm = ShiftArm(variant="c", weight=5000, replicas=2, since="2020-01-01T00:00:00Z", stand="Stopped")
    gone, never = party("b", 5000, 0, ready=2), party("c", 0, 5000)
    stopped = ShiftStatus(message="", arms=[arm])
    waits = step(stopped, [stable(5000, 5000, ready=2), gone, never], TERMS)
    assert (waits.shares, stands(waits)) == ({"": 5000, "b": 5000, "c": 0}, {"": "Scaling", "c": "Stopped"})
    ready = step(waits.status, [stable(5000, 5000, ready=4), gone, never], at(5))
    assert ready.shares == {"": WHOLE, "b": 0, "c": 0}


@st.composite
def shares(draw: st.DrawFn, number: int) -> list[int]:
    cuts = sorted(draw(st.lists(st.integers(0, WHOLE), min_size=number - 1, max_size=number - 1)))
    return [after - before for before, after in zip([0, *cuts], [*cuts, WHOLE], strict=True)]


@st.composite
def lives(draw: st.DrawFn) -> tuple[list[str], list[tuple[list[int], list[int], list[int], int, bool]]]:
    """Names, then of each moment: wanted shares, ready replicas, what all requests take, seconds, a new spec."""
    names = ["", "b", "c", "d"][: draw(st.integers(2, 4))]
    each = st.tuples(
        shares(len(names)),
        st.lists(st.integers(0, 6), min_size=len(names), max_size=len(names)),
        st.lists(st.integers(-1, 6), min_size=len(names), max_size=len(names)),
        st.integers(0, 100),
        st.booleans(),
    )
    return names, draw(st.lists(each, min_size=1, max_size=8))


def _parties(
    names: list[str], have: dict[str, int], wanted: list[int], ready: list[int], take: list[int]
) -> list[Party]:
    return [
        Party(
            name,
            have[name],
            wanted[index],
            ready=ready[index],
            needs=(lambda share, n=take[index]: None if n < 0 else -(-share * n // WHOLE)),  # type: ignore[misc]
        )
        for index, name in enumerate(names)
    ]


@given(lives())
def test_in_every_life_shares_sum_to_the_whole_move_towards_what_is_wanted_and_outrun_no_replica(
    life: tuple[list[str], list[tuple[list[int], list[int], list[int], int, bool]]],
) -> None:
    names, moments = life
    have, status, seconds = dict(zip(names, moments[0][0], strict=True)), None, 0
    for wanted, ready, take, passed, is_new in moments:
        seconds += passed
        parties = _parties(names, have, wanted, ready, take)
        shift = step(status, parties, at(seconds, is_new=is_new))
        assert sum(shift.shares.values()) == WHOLE
        for one in parties:
            share = shift.shares[one.variant]
            if one.variant and share > one.share:
                assert share <= one.wanted
            if share > one.share and one.replicas is not None and one.ready < one.replicas:
                of = WHOLE if not one.variant else one.wanted
                assert share <= of * one.ready // max(1, one.replicas)
            if share < one.share:
                assert share >= min(one.wanted, one.share)
        again = step(
            shift.status, _parties(names, dict(shift.shares), wanted, ready, take), at(seconds, is_served=False)
        )
        assert (again.shares, again.status) == (shift.shares, shift.status), "nothing is to be done twice"
        assert again.events == ()
        have, status = dict(shift.shares), shift.status


@given(lives())
def test_once_replicas_are_ready_every_life_ends_as_wanted(
    life: tuple[list[str], list[tuple[list[int], list[int], list[int], int, bool]]],
) -> None:
    names, moments = life
    have, status, seconds = dict(zip(names, moments[0][0], strict=True)), None, 0
    for wanted, ready, take, passed, is_new in moments:
        seconds += passed
        shift = step(status, _parties(names, have, wanted, ready, take), at(seconds, is_new=is_new))
        have, status = dict(shift.shares), shift.status
    end = moments[-1][0]
    for _ in range(3):
        parties = _parties(names, have, end, [6] * len(names), [6] * len(names))
        seconds += SETTLE_S + 1  # type: ignore[assignment]
        shift = step(status, parties, at(seconds))
        have, status = dict(shift.shares), shift.status
    assert (list(have.values()), status) == (end, None)
