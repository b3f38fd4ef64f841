"""What status tells of replicas: in which word, how often, and what history keeps of it."""

from datetime import UTC, datetime
from typing import Any

import pytest

from slipway.api.conditions import Reason as Word
from slipway.api.scaled import Counted, Lead, ScalingState, Zero, size_bytes, stored
from slipway.api.status import HistoryEntry, InferenceServiceStatus, ScalingStatus
from slipway.decide import need, rescaled, scaled
from slipway.decide.demand import Demand
from slipway.decide.ground import Ground
from slipway.decide.need import Need
from slipway.decide.scaling.types import Code, Reason
from slipway.decide.types import Observed
from tests.unit.scaling import EPOCH

BARRED = "no replica became ready, 2 times in a row: requests are answered 503 until 22:13:50 UTC, after that it is tried again"  # noqa: E501
LAST = ScalingStatus(variant="", revision="r1", desired=1, reason="Scaled", message="as it was")


def demand(replicas: int, *codes: Code, **state: Any) -> Demand:
    reasons = tuple(Reason(code, code.value) for code in codes)
    return Demand("r1", replicas, reasons, ScalingState(at=EPOCH, **state))


@pytest.mark.parametrize(
    ("asked", "ready", "before", "word", "message"),
    [
        (demand(2, Code.OBJECTIVE), 1, "Scaled", Word.SCALED, "Objective"),
        (demand(2, Code.BACKLOG, Code.BOUND), 1, "Scaled", Word.SCALED, "Backlog; Bound"),
        (demand(0, Code.IDLE), 0, "Scaled", Word.SCALED_TO_ZERO, "asleep, the first request wakes it: Idle"),
        (demand(1, Code.WAKING), 0, "ScaledToZero", Word.WAKING, "the first replica is being started: Waking"),
        (demand(2, Code.STEADY), 0, "Waking", Word.WAKING, "the first replica is being started: Steady"),
        (demand(2, Code.STEADY), 1, "Waking", Word.SCALED, "Steady"),
        (demand(2, Code.STEADY), 0, "Scaled", Word.SCALED, "Steady"),
        (demand(3, Code.CONFLICT), 3, "Scaled", Word.AUTOSCALER_CONFLICT, "AutoscalerConflict"),
        (demand(3, Code.METRICS_DEGRADED), 3, "Scaled", Word.METRICS_DEGRADED, "MetricsDegraded"),
        (demand(3, Code.NO_DATA), 3, "Scaled", Word.NO_SIGNAL, "NoData"),
        (demand(3, Code.OBJECTIVE, Code.PAUSED), 3, "Scaled", Word.SCALING_PAUSED, "Paused; Objective"),
        (
            demand(3, Code.METRICS_DEGRADED, Code.BOUND, Code.CAPACITY_LIMITED),
            3,
            "Scaled",
            Word.CAPACITY_LIMITED,
            "CapacityLimited; MetricsDegraded; Bound",
        ),
        (demand(3, Code.OBJECTIVE, Code.LAUNCH_FAILED), 1, "Scaled", Word.LAUNCH_FAILED, "LaunchFailed; Objective"),
        (
            demand(1, Code.WAKING, zero=Zero(failed=1)),
            0,
            "ActivationFailed",
            Word.ACTIVATION_FAILED,
            "no replica became ready, 1 time in a row: it is being tried again, and requests wait",
        ),
        (
            demand(0, Code.ACTIVATION_FAILED, zero=Zero(failed=2, barred_s=30)),
            0,
            "Waking",
            Word.ACTIVATION_FAILED,
            BARRED,
        ),
    ],
)
def test_the_word_that_says_most_is_told_with_all_the_numbers(
    asked: Demand, ready: int, before: str, word: Word, message: str
) -> None:
    last = LAST.model_copy(update={"reason": before})
    assert scaled._why(asked, last, desired=asked.replicas, ready=ready, known=ready) == (word, message)


@pytest.mark.parametrize(
    ("after_s", "changes", "due"),
    [
        (61, {"counted": Counted(arrived=200)}, True),
        (59, {"counted": Counted(arrived=200)}, False),
        (-61, {"counted": Counted(arrived=200)}, True),
        (3600, {"counted": Counted(arrived=100)}, False),
        (61, {"counted": Counted(arrived=100, answered=3)}, True),
        (61, {"counted": Counted(arrived=100), "lead": Lead(launches=[9.0], seen=5.0)}, True),
        (61, {"counted": Counted(arrived=2)}, True),
    ],
)
def test_what_is_learnt_is_worth_a_write_a_minute_and_time_alone_is_not(
    after_s: float, changes: dict[str, Any], *, due: bool
) -> None:
    last = stored(ScalingState(at=EPOCH, counted=Counted(arrived=100)))
    assert scaled.is_due(last, ScalingState(at=EPOCH + after_s, clock=after_s, **changes)) is due


def test_what_was_never_written_is_due() -> None:
    assert scaled.is_due(None, ScalingState(at=EPOCH))


def test_the_memory_of_a_decision_is_small_in_status() -> None:
    assert size_bytes(ScalingState(at=EPOCH, counted=Counted(arrived=1e9))) < 200


