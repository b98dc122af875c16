"""Headers and body of a call: templates with arguments, each value encoded for the place where it stands."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Literal
from urllib.parse import quote
from xml.sax.saxutils import escape

from halo_sql.errors import CatalogError, EngineError
from halo_sql.tools.http_template import (
    Arguments,
    Hole,
    Piece,
    check_unicode,
    is_dropped,
    parse_holes,
    split_pieces,
    text_argument,
    text_of,
)

JSON, FORM = "application/json", "application/x-www-form-urlencoded"
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_QUOTES = {'"': "&quot;", "'": "&apos;"}
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
#: headers that decide how the message is read, or that the runner itself sets
_OWN = re.compile(
    "host|content-length|transfer-encoding|connection|keep-alive|te|trailer|upgrade|expect|accept-encoding|proxy-.*"
    "|idempotency-key"
)
Form = Literal["json", "form", "text", "xml"]


class HeaderTemplates:
    """The option ``headers``: names and templates of values."""

    def __init__(self, given: Mapping[str, object], names: Collection[str], owner: str) -> None:
        """CatalogError for a header that cannot be set."""
        self._fixed: dict[str, str] = {}
        self._templates: dict[str, tuple[Piece, ...]] = {}
        for name, value in given.items():
            key = name.lower()
            if not _NAME.fullmatch(name) or _OWN.fullmatch(key) or isinstance(value, dict | list) or value is None:
                raise CatalogError(
                    f'{owner} cannot set the header "{name}"',
                    remedy="A header is a name and a text; those that frame the message are set by HaloSQL.",
                )
            pieces = parse_holes(str(value), names, f'the header "{name}" of {owner}')
            if any(isinstance(piece, str) and _CONTROL.search(piece) for piece in pieces):
                raise CatalogError(f'the header "{name}" of {owner} holds a control character')
            if any(isinstance(piece, Hole) for piece in pieces):
                if key == "content-type":
                    raise CatalogError(f"the content type of {owner} has a hole", remedy="Write it out.")
                self._templates[key] = pieces
            else:
                self._fixed[key] = _sendable("".join(str(piece) for piece in pieces))

    @property
    def content_type(self) -> str:
        """The type given; '' when none is."""
        return self._fixed.get("content-type", "")

    @property
    def keys(self) -> list[str]:
        """Values that look like credentials by their header's name."""
        return [value for name, value in self._fixed.items() if re.search("auth|key|token|secret|cookie", name)]

    def render(self, arguments: Arguments) -> dict[str, str]:
        """Lower-case name -> value. A header whose value is a NULL hole is left out.

        EngineError 'rejected' for a value with a line break or another control character.
        """
        headers = dict(self._fixed)
        for name, pieces in self._templates.items():
            if is_dropped(pieces, arguments):
                continue
            value = ""
            for piece in pieces:
                text = text_argument(arguments, piece, f'the header "{name}"') if isinstance(piece, Hole) else piece
                if isinstance(piece, Hole) and _CONTROL.search(text):
                    raise EngineError(
                        f'argument "{piece.name}" holds a control character, which the header "{name}" cannot hold',
                        code="rejected",
                    )
                value += text
            headers[name] = _sendable(value)
        return headers


def _sendable(value: str) -> str:
    """As Latin-1 where it is, else its other characters percent-encoded as UTF-8."""
    try:
        value.encode("latin-1")
    except UnicodeEncodeError:
        value = "".join([character if character.isascii() else quote(character) for character in value])
    return value.strip(" \t")


class BodyTemplate:
    """What a POST sends.

    content_type  its Content-Type header
    """

    def __init__(self, text: str | None, content_type: str, names: Collection[str], owner: str) -> None:
        """CatalogError when the type has no known way to quote values, or a JSON text is none.

        text  None: the arguments themselves
        """
        self.content_type = content_type or JSON
        self._form = _form_of(self.content_type, owner)
        self._names = [name.lower() for name in names]
        self._pairs: list[list[Piece]] = []
        self._quoted: list[bool] = []
        self._pieces = None if text is None else parse_holes(text, names, f"the body of {owner}")
        if self._pieces is None:
            if self._form not in ("json", "form"):
                raise CatalogError(f"{owner} needs the option body for the content type {self.content_type}")
        elif self._form == "json":
            self._quoted = _inside_quotes(self._pieces)
            empty = dict.fromkeys(self._names, '""')
            try:
                json.loads(self._json(self._pieces, empty))
            except (ValueError, RecursionError):
                raise CatalogError(
                    f"the body of {owner} is no JSON",
                    remedy="A hole outside quotes is a whole JSON value; for other texts give a content-type header.",
                ) from None
        elif self._form == "form":
            self._pairs = split_pieces(self._pieces, "&")

    def render(self, arguments: Arguments, whole: str) -> bytes:
        """The body of a call; ``whole`` is the JSON text of all arguments. EngineError 'rejected' for unfit values."""
        if self._pieces is None:
            return (whole if self._form == "json" else self._all(arguments)).encode("utf-8", "replace")
        if self._form == "json":
            text = self._json(self._pieces, arguments)
            try:
                json.loads(text)
            except (ValueError, RecursionError):
                raise EngineError("the body is no JSON with these arguments", code="rejected") from None
            return text.encode()
        if self._form == "form":
            kept = [pair for pair in self._pairs if not (pair and is_dropped(pair, arguments))]
            return "&".join(["".join([self._plain(piece, arguments) for piece in pair]) for pair in kept]).encode()
        return "".join([self._plain(piece, arguments) for piece in self._pieces]).encode()

    def _json(self, pieces: tuple[Piece, ...], arguments: Arguments) -> str:
        parts = []
        for piece, quoted in zip(pieces, self._quoted, strict=True):
            if isinstance(piece, str):
                parts.append(piece)
                continue
            value = arguments[piece.name]
            if quoted:
                text = text_argument(arguments, piece, "a text of the body")
                value = json.dumps(text, ensure_ascii=False)[1:-1]
            check_unicode(value, piece.name)
            parts.append(value)
        return "".join(parts)

    def _plain(self, piece: Piece, arguments: Arguments) -> str:
        if isinstance(piece, str):
            return piece
        text = text_argument(arguments, piece, "this part of the body")
        if self._form == "form":
            return quote(text, safe="")
        return escape(text, _QUOTES) if self._form == "xml" else text

    def _all(self, arguments: Arguments) -> str:
        pairs = []
        for name in self._names:
            text = text_of(arguments[name])
            if text is not None:
                check_unicode(text, name)
                pairs.append(f"{quote(name, safe='')}={quote(text, safe='')}")
        return "&".join(pairs)


def _form_of(content_type: str, owner: str) -> Form:
    kind = content_type.partition(";")[0].strip().lower()
    if kind == JSON or kind.endswith(("+json", "/json")):
        return "json"
    if kind == FORM:
        return "form"
    if kind.endswith(("+xml", "/xml")) or kind == "text/html":
        return "xml"
    if kind.startswith("text/"):
        return "text"
    raise CatalogError(
        f"{owner} cannot send the content type {kind}", remedy=f"Bodies are JSON, {FORM}, XML or text/plain."
    )


def _inside_quotes(pieces: tuple[Piece, ...]) -> list[bool]:
    """For each piece: whether it begins inside a JSON string."""
    found, inside = [], False
    for piece in pieces:
        found.append(inside)
        if isinstance(piece, str):
            bare = re.sub(r"\\.", "", piece, flags=re.DOTALL) if inside or "\\" in piece else piece
            inside ^= bare.count('"') % 2 == 1
    return found
