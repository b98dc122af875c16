"""The URL of a call: the tool's URL template with arguments in its path and query.

Scheme, host and port are fixed before the first hole. A value stays inside its segment or its query component: all
but unreserved characters is percent-encoded (RFC 3986, 2.3), and what a server might read as a step to another path
after decoding is refused.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from urllib.parse import quote, unquote

from halo_sql.errors import CatalogError, EngineError
from halo_sql.tools.http_template import Arguments, Hole, Piece, is_dropped, parse_holes, split_pieces, text_argument
from halo_sql.tools.http_url import MAX_URL_CHARS, HttpUrl, escaped, parse_url

_SERVER = re.compile(r"https?://[^/?#]*", re.IGNORECASE)
_STEPS = (".", "..")


class UrlTemplate:
    """A URL with holes.

    base  the URL as far as it is the same for all calls: its scheme, host and port
    """

    def __init__(self, text: str, names: Collection[str], owner: str) -> None:
        """CatalogError for a URL that is none, or that has a hole before its path."""
        pieces = parse_holes(text, names, f"the URL of {owner}")
        first = pieces[0] if pieces and isinstance(pieces[0], str) else ""
        server = _SERVER.match(first)
        try:
            self.base = parse_url(server[0] if server else first)
        except ValueError as problem:
            raise CatalogError(
                f"the URL of {owner} is not usable: {problem}",
                remedy="For example AS HTTP GET 'https://example.org/orders/{{ id }}'.",
            ) from None
        assert server is not None, "parsed"
        rest: list[Piece] = [first[server.end() :]]
        if len(pieces) > 1 and not rest[0]:
            raise CatalogError(
                f"the URL of {owner} has a hole in its host",
                remedy="Row data must not choose the server: holes stand behind the first / or ? of the URL.",
            )
        path, query = _sections((*rest, *pieces[1:]))
        self._segments = split_pieces(path, "/")
        self._pairs = None if query is None else split_pieces(query, "&")

    def render(self, arguments: Arguments) -> HttpUrl:
        """The URL of a call. EngineError 'rejected' for a value that cannot stand where it should."""
        target = "/".join([_segment(segment, arguments) for segment in self._segments]) or "/"
        if self._pairs is not None:
            kept = [pair for pair in self._pairs if not (pair and is_dropped(pair, arguments))]
            if kept:
                target += "?" + "&".join([_component(pair, arguments) for pair in kept])
        if len(target) > MAX_URL_CHARS:
            raise EngineError(
                f"the URL has more than {MAX_URL_CHARS} characters", code="rejected", remedy="Use AS HTTP POST."
            )
        try:
            url = parse_url(self.base.server + target)
        except ValueError as problem:
            raise EngineError(f"the URL is not usable: {problem}", code="rejected") from None
        if url.origin != self.base.origin:  # cannot be; if it is, nothing is sent
            raise EngineError("an argument changes the server of the URL", code="denied")
        return url


def _sections(pieces: tuple[Piece, ...]) -> tuple[list[Piece], list[Piece] | None]:
    """Pieces of the path, and of the query (None: there is none). A fragment is not sent."""
    path: list[Piece] = []
    query: list[Piece] | None = None
    for piece in pieces:
        section = path if query is None else query
        if isinstance(piece, Hole):
            section.append(piece)
            continue
        piece, hashed, _ = piece.partition("#")
        if query is None:
            head, mark, tail = piece.partition("?")
            path.append(escaped(head))
            query = [escaped(tail)] if mark else None
        else:
            query.append(escaped(piece))
        if hashed:
            break
    return path, query


def _segment(pieces: list[Piece], arguments: Arguments) -> str:
    holes = [piece for piece in pieces if isinstance(piece, Hole)]
    if not holes:
        return "".join(str(piece) for piece in pieces)
    plain = "".join(
        text_argument(arguments, piece, "the path of the URL") if isinstance(piece, Hole) else unquote(piece)
        for piece in pieces
    )
    if not plain:
        raise _refused(holes[0], "is empty", "An empty segment leads to another resource.")
    for read in (plain, unquote(plain)):  # as servers read it that decode twice, or read %2F and \\ as a separator
        if any(part.split(";")[0] in _STEPS for part in re.split(r"[/\\]", read)):
            raise _refused(holes[0], "makes a step to another path", "'.' and '..' cannot stand in a path.")
    return _component(pieces, arguments)


def _component(pieces: list[Piece], arguments: Arguments) -> str:
    return "".join(
        [
            quote(text_argument(arguments, piece, "this part of the URL"), safe="")
            if isinstance(piece, Hole)
            else piece
            for piece in pieces
        ]
    )


def _refused(hole: Hole, what: str, remedy: str) -> EngineError:
    return EngineError(f'argument "{hole.name}" {what} in the path of the URL', code="rejected", remedy=remedy)
