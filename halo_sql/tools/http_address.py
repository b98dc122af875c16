"""Which addresses an HTTP tool may connect to, and the only place where its host names are resolved.

Every address that a name resolves to must be public (or loopback, for a tool that says so): one that is not makes
the whole name refused, and the connection goes to an address that was checked, so that a name server cannot answer
the check with one address and the connection with another.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence

from halo_sql.errors import EngineError

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
Ip = ipaddress.IPv4Address | ipaddress.IPv6Address

KEEP_S = 10.0  # checked addresses are used again for this long

#: IANA's special-purpose registries (RFC 6890 and updates), and one address that clouds use inside
_FORBIDDEN_4 = tuple(
    (ipaddress.IPv4Network(network), kind)
    for network, kind in (
        ("127.0.0.0/8", "loopback"),
        ("10.0.0.0/8", "private"),
        ("172.16.0.0/12", "private"),
        ("192.168.0.0/16", "private"),
        ("169.254.0.0/16", "link-local"),
        ("100.64.0.0/10", "shared (carrier-grade NAT)"),
        ("0.0.0.0/8", "unspecified"),
        ("192.0.0.0/24", "reserved"),
        ("192.0.2.0/24", "documentation"),
        ("192.88.99.0/24", "6to4 relay"),
        ("198.18.0.0/15", "benchmarking"),
        ("198.51.100.0/24", "documentation"),
        ("203.0.113.0/24", "documentation"),
        ("168.63.129.16/32", "cloud-internal"),
        ("224.0.0.0/4", "multicast"),
        ("255.255.255.255/32", "broadcast"),
        ("240.0.0.0/4", "reserved"),
    )
)
_FORBIDDEN_6 = tuple(
    (ipaddress.IPv6Network(network), kind)
    for network, kind in (
        ("::1/128", "loopback"),
        ("::/128", "unspecified"),
        ("::ffff:0:0/96", "IPv4-mapped"),
        ("::/96", "IPv4-compatible"),
        ("64:ff9b::/96", "NAT64"),
        ("64:ff9b:1::/48", "NAT64"),
        ("2001::/32", "Teredo"),
        ("2001::/23", "reserved"),
        ("2001:db8::/32", "documentation"),
        ("3fff::/20", "documentation"),
        ("2002::/16", "6to4"),
        ("fc00::/7", "private"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "site-local"),
        ("ff00::/8", "multicast"),
    )
)
_UNICAST_6 = ipaddress.IPv6Network("2000::/3")  # all that is assigned for global use


def refusal(address: Ip, loopback: bool) -> str:
    """Why a tool may not connect to an address: its kind; '' when it may."""
    if isinstance(address, ipaddress.IPv4Address):
        kind = next((kind for network, kind in _FORBIDDEN_4 if address in network), "")
    else:
        kind = next((kind for network, kind in _FORBIDDEN_6 if address in network), "")
        kind = kind or ("" if address in _UNICAST_6 and address.scope_id is None else "reserved")
    return "" if loopback and kind == "loopback" else kind


def literal(host: str) -> Ip | None:
    """The address that a host is (in the form of ``HttpUrl.host``); None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


async def system_resolver(host: str, port: int) -> list[str]:
    """The addresses of a name, as the operating system says. OSError when there are none."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class AddressGuard:
    """Says to which addresses the connections of one tool go.

    owner     the tool as errors name it
    loopback  this machine is allowed
    """

    def __init__(self, owner: str, loopback: bool, resolver: Resolver = system_resolver) -> None:
        self._owner = owner
        self._loopback = loopback
        self._resolver = resolver
        self._known: dict[tuple[str, int], tuple[float, tuple[str, ...]]] = {}
        self._locks: dict[tuple[str, int], asyncio.Lock] = {}

    async def addresses(self, host: str, port: int) -> tuple[str, ...]:
        """The checked addresses of a host. EngineError 'denied' when one of them is forbidden, OSError when none."""
        address = literal(host)
        if address is not None:
            return (self._checked(host, address),)
        lock = self._locks.setdefault((host, port), asyncio.Lock())
        async with lock:  # a hundred connections ask once
            now = asyncio.get_running_loop().time()
            until, found = self._known.get((host, port), (0.0, ()))
            if until < now:
                answers = await self._resolver(host, port)
                found = tuple(self._checked(host, literal(answer)) for answer in answers)
                if not found:
                    raise OSError(f"{host} has no address")
                self._known[host, port] = (now + KEEP_S, found)
        return found

    def _checked(self, host: str, address: Ip | None) -> str:
        kind = "unknown" if address is None else refusal(address, self._loopback)
        if not kind:
            return str(address)
        what = "is" if address is not None and str(address) == host else "has"
        raise EngineError(
            f"{self._owner} may not connect to {host}: it {what} a {kind} address",
            code="denied",
            remedy="WITH (loopback = true) allows this machine."
            if kind == "loopback"
            else "HTTP tools connect to public addresses only.",
        )
