"""URLs as the HTTP tool reads them: one strict parser for the tool's own URL and for every redirect.

What passes here is what is checked and what is connected to; nothing behind it reads the text again.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import quote, urljoin

DEFAULT_PORTS = {"http": 80, "https": 443}
MAX_URL_CHARS = 16_384
_URL = re.compile(r"(https?)://([^/?#]*)([^?#]*)(\?[^#]*)?(?:#.*)?", re.IGNORECASE | re.DOTALL)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_AUTHORITY = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]+)(?::([0-9]{1,5}))?")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"0x[0-9a-f]*|[0-9]+")
_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})|[^!#$%&'()*+,/:;=?@\[\]~A-Za-z0-9._-]")


@dataclass(frozen=True, slots=True)
class HttpUrl:
    """A URL in its only form.

    scheme  'http' | 'https'
    host    lower-case name without a last dot, a.b.c.d, or an IPv6 address without brackets
    target  path and query, percent-encoded; begins with /
    """

    scheme: str
    host: str
    port: int
    target: str

    @property
    def origin(self) -> tuple[str, str, int]:
        """What decides where it goes: scheme, host, port."""
        return self.scheme, self.host, self.port

    @property
    def authority(self) -> str:
        """The Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def server(self) -> str:
        """Scheme, host and port: what errors name."""
        return f"{self.scheme}://{self.authority}"

    @property
    def bare(self) -> str:
        """The URL without its query."""
        return self.server + self.target.partition("?")[0]

    def joined(self, location: str) -> HttpUrl:
        """Where a Location header leads to (RFC 3986, 5.3). ValueError as ``parse_url``."""
        _check_characters(location)
        if _SCHEME.match(location):  # also 'http:/a', which programs read differently
            return parse_url(location)
        return parse_url(urljoin(self.server + self.target, location))


def parse_url(text: str) -> HttpUrl:
    """Read a URL. ValueError with a reason: not http(s), credentials, a host in an odd spelling, a wrong port."""
    _check_characters(text)
    found = _URL.fullmatch(text)
    if found is None:
        raise ValueError("it does not begin with http:// or https://")
    scheme, authority, path, query = found[1].lower(), found[2], found[3], found[4] or ""
    if "@" in authority:
        raise ValueError("it holds credentials")
    split = _AUTHORITY.fullmatch(authority)
    if split is None:
        raise ValueError("its host or port cannot be read")
    port = DEFAULT_PORTS[scheme] if split[2] is None else int(split[2])
    if not 0 < port < 65_536:
        raise ValueError("its port is out of range")
    target = escaped((path or "/") + query)
    if len(target) > MAX_URL_CHARS:
        raise ValueError(f"it has more than {MAX_URL_CHARS} characters")
    return HttpUrl(scheme, normal_host(split[1]), port, target)


def normal_host(text: str) -> str:
    """A host in its only form. ValueError for what is no name and no address in its usual spelling.

    Addresses such as 2130706433, 0x7f.1 or 0177.0.0.1 are read differently by different programs: they are refused.
    """
    if text.startswith("["):
        try:
            return str(ipaddress.IPv6Address(text[1:-1] if "%" not in text else ""))
        except ValueError:
            raise ValueError("its host is no IPv6 address") from None
    host = text if text.isascii() else _ascii(text)
    host = host.lower().removesuffix(".")
    labels = host.split(".")
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError("its host is no name and no address")
    if _NUMBER.fullmatch(labels[-1]) is None:
        return host
    try:
        return str(ipaddress.IPv4Address(host))
    except ValueError:
        raise ValueError("its host is an address in an odd spelling") from None


def escaped(text: str) -> str:
    """Percent-encode what may not stand in a URL; what is encoded already stays."""
    return _ESCAPE.sub(lambda found: quote(found[0], safe=""), text)


def _ascii(text: str) -> str:
    import idna  # a dependency of httpx

    try:
        return idna.encode(text, uts46=True).decode("ascii")
    except UnicodeError:
        raise ValueError("its host is no name") from None


def _check_characters(text: str) -> None:
    """Blanks, control characters and backslashes are where URL parsers differ."""
    if "\\" in text or any(character <= " " or "\x7f" <= character <= "\xa0" for character in text):
        raise ValueError("it holds a blank, a control character or a backslash")
