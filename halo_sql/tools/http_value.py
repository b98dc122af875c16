"""What an answer is as the tool's value: JSON text of what RETURNS declares.

* RETURNS VARCHAR: the body's text, JSON or not; of a JSON answer that is one string or null: that. With ``path``:
  what it picks, as text (JSON text for anything but a string).
* RETURNS TABLE: the rows. An object is one row, a list of other values is the only column's. Members that are no
  columns are left out, missing ones are NULL; names ignore case. No body, or null, is no rows.
* any other type: the JSON value, or what ``path`` picks of it. A body that is no JSON is a string.

An empty body is NULL (VARCHAR: '' unless the status is 204 or 205). Numbers stay as spelled.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from halo_sql.errors import EngineError
from halo_sql.tools.http_message import Reply
from halo_sql.tools.json_path import JsonPath
from halo_sql.tools.protocol import BoundTool

MAX_DEPTH = 100
_CHARSET = re.compile(r"charset\s*=\s*\"?([\w.:-]+)", re.IGNORECASE)
#: encodings of texts; Python knows others that are none
_CHARSETS = re.compile(
    r"(utf|ucs|iso|latin|windows|cp|us-?ascii|ascii|koi|shift|sjis|s-?jis|euc|gb|big5|mac|hz|tis)[\w.:-]*"
)
_HALF = re.compile("[\ud800-\udfff]")


class ValueReader:
    """Makes values of the answers of one tool."""

    def __init__(self, tool: BoundTool, path: JsonPath | None, owner: str) -> None:
        self._owner = owner
        self._path = path
        self._kind = tool.returns.kind
        self._columns = None if not tool.tool.columns else [name for name, _ in tool.returns.fields[0][1].fields]

    def read(self, reply: Reply) -> str:
        """The value as JSON text.

        EngineError 'tool' (no JSON, or a text in another encoding than declared) or 'invalid_output' (not rows, nested
        too deep).
        """
        text = self._text(reply)
        is_json = _is_json(reply.content_type)
        if self._columns is not None:
            return _dumps(self._rows(self._picked(text, is_json), self._columns))
        if self._kind == "varchar" and self._path is None:
            return self._plain(reply, text, is_json)
        value = self._picked(text, is_json)
        if self._kind == "varchar" and not (value is None or type(value) is str):
            value = _dumps(value)
        return _dumps(value)

    def _plain(self, reply: Reply, text: str, is_json: bool) -> str:
        if reply.status in (204, 205):
            return "null"
        stripped = text.strip()
        if is_json and stripped == "null":
            return "null"
        if is_json and stripped.startswith('"'):
            return _dumps(self._parsed(text))
        return _dumps(text)

    def _picked(self, text: str, is_json: bool) -> Any:
        """The parsed value, or what the path picks; texts that are no JSON stand for themselves."""
        if not text.strip():
            return None
        if is_json or self._path is not None or self._columns is not None:
            value = self._parsed(text)
            return value if self._path is None else self._path.pick(value)
        try:
            return self._parsed(text)
        except EngineError as problem:
            if problem.code == "invalid_output":
                raise
            return text if self._kind == "json" else text.strip()

    def _parsed(self, text: str) -> Any:
        try:
            value = _DECODER.decode(text)
        except RecursionError:
            raise self._too_deep() from None
        except ValueError:
            raise EngineError(
                f"{self._owner}: the answer is no JSON",
                code="tool",
                retryable=True,
                remedy="RETURNS VARCHAR without path takes any text.",
            ) from None
        level, depth = [value], 0
        while level := [node for node in level if type(node) is dict or type(node) is list]:
            depth += 1
            if depth > MAX_DEPTH:
                raise self._too_deep()
            level = [child for node in level for child in (node.values() if type(node) is dict else node)]
        return value

    def _too_deep(self) -> EngineError:
        return EngineError(
            f"{self._owner}: the answer is nested more than {MAX_DEPTH} levels deep", code="invalid_output"
        )

    def _rows(self, value: Any, columns: Sequence[str]) -> list[dict[str, Any]]:
        if value is None:
            return []
        rows = value if isinstance(value, list) else [value]
        return [self._row(row, columns) for row in rows]

    def _row(self, row: Any, columns: Sequence[str]) -> dict[str, Any]:
        if isinstance(row, dict):
            folded = {name.lower(): member for name, member in reversed(row.items())}
            return {name: row[name] if name in row else folded.get(name.lower()) for name in columns}
        if len(columns) == 1:
            return {columns[0]: row}
        kind = "a list" if isinstance(row, list) else "null" if row is None else "a single value"
        raise EngineError(
            f"{self._owner}: a row of the answer is {kind}, not an object with the columns {', '.join(columns)}",
            code="invalid_output",
            remedy="Name where the rows lie: WITH (path = '$.items').",
        )

    def _text(self, reply: Reply) -> str:
        declared = _CHARSET.search(reply.headers.get("content-type", ""))
        charset = "utf-8-sig" if declared is None else declared[1].lower()
        if charset in ("utf-8", "utf8"):
            charset = "utf-8-sig"
        try:
            if not _CHARSETS.fullmatch(charset):
                raise LookupError
            return reply.body.decode(charset)
        except (LookupError, UnicodeError):
            if declared is None and not _is_json(reply.content_type):
                return reply.body.decode("latin-1")  # HTTP's own default
            raise EngineError(
                f"{self._owner}: the answer is no text in {'its charset' if declared else 'UTF-8'}",
                code="tool",
                retryable=True,
            ) from None


def _is_json(content_type: str) -> bool:
    return content_type.endswith(("/json", "+json"))


class _Spelled:
    """A number that a float would not spell the same."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


def _number(text: str) -> float | _Spelled:
    value = float(text)
    return value if repr(value) == text else _Spelled(text)


def _not_json(constant: str) -> NoReturn:
    raise ValueError(constant)  # NaN, Infinity


_DECODER = json.JSONDecoder(parse_float=_number, parse_constant=_not_json)
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def _dumps(value: Any) -> str:
    """Compact JSON text; numbers as spelled, half surrogate pairs as the replacement character."""
    try:
        text = _ENCODER.encode(value)
    except TypeError:  # a number that only its own spelling keeps
        text = _spelled(value)
    return text if text.isascii() else _HALF.sub("\ufffd", text)


def _spelled(value: Any) -> str:
    if type(value) is dict:
        return "{" + ",".join([f"{_ENCODER.encode(name)}:{_spelled(member)}" for name, member in value.items()]) + "}"
    if type(value) is list:
        return "[" + ",".join([_spelled(member) for member in value]) + "]"
    return value.text if type(value) is _Spelled else _ENCODER.encode(value)
