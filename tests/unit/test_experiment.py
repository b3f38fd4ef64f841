"""What an A/B experiment may say, and when: against simulated traffic that is looked at all the time."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from slipway.api.experiment import Experiment
from slipway.api.standing import ExperimentStatus
from slipway.api.traffic import Traffic
from slipway.api.v1alpha1 import InferenceServiceSpec
from slipway.decide.experiment import BLOCK_S, Next, Readings, advance, flaw
from slipway.decide.release import EDGES_MS, Reading, Sample, Window
from slipway.decide.traffic import check

START = datetime(2026, 1, 1, tzinfo=UTC)
RUNS = 2000 if os.environ.get("SLIPWAY_FULL") else 200
METRIC = [{"name": "clicks", "promql": "clicks"}]


class Trial:
    """An experiment of `stable` and variants that is looked at for some time."""

    def __init__(self, *variants: str, **policy: object) -> None:
        self.policy = Experiment.model_validate(policy)
        self.arms = {name: f"resnet-{name}" for name in ("stable", *variants)}
        self.now = START
        self.status = self.look(None).status

    def look(self, window: Window | None, readings: Readings | None = None) -> Next:
        last = getattr(self, "status", None)
        return advance(last, self.policy, self.arms, window, readings=readings or {}, now=self.now)

    def stretch(self, *samples: Sample, seconds: float = 3600.0, values: Sequence[float | None] = ()) -> Next:
        """One stretch of time with these requests of stable and the variants; an hour always is one of its own."""
        self.now += timedelta(seconds=seconds)
        names = list(self.arms.values())
        readings = {("clicks", name): Reading(value, age_s=1) for name, value in zip(names, values, strict=False)}
        taken = self.look(Window(seconds, 1.0, dict(zip(names, samples, strict=True))), readings)
        self.status = taken.status
        return taken

    def restart(self) -> None:
        """Nothing is left but what status has."""
        stored = json.dumps(self.status.model_dump(by_alias=True, exclude_none=True, mode="json"), allow_nan=False)
        self.status = ExperimentStatus.model_validate_json(stored)

    def gain(self, variant: str) -> list[float] | None:
        return next(arm.gain for arm in self.status.arms if arm.name == variant)


def failed(errors: int, requests: int) -> Sample:
    return Sample(requests, errors)


def timed(counts: Mapping[float, int]) -> Sample:
    """Requests by the upper edge of their bucket."""
    return Sample(sum(counts.values()), 0, tuple(counts.get(edge, 0) for edge in (*EDGES_MS, float("inf"))))


@pytest.mark.parametrize(
    ("experiment", "variants", "says"),
    [
        pytest.param({}, [], "an experiment needs variants to compare", id="nothing to compare"),
        pytest.param({}, ["stable"], "an experiment calls what it compares with stable", id="a variant called stable"),
        pytest.param({"objective": "p99"}, ["b"], "objective p99 is none of errorRate, p50, p95", id="no such number"),
        pytest.param({"minEffect": "a lot"}, ["b"], "minEffect must be a share such as 5%", id="no share"),
        pytest.param({"metrics": [METRIC[0] | {"name": "p50"}]}, ["b"], "p50 is measured anyway", id="a taken name"),
        pytest.param({"metrics": METRIC * 2}, ["b"], "a name is there twice", id="two of a name"),
        pytest.param(
            {"metrics": [METRIC[0] | {"promql": 'a{namespace="other"}'}]}, ["b"], "metrics: clicks: ", id="another's"
        ),
        pytest.param({"objective": "clicks", "metrics": METRIC}, ["b"], "", id="a metric decides"),
    ],
)
def test_what_an_experiment_cannot_honour_is_refused_in_words(
    experiment: dict[str, object], variants: list[str], says: str
) -> None:
    model = {"modelFormat": {"name": "torchscript"}, "storageUri": "sample://a"}
    arms = [{"name": name, "model": model} for name in variants]
    words = flaw(Traffic.model_validate({"experiment": experiment, "variants": arms}), "team")
    assert says in words
    assert bool(words) == bool(says)


def test_the_example_is_honoured() -> None:
    example = yaml.safe_load((Path(__file__).parents[2] / "examples/experiment.yaml").read_text())
    assert check(InferenceServiceSpec.model_validate(example["spec"], extra="forbid"), "team") is None


def test_an_experiment_begins_with_its_arms_and_without_numbers() -> None:
    trial = Trial("c", "b")
    assert [(arm.name, arm.revision) for arm in trial.status.arms] == [
        ("stable", "resnet-stable"),
        ("b", "resnet-b"),
        ("c", "resnet-c"),
    ]
    assert (trial.status.leader, trial.status.since) == ("", "2026-01-01T00:00:00Z")


def test_what_was_counted_before_it_began_is_not_in_it() -> None:
    trial = Trial("b")
    del trial.status
    assert trial.look(Window(600, 1, {"resnet-stable": failed(9, 10)})).is_folded


def test_a_stretch_waits_for_requests_of_every_arm_but_not_for_ever() -> None:
    trial = Trial("b")
    for seconds, seen in ((BLOCK_S / 2, 100), (BLOCK_S, 0), (BLOCK_S, 4), (9 * BLOCK_S, 0)):
        trial.now = START + timedelta(seconds=seconds)
        taken = trial.look(Window(seconds, 1, {"resnet-stable": failed(0, 100), "resnet-b": failed(0, seen)}))
        assert (taken.status, taken.is_folded) == (trial.status, False)
    assert trial.stretch(failed(0, 100), failed(0, 0), seconds=10 * BLOCK_S).is_folded
    assert trial.stretch(failed(0, 100), failed(0, 5), seconds=BLOCK_S).is_folded


def test_without_requests_nothing_is_written_however_long_it_lasts() -> None:
    trial = Trial("b")
    trial.now += timedelta(days=3)
    assert not trial.look(Window(3 * 86400.0, 1, {})).is_folded
    assert trial.look(None) == Next(trial.status, False, 3600)
    assert trial.look(Window(3 * 86400.0, 1, {})).look_s == BLOCK_S


def test_stretches_grow_with_the_experiment_so_that_a_day_is_a_few_hundred_writes() -> None:
    trial, writes = Trial("b"), 0
    since = trial.now
    while trial.now < START + timedelta(days=1):
        trial.now += timedelta(seconds=30)
        seconds = (trial.now - since).total_seconds()
        taken = trial.look(Window(seconds, 1, {"resnet-stable": failed(0, 9), "resnet-b": failed(0, 9)}))
        trial.status, since, writes = taken.status, trial.now if taken.is_folded else since, writes + taken.is_folded
    assert 100 < writes < 200


def _bernoulli(random: np.random.Generator, minute: int) -> tuple[float, float]:
    return 0.01, 0.01


def _bursts(random: np.random.Generator, minute: int) -> tuple[float, float]:
    first, second = random.gamma(1, 1, 2)
    return min(1, 0.01 * first), min(1, 0.01 * second)


def _outage(random: np.random.Generator, minute: int) -> tuple[float, float]:
    rate = 0.3 if 22 <= minute < 25 else 0.01
    return rate, rate


@pytest.mark.timeout(300)
@pytest.mark.parametrize("noise", [_bernoulli, _bursts, _outage], ids=["chance", "bursts of each", "a shared outage"])
def test_none_of_two_equals_leads_however_often_one_looks(
    noise: Callable[[np.random.Generator, int], tuple[float, float]],
) -> None:
    random, led, missed = np.random.default_rng(4), 0, 0
    for _ in range(RUNS):
        trial, was_missed = Trial("b"), False
        for minute in range(30):
            hits = [int(random.binomial(600, rate)) for rate in noise(random, minute)]
            trial.stretch(*(failed(hit, 600) for hit in hits))
            was_missed |= not _holds(trial.gain("b"), 0)
            if noise is not _outage:
                was_missed |= not all(_holds(arm.error_rate, 0.01) for arm in trial.status.arms)
        led += bool(trial.status.leader)
        missed += was_missed
    assert led <= 0.01 * RUNS
    assert missed <= 0.10 * RUNS, "two arms' intervals of 95 % and a gain's of 99 %"


def _holds(band: list[float] | None, truth: float) -> bool:
    return band is None or band[1] <= truth <= band[2]


def test_a_better_variant_leads_and_the_sentence_has_its_numbers() -> None:
    trial = Trial("b")
    random = np.random.default_rng(5)
    for _ in range(60):
        trial.stretch(failed(random.binomial(600, 0.03), 600), failed(random.binomial(600, 0.01), 600))
    found = trial.status
    assert (found.outcome, found.leader, found.needed_requests) == ("Leader", "b", None)
    assert found.evidence > 100
    gain = trial.gain("b")
    assert gain is not None
    assert 0 < gain[1] < 0.02 < gain[2]
    words = f"points less failed over stable: b {100 * gain[0]:.3g} ({100 * gain[1]:.3g} to {100 * gain[2]:.3g})"
    assert found.message == f"b leads; {words}"
    rate = found.arms[1].error_rate
    assert rate is not None
    assert rate[1] < 0.01 < rate[2]


def test_stable_leads_when_every_variant_is_worse() -> None:
    trial = Trial("b", "c")
    for _ in range(60):
        trial.stretch(failed(3, 600), failed(18, 600), failed(30, 600))
    assert trial.status.leader == "stable"


def test_of_two_variants_that_are_better_than_stable_but_not_apart_none_leads() -> None:
    trial = Trial("b", "c")
    for _ in range(60):
        trial.stretch(failed(30, 600), failed(6, 600), failed(6, 600))
    assert trial.status.leader == ""
    assert trial.status.evidence == 1e9, "that stable is worse is certain"
    assert trial.status.message.startswith("no leader yet; points less failed over stable: b 4 (")


def test_a_variant_without_requests_keeps_the_others_from_leading() -> None:
    trial = Trial("b", "c")
    for _ in range(60):
        trial.stretch(failed(30, 600), failed(6, 600), failed(0, 0), seconds=36_000)
    assert (trial.status.leader, trial.gain("c")) == ("", None)


def test_who_leads_leads_on_until_another_does() -> None:
    trial = Trial("b")
    trial.status = trial.status.model_copy(update={"leader": "b"})
    for _ in range(21):
        trial.stretch(failed(9, 600), failed(12, 600))
    assert (trial.status.leader, trial.status.outcome) == ("b", "Leader"), "nothing is certain yet"
    for _ in range(200):
        trial.stretch(failed(9, 600), failed(12, 600))
    assert trial.status.leader == "stable"


def test_weights_that_change_with_the_time_of_day_favour_nobody() -> None:
    """Nights fail more, and b gets most of its requests then: by its totals alone it would be far worse."""
    trial = Trial("b")
    for _ in range(40):
        trial.stretch(failed(9, 900), failed(1, 100))
        trial.stretch(failed(10, 100), failed(90, 900))
    totals = [arm.errors / arm.requests for arm in trial.status.arms]
    assert totals[1] > 4 * totals[0]
    assert (trial.status.leader, trial.gain("b")) == ("", [0, *(trial.gain("b") or [])[1:]])


def test_latency_is_compared_at_the_quantile_that_stable_had_at_first() -> None:
    trial = Trial("b", objective="p95")
    for _ in range(40):
        trial.stretch(timed({20: 500, 80: 60, 160: 40}), timed({20: 500, 80: 90, 160: 10}))
    assert trial.status.leader == "b"
    assert trial.status.message.startswith("b leads; points more answered within 110 ms over stable: b 5 (")
    assert [arm.p95 and arm.p95[1:] for arm in trial.status.arms] == [[110, 160], [56, 80]]


def test_a_metric_decides_by_its_goal() -> None:
    random = np.random.default_rng(3)
    for goal, leader in (("Higher", "b"), ("Lower", "stable")):
        trial = Trial("b", objective="clicks", metrics=[METRIC[0] | {"goal": goal}])
        for _ in range(60):
            trial.stretch(failed(0, 600), failed(0, 600), values=list(random.normal([5, 7], 1)))
        assert trial.status.leader == leader
        assert trial.status.arms[1].metrics is not None
        assert _holds(trial.status.arms[1].metrics["clicks"], 7)


def test_a_metric_without_a_number_adds_nothing() -> None:
    trial = Trial("b", objective="clicks", metrics=METRIC)
    for _ in range(60):
        trial.stretch(failed(0, 600), failed(0, 600), values=[5, None])
    assert (trial.gain("b"), trial.status.arms[1].metrics) == (None, None)


def test_an_old_number_of_a_metric_is_not_this_stretchs() -> None:
    trial = Trial("b", objective="clicks", metrics=METRIC)
    trial.now += timedelta(seconds=3600)
    window = Window(3600, 1, {revision: failed(0, 600) for revision in trial.arms.values()})
    old = {("clicks", revision): Reading(5, age_s=61) for revision in trial.arms.values()}
    assert trial.look(window, old).status.memory.arms[0].metrics is None


def test_metrics_are_looked_at_often_enough_to_be_asked_for() -> None:
    trial = Trial("b", metrics=METRIC)
    trial.now += timedelta(days=1)
    assert trial.look(Window(60, 1, {})).look_s == 30


def test_a_metric_that_never_moves_decides_nothing() -> None:
    trial = Trial("b", objective="clicks", metrics=METRIC)
    for _ in range(60):
        trial.stretch(failed(0, 600), failed(0, 600), values=[5, 7])
    assert trial.status.leader == ""


def test_differences_that_do_not_matter_end_an_experiment_without_a_leader() -> None:
    trial = Trial("b", minEffect="20%")
    for _ in range(60):
        trial.stretch(failed(3000, 60_000), failed(2900, 60_000))
    assert (trial.status.outcome, trial.status.leader) == ("NoDifference", "")
    assert trial.status.message.startswith("no variant is further than 20% from stable")
    trial = Trial("b", minEffect="20%")
    for _ in range(60):
        trial.stretch(failed(3000, 60_000), failed(1500, 60_000))
    assert trial.status.leader == "b"


def test_needed_requests_are_what_it_takes_while_the_difference_stays() -> None:
    trial = Trial("b")
    for _ in range(25):
        trial.stretch(failed(10, 600), failed(8, 600))
    needed, seen = trial.status.needed_requests, 25 * 1200
    assert needed is not None
    assert trial.status.message.endswith(f"about {needed:,} more requests would decide")
    while trial.status.outcome == "Undecided":
        trial.stretch(failed(10, 600), failed(8, 600))
        seen += 1200
        assert seen < 4_000_000
    assert 0.8 * (seen - 30_000) < needed < 1.6 * (seen - 30_000)


def test_another_revision_or_objective_begins_anew_and_another_threshold_does_not() -> None:
    trial = Trial("b")
    trial.stretch(failed(1, 600), failed(1, 600))
    trial.policy = Experiment(min_effect="5%")
    assert trial.look(None).status.arms[0].requests == 600
    trial.policy = Experiment(objective="p50")
    assert trial.look(None).status.arms[0].requests == 0
    trial.policy = Experiment()
    trial.arms["b"] = "resnet-other"
    assert trial.look(None).status.arms[0].requests == 0


def test_memory_that_does_not_fit_begins_anew() -> None:
    trial = Trial("b")
    trial.stretch(failed(1, 600), failed(1, 600))
    trial.status = trial.status.model_copy(update={"memory": trial.status.memory.model_copy(update={"arms": []})})
    assert trial.look(None).status.arms[0].requests == 0


@pytest.mark.parametrize(("variants", "bound"), [(1, 1250), (3, 2300), (8, 4800)])
def test_a_report_stays_small(variants: int, bound: int) -> None:
    """After two days at thousands of requests a second, with times all over the buckets."""
    random = np.random.default_rng(2)
    trial = Trial(*(f"v{number}" for number in range(variants)), objective="p95")
    for _ in range(100):
        counts = random.multinomial(600_000, [1 / 20] * 20, variants + 1)
        trial.stretch(*(Sample(600_000, int(c[0]), (*[0] * 5, *map(int, c), *[0] * 8)) for c in counts))
    text = json.dumps(trial.status.model_dump(by_alias=True, exclude_none=True, mode="json"), separators=(",", ":"))
    assert len(text) < bound


SAMPLES = st.builds(
    lambda counts, errors: Sample(sum(counts), min(sum(counts), errors), tuple(counts)),
    st.lists(st.integers(0, 10**6), min_size=33, max_size=33),
    st.integers(0, 10**6),
)


@given(
    st.lists(st.tuples(SAMPLES, SAMPLES, SAMPLES), min_size=1, max_size=4).map(lambda few: few * 8),
    st.sampled_from(["errorRate", "p50", "p95", "clicks"]),
    st.floats(-1e9, 1e9),
)
def test_a_report_is_whole_and_survives_a_restart_whatever_was_counted(
    stretches: list[tuple[Sample, Sample, Sample]], objective: str, value: float
) -> None:
    trial = Trial("b", "c", objective=objective, metrics=METRIC)
    for samples in stretches:
        trial.stretch(*samples, seconds=36_000, values=[value, -value, 0])
        before = trial.status
        trial.restart()
        assert trial.status == before
    for place, arm in enumerate(trial.status.arms):
        assert arm.requests == sum(samples[place].requests for samples in stretches)
        assert arm.errors == sum(samples[place].errors for samples in stretches)
        for band in (arm.error_rate, arm.p50, arm.p95, arm.gain, *(arm.metrics or {}).values()):
            assert band is None or band[1] <= band[0] <= band[2]
    assert trial.status.leader in ("", *trial.arms)