def told(desired: int, reason: str = "Scaled", **more: Any) -> ScalingStatus:
    return ScalingStatus(variant="", revision="r1", desired=desired, reason=reason, message="why", **more)


@pytest.mark.parametrize(
    ("before", "after", "news"),
    [
        (told(1), told(3), [("ScaledUp", "from 1 to 3 replicas: why", False)]),
        (told(3), told(1), [("ScaledDown", "from 3 to 1 replicas: why", False)]),
        (told(1), told(0, "ScaledToZero"), [("ScaledToZero", "from 1 to 0 replicas: why", False)]),
        (told(0, "ScaledToZero"), told(2, "Waking"), [("Waking", "from 0 to 2 replicas: why", False)]),
        (told(3), told(3, "CapacityLimited"), [("CapacityLimited", "why", True)]),
        (told(3, "CapacityLimited"), told(3, "CapacityLimited"), []),
        (told(3, "CapacityLimited"), told(4, "CapacityLimited"), [("ScaledUp", "from 3 to 4 replicas: why", False)]),
        (told(3), told(3, "MetricsDegraded"), []),
        (told(3), told(5, "AutoscalerConflict"), []),
    ],
)
def test_each_change_of_mind_is_told_once(
    before: ScalingStatus, after: ScalingStatus, news: list[tuple[str, str, bool]]
) -> None:
    assert [(one.reason, one.note, one.warning) for one in rescaled.news([after], [before])] == news
    assert list(rescaled.news([after], [])) == [], "nothing to compare with"


def entry(second: int, reason: str, message: str) -> HistoryEntry:
    return HistoryEntry(time=f"2026-01-01T00:{second // 60:02}:{second % 60:02}Z", reason=reason, message=message)


def test_what_another_revision_is_given_is_told_by_its_promotion() -> None:
    promoted = told(1).model_copy(update={"revision": "r2"})
    assert list(rescaled.news([promoted], [told(0, "ScaledToZero")])) == []


def test_steps_of_one_climb_are_one_entry_of_history() -> None:
    newest = [
        entry(70, "ScaledUp", "from 3 to 5 replicas: c"),
        entry(40, "ScaledUp", "from 2 to 3 replicas: b"),
        entry(30, "RevisionPromoted", "revision x"),
        entry(20, "ScaledUp", "from 1 to 2 replicas: a"),
    ]
    assert [(one.time[-3:-1], one.message) for one in rescaled.folded(newest)] == [
        ("10", "from 1 to 5 replicas: c"),
        ("30", "revision x"),
    ]


@pytest.mark.parametrize(
    "earlier",
    [
        entry(20, "ScaledDown", "from 3 to 2 replicas: b"),
        entry(20, "ScaledUp", "variant b: from 1 to 2 replicas: b"),
        entry(20, "ScaledUp", "from 1 to 5 replicas: b"),
        entry(0, "ScaledUp", "from 1 to 2 replicas: b"),
    ],
    ids=["the other way", "another arm", "not from where it ended", "long ago"],
)
def test_other_changes_of_replicas_stay_apart(earlier: HistoryEntry) -> None:
    both = [entry(61, "ScaledUp", "from 2 to 3 replicas: a"), earlier]
    assert rescaled.folded(both) == both


def ground(replicas: int, *, last: int | None = None) -> Ground:
    known = [] if last is None else [told(last)]
    status = InferenceServiceStatus(scaling=known)
    deployment = {"metadata": {"name": "r1"}, "spec": {"replicas": replicas}}
    return Ground(Observed({}), datetime(2026, 1, 1, tzinfo=UTC), status, {}, {}, {"r1": deployment})


@pytest.mark.parametrize(
    ("wanted", "stable", "asked", "replicas"),
    [
        pytest.param("r1", "r1", Need("", 1, 8, 3, "r1"), 3, id="as decided"),
        pytest.param("r1", "r1", Need("", 0, 8, 0, "r1"), 0, id="asleep"),
        pytest.param("r2", "r1", Need("", 1, 8, 3, "r0"), 5, id="decided for another revision: never fewer"),
        pytest.param("r1", "r1", Need("", 1, 8, 7, "r0"), 7, id="decided for another revision: more"),
        pytest.param("r1", "r1", Need("", 1, 8), 5, id="not decided: as there are"),
        pytest.param("r1", "r1", Need("", 1, 4), 4, id="not decided, but at most"),
        pytest.param("r1", "r1", Need("", 6, 8), 6, id="not decided, but at least"),
        pytest.param("r2", "r1", Need("", 1, 8), 6, id="not decided: what a release has borrowed counts"),
        pytest.param("r1", None, Need("", 0, 8, 0, "r1"), 1, id="never answered: proven first"),
        pytest.param("r1", None, Need("", 2, 8), 2, id="never answered: at least"),
        pytest.param("r1", "r1", Need("", 2, 2, 2, is_fixed=True), 2, id="fixed"),
    ],
)
def test_replicas_that_all_requests_of_an_arm_need(wanted: str, stable: str | None, asked: Need, replicas: int) -> None:
    assert need.replicas(ground(5, last=6), asked, wanted, stable) == replicas
