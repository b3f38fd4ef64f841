"""Measured shares: honest intervals, and few writes."""

from hypothesis import given
from hypothesis import strategies as st

from slipway.decide.shares import is_news, measure, wilson


def test_wilson_gives_the_published_interval() -> None:
    """Newcombe 1998, table I: 81 of 263, and 0 of 20."""
    assert tuple(round(end, 4) for end in wilson(81, 263)) == (0.2553, 0.3662)
    assert tuple(round(end, 4) for end in wilson(0, 20)) == (0.0, 0.1611)


@given(st.integers(0, 10_000), st.integers(1, 10_000))
def test_the_interval_holds_the_share(hits: int, misses: int) -> None:
    low, high = wilson(hits, hits + misses)
    assert 0 <= low <= hits / (hits + misses) <= high <= 1


def test_few_requests_and_a_single_revision_say_nothing() -> None:
    assert measure({"a": 90, "b": 9}) == {}
    assert measure({"a": 1000}) == {}
    assert measure({"a": 100, "b": 0})["b"].share == 0


def test_a_share_is_news_when_it_must_be_another_or_is_known_much_better() -> None:
    old = measure({"a": 900, "b": 100})["b"]
    assert (old.share, old.requests) == (1000, 1000)
    assert is_news(None, old)
    assert not is_news(old, measure({"a": 1810, "b": 190})["b"])
    assert is_news(old, measure({"a": 1500, "b": 500})["b"])
    assert is_news(old, measure({"a": 14_400, "b": 1600})["b"])


def test_the_first_hundred_requests_do_not_overwrite_a_share_measured_on_many() -> None:
    old, few = measure({"a": 90_000, "b": 10_000})["b"], measure({"a": 84, "b": 16})["b"]
    assert not old.low <= few.share <= old.high
    assert not is_news(old, few)


def test_a_share_that_has_left_the_interval_written_is_news_though_the_intervals_still_touch() -> None:
    by_chance, many = measure({"a": 72, "b": 28})["b"], measure({"a": 1200, "b": 300})["b"]
    assert many.share < by_chance.low < many.high, "a reader of status would take the truth for excluded"
    assert is_news(by_chance, many)
