"""Times at which more replicas are kept: five fields of cron in a time zone, and how long it lasts from there."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from slipway.api.scaling import Schedule
from slipway.api.schema import seconds
from slipway.decide.scaling.types import Window

DAY_S, MINUTE_S = 86_400.0, 60.0
_FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day of month", 1, 31), ("month", 1, 12), ("day of week", 0, 7))


def compiled(schedule: Schedule) -> Window:
    """Raises ValueError: a sentence that names the schedule and the field."""
    texts = schedule.start.split()
    if len(texts) != len(_FIELDS):
        raise ValueError(f"schedule {schedule.name}: start needs five fields of cron, not {schedule.start!r}")
    try:
        _zone(schedule.time_zone)
        sets = [_values(text, field, low, high) for text, (field, low, high) in zip(texts, _FIELDS, strict=True)]
    except ValueError as error:
        raise ValueError(f"schedule {schedule.name}: {error}") from None
    duration_s = seconds(schedule.duration)
    if duration_s > DAY_S:
        raise ValueError(f"schedule {schedule.name}: duration is at most 24h, not {schedule.duration}")
    return Window(
        name=schedule.name,
        minutes=sets[0],
        hours=sets[1],
        days=sets[2],
        months=sets[3],
        weekdays=frozenset(day % 7 for day in sets[4]),
        either_day=texts[2] != "*" and texts[4] != "*",
        duration_s=duration_s,
        zone=schedule.time_zone,
        min_replicas=schedule.min_replicas,
    )


def in_force(windows: Iterable[Window], now: float) -> Window | None:
    """The one that asks for the most at `now`, seconds since 1970."""
    running = [window for window in windows if _is_running(window, now)]
    return max(running, key=lambda window: window.min_replicas, default=None)


@lru_cache(maxsize=256)
def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"there is no time zone {name!r}; names are such as Europe/Vienna") from None


def _is_running(window: Window, now: float) -> bool:
    """Whether it began within its duration before now."""
    begun = _last_start(window, int(now // MINUTE_S))
    return begun is not None and now < begun + window.duration_s


@lru_cache(maxsize=4096)
def _last_start(window: Window, minute: int) -> float | None:
    """The last start that may still be running at this minute since 1970; None: there was none within a day.

    Starts are whole minutes, so that one answer serves a minute's decisions. A start that a change of clocks skips is
    an hour later.
    """
    zone, now = _zone(window.zone), minute * MINUTE_S
    today = datetime.fromtimestamp(now, zone)
    earliest = now - DAY_S - MINUTE_S
    for back in (0, 1, 2):  # a day of 25 hours reaches into the day before yesterday
        day = (today - timedelta(days=back)).date()
        if not _is_day(window, day.day, day.month, day.isoweekday() % 7):
            continue
        for hour in sorted(window.hours, reverse=True):
            if back == 0 and hour > today.hour + 1:  # still to come, whatever clocks do
                continue
            for minute_of in sorted(window.minutes, reverse=True):
                start = datetime(day.year, day.month, day.day, hour, minute_of, tzinfo=zone).astimezone(UTC).timestamp()
                if earliest < start <= now:
                    return start
                if start <= earliest:
                    return None
    return None


def _is_day(window: Window, day: int, month: int, weekday: int) -> bool:
    if month not in window.months:
        return False
    by_date, by_weekday = day in window.days, weekday in window.weekdays
    return (by_date or by_weekday) if window.either_day else (by_date and by_weekday)


def _values(text: str, field: str, low: int, high: int) -> frozenset[int]:
    found: set[int] = set()
    for part in text.split(","):
        span, _, step = part.partition("/")
        first, dash, last = span.partition("-")
        try:
            stride = int(step) if step else 1
            begin, end = (low, high) if span == "*" else (int(first), int(last) if dash else int(first))
        except ValueError:
            raise ValueError(f"{field} cannot be {text!r}") from None
        if step and not dash and span != "*":
            end = high
        if stride < 1 or not low <= begin <= end <= high:
            raise ValueError(f"{field} is {low} to {high}, not {text!r}")
        found.update(range(begin, end + 1, stride))
    return frozenset(found)
