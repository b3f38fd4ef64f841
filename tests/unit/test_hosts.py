"""Which host leads to which service."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.decide.hosts import LABEL_MAX, Claim, Domains, inside, label, outside, preview, previewed, winner

DOMAINS = Domains(outside="models.example.com")
OLD, NEW = Claim("2026-01-01T00:00:00Z", "c", "a-b"), Claim("2026-01-02T00:00:00Z", "b-c", "a")
names = st.from_regex(r"[a-z]([-a-z0-9]{0,46}[a-z0-9])?", fullmatch=True)


def test_a_service_has_three_hosts_inside_and_one_outside() -> None:
    assert inside("team", "hello", DOMAINS) == ("hello.team", "hello.team.svc", "hello.team.svc.cluster.local")
    assert outside("team", "hello", DOMAINS) == "hello-team.models.example.com"
    assert outside("team", "hello", Domains()) == ""


def test_the_preview_has_the_hosts_that_a_service_of_its_name_would_have() -> None:
    assert preview("team", "hello", DOMAINS) == inside("team", "hello-preview", DOMAINS)
    assert previewed("hello-preview") == "hello"
    assert [previewed(name) for name in ("hello", "preview", "-preview", "preview-hello")] == ["", "", "", ""]


def test_the_oldest_has_a_host_that_two_claim() -> None:
    assert outside(*OLD.key, DOMAINS) == outside(*NEW.key, DOMAINS)
    assert winner([NEW, OLD]) == OLD.key


def test_of_equal_age_the_first_by_namespace_has_it() -> None:
    twin = Claim(OLD.created, NEW.namespace, NEW.name)
    assert winner([OLD, twin]) == twin.key


@pytest.mark.parametrize("domain", ["svc", "example", "x.svc", "cluster.local", "m.cluster.local", ".com", "a..b"])
def test_a_domain_in_which_a_host_outside_could_be_one_inside_is_refused(domain: str) -> None:
    with pytest.raises(ValueError, match="the gateway's domain is"):
        Domains(outside=domain)


@given(names, names, names, names)
def test_no_host_outside_is_one_inside(namespace: str, name: str, other: str, its: str) -> None:
    for domains in (DOMAINS, Domains(outside="example.org", cluster="prod.example.org")):
        assert outside(namespace, name, domains) not in inside(other, its, domains)


@given(names, names)
def test_every_label_fits_dns(namespace: str, name: str) -> None:
    found = label(namespace + "x" * 15, name)
    assert len(found) <= LABEL_MAX
    assert found[0].isalpha()
    assert found[-1].isalnum()


def test_long_names_that_start_alike_have_hosts_of_their_own() -> None:
    assert label("n" * 60, "m" * 48) != label("n" * 61, "m" * 48)
