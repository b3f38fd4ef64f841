"""Whom the fetcher may speak to. Pure: a host is judged by its name before it is resolved, then by each address it has.

An address is judged as what it reaches: what is wrapped into IPv6 (mapped, NAT64, 6to4, Teredo) is unwrapped first.
"""

import ipaddress
from ipaddress import IPv4Address, IPv6Address

from slipway_runtime.fetch.failures import FetchError, Why
from slipway_runtime.fetch.settings import Policy

Address = IPv4Address | IPv6Address

METADATA = frozenset(
    map(
        ipaddress.ip_address,
        (
            "169.254.169.254",  # AWS, Azure, GCP, most others
            "169.254.170.2",  # AWS: credentials of ECS
            "169.254.170.23",  # AWS: credentials of EKS
            "fd00:ec2::254",
            "fd00:ec2::23",
            "fd20:ce::254",  # GCP
            "100.100.100.200",  # Alibaba
            "168.63.129.16",  # Azure's wire server, of a public range
            "192.0.0.192",  # Oracle
        ),
    )
)
_NAT64 = tuple(map(ipaddress.IPv6Network, ("64:ff9b::/96", "64:ff9b:1::/48")))
_COMPATIBLE = ipaddress.IPv6Network("::/96")


def allow_scheme(policy: Policy, scheme: str) -> None:
    if scheme not in policy.schemes:
        raise _refused(f"models from {scheme}:// are not allowed here; allowed are: {', '.join(policy.schemes)}")


def allow_host(policy: Policy, host: str, port: int, *, tls: bool) -> None:
    """Judge a name. `host` is as `uri.host_port` gives it."""
    inside = matches(policy.inside_hosts, host, port)
    if not inside and policy.hosts and not matches(policy.hosts, host, port):
        raise _refused(f"host '{host}' is not among those that models may come from here")
    if not inside and not tls:
        raise _refused(f"host '{host}' may only be spoken to by https; without TLS only hosts of the inside may be")
    if (address := literal(host)) is not None:
        allow_address(policy, host, port, address)


def allow_address(policy: Policy, host: str, port: int, address: Address) -> None:
    """Judge an address of an allowed host."""
    reached = unwrap(address)
    if reached in METADATA or reached.is_link_local:
        raise _refused(f"host '{host}' leads to {address}, a metadata or link-local address, where no model is")
    if reached.is_loopback:
        # Its own pod: only where an administrator has written this very address down.
        if literal(host) is None or not matches(policy.inside_hosts, host, port):
            raise _refused(f"host '{host}' leads to {address}, the pod itself")
    elif reached.is_multicast or reached.is_unspecified or reached.is_reserved:
        raise _refused(f"host '{host}' leads to {address}, which is no server's address")
    elif not reached.is_global and not matches(policy.inside_hosts, host, port):
        raise _refused(
            f"host '{host}' leads to {address} inside the cluster or its network; an administrator can allow it"
        )


def allow_redirect(policy: Policy, host: str, port: int, target: str, target_port: int) -> bool:
    """Whether a store on `host` may send a download to `target`; True when it is another host's business to serve it.

    Raises:
        FetchError: it may not.
    """
    if (host, port) == (target, target_port):
        return False
    if not matches(policy.redirect_hosts, target, target_port):
        raise _refused(f"host '{host}' sends the download to another host, '{target}', which is not allowed here")
    return True


def matches(patterns: tuple[str, ...], host: str, port: int) -> bool:
    """Whether a host is one of NAME, *.SUFFIX, NAME:PORT."""
    return any(_matches(pattern.lower(), host.lower(), port) for pattern in patterns)


def _matches(pattern: str, host: str, port: int) -> bool:
    name, colon, wanted = pattern.rpartition(":")
    if colon and wanted.isdigit() and (":" not in name or name.startswith("[")):
        if int(wanted) != port:
            return False
        pattern = name
    pattern = pattern.strip("[]")
    return host.endswith(pattern[1:]) and host != pattern[2:] if pattern.startswith("*.") else host == pattern


def literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def unwrap(address: Address) -> Address:
    """The address that a packet to `address` may reach."""
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if any(address in net for net in _NAT64) or (address in _COMPATIBLE and int(address) > 1):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _refused(words: str) -> FetchError:
    return FetchError(Why.REFUSED, words)
