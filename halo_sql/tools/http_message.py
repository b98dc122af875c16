"""A request and its answer, as the parts of the HTTP tool hand them on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from halo_sql.tools.http_url import HttpUrl


@dataclass(frozen=True, slots=True)
class Sent:
    """A request. ``headers`` has lower-case names; they may hold a key and are never shown."""

    method: str
    url: HttpUrl
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: the first header of each lower-case name, the body decompressed."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def content_type(self) -> str:
        """Its type without parameters, in lower case; '' when it names none."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()
