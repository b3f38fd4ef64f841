"""What gateways counted, between one status write and the next: nothing twice, nothing lost."""

from hypothesis import given
from hypothesis import strategies as st

from slipway.api.manifest import Key
from slipway.decide.release import Sample, Window
from slipway.signals.windows import Windows

KEY: Key = ("team", "hello")
NOTHING = Sample()


def requests(window: Window) -> dict[str, int]:
    return {name: sample.requests for name, sample in window.samples.items()}


def test_nothing_is_kept_for_who_does_not_ask() -> None:
    windows = Windows()
    windows.add(KEY, "a", Sample(5), NOTHING, 1.0)
    assert windows.look(KEY, "a", 10.0, 0.0).samples == {}, "the first look opens it"
    windows.add(KEY, "a", Sample(5), NOTHING, 1.0)
    windows.drop(KEY)
    assert windows.look(KEY, "a", 20.0, 0.0) == Window(0.0, 0.0)


def test_both_sides_are_counted_over_the_same_time() -> None:
    windows = Windows()
    windows.look(KEY, "a", 10.0, 0.0)
    windows.add(KEY, "a", Sample(100, 1, (60, 40)), NOTHING, 1.0)
    windows.add(KEY, "b", Sample(5, 2), Sample(7, 1), 1.0)
    found = windows.look(KEY, "a", 16.0, 0.4)
    assert (found.seconds, found.age_s) == (6.0, 0.4)
    assert found.samples == {"a": Sample(100, 1, (60, 40)), "b": Sample(5, 2)}
    assert found.copies == {"b": Sample(7, 1)}, "copies are never among the real requests"


def test_what_comes_in_while_status_is_written_is_in_the_next_window() -> None:
    windows = Windows()
    windows.look(KEY, "a", 10.0, 0.0)
    windows.add(KEY, "a", Sample(100, 1, (100, 0)), NOTHING, 1.0)
    written = windows.look(KEY, "a", 15.0, 0.0)
    windows.add(KEY, "a", Sample(10, 3, (4, 6)), NOTHING, 1.0)
    windows.close(KEY, written)
    rest = windows.look(KEY, "a", 16.0, 0.0)
    assert (rest.seconds, rest.samples) == (1.0, {"a": Sample(10, 3, (4, 6))})


def test_a_window_that_was_not_written_is_there_again_and_longer() -> None:
    windows = Windows()
    windows.look(KEY, "a", 10.0, 0.0)
    windows.add(KEY, "a", Sample(3), NOTHING, 1.0)
    lost = windows.look(KEY, "a", 15.0, 0.0)
    windows.add(KEY, "a", Sample(4), NOTHING, 1.0)
    assert requests(windows.look(KEY, "a", 20.0, 0.0)) == {"a": 7}
    windows.close(KEY, lost)
    assert requests(windows.look(KEY, "a", 20.0, 0.0)) == {"a": 4}, "it was written after all, as one sees later"


@given(st.lists(st.one_of(st.integers(0, 9), st.just("look"), st.just("close"))))
def test_every_request_is_in_exactly_one_window(history: list[int | str]) -> None:
    windows, written, came = Windows(), 0, 0
    last = windows.look(KEY, "a", 0.0, 0.0)
    for now, what in enumerate(history):
        if isinstance(what, int):
            windows.add(KEY, "a", Sample(what), NOTHING, 1.0)
            came += what
        elif what == "look":
            last = windows.look(KEY, "a", float(now), 0.0)
        else:
            windows.close(KEY, last)
            written += requests(last).get("a", 0)
            last = windows.look(KEY, "a", float(now), 0.0)
    assert written + requests(windows.look(KEY, "a", 1e6, 0.0)).get("a", 0) == came


def test_a_release_begins_with_what_stable_did_in_the_last_ten_minutes() -> None:
    windows = Windows()
    windows.watch(KEY, 0.0)
    for now in range(0, 3600, 30):
        windows.add(KEY, "a", Sample(10, 1), Sample(3), float(now))
        windows.add(KEY, "b", Sample(10, 10), NOTHING, float(now))
    found = windows.look(KEY, "a", 3600.0, 0.0)
    assert found == Window(600.0, 0.0, {"a": Sample(200, 20)}, {}), "nothing is held against another revision"
    windows.add(KEY, "b", Sample(1), NOTHING, 3605.0)
    windows.close(KEY, found)
    assert windows.look(KEY, "a", 3606.0, 0.0).samples == {"a": NOTHING, "b": Sample(1)}


def test_minutes_without_requests_are_part_of_the_record() -> None:
    windows = Windows()
    windows.watch(KEY, 0.0)
    windows.add(KEY, "a", Sample(10), NOTHING, 5.0)
    assert windows.look(KEY, "a", 3600.0, 0.0) == Window(600.0, 0.0)


def test_a_record_is_no_longer_than_it_was_watched() -> None:
    windows = Windows()
    windows.watch(KEY, 100.0)
    windows.watch(KEY, 150.0)
    assert windows.look(KEY, "a", 160.0, 0.0).seconds == 60.0


def test_when_a_release_is_over_the_record_begins_anew() -> None:
    windows = Windows()
    windows.look(KEY, "a", 0.0, 0.0)
    windows.add(KEY, "a", Sample(5), NOTHING, 1.0)
    windows.watch(KEY, 10.0)
    assert windows.look(KEY, "a", 12.0, 0.0) == Window(2.0, 0.0)
