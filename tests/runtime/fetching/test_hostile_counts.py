"""How many hostile archives and URIs there are, each another one; that they are refused is shown where they are."""

from tests.runtime.fetching import test_archives as archives
from tests.runtime.fetching import test_uri as uris
from tests.runtime.fetching.test_policy import ITSELF, NEVER, NOBODY
from tests.runtime.fetching.test_web import REDIRECTS


def test_there_are_at_least_forty_hostile_archives() -> None:
    assert len({name for name, *_ in archives.HOSTILE}) == len(archives.HOSTILE) >= 40
    assert len({*archives.CLIMBING}) == len(archives.CLIMBING)


def test_there_are_at_least_a_hundred_and_twenty_hostile_uris() -> None:
    assert len(set(uris.HOSTILE)) == len(uris.HOSTILE) >= 120


def test_addresses_and_redirects_that_are_refused_are_all_different() -> None:
    addresses = [*NEVER, *ITSELF, *NOBODY]
    assert len(set(addresses)) == len(addresses) >= 25
    assert len(set(REDIRECTS)) >= 15
