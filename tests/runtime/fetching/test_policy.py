"""Whom the fetcher may speak to, judged by name and by address."""

import ipaddress

import pytest

from slipway_runtime.fetch import policy as rules
from slipway_runtime.fetch.failures import FetchError, Why
from slipway_runtime.fetch.settings import Policy

NEVER = [
    "169.254.169.254", "169.254.170.2", "169.254.0.1", "fd00:ec2::254", "100.100.100.200", "168.63.129.16",
    "192.0.0.192",
    "fe80::1", "fe80::a9fe:a9fe", "::ffff:169.254.169.254", "::169.254.169.254", "64:ff9b::169.254.169.254",
    "64:ff9b:1::a9fe:a9fe", "2002:a9fe:a9fe::1", "2001:0:0:0:0:0:5601:5601", "::ffff:168.63.129.16", "fd20:ce::254",
]  # fmt: skip
ITSELF = ["127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::"]
NOBODY = ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255", "240.0.0.1", "::ffff:0.0.0.0"]  # noqa: S104
PRIVATE = [
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "fd00::1",
    "::ffff:10.0.0.1",
    "64:ff9b::a00:1",
    "198.18.0.1",
]
PUBLIC = ["8.8.8.8", "2606:4700::1", "::ffff:8.8.8.8", "64:ff9b::808:808"]
OPEN = Policy(inside_hosts=("*.svc", "store", "127.0.0.1", "169.254.169.254"))


def refusal(policy: Policy, host: str, address: str) -> str:
    """Empty: it may be spoken to."""
    try:
        rules.allow_address(policy, host, 443, ipaddress.ip_address(address))
    except FetchError as error:
        return str(error) if error.why is Why.REFUSED else error.why
    return ""


@pytest.mark.parametrize("address", NEVER)
@pytest.mark.parametrize("policy", [Policy(), OPEN], ids=["by default", "with inside hosts"])
def test_a_metadata_or_link_local_address_is_never_a_models_source(policy: Policy, address: str) -> None:
    assert "metadata or link-local" in refusal(policy, "store", address)


@pytest.mark.parametrize("address", ITSELF)
def test_a_name_never_leads_to_the_pod_itself(address: str) -> None:
    assert "the pod itself" in refusal(OPEN, "store", address)


@pytest.mark.parametrize("address", NOBODY)
def test_nobodys_address_is_refused(address: str) -> None:
    assert "no server's address" in refusal(OPEN, "store", address)


@pytest.mark.parametrize("address", PRIVATE)
def test_a_private_address_is_for_hosts_of_the_inside(address: str) -> None:
    assert "inside the cluster" in refusal(Policy(), "store", address)
    assert refusal(OPEN, "store", address) == ""
    assert "inside the cluster" in refusal(OPEN, "other", address)


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_anybodys(address: str) -> None:
    assert refusal(Policy(), "h", address) == ""


@pytest.mark.parametrize("host", [*NEVER, *ITSELF, *NOBODY, *PRIVATE])
def test_an_address_written_out_is_judged_before_anything_is_opened(host: str) -> None:
    with pytest.raises(FetchError) as refused:
        rules.allow_host(Policy(), host, 443, tls=True)
    assert refused.value.why is Why.REFUSED


def test_only_an_address_that_the_administrator_wrote_down_may_be_the_pod_itself() -> None:
    rules.allow_host(Policy(inside_hosts=("127.0.0.1:9000",)), "127.0.0.1", 9000, tls=False)
    with pytest.raises(FetchError, match="the pod itself"):
        rules.allow_host(Policy(inside_hosts=("127.0.0.1:9000",)), "127.0.0.1", 9001, tls=True)


def test_hosts_are_those_that_are_named() -> None:
    policy = Policy(hosts=("*.example.com", "store:8443"), inside_hosts=("minio.storage.svc",))
    for host, port in (("a.example.com", 443), ("a.b.example.com", 443), ("store", 8443), ("minio.storage.svc", 9000)):
        rules.allow_host(policy, host, port, tls=True)
    for host, port in (("example.com", 443), ("store", 443), ("evilexample.com", 443), ("a.example.com.evil", 443)):
        with pytest.raises(FetchError, match="not among those"):
            rules.allow_host(policy, host, port, tls=True)


def test_without_tls_only_the_inside_is_spoken_to() -> None:
    rules.allow_host(Policy(inside_hosts=("minio",)), "minio", 9000, tls=False)
    with pytest.raises(FetchError, match="only be spoken to by https"):
        rules.allow_host(Policy(), "minio", 9000, tls=False)


def test_a_download_is_sent_on_only_to_hosts_that_are_named_for_it() -> None:
    policy = Policy()
    assert not rules.allow_redirect(policy, "h", 443, "h", 443)
    assert rules.allow_redirect(policy, "huggingface.co", 443, "cas-bridge.xethub.hf.co", 443)
    for target, port in (("evil", 443), ("h", 8443), ("169.254.169.254", 80), ("hf.co.evil", 443)):
        with pytest.raises(FetchError, match="sends the download to another host"):
            rules.allow_redirect(policy, "h", 443, target, port)


def test_a_scheme_that_is_not_allowed_is_named_with_those_that_are() -> None:
    with pytest.raises(FetchError, match=r"from https:// are not allowed here; allowed are: s3, oci"):
        rules.allow_scheme(Policy(schemes=("s3", "oci")), "https")
